"""Tests of the settings that a resumed run must share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hf_layerfusion.errors import UserError
from hf_layerfusion.recipes.recipe_arguments import DataArguments, ModelArguments, RunTrainingArguments
from hf_layerfusion.recipes.run_folder import (
    check_output_dir,
    read_results,
    run_settings,
    write_settings,
    write_summary,
)
from hf_layerfusion.run_layout import RESULTS_FILE
from hf_layerfusion.storage import write_json


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

    write_settings(tmp_path, settings(per_device_train_batch_size=8)[1])
    again = settings(**{"per_device_train_batch_size": 8, **changes})
    if found is None:
        check_output_dir(*again)
    else:
        with pytest.raises(UserError, match=rf"other settings \({found}\)"):
            check_output_dir(*again)


def test_a_metric_that_is_undefined_in_one_run_is_so_in_the_summary(tmp_path: Path) -> None:
    runs = []
    for seed, correlation in ((0, 0.5), (1, float("nan"))):
        folder = tmp_path / f"seed-{seed}"
        (folder / "run").mkdir(parents=True)
        write_json(folder / "run" / RESULTS_FILE, {"test_pearsonr": correlation, "test_mse": 1.0})
        runs.append(read_results(folder))
    arguments = RunTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    found = write_summary(tmp_path, {"seeds": [0, 1]}, runs, arguments)
    assert found == read_results(tmp_path)
    assert found["test_pearsonr"] == {"mean": None, "sd": None}
    assert found["test_mse"] == {"mean": 1.0, "sd": 0.0}
