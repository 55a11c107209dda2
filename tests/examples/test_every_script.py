"""Tests that scripts write the same when repeated and on two processes, and that each prediction is beside its own
id."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_layerfusion.ensembling.trained_texts import read_trained_texts, text_hashes
from hf_layerfusion.run_layout import find
from tests import figures
from tests.examples.comparing import differences
from tests.examples.every_script import (
    EXAMPLES,
    LABELS,
    SPLITS,
    call,
    label_of,
    run_every_script,
    settings,
    text_of,
    value_of,
    write_data,
)
from tests.tiny import read_csv
from tests.two_processes import finish, start

OF_THE_DIVISION = frozenset({"per_device_train_batch_size", "train_batch_size", "total_flos"})
"""Values that tell how batches are divided; `total_flos` counts the padding of each."""

OF_RESUMING = frozenset({"train_loss", "resume_from_checkpoint", "output_dir", "best_model_checkpoint"})
"""What a resumed run says of its own part of the steps, and names of the folder that a checkpoint was copied from."""

AGAIN = ("tweets", "multitask", "mlm")
"""The runs that are run twice on one process: one for each Trainer. Those of pairs and folds train as tweets do."""

ROW = re.compile(r"^\| (?P<id>\d{3})\b(?P<cells>.*) \|$", re.MULTILINE)
"""A row of a card's table whose first text holds an id."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("rows") / "data")


