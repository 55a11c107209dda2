"""The report of runs: one page without scripts or addresses, made of what the runs recorded."""

from __future__ import annotations

import csv
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_layerfusion.__main__ import main
from hf_layerfusion.errors import UserError
from hf_layerfusion.evaluation.mistakes import worst_mistakes
from hf_layerfusion.evaluation.predictions import spreadsheet_cell
from hf_layerfusion.evaluation.significance import holm, paired_bootstrap
from hf_layerfusion.recipes.report.recorded_runs import read_run
from hf_layerfusion.recipes.report.report_page import metric_cells
from hf_layerfusion.recipes.report.report_run import write_report
from hf_layerfusion.recipes.run_comparison import run_answers, run_scores

TEXTS = [f"text {number} <b>&amp; <script>alert({number})</script>" for number in range(12)]
CLASSES = ("bad", "good")


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "title"):
            self.words.append(data)


def write_rows(path: Path, header: list[str], rows: list[list[Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def config(problem_type: str, names: tuple[str, ...]) -> dict[str, Any]:
    labels = dict(enumerate(names))
    return {"model_type": "bert", "problem_type": problem_type, "id2label": labels,
            "label2id": {name: place for place, name in labels.items()}}  # fmt: skip


def write_run(folder: Path, data: Path, logits: np.ndarray, **settings: Any) -> Path:
    """Write what a run of two classes leaves: its predictions are those of `logits`."""
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    answers = [[CLASSES[place], scores[row, place]] for row, place in enumerate(logits.argmax(axis=1))]
    rows = [[number, text] for number, text in enumerate(TEXTS)]
    records = folder / "run"
    write_rows(
        records / "predictions.csv",
        ["id", "text", "label", "score"],
        [[*row, *answer] for row, answer in zip(rows, answers, strict=True)],
    )
    write_rows(
        records / "logits.csv",
        ["id", "text", "logit_bad", "logit_good"],
        [[*row, *map(float, values)] for row, values in zip(rows, logits, strict=True)],
    )
    write_json(records / "run.json", {"train_file": str(data), "test_file": str(data), "architecture": "layer_pooling",
                                      "seed": 1, "output_dir": str(folder)} | settings)  # fmt: skip
    truth = labels_of(data)
    accuracy = float((logits.argmax(axis=1) == truth).mean())
    results = {"test_loss": 0.5, "test_accuracy": accuracy, "training_seconds": 83.0, "parameters": 1234}
    write_json(records / "all_results.json", results)
    history = [{"epoch": 1.0, "loss": 0.7}, {"epoch": 1.0, "eval_loss": 0.6, "eval_accuracy": 0.5}]
    write_json(records / "trainer_state.json", {"log_history": history})
    use = {"num_texts": 9, "loss": 0.5, "accuracy": 0.5, "loss_rise": [0.1, 0.2], "accuracy_drop": [0.0, 0.1]}
    write_json(records / "layer_use.json", use)
    write_json(folder / "config.json", config("single_label_classification", CLASSES))
    return folder


def labels_of(data: Path) -> np.ndarray:
    with data.open(encoding="utf-8", newline="") as file:
        return np.array([CLASSES.index(row["label"]) for row in csv.DictReader(file)])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [[text, CLASSES[number % 2]] for number, text in enumerate(TEXTS)]
    return write_rows(tmp_path_factory.mktemp("data") / "test.csv", ["text", "label"], rows)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, data: Path) -> list[Path]:
    """Two runs on the same texts; the second is right more often."""
    folder, random, truth = tmp_path_factory.mktemp("runs"), np.random.default_rng(0), labels_of(data)
    noise = random.normal(size=(len(truth), 2))
    better = noise + 3 * np.eye(2)[truth]
    return [
        write_run(folder / "first<i>", data, noise),
        write_run(folder / "second", data, better, seed=2, pooling="concat"),
    ]


def test_a_report_is_one_page_without_scripts_and_addresses(runs: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report([str(run) for run in runs], path)
    page = Page(path)
    assert not page.open
    tags = [tag for tag, _ in page.tags]
    assert not {"script", "link", "iframe", "object", "i"} & set(tags)
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href"):
            if name in attributes:
                assert str(attributes[name]).startswith(("data:image/png;base64,", "#")), tag
    assert "http:" not in path.read_text() and "https:" not in path.read_text()
    assert tags.count("img") == 1 + 2 * 2  # differences; curves and layers of each run
    targets = {attributes.get("id") for _, attributes in page.tags}
    assert {str(attributes["href"])[1:] for tag, attributes in page.tags if tag == "a"} <= targets
    assert "first<i>" in page.text  # as text
    for part in ("Comparison", "Settings that differ", "Confusion matrix", "Worst mistakes", "Training",
                 "Use of layers", "All settings"):  # fmt: skip
        assert part in page.text


def test_a_report_has_the_figures_of_the_runs(runs: list[Path], data: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    found = write_report([str(run) for run in runs], path)
    truth, text = labels_of(data), Page(path).text
    scores = []
    for run, record in zip(runs, found, strict=True):
        results = json.loads((run / "run" / "all_results.json").read_text())
        (task,) = record.tasks
        cell = metric_cells(task)[0]
        assert cell.title == "Accuracy" and cell.value == f"{results['test_accuracy']:.3f}"
        assert f"{cell.value} {cell.interval}" in text
        logits = np.array([[float(row["logit_bad"]), float(row["logit_good"])]
                           for row in csv.DictReader((run / "run" / "logits.csv").open())])  # fmt: skip
        assert task.mistakes == worst_mistakes(logits, truth, list(CLASSES), 10)
        scores.append((logits.argmax(axis=1) == truth).astype(float))
    difference = paired_bootstrap(*scores)
    (adjusted,) = holm([difference.p_value])
    assert adjusted is not None
    assert f"{difference.difference:+.3f}" in text and f"p = {adjusted:.3f}" in text
    worst = found[0].tasks[0].mistakes[0]
    assert f"{TEXTS[worst.row]} {worst.true} {worst.predicted} {worst.severity:.2f}" in text
    assert "pooling – concat" not in text  # only settings that both have
    differing = text.split("Settings that differ")[1].split("Encoder")[0].split("Architecture")[0]
    assert "seed 1 2" in differing and "output_dir" not in differing


def test_the_same_runs_give_the_same_page(runs: list[Path], tmp_path: Path) -> None:
    for name in ("one.html", "two.html"):
        write_report([str(runs[0])], tmp_path / name)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_a_run_without_its_data_says_so(data: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", data, np.eye(2)[labels_of(data)] * 2)
    settings = json.loads((run / "run" / "run.json").read_text())
    gone = str(tmp_path / "gone.csv")
    write_json(run / "run" / "run.json", settings | {"train_file": gone, "test_file": gone})
    write_report([str(run)], tmp_path / "report.html")
    text = Page(tmp_path / "report.html").text
    assert "Answers and truth are not shown" in text and "gone.csv" in text
    assert "1.000" in text  # the recorded accuracy
    assert "relative paths" not in text
    write_json(run / "run" / "run.json", settings | {"train_file": "gone.csv", "test_file": "gone.csv"})
    write_report([str(run)], tmp_path / "moved.html")
    assert "call the command in the folder where the run was started" in Page(tmp_path / "moved.html").text
    second = write_run(tmp_path / "second", data, np.eye(2)[labels_of(data)])
    write_report([str(run), str(second)], tmp_path / "both.html")
    assert "could not be tested against each other" in Page(tmp_path / "both.html").text


def test_seeds_are_pooled_and_folds_put_together(data: Path, tmp_path: Path) -> None:
    truth = labels_of(data)
    right, wrong = 4.0 * np.eye(2)[truth], 4.0 * np.eye(2)[1 - truth]
    top = write_run(tmp_path / "seeds", data, right, seeds=[1, 2])
    for name in ("predictions.csv", "logits.csv", "trainer_state.json", "layer_use.json"):
        (top / "run" / name).unlink()
    for seed, logits in ((1, right), (2, wrong)):
        write_run(top / f"seed-{seed}", data, logits)
    write_json(top / "run" / "all_results.json", {"test_accuracy": {"mean": 0.5, "sd": 0.7}})
    record = read_run(str(top))
    assert record.kind == "seeds" and list(record.histories) == ["seed-1", "seed-2"]
    cell = metric_cells(record.tasks[0])[0]
    assert (cell.value, cell.deviation) == ("0.500", "0.700")
    for seed in (1, 2):
        (top / f"seed-{seed}").rename(top / f"fold-{seed}")
    record = read_run(str(top))
    assert record.kind == "folds"
    assert record.tasks[0].predictions is not None and record.tasks[0].predictions.shape == (
        1,
        2 * len(truth),
    )
    write_report([str(top)], tmp_path / "report.html")
    assert "standard deviation over the folds" in Page(tmp_path / "report.html").text


def test_a_regression_and_several_labels_are_read(tmp_path: Path) -> None:
    truth, values = [0.5, 1.0, 2.0], [0.25, 1.5, 2.0]
    reg = tmp_path / "reg"
    file = write_rows(
        tmp_path / "reg.csv", ["text", "label"], [[f"t{row}", value] for row, value in enumerate(truth)]
    )
    write_rows(
        reg / "run" / "predictions.csv",
        ["id", "text", "value"],
        [[row, f"t{row}", v] for row, v in enumerate(values)],
    )
    write_json(reg / "run" / "run.json", {"train_file": str(file), "test_file": str(file)})
    write_json(reg / "run" / "all_results.json", {"test_pearsonr": 0.9})
    write_json(reg / "config.json", config("regression", ("value",)))
    record = read_run(str(reg))
    assert record.tasks[0].intervals["mae"].value == pytest.approx(0.25)
    assert [mistake.row for mistake in record.tasks[0].mistakes] == [1, 0, 2]
    tags = tmp_path / "tags"
    lines = [{"text": "t0", "label": ["a"]}, {"text": "t1", "label": ["a", "b"]}]
    (tmp_path / "tags.jsonl").write_text("\n".join(map(json.dumps, lines)))
    settings = {"train_file": str(tmp_path / "tags.jsonl"), "test_file": str(tmp_path / "tags.jsonl")}
    write_json(tags / "run" / "run.json", settings)
    write_json(tags / "run" / "all_results.json", {})
    write_rows(
        tags / "run" / "predictions.csv",
        ["id", "text", "label", "score"],
        [[0, "t0", "a", 0.9], [1, "t1", "b", 0.8]],
    )
    write_json(tags / "config.json", config("multi_label_classification", ("a", "b")))
    write_report([str(reg), str(tags)], tmp_path / "report.html")
    text = Page(tmp_path / "report.html").text
    assert "t1 a, b b" in text and "Precision and recall by label" in text
    assert "Predicted against true values" in text and "could not be tested" in text


@pytest.mark.parametrize("fault", ["no run", "not ended", "exists", "no folder", "twice"])
def test_a_report_refuses_in_one_line(
    runs: list[Path], tmp_path: Path, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run, path = runs[0], tmp_path / "report.html"
    messages = {"no run": "must be the folder of a run", "not ended": "name a run that has ended",
                "exists": "exists already", "no folder": "there is no folder",
                "twice": "named more than once"}  # fmt: skip
    if fault == "no run":
        run = tmp_path
    elif fault == "not ended":
        run = tmp_path / "begun"
        write_json(run / "run" / "run.json", {"train_file": "x"})
    elif fault == "exists":
        path.write_text("mine")
    elif fault == "no folder":
        path = tmp_path / "none" / "report.html"
    twice = [f"{run}/../{run.name}"] if fault == "twice" else []
    with pytest.raises(SystemExit, match="2"):
        main(["report", str(run), *twice, "--output_file", str(path)])
    message = capsys.readouterr().err
    assert messages[fault] in message and message.count("\n") == 1
    assert not path.exists() or path.read_text() == "mine"


def test_the_answers_of_a_run_stand_beside_the_truth(runs: list[Path], data: Path) -> None:
    answers = run_answers(runs[0])
    assert answers.truth == [CLASSES[place] for place in labels_of(data)]
    assert [row[1] for row in answers.rows] == TEXTS


def test_labels_written_as_class_ids_are_compared_by_their_names(tmp_path: Path) -> None:
    truth = np.arange(12) % 2
    data = write_rows(
        tmp_path / "numbers.csv", ["text", "label"], [[text, row % 2] for row, text in enumerate(TEXTS)]
    )
    named = write_rows(
        tmp_path / "named.csv",
        ["text", "label"],
        [[text, CLASSES[row % 2]] for row, text in enumerate(TEXTS)],
    )
    run = write_run(tmp_path / "run", named, np.eye(2)[truth])
    settings = json.loads((run / "run" / "run.json").read_text()) | {
        "train_file": None,
        "test_file": str(data),
    }
    write_json(run / "run" / "run.json", settings)
    assert run_scores(run).scores.mean() == 1
    write_json(run / "run" / "run.json", settings | {"test_file": None, "validation_file": str(named)})
    assert run_scores(run).scores.mean() == 1
    write_rows(data, ["text", "label"], [[text, "other"] for text in TEXTS])
    write_json(run / "run" / "run.json", settings)
    with pytest.raises(UserError, match="the label 'other' of the data is none of the model's"):
        run_scores(run)


def test_the_labels_of_a_plain_model_with_adapters_are_its_own(tmp_path: Path) -> None:
    """The configuration of the encoder, which the settings name, says nothing of the labels."""
    truth = np.arange(12) % 2
    named = write_rows(
        tmp_path / "named.csv",
        ["text", "label"],
        [[text, CLASSES[row % 2]] for row, text in enumerate(TEXTS)],
    )
    run = write_run(tmp_path / "run", named, np.eye(2)[truth], model_name_or_path=str(tmp_path / "encoder"))
    write_rows(named, ["text", "label"], [[text, row % 2] for row, text in enumerate(TEXTS)])
    (run / "below").mkdir()
    (run / "config.json").rename(run / "below" / "config.json")
    write_json(tmp_path / "encoder" / "config.json", {"model_type": "bert"})
    assert run_scores(run).scores.mean() == 1


def test_answers_written_for_spreadsheets_are_read_as_they_were(tmp_path: Path) -> None:
    rows = [["@first", "-1"], ["=second", "1"], ["'@third", "-1"]]
    data = write_rows(tmp_path / "data.csv", ["text", "label"], rows)
    settings = {"test_file": str(data), "prediction_format": "spreadsheet"}
    write_json(tmp_path / "run" / "run.json", settings)
    write_json(tmp_path / "config.json", config("single_label_classification", ("-1", "1")))
    write_rows(
        tmp_path / "run" / "predictions.csv",
        ["id", "text", "label", "score"],
        [[number, *map(spreadsheet_cell, row), 0.9] for number, row in enumerate(rows)],
    )
    assert run_scores(tmp_path).scores.mean() == 1


def test_labels_of_an_ensemble_are_named_as_its_run_named_them(tmp_path: Path) -> None:
    """`--class_names` gives the names of integer labels in ascending order, whatever the members' order is."""
    data = write_rows(
        tmp_path / "data.csv", ["text", "label"], [[text, -(row % 2)] for row, text in enumerate(TEXTS)]
    )
    named = write_rows(
        tmp_path / "named.csv",
        ["text", "label"],
        [[text, CLASSES[row % 2]] for row, text in enumerate(TEXTS)],
    )
    run = write_run(tmp_path / "run", named, np.eye(2)[np.arange(12) % 2])
    settings = json.loads((run / "run" / "run.json").read_text())
    settings |= {"train_file": None, "test_file": str(data), "members": ["a"], "class_names": ["good", "bad"]}
    write_json(run / "run" / "run.json", settings)
    assert run_scores(run).scores.mean() == 1
