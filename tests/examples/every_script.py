"""Every script that trains, run on rows whose texts contain their ids, for test_every_script.py."""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from tests.tiny import NEUTRAL_WORDS

EXAMPLES = Path(__file__).parents[2] / "examples"

SPLITS = {"train": range(101, 143), "validation": range(301, 314), "test": range(501, 512)}
"""The ids of each split's rows. No number of rows comes out even in batches of 4 on two processes."""

LABELS = ("negative", "positive")
WHOLE_BATCH = 8


def text_of(id_: int, length: int = 7) -> str:
    """Return a text that contains its id, which also sets its length."""
    words = (NEUTRAL_WORDS[(id_ + place) % len(NEUTRAL_WORDS)] for place in range(id_ * 5 % length))
    return " ".join((str(id_), *words))


def label_of(id_: int) -> str:
    """Return the label of a row, determined by its id."""
    return LABELS[id_ * 7 % 5 % 2]


def value_of(id_: int) -> float:
    """Return the value of a row for regression."""
    return float(id_ * 3 % 6)


def write_data(folder: Path) -> Path:
    """Write the splits, with columns for every kind of task, and a tasks file."""
    folder.mkdir()
    for split, ids in SPLITS.items():
        with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("id", "text", "first", "second", "label", "value"))
            writer.writerows(
                (id_, text_of(id_), text_of(id_, 5), text_of(id_, 3), label_of(id_), value_of(id_))
                for id_ in ids
            )
    files = {f"{split}_file": f"{split}.csv" for split in SPLITS}
    pair = {"text_column": "first", "text_pair_column": "second"}
    tasks = {
        "mood": {**files, "id_column": "id", "labels": list(LABELS), "dropout": 0},
        "same": {**files, "id_column": "id", **pair, "labels": list(LABELS), "dropout": 0},
        "near": {
            **files, "id_column": "id", **pair, "label_column": "value", "problem_type": "regression",
            "value_range": [0, 5], "output": "clamp", "dropout": 0,
        },
    }  # fmt: skip
    (folder / "tasks.json").write_text(json.dumps(tasks))
    return folder


def settings(data: Path, encoder: str, parts: int) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return the runs: script and options, by the name of the run's folder."""
    files = {f"{split}_file": data / f"{split}.csv" for split in SPLITS}
    training = {
        "model_name_or_path": encoder, "use_cpu": True, "optim": "sgd", "learning_rate": 0.1, "num_train_epochs": 2,
        "per_device_train_batch_size": WHOLE_BATCH // parts, "per_device_eval_batch_size": 4,
    }  # fmt: skip
    training |= {"disable_tqdm": True, "save_total_limit": 5}
    classes = {
        **training,
        "decoupled_weight_decay": True,
        "classifier_dropout": 0,
        "id_column": "id",
        "preprocessing": "light",
    }
    pair = {"text_column": "first", "text_pair_column": "second"}
    fusion = {"num_groups": 2, "fusion_hidden_size": 8, "downstream_hidden_size": 8, "dense_size": 8}
    texts = {"train_file": files["train_file"], "validation_file": files["validation_file"]}
    return {
        "tweets": ("run_tweets", {**classes, **files, **fusion}),
        "kaggle": (
            "run_tweets",
            {
                "model_name_or_path": "tweets", "do_predict": True, "test_file": files["test_file"], "use_cpu": True,
                "id_column": "id", "prediction_format": "kaggle", "per_device_eval_batch_size": 4,
                "per_device_train_batch_size": WHOLE_BATCH // parts,
            },
        ),
        "nli": ("run_nli", {**classes, **files, **pair, "num_train_epochs": 1}),
        "absa": (
            "run_absa",
            {**classes, **pair, "train_file": files["train_file"], "folds": 2, "num_train_epochs": 1},
        ),
        "multitask": ("run_multitask", {**training, "tasks_file": data / "tasks.json"}),
        "mlm": (
            "run_mlm",
            {
                **training, **texts, "head_steps": 2, "eval_strategy": "epoch", "logging_steps": 1,
                "max_seq_length": 32,
            },
        ),
    }  # fmt: skip


def call(script: str, options: Mapping[str, Any], *extra: str) -> None:
    """Call the `main` of a script as its command line does, with the arguments `extra` after its options."""
    spec = importlib.util.spec_from_file_location(script, EXAMPLES / f"{script}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    given = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    with mock.patch.object(sys, "argv", [script, *given, *extra]):
        module.main()


def run_every_script(
    data: Path, encoder: str, folder: Path, parts: int = 1, names: Sequence[str] | None = None
) -> Path:
    """Run all of `settings`, or those named, each in its own folder below `folder`."""
    for name, (script, options) in settings(data, encoder, parts).items():
        if names is not None and name not in names:
            continue
        if not Path(options["model_name_or_path"]).is_absolute():
            options["model_name_or_path"] = folder / options["model_name_or_path"]
        call(script, {**options, "output_dir": folder / name})
    return folder


if __name__ == "__main__":
    run_every_script(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), parts=2)
