"""What importing the package costs, and that the Auto classes know its models whatever is imported first."""

from __future__ import annotations

import subprocess
import sys

import pytest

import hf_layerfusion

COUNT = "; print(len(AutoModelForSequenceClassification._model_mapping._extra_content))"


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_import_is_light_and_the_models_are_known_later() -> None:
    code = (
        "import sys, hf_layerfusion; print(bool({'torch', 'transformers'} & sys.modules.keys()));"
        "from transformers import AutoConfig, AutoModelForSequenceClassification;"
        "print(AutoConfig.for_model('gru_fusion', encoder_config={'model_type': 'bert'}).model_type)" + COUNT
    )
    assert run(code).split() == ["False", "gru_fusion", "3"]


@pytest.mark.parametrize(
    "first",
    [
        "import hf_layerfusion; from transformers import pipeline",
        "from transformers import pipeline, AutoConfig; import hf_layerfusion",
        "from hf_layerfusion.modeling.modeling_layer_fusion import LayerFusionModel",
    ],
)
def test_whatever_is_imported_first(first: str) -> None:
    assert run(f"{first}; from transformers import AutoModelForSequenceClassification" + COUNT) == "3"


def test_every_name_is_there_and_listed() -> None:
    assert set(hf_layerfusion.__all__) <= set(dir(hf_layerfusion))
    for name in hf_layerfusion.__all__:
        assert getattr(hf_layerfusion, name).__name__ == name
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = hf_layerfusion.no_such_name
