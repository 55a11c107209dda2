from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from hf_layerfusion import CerbertusConfig, CerbertusForMultitask
from hf_layerfusion.errors import UserError
from hf_layerfusion.training.label_checks import check_labels
from hf_layerfusion.training.task_data import TaskDataset
from tests.tiny import tiny_config
from tests.training.small_tasks import METRICS, task_rows, tasks_trainer, train_sets

TASKS: dict[str, dict[str, Any]] = {
    "five": {"labels": list("abcde")},
    "para": {"pair": True, "labels": ["no", "yes"], "loss": "binary_cross_entropy"},
    "sim": {
        "pair": True,
        "problem_type": "regression",
        "value_range": [0, 5],
        "pair_encoding": "siamese",
        "head": "cosine",
    },
}
SEVERAL = {"problem_type": "multi_label_classification", "labels": ["a", "b", "c"]}
CONFIG = CerbertusConfig(
    encoder_config=tiny_config("bert", 2),
    tasks=TASKS | {"several": SEVERAL, "free": {"problem_type": "regression"}},
)


@pytest.mark.parametrize(
    ("task", "labels"),
    [
        ("five", [0, 4, -100]),
        ("five", [torch.tensor(4), torch.tensor(0)]),
        ("para", [1.0, 0.0]),
        ("para", [True, False]),
        ("sim", [0, 5]),
        ("sim", [[0.5], [5.0]]),
        ("free", [-7.5, 1e9]),
        ("several", [[0, 1, 1], [0, 0, 0]]),
        ("several", [[0.0, 0.5, 1.0]]),
    ],
)
def test_labels_that_a_task_takes(task: str, labels: list[Any]) -> None:
    rows = TaskDataset(task, [{"labels": label} for label in labels], "training")
    check_labels(rows, CONFIG.task_configs[task], "training")


@pytest.mark.parametrize(
    ("task", "labels", "row", "rule"),
    [
        ("five", [0, 5], 1, "a class from 0 to 4, or -100 for none"),
        ("five", [0, -1], 1, "a class from 0 to 4"),
        ("five", [0, 1.0], 1, "a class from 0 to 4"),
        ("five", ["a", "b"], 0, "a class from 0 to 4"),
        ("five", [0, None], 1, "a class from 0 to 4"),
        ("five", [0, [1, 0]], 1, "a class from 0 to 4"),
        ("para", [0, 1, 2], 2, "a class from 0 to 1"),
        ("sim", [5.0, 5.1], 1, r"a finite number within \[0, 5\]"),
        ("sim", [5.0, float("nan")], 1, "a finite number within"),
        ("free", [1.0, float("inf")], 1, "a finite number, found"),
        ("several", [[0, 1, 1], [1, 1]], 1, "a list of 3 numbers from 0 to 1"),
        ("several", [[0, 2, 0]], 0, "a list of 3 numbers from 0 to 1"),
        ("several", [1], 0, "a list of 3 numbers from 0 to 1"),
    ],
)
def test_labels_that_it_does_not(task: str, labels: list[Any], row: int, rule: str) -> None:
    rows = TaskDataset(task, [{"labels": label} for label in labels], "training")
    with pytest.raises(UserError, match=rf"task '{task}': row {row}: the label must be {rule}") as caught:
        check_labels(rows, CONFIG.task_configs[task], "training")
    assert "\n" not in str(caught.value)


def test_they_are_refused_before_a_step(tmp_path: Path) -> None:
    model = CerbertusForMultitask(CerbertusConfig(encoder_config=tiny_config("bert", 2), tasks=TASKS))
    wrong = Dataset.from_list([{**row, "labels": 2} for row in task_rows("para", 4)])
    with pytest.raises(UserError, match=r"training data of task 'para': row 0: .* found 2"):
        tasks_trainer(tmp_path, model, train=train_sets() | {"para": wrong})
    with pytest.raises(UserError, match=r"evaluation data of task 'para': row 0: .* found 2"):
        tasks_trainer(tmp_path, model, eval_dataset={"para": wrong})
    own = tasks_trainer(tmp_path, model).data_collator.collate
    made = tasks_trainer(
        tmp_path, model, train=train_sets() | {"para": wrong}, data_collator=lambda rows: own(rows)
    )
    assert made.is_multitask


def test_an_evaluation_of_nothing_is_refused_before_training(tmp_path: Path) -> None:
    unlabelled = [{key: row[key] for key in ("input_ids", "attention_mask")} for row in task_rows("five", 3)]
    with pytest.raises(UserError, match="eval_dataset must have labels for one task at least"):
        tasks_trainer(tmp_path, eval_dataset={"five": unlabelled}, eval_strategy="epoch")
    tasks_trainer(tmp_path, eval_dataset={"five": unlabelled}, compute_metrics=METRICS)
