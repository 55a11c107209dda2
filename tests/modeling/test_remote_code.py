"""Tests of the one file of code that a saved model comes with."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification

from hf_layerfusion import (
    BertForGRUFusionClassification,
    BertWithPoolingModule,
    CerbertusForMultitask,
)
from hf_layerfusion.hub.manifest import verify_folder
from hf_layerfusion.modeling.remote_code import bundled

MODULES = (
    "modeling_gru_fusion", "modeling_layer_pooling", "modeling_cerbertus", "modeling_cerbertus_encoders",
    "tokenization_words",
)  # fmt: skip
SOURCE = Path(__file__).parents[2] / "src" / "hf_layerfusion" / "modeling"


def defined(tree: ast.Module) -> list[str]:
    """Return the names that a module defines at its top, as often as it defines them."""
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    for node in tree.body:
        targets = (
            node.targets
            if isinstance(node, ast.Assign)
            else [node.target]
            if isinstance(node, ast.AnnAssign)
            else []
        )
        names += [target.id for target in targets if isinstance(target, ast.Name)]
    return names


@pytest.mark.parametrize("module", MODULES)
def test_no_name_is_defined_twice_in_a_bundle(module: str) -> None:
    names = defined(ast.parse(bundled(module)[0]))
    # Every module has the logger of its own file.
    assert sorted({name for name in names if names.count(name) > 1} - {"logger"}) == []


@pytest.mark.parametrize("module", MODULES)
def test_a_bundle_has_every_module_that_one_of_it_imports_after_what_it_uses(module: str) -> None:
    code, names = bundled(module)
    assert names[-1] == module and "from ." not in code
    for place, name in enumerate(names):
        tree = ast.parse((SOURCE / f"{name}.py").read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1 and all(alias.asname is None for alias in node.names)
                assert node.module in names, f"{name} imports {node.module} where it is used"
                if node in tree.body:
                    assert names.index(str(node.module)) < place


SETTINGS: dict[Any, dict[str, Any]] = {
    BertForGRUFusionClassification: {"num_groups": 2, "num_labels": 2},
    BertWithPoolingModule: {"pooling": "attention", "num_labels": 2, "pair_features": ["abs_difference"]},
    CerbertusForMultitask: {"tasks": {"mood": {"labels": ["bad", "good"]}}},
}


@pytest.mark.parametrize("model_class", SETTINGS)
def test_a_saved_model_has_one_file_of_code(model_class: Any, tiny_encoder_dir: str, tmp_path: Path) -> None:
    model = model_class.from_pretrained(tiny_encoder_dir, **SETTINGS[model_class])
    for _ in range(2):  # again over itself
        model.save_pretrained(tmp_path)
        module = model_class.__module__.rpartition(".")[2]
        assert [path.name for path in tmp_path.glob("*.py")] == [f"{module}.py"]
        content = json.loads((tmp_path / "config.json").read_text())
        assert {place.partition(".")[0] for place in content["auto_map"].values()} == {module}
        if model_class is BertWithPoolingModule:
            pipeline = content["custom_pipelines"]["text-classification"]["impl"]
            assert pipeline == f"{module}.SeparatePairsPipeline"
        verify_folder(tmp_path)
    assert type(AutoModelForSequenceClassification.from_pretrained(tmp_path)) is model_class


def test_files_of_a_users_own_stay(tiny_encoder_dir: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("")
    model = BertForGRUFusionClassification.from_pretrained(tiny_encoder_dir, num_groups=2)
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.py")) == ["mine.py", "modeling_gru_fusion.py"]
