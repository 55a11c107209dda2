"""Tests of run_nli.py: SNLI's own files in, the best checkpoint on the development set out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset

from hf_layerfusion.metric_registry import inline_name
from hf_layerfusion.recipes.data_preparation import prepare
from hf_layerfusion.recipes.recipe_arguments import (
    NliDataArguments,
    NliTrainingArguments,
    PoolingModelArguments,
    RunTrainingArguments,
)
from hf_layerfusion.recipes.training_run import classify
from tests.examples.command_line import QUICK_TRAINING, parse
from tests.tiny import tiny_texts

SCRIPT = Path(__file__).parents[2] / "examples" / "run_nli.py"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files in SNLI's format: three hypotheses for each premise, one pair in ten without consensus."""
    folder = tmp_path_factory.mktemp("tiny-snli")
    paths = {}
    for seed, (split, size) in enumerate({"train": 90, "validation": 30, "test": 30}.items()):
        rows = [
            {
                "gold_label": "-" if number % 10 == 9 else "entailment" if label == "positive" else "contradiction",
                "sentence1": f"the day {number // 3} {split}",
                "sentence2": text,
                "pairID": f"{number}",
            }
            for number, (text, label) in enumerate(tiny_texts(size, seed))
        ]  # fmt: skip
        path = folder / f"{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        paths[f"{split}_file"] = str(path)
    return paths


@pytest.mark.slow
def test_the_script_ends_with_the_best_checkpoint_and_shows_it(files, tmp_path, tiny_encoder_dir):
    """Through the interpreter, so that imports and output are the shell's."""
    settings = {
        **files,
        "model_name_or_path": tiny_encoder_dir,
        "output_dir": str(tmp_path / "run"),
        "use_cpu": True,
        "learning_rate": 3e-3,
        "num_train_epochs": 3,
        "id_column": "pairID",
        "disable_tqdm": True,
    }
    (tmp_path / "arguments.json").write_text(json.dumps(settings))
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path / "arguments.json")],
        capture_output=True,
        text=True,
        timeout=400,
        env={**os.environ, "PYTHONPATH": str(SCRIPT.parents[1] / "src")},
    )
    assert done.returncode == 0, done.stderr
    assert "train.jsonl: 9 pairs without a label that annotators agree on left out" in done.stderr
    assert "Two dogs run along the beach. | Animals are outside." in done.stdout
    results = json.loads((tmp_path / "run" / "run" / "all_results.json").read_text())
    history = json.loads((tmp_path / "run" / "run" / "trainer_state.json").read_text())["log_history"]
    best = max(entry["eval_accuracy"] for entry in history if "eval_accuracy" in entry)
    assert results["validation_accuracy"] == pytest.approx(best)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["id2label"] == {"0": "contradiction", "1": "entailment"}
    assert config["pooling"] == "lstm"
    assert len((tmp_path / "run" / "run" / "predictions.csv").read_text().splitlines()) == 1 + 27


@pytest.mark.parametrize(
    ("labels", "metric"), [(lambda n: n % 7 / 2, "pearsonr"), (lambda n: ["a", "b"][: 1 + n % 2], "f1_micro")]
)
def test_checkpoints_are_chosen_by_a_metric_that_the_labels_have(tmp_path, tiny_encoder_dir, labels, metric):
    rows = [
        {"sentence1": f"the day {n}", "sentence2": text, "label": labels(n)}
        for n, (text, _) in enumerate(tiny_texts(40))
    ]
    Dataset.from_list(rows).to_parquet(tmp_path / "pairs.parquet")
    options = {
        **dict.fromkeys(("train_file", "validation_file", "test_file"), tmp_path / "pairs.parquet"),
        "model_name_or_path": tiny_encoder_dir,
        "output_dir": tmp_path / "run",
        **QUICK_TRAINING,
    }
    results = classify(*parse((PoolingModelArguments, NliDataArguments, NliTrainingArguments), options))
    state = json.loads((tmp_path / "run" / "run" / "trainer_state.json").read_text())
    found = [entry[f"eval_{metric}"] for entry in state["log_history"] if f"eval_{metric}" in entry]
    assert state["best_metric"] == max(found) == pytest.approx(results[f"validation_{metric}"])
    assert f"Loss and {inline_name(metric)} by epoch" in (tmp_path / "run" / "README.md").read_text()


def test_without_test_data_dev_is_the_test_and_premises_stay_whole(files):
    data = prepare(NliDataArguments(files["train_file"], files["validation_file"]))
    assert len(data.splits["test"]) == 27
    assert set(data.splits["test"]["sentence1"]) == {f"the day {number} validation" for number in range(10)}
    premises = [set(data.splits[name]["sentence1"]) for name in ("train", "validation")]
    assert not premises[0] & premises[1]
    assert len(premises[1]) == 3


def test_the_recipe_is_the_paper_s(tmp_path):
    arguments = NliTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    assert isinstance(arguments, RunTrainingArguments)
    assert (arguments.num_train_epochs, arguments.learning_rate, arguments.weight_decay) == (5, 2e-5, 1e-5)
    assert not arguments.decoupled_weight_decay
