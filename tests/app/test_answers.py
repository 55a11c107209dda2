"""What a demo answers, without its page: scores, words and layers of a text, files, and sentences for bad input."""

from __future__ import annotations

import json
import os
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_layerfusion import Ensemble, MultitaskPipeline
from hf_layerfusion.__main__ import main
from hf_layerfusion.app import answers
from hf_layerfusion.app.answer_view import render_answer
from hf_layerfusion.app.answers import MOST_CHARACTERS, MOST_WORDS, Demo
from hf_layerfusion.app.page import FAILURE, KEPT_SECONDS, answer_file, answer_text, new_answers_folder
from hf_layerfusion.errors import UserError
from tests.app.conftest import LABELS, TASKS
from tests.tiny import read_csv

TEXT = "the food was great"


@pytest.fixture(scope="module")
def demo(one_task: Path) -> Demo:
    return Demo.from_pretrained(str(one_task), use_cpu=True)


@pytest.fixture(scope="module")
def demo_of_tasks(several_tasks: Path) -> Demo:
    return Demo.from_pretrained(str(several_tasks), use_cpu=True)


def probabilities(folder: Path, *texts: str) -> list[float]:
    """Those of the model by itself."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    batch = AutoTokenizer.from_pretrained(folder)(*texts, return_tensors="pt")
    with torch.no_grad():
        return model(**batch).logits[0].softmax(dim=-1).tolist()


def words_of(html: str) -> str:
    """The text of a piece of HTML whose tags are closed."""
    parts: list[str] = []
    open_tags: list[str] = []
    parser = HTMLParser()
    parser.handle_data = parts.append  # type: ignore[method-assign]
    parser.handle_starttag = lambda tag, attrs: open_tags.append(tag)  # type: ignore[method-assign]
    parser.handle_endtag = lambda tag: open_tags.remove(tag)  # type: ignore[method-assign]
    parser.feed(html)
    assert not open_tags and "script" not in html
    return " ".join(" ".join(parts).split())


def test_scores_words_and_layers_are_those_of_the_model(demo: Demo, one_task: Path) -> None:
    answer = demo.answer(TEXT)
    (task,) = answer.tasks
    whole = probabilities(one_task, TEXT)
    assert task.scores == pytest.approx(whole, abs=1e-5)
    assert [label for label, _ in task.ranked()] == sorted(
        LABELS.values(), key=lambda label: -whole[[*LABELS.values()].index(label)]
    )
    best = max(range(3), key=whole.__getitem__)
    without = ["food was great", "the was great", "the food great", "the food was"]
    assert [word for word, _ in task.words] == TEXT.split()
    assert [effect for _, effect in task.words] == pytest.approx(
        [whole[best] - probabilities(one_task, text)[best] for text in without], abs=1e-5
    )
    assert [layer.number for layer in answer.layers] == [1, 2, 3, 4]
    assert sum(layer.weight or 0 for layer in answer.layers) == pytest.approx(1)
    assert any(abs(layer.effect) > 1e-6 for layer in answer.layers)
    assert demo.answer(TEXT) == answer  # nothing is left behind


def test_a_pair_is_answered_with_the_words_of_both(demo: Demo, one_task: Path) -> None:
    (task,) = demo.answer(TEXT, "it was bad").tasks
    assert task.scores == pytest.approx(probabilities(one_task, TEXT, "it was bad"), abs=1e-5)
    assert [word for word, _ in task.words] == [*TEXT.split(), "it", "was", "bad"]


def test_a_model_of_several_tasks_answers_all_at_once(demo_of_tasks: Demo, several_tasks: Path) -> None:
    ask = MultitaskPipeline.from_pretrained(str(several_tasks))
    expected = ask(TEXT, top_k=1)
    answer = demo_of_tasks.answer(TEXT)
    assert [task.title for task in answer.tasks] == ["mood", "stars"]
    mood, stars = answer.tasks
    assert [mood.ranked()[0]] == [
        (row["label"], pytest.approx(row["score"], abs=1e-5)) for row in expected["mood"]
    ]
    assert stars.scores == [pytest.approx(expected["stars"], abs=1e-5)]
    titles = [task.title for task in demo_of_tasks.answer(TEXT, "it was bad").tasks]
    assert titles == [
        "mood, first text",
        "mood, second text",
        "same",
        "stars, first text",
        "stars, second text",
    ]
    assert not answer.layers and "last layer" in answer.layers_remark


def test_an_ensemble_answers_too(one_task: Path, tmp_path: Path) -> None:
    Ensemble.of([str(one_task)]).save_pretrained(tmp_path / "vote")
    demo = Demo.from_pretrained(str(tmp_path / "vote"), use_cpu=True)
    assert demo.answer(TEXT).tasks[0].scores == pytest.approx(probabilities(one_task, TEXT), abs=1e-5)


def test_answers_are_shown_with_texts_and_labels_escaped(demo: Demo, demo_of_tasks: Demo) -> None:
    html = render_answer(demo.answer("<script>alert(1)</script> & <b>great"))
    html_without = html.replace("&lt;script&gt;", "").replace("&lt;/script&gt;", "")
    shown = words_of(html_without)
    for label in LABELS.values():
        assert label in shown
    assert "<b>" not in html and "Layer" in shown and "Weight" in shown
    shown = words_of(render_answer(demo_of_tasks.answer(TEXT)))
    assert "mood" in shown and "stars" in shown and "most likely label" in shown


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("",), "Type a text first."),
        (("  \n",), "Type a text first."),
        (("x" * 100_000,), f"The text has 100,000 characters; at most {MOST_CHARACTERS:,} are read here."),
        (("a", "x" * 100_000), "The second text has 100,000 characters"),
        (("\ud800 a",), "half a surrogate pair"),
    ],
)
def test_bad_texts_get_a_sentence(demo: Demo, texts: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message.split(";")[0]):
        demo.answer(*texts)
    html = answer_text(demo, *texts)
    assert 'role="alert"' in html and "Traceback" not in html and html.count("\n") == 1


def test_long_texts_are_answered_without_their_words(demo: Demo) -> None:
    (task,) = demo.answer("the food " * MOST_WORDS).tasks
    assert not task.words and f"up to {MOST_WORDS} words" in task.words_remark
    assert demo.answer("the food " * 2000).tasks[0].scores  # cut to what the model takes
    assert "two words or more" in demo.answer("great").tasks[0].words_remark


def test_models_say_what_number_of_texts_they_take(several_tasks: Path, one_task: Path) -> None:
    demo = Demo.from_pretrained(str(one_task), use_cpu=True)
    (kind,) = demo.tasks.values()
    for pair, texts, message in ((True, ("a",), "takes pairs"), (False, ("a", "b"), "takes single texts")):
        demo.predictor.tasks[""] = type(kind)(kind.problem_type, kind.labels, pair)
        with pytest.raises(UserError, match=message):
            demo.answer(*texts)


def test_whether_a_run_was_trained_on_pairs_is_read_from_its_settings(one_task: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for file in one_task.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "run.json").write_text(json.dumps({"preprocessing": "none", "text_pair_column": "b"}))
    demo = Demo.from_pretrained(str(folder), use_cpu=True)
    assert demo.takes_pairs and demo.needs_pairs


def test_a_file_is_answered_as_its_texts_are(demo: Demo, one_task: Path, tmp_path: Path) -> None:
    file = tmp_path / "texts.csv"
    file.write_text("review,other\nthe food was great,x\nbad,y\n")
    html, files = answer_file(demo, str(file), "review")
    assert "2 rows" in html
    rows = read_csv(Path(files[0]))
    assert [row["review"] for row in rows] == [TEXT, "bad"]
    expected = dict(zip(LABELS.values(), probabilities(one_task, TEXT), strict=True))
    assert {label: float(rows[0][f"score_{label}"]) for label in LABELS.values()} == pytest.approx(
        expected, abs=1e-5
    )
    assert rows[0]["label"] == max(expected, key=expected.__getitem__)


def test_a_file_of_several_tasks_gives_a_file_for_each(demo_of_tasks: Demo, tmp_path: Path) -> None:
    file = tmp_path / "texts.csv"
    file.write_text("a,b\nthe food was great,bad\nbad,good\n")
    assert [Path(name).name for name in answer_file(demo_of_tasks, str(file), "a")[1]] == [
        "predictions-mood.csv",
        "predictions-stars.csv",
    ]
    (pairs,) = answer_file(demo_of_tasks, str(file), "a", "b")[1]
    assert set(read_csv(Path(pairs))[0]) == {
        "id", "a", "b", "label", "score", *(f"score_{label}" for label in TASKS["same"]["labels"])
    }  # fmt: skip


def test_bad_files_get_a_sentence(demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "good.csv").write_text("text\na\nb\n")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n")
    (tmp_path / "wrong.csv").write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff")
    (tmp_path / "empty.csv").write_text("")
    monkeypatch.setattr(answers, "MOST_ROWS", 1)
    for name, column, message in (
        (None, "text", "Choose a file first"),
        ("good.csv", "", "Name the column"),
        ("good.csv", "txt", "no column"),
        ("good.csv", "text", "has 2 rows, at most 1 are answered here"),
        ("picture.png", "text", "is not that of a known data format"),
        ("wrong.csv", "text", "wrong.csv"),
        ("empty.csv", "text", "empty.csv"),
    ):
        html, files = answer_file(demo, None if name is None else str(tmp_path / name), column)
        assert message in html.replace("&#39;", "'") and 'role="alert"' in html and not files, html
        assert str(tmp_path) not in html


def test_what_fails_unexpectedly_gets_a_sentence_too(
    demo: Demo, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(demo.predictor, "scores", lambda items: 1 / 0)
    assert FAILURE in answer_text(demo, TEXT)
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("model", ["no/such/folder", "folder", "file"])
def test_the_command_refuses_in_one_line(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", type(sys)("gradio"))
    if model != "no/such/folder":
        model = str(tmp_path if model == "folder" else Path(__file__))
    with pytest.raises(SystemExit, match="2"):
        main(["app", model])
    message = capsys.readouterr().err
    assert message.startswith("error: MODEL ") and message.count("\n") == 1
    assert "Unrecognized" not in message and "Repo id" not in message
    with pytest.raises(SystemExit, match="2"):
        main(["app", model, "--port", "70000"])
    assert capsys.readouterr().err.count("\n") == 1


def test_a_missing_gradio_is_named(
    one_task: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(SystemExit, match="2"):
        main(["app", str(one_task)])
    assert 'pip install "hf_layerfusion[app]"' in capsys.readouterr().err


def test_the_files_of_answers_are_kept_for_an_hour() -> None:
    old, young = new_answers_folder(), new_answers_folder()
    (old / "predictions.csv").write_text("id")
    an_hour_ago = time.time() - KEPT_SECONDS - 1
    os.utime(old, (an_hour_ago, an_hour_ago))
    newest = new_answers_folder()
    assert not old.exists() and young.is_dir() and newest.is_dir()