@pytest.fixture(scope="module")
def runs(data: Path, tiny_encoder_dir: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Outputs of every script: of a run, and of one on two processes."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("once", "two")}
    two = start(
        EXAMPLES.parent / "tests" / "examples" / "every_script.py",
        *map(str, (data, tiny_encoder_dir, folders["two"])),
    )
    try:
        with figures.drawn():
            run_every_script(data, tiny_encoder_dir, folders["once"])
    finally:
        finish(two)
    return folders


def test_no_script_that_trains_is_left_out(data: Path) -> None:
    scripts = {path.stem for path in EXAMPLES.glob("run_*.py")}
    # Members of an ensemble are trained before: test_an_ensemble_answers_row_by_row.
    assert {script for script, _ in settings(data, "encoder", 1).values()} == scripts - {"run_ensemble"}


@pytest.mark.slow
def test_a_run_is_the_same_again(
    runs: dict[str, Path], data: Path, tiny_encoder_dir: str, tmp_path: Path
) -> None:
    with figures.drawn():
        run_every_script(data, tiny_encoder_dir, tmp_path, names=AGAIN)
    for name in AGAIN:
        assert not list(differences(runs["once"] / name, tmp_path / name, exact=True))


def test_two_processes_write_what_one_does(runs: dict[str, Path]) -> None:
    assert not list(differences(runs["once"], runs["two"], exact=False, but=OF_THE_DIVISION))


# Each row beside its own id


def ids_of(rows: list[dict[str, str]], columns: tuple[str, ...]) -> list[int]:
    """Return the ids of a file's rows, whose texts must contain them."""
    for row in rows:
        assert all(row[column].split()[0] == row["id"] for column in columns)
    return [int(row["id"]) for row in rows]


def logits_in(folder: Path) -> np.ndarray:
    rows = read_csv(find(folder, "logits.csv"))
    return np.array([[float(row[f"logit_{label}"]) for label in LABELS] for row in rows])


def check_answers(folder: Path, columns: tuple[str, ...], ids: list[int]) -> None:
    """Check that predictions and logits are the saved model's for each text by itself."""
    rows, predictions = read_csv(find(folder, "logits.csv")), read_csv(folder / "run" / "predictions.csv")
    assert ids_of(rows, columns) == ids_of(predictions, columns) == ids
    logits = logits_in(folder)
    assert [row["label"] for row in predictions] == [LABELS[place] for place in logits.argmax(axis=1)]
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        alone = [
            model(**tokenizer(*(row[column] for column in columns), return_tensors="pt")).logits[0].numpy()
            for row in rows
        ]
    np.testing.assert_allclose(logits, alone, rtol=0, atol=1e-5)
    assert len({tuple(np.round(row, 6)) for row in alone}) > len(ids) // 2  # a constant would stand anywhere


def texts_of(ids: Iterator[int] | range | list[int], lengths: tuple[int, ...]) -> list[tuple[str, ...]]:
    return [tuple(text_of(id_, length) for length in lengths) for id_ in ids]


TEXT, PAIR = (("text",), (7,)), (("first", "second"), (5, 3))


@pytest.mark.parametrize("run", ["once", "two"])
@pytest.mark.parametrize(("name", "inputs"), [("tweets", TEXT), ("nli", PAIR)])
def test_predictions_logits_and_hashes(runs: dict[str, Path], run: str, name: str, inputs: Any) -> None:
    columns, lengths = inputs
    folder = runs[run] / name
    check_answers(folder, columns, list(SPLITS["test"]))
    seen = read_trained_texts(folder)
    assert seen is not None
    for part, split in (("train", "train"), ("selection", "validation")):
        assert set(seen[part]) == set(text_hashes(texts_of(SPLITS[split], lengths)))


@pytest.mark.parametrize("run", ["once", "two"])
def test_the_form_of_the_competition(runs: dict[str, Path], run: str) -> None:
    answers = {row["id"]: row["label"] for row in read_csv(runs[run] / "tweets" / "run" / "predictions.csv")}
    rows = read_csv(runs[run] / "kaggle" / "predictions.csv")
    signs = {"-1": LABELS[0], "1": LABELS[1]}
    assert {row["Id"]: signs[row["Prediction"]] for row in rows} == answers
    np.testing.assert_allclose(
        logits_in(runs[run] / "kaggle"), logits_in(runs[run] / "tweets"), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("run", ["once", "two"])
def test_folds(runs: dict[str, Path], run: str) -> None:
    columns, lengths = PAIR
    tested: list[int] = []
    for folder in sorted((runs[run] / "absa").glob("fold-*")):
        ids = ids_of(read_csv(find(folder, "logits.csv")), columns)
        check_answers(folder, columns, ids)
        seen = read_trained_texts(folder)
        assert seen is not None
        rest = [id_ for id_ in SPLITS["train"] if id_ not in ids]
        assert set(seen["train"]) | set(seen["selection"]) == set(text_hashes(texts_of(rest, lengths)))
        assert not set(seen["train"]) & set(seen["selection"])
        tested += ids
    assert sorted(tested) == list(SPLITS["train"])


@pytest.mark.parametrize("run", ["once", "two"])
def test_several_tasks(runs: dict[str, Path], run: str) -> None:
    folder = runs[run] / "multitask"
    truths = {"mood": label_of, "same": label_of, "near": lambda id_: f"{value_of(id_):.2f}"}
    for task, truth in truths.items():
        columns = ("text",) if task == "mood" else ("first", "second")
        answers = {}
        for split in ("validation", "test"):
            rows = read_csv(folder / "run" / "predictions" / f"{task}-{split}.csv")
            assert ids_of(rows, columns) == list(SPLITS[split])
            answers |= {int(row["id"]): row for row in rows}
        mistakes = read_csv(folder / "run" / "mistakes" / f"{task}.csv")
        assert mistakes
        for row, id_ in zip(mistakes, ids_of(mistakes, columns), strict=True):
            assert row["true"] == truth(id_)
            found = answers[id_]
            assert row["predicted"] == (
                found["label"] if "label" in found else f"{float(found['value']):.2f}"
            )
    seen = read_trained_texts(folder)
    assert seen is not None
    for part, split in (("train", "train"), ("selection", "validation")):
        texts = texts_of(SPLITS[split], (7,)) + texts_of(SPLITS[split], (5, 3))
        assert set(seen[part]) == set(text_hashes(texts))
    card = (folder / "README.md").read_text()
    shown = {task: card.split(f"## Worst mistakes: {task}")[1].split("\n## ")[0] for task in truths}
    for task, section in shown.items():
        found_rows = list(ROW.finditer(section))
        assert found_rows
        for row in found_rows:
            *texts, true, _ = [cell.strip() for cell in row["cells"].split("|")]
            assert all(text.split()[0] == row["id"] for text in texts[1:])
            assert true == truths[task](int(row["id"]))


# Samplers, resuming, ensembles


@pytest.mark.parametrize("strategy", ["random", "sequential"])  # the others group by length
def test_the_order_of_training(strategy: str, data: Path, tiny_encoder_dir: str, tmp_path: Path) -> None:
    script, options = settings(data, tiny_encoder_dir, 1)["tweets"]
    options |= {"train_sampling_strategy": strategy, "num_train_epochs": 1, "output_dir": tmp_path / "run"}
    call(script, options)
    check_answers(tmp_path / "run", ("text",), list(SPLITS["test"]))


@pytest.mark.usefixtures("drawn_figures")
def test_a_resumed_run_writes_what_a_whole_one_does(
    runs: dict[str, Path], data: Path, tiny_encoder_dir: str, tmp_path: Path
) -> None:
    folder = tmp_path / "tweets"
    (folder / "run").mkdir(parents=True)
    whole = runs["once"] / "tweets"
    shutil.copy(whole / "run" / "run.json", folder / "run")
    first = min(whole.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    shutil.copytree(first, folder / first.name)
    script, options = settings(data, tiny_encoder_dir, 1)["tweets"]
    call(script, {**options, "output_dir": folder, "resume_from_checkpoint": True})
    check_answers(folder, ("text",), list(SPLITS["test"]))
    assert not list(differences(whole, folder, exact=True, but=OF_RESUMING))


def test_an_ensemble_answers_row_by_row(runs: dict[str, Path], data: Path, tmp_path: Path) -> None:
    """Of models trained in folds, on one process and on two, fitted on what they answered out of fold."""
    columns, _ = PAIR
    members = [runs[run] / "absa" / "fold-1" for run in ("once", "two")]
    out_of_fold = [str(runs[run] / "absa") for run in ("once", "two")]
    options = {
        "validation_file": data / "train.csv", "test_file": data / "test.csv", "text_column": "first",
        "text_pair_column": "second", "id_column": "id", "preprocessing": "light", "combiner": "average_logits",
        "device": "cpu", "output_dir": tmp_path / "ensemble", "prediction_cache": tmp_path / "cache",
    }  # fmt: skip
    call("run_ensemble", options, "--members", *map(str, members), "--out_of_fold", *out_of_fold)
    rows = read_csv(tmp_path / "ensemble" / "run" / "predictions.csv")
    assert ids_of(rows, columns) == list(SPLITS["test"])
    model = AutoModelForSequenceClassification.from_pretrained(members[0]).eval()
    tokenizer = AutoTokenizer.from_pretrained(members[0])
    for row in rows:  # the members are the same to rounding
        with torch.no_grad():
            logits = model(**tokenizer(row["first"], row["second"], return_tensors="pt")).logits[0]
        assert row["label"] == LABELS[int(logits.argmax())]
        assert float(row["score"]) == pytest.approx(float(logits.softmax(dim=0).max()), abs=1e-4)
