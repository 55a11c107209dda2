"""Which settings a run must share with the run that it goes on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hf_layerfusion.errors import UserError
from hf_layerfusion.experiments.arguments import DataArguments, ModelArguments, RunTrainingArguments
from hf_layerfusion.experiments.run_folder import SETTINGS_FILE, check_output_dir, run_settings, write_json


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}, None),
        ({"per_device_eval_batch_size": 1}, None),
        ({"per_device_train_batch_size": 4}, "global_batch"),
        ({"gradient_accumulation_steps": 2}, "global_batch"),
        (
            {
                "per_device_train_batch_size": 4,
                "gradient_accumulation_steps": 2,
                "regularizers": {"smart": {"mode": "smart-pytorch"}},
            },
            "per_device_train_batch_size, regularizers",
        ),
    ],
)
def test_the_global_batch_decides(changes: dict[str, Any], found: str | None, tmp_path: Path) -> None:
    def settings(**options: Any) -> tuple[RunTrainingArguments, dict[str, Any]]:
        arguments = RunTrainingArguments(
            output_dir=str(tmp_path), use_cpu=True, resume_from_checkpoint="True", **options
        )
        return arguments, run_settings(ModelArguments(), DataArguments(), arguments)

    write_json(tmp_path / SETTINGS_FILE, settings(per_device_train_batch_size=8)[1])
    again = settings(**{"per_device_train_batch_size": 8, **changes})
    if found is None:
        check_output_dir(*again)
    else:
        with pytest.raises(UserError, match=rf"other settings \({found}\)"):
            check_output_dir(*again)
