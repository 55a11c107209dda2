from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict
from transformers import AutoModel

from hf_layerfusion import BertForGRUFusionClassification, BertWithPoolingModule, CerbertusForMultitask
from hf_layerfusion.errors import UserError
from hf_layerfusion.modeling.modeling_layer_pooling import LayerPoolingModel
from hf_layerfusion.probing import LayerProbe, layer_probe, layer_probes, plot_gains, plot_layer_probe
from hf_layerfusion.probing.rows import _groups
from tests.tiny import tiny_config, tiny_texts, tiny_tokenizer

TEXTS, NAMES = map(list, zip(*tiny_texts(60, 0), strict=True))
OTHERS, OTHER_NAMES = map(list, zip(*tiny_texts(40, 1), strict=True))
NUMBERS = [float(row % 7) for row in range(60)]


def rows(texts: list[Any] = TEXTS, labels: list[Any] = NAMES, **columns: list[Any]) -> Dataset:
    return Dataset.from_dict({"text": texts, "label": labels[: len(texts)], **columns})


def ids(names: list[str], of: list[str] = NAMES, unlabelled: bool = False) -> Dataset:
    """The texts with a `ClassLabel` of these names; with `unlabelled`, -1 in every row but the first."""
    labels = [-1 if unlabelled and row else names.index(name) for row, name in enumerate(of)]
    return rows(labels=labels).cast_column("label", ClassLabel(names=names))


TEST = rows(OTHERS, OTHER_NAMES)


def scores(probe: LayerProbe) -> list[float]:
    return [each.score for each in [*probe.layers, probe.all]]


@pytest.fixture
def refused(tiny_encoder_dir: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The message with which data are refused, before the encoder is loaded."""
    monkeypatch.setattr(LayerPoolingModel, "from_pretrained", lambda *_, **__: pytest.fail("it was loaded"))

    def message(data: Any, **settings: Any) -> str:
        with pytest.raises(UserError) as error:
            layer_probe(tiny_encoder_dir, data, **settings)
        assert "\n" not in str(error.value)
        return str(error.value)

    return message


def test_class_labels_are_compared_by_name(tiny_encoder_dir: str, tmp_path: Path) -> None:
    train = ids(["negative", "positive"])
    expected = layer_probe(tiny_encoder_dir, {"train": train, "test": train}, cache_dir=tmp_path)
    for same in (ids(["positive", "negative"]), rows(), rows(labels=train["label"])):
        found = layer_probe(tiny_encoder_dir, {"train": train, "test": same}, cache_dir=tmp_path)
        assert scores(found) == scores(expected)


def test_a_name_without_rows_is_no_class(tiny_encoder_dir: str, tmp_path: Path) -> None:
    three = layer_probe(
        tiny_encoder_dir, ids(["negative", "neutral", "positive"]), metric="macro_f1", cache_dir=tmp_path
    )
    two = layer_probe(tiny_encoder_dir, rows(), metric="macro_f1", cache_dir=tmp_path)
    assert scores(three) == scores(two)


def test_repeated_training_texts_are_left_out(tiny_encoder_dir: str, tmp_path: Path) -> None:
    once = layer_probe(tiny_encoder_dir, rows(), cache_dir=tmp_path)
    other_labels = NAMES[1:] + NAMES[:1]  # the first row's label counts
    twice = layer_probe(tiny_encoder_dir, rows(TEXTS * 2, NAMES + other_labels), cache_dir=tmp_path)
    assert (twice.num_train, twice.num_test) == (60, 60)
    assert scores(twice) == scores(once)
    assert once.notes == []
    assert twice.notes == ["train: 60 repeated texts removed"]


def test_repeated_pairs_are_left_out(tiny_encoder_dir: str, tmp_path: Path) -> None:
    pairs = rows(TEXTS[:20] * 3, second=TEXTS[20:40] * 2 + TEXTS[40:60])
    probe = layer_probe(tiny_encoder_dir, pairs, text_columns=("text", "second"), cache_dir=tmp_path)
    assert probe.num_train == 40


def test_test_texts_that_are_in_train_are_counted(tiny_encoder_dir: str, tmp_path: Path) -> None:
    data = {"train": rows(), "test": rows(OTHERS + TEXTS[:3], OTHER_NAMES + NAMES[:3])}
    probe = layer_probe(tiny_encoder_dir, data, cache_dir=tmp_path)
    assert probe.num_test == 43
    assert probe.notes == ["test: 3 texts also occur in train"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["negative", None, *NAMES], "row 1: the label is missing; add it or remove the row"),
        (["negative", " ", *NAMES], "row 1: the label is missing"),
        ([0, -100, *[0, 1] * 29], "row 1: the label is missing"),
        ([0.5, float("nan"), *NUMBERS], "row 1: the label is missing"),
        ([0, None, *[0, 1] * 29], "row 1: the label is missing"),
        ([None] * 60, "row 0: the label is missing"),
        ([0.5, float("inf"), *NUMBERS], "row 1: the label must be a finite number, found inf"),
        ([["a"], ["b"]] * 30, "column 'label' must hold one class or value a row, found List"),
        (["b"] * 60, "two classes or more, found ['b']"),
        (["zebra", *NAMES[1:]], "need 5 rows of each class or more, found 1 of class 'zebra'"),
        ([1.5] * 60, "must differ, found 1.5 in every row"),
    ],
)
def test_labels_that_a_probe_cannot_learn(
    refused: Callable[..., str], labels: list[Any], message: str
) -> None:
    assert message in refused(rows(labels=labels))


def test_missing_and_unknown_classes_of_a_class_label(refused: Callable[..., str]) -> None:
    train, names = ids(["negative", "positive"]), ["positive", "neutral", "negative"]
    assert "split 'train': row 1: the label is missing" in refused(
        ids(["negative", "positive"], unlabelled=True)
    )
    unlabelled = {"train": train, "test": ids(["negative", "positive"], unlabelled=True)}
    assert "split 'test': row 1: the label is missing" in refused(unlabelled)
    other = ids(names, of=["positive", "neutral", *NAMES[2:]])
    found = refused({"train": train, "test": other})
    assert "split 'test': row 1: the label 'neutral' is no class of the 60 training rows" in found
    assert "which have 'negative', 'positive'; correct it" in found
    numbers = rows(labels=[0, 7] * 30)
    assert "row 1: the label 7 has no name among 'negative', 'positive'" in refused(
        {"train": train, "test": numbers}
    )


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (NAMES, ["positive", None], "row 1: the label is missing"),
        (NAMES, [None, "zz"], "row 0: the label is missing"),
        (NAMES, ["positive", "zz"], "row 1: the label 'zz' is no class of the"),
        (NAMES, [["positive"], ["negative"]], "must hold one class or value a row, found List"),
        (NUMBERS, ["positive", "negative"], "row 0: the label must be a finite number, found 'positive'"),
        (NUMBERS, [2.0, 2.0], "must differ, found 2.0 in every row"),
        (
            [0, 1] * 30,
            ["0", "1"],
            "row 0: the label '0' is no class of the 60 training rows, which have 0, 1",
        ),
        ([0, 1] * 30, [1.0, 0.5], "row 1: the label 0.5 is no class of the"),
    ],
)
def test_labels_of_test_must_be_those_of_train(
    refused: Callable[..., str], train: list[Any], test: list[Any], message: str
) -> None:
    found = refused({"train": rows(labels=train), "test": rows(OTHERS[:2], test)})
    assert message in found
    assert "data, split 'test'" in found


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a", None, *TEXTS[2:]], "row 1: the text must be a text, found None"),
        (list(range(60)), "row 0: the text must be a text, found 0"),
        ([text.split() for text in TEXTS], "row 0: the text must be a text, found ['"),
    ],
)
def test_what_is_no_text_is_refused(refused: Callable[..., str], texts: list[Any], message: str) -> None:
    assert f"data, split 'train': {message}" in refused({"train": rows(texts), "test": TEST})
    assert f"data, split 'test': {message}" in refused({"train": rows(), "test": rows(texts)})


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["a", None, *"abcdef" * 10], "row 1: the value of 'g' is missing; add it or remove the row"),
        ([1, None, *[*range(6)] * 10], "row 1: the value of 'g' is missing"),
        ([["a"]] * 60, "column 'g' must hold one value a row, found List"),
        (["a", "b"] * 30, "need 5 values of g or more, found 2"),
    ],
)
def test_groups_that_make_no_folds(refused: Callable[..., str], groups: list[Any], message: str) -> None:
    assert message in refused(rows(g=groups[:60]), group_column="g")


def test_groups_that_leave_a_class_one_row_are_refused_with_the_fold(refused: Callable[..., str]) -> None:
    labels = ["zebra"] * 6 + NAMES[6:]
    groups = [0] * 5 + [1] * 5 + [2 + row % 5 for row in range(50)]
    found = refused(rows(labels=labels, g=groups), group_column="g")
    assert "rows of fold" in found
    assert "two rows of each class or more, found one of class zebra" in found


def test_groups_stay_together(tiny_encoder_dir: str, tmp_path: Path) -> None:
    """Texts of a group hold its number, so that a probe would know the classes of its group's other rows."""
    labels = np.random.default_rng(0).integers(2, size=15)
    texts = [f"{text} {row % 15}" for row, text in enumerate(TEXTS)]
    data = rows(texts, [int(labels[row % 15]) for row in range(60)], g=[str(row % 15) for row in range(60)])
    apart = layer_probe(tiny_encoder_dir, data, group_column="g", cache_dir=tmp_path)
    mixed = layer_probe(tiny_encoder_dir, data, cache_dir=tmp_path)
    assert apart.all.score < mixed.all.score


def test_a_test_split_needs_no_groups(tiny_encoder_dir: str, tmp_path: Path) -> None:
    data = {"train": rows(g=[*range(60)]), "test": TEST}
    probe = layer_probe(tiny_encoder_dir, data, group_column="g", cache_dir=tmp_path)
    assert probe.num_test == 40


def test_too_few_rows_are_counted_as_given(refused: Callable[..., str]) -> None:
    few = refused(rows(TEXTS[:6], NUMBERS))
    assert "need 8 rows or more, found 6" in few
    repeated = refused({"train": rows(TEXTS[:4] * 5, NAMES), "test": TEST})
    assert "without its 16 repeated texts: targets must be at least 6 rows, found 4" in repeated
    rare = refused({"train": rows(labels=["zebra", *NAMES[1:]]), "test": TEST})
    assert "two rows of each class or more, found one of class zebra" in rare
    alike = refused(rows(labels=[0.0] * 59 + [1.0]))
    assert "rows of fold" in alike
    assert "targets must differ" in alike


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text_columns": ("text", "text")}, "text_columns must name different columns, found 'text' twice"),
        ({"text_columns": "text"}, "text_columns must name one column, or two for pairs, found 'text'"),
        ({"text_columns": None}, "text_columns must name one column, or two for pairs, found None"),
        ({"text_columns": (1,)}, "text_columns must name one column"),
        ({"label_column": "text"}, "label_column must not be a text column, found 'text'"),
        ({"label_column": None}, "label_column must be the name of a column, found None"),
        ({"group_column": "label"}, "group_column must not be the label column, found 'label'"),
        ({"group_column": ["text"]}, "group_column must be the name of a column, found ['text']"),
        ({"group_column": "g"}, "split 'train' must have the columns text, label, g, found text, label"),
        ({"seed": 1.5}, "seed must be a whole number between 0 and 4294967295, found 1.5"),
        ({"batch_size": 2.5}, "batch_size must be a whole number of 1 or more, found 2.5"),
        ({"max_length": 10.5}, "max_length must be a whole number between 3"),
        ({"metric": ["accuracy"]}, "metric must be one of accuracy, macro_f1, pearson, found ['accuracy']"),
        ({"metric": "pearson"}, "metric must be one of accuracy, macro_f1 for these labels, found 'pearson'"),
    ],
)
def test_settings_of_another_kind(
    refused: Callable[..., str], settings: dict[str, Any], message: str
) -> None:
    assert message in refused(rows(), **settings)


def test_a_model_is_no_name_of_an_encoder(tmp_path: Path) -> None:
    model = AutoModel.from_config(tiny_config("bert"))
    with pytest.raises(
        UserError, match="encoder must be a folder or Hub id, found BertModel; save the model"
    ):
        layer_probe(model, rows(), cache_dir=tmp_path)
    with pytest.raises(UserError, match="encoder must be a folder or Hub id, found None"):
        layer_probe(None, rows(), cache_dir=tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize("listed", [iter, np.array])
def test_encoders_may_be_any_iterable(tiny_encoder_dir: str, tmp_path: Path, listed: Any) -> None:
    found = layer_probes(listed([tiny_encoder_dir]), {"a": rows()}, cache_dir=tmp_path)
    assert [probe.encoder for probe in found] == [tiny_encoder_dir]


def test_groups_take_no_more_memory_than_their_texts() -> None:
    long = "x" * 10_000_000
    groups = Dataset.from_dict({"g": [*map(str, range(999)), long]})
    assert _groups(groups, "g", "train").tolist() == list(range(1000))


@pytest.mark.parametrize(
    ("encoders", "data", "message"),
    [
        (str, {"a": rows()}, "encoders must be a list of folders or Hub ids, found"),
        (list, rows(), "data must be data sets by name, found Dataset; give {'name': data}"),
        (list, DatasetDict(train=rows(), test=TEST), "data must be data sets by name, found splits"),
        (list, {"train": rows(), "test": TEST}, "data must be data sets by name, found splits"),
        (list, {}, "data must be data sets by name, found none"),
        (lambda _: [], {"a": rows()}, "encoders must be a list of folders or Hub ids, found none"),
    ],
)
def test_several_data_sets_have_names(tiny_encoder_dir: str, encoders: Any, data: Any, message: str) -> None:
    given = [tiny_encoder_dir] if encoders is list else encoders(tiny_encoder_dir)
    with pytest.raises(UserError, match=message):
        layer_probes(given, data)


@pytest.mark.parametrize("draw", [plot_layer_probe, plot_gains])
def test_no_probe_is_no_figure(draw: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="probes must hold one or more, found none"):
        draw([], tmp_path / "figure.png")
    assert not list(tmp_path.iterdir())


def test_the_gain_of_one_probe_is_drawn(tiny_encoder_dir: str, tmp_path: Path) -> None:
    probe = layer_probe(tiny_encoder_dir, {"train": rows(), "test": TEST}, cache_dir=tmp_path / "states")
    plot_gains(probe, tmp_path / "gains.png")
    assert (tmp_path / "gains.png").exists()


@pytest.mark.parametrize(
    ("wrong", "settings", "message"),
    [
        ({"train": rows(), "test": rows(OTHERS[:2], ["positive", "zz"])}, {}, "later, split 'test': row 1"),
        (rows(labels=NUMBERS), {"metric": "accuracy"}, "later: metric must be one of pearson"),
        (rows(labels=["a"] * 60), {}, "later, split 'train': targets must have two classes"),
    ],
)
def test_faults_of_a_later_data_set_come_first(
    refused: Callable[..., str],
    tiny_encoder_dir: str,
    wrong: Any,
    settings: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(UserError, match=message):
        layer_probes([tiny_encoder_dir], {"first": rows(), "later": wrong}, **settings)


def test_faults_of_a_later_encoder_come_first(
    refused: Callable[..., str], tiny_encoder_dir: str, tmp_path: Path
) -> None:
    AutoModel.from_config(tiny_config("bert", 1)).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="two layers or more"):
        layer_probes([tiny_encoder_dir, str(tmp_path)], {"data": rows()})


@pytest.mark.parametrize(
    ("model_class", "settings"),
    [
        (BertWithPoolingModule, {}),
        (BertForGRUFusionClassification, {"num_groups": 2}),
        (LayerPoolingModel, {"pooling": "concat", "token_pooling": "cls_mean"}),
        (CerbertusForMultitask, {"tasks": {"a": {"labels": ["0", "1"]}}, "num_task_layers": 0}),
    ],
)
def test_a_saved_model_is_no_encoder(
    model_class: Any, settings: dict[str, Any], tiny_encoder_dir: str, tmp_path: Path
) -> None:
    model_class.from_pretrained(tiny_encoder_dir, **settings).save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match=r"found the model '.*' around one; name the encoder"):
        layer_probe(tmp_path / "model", rows(), cache_dir=tmp_path / "states")


def test_states_beyond_half_precision(tmp_path: Path) -> None:
    model = AutoModel.from_config(tiny_config("bert", 2))
    torch.nn.init.constant_(model.encoder.layer[0].output.LayerNorm.bias, 1e5)
    model.save_pretrained(tmp_path / "encoder")
    tiny_tokenizer().save_pretrained(tmp_path / "encoder")
    with pytest.raises(UserError, match=r"encoder .*encoder: .*65,504.*; probe another encoder") as error:
        layer_probe(tmp_path / "encoder", rows(), cache_dir=tmp_path / "states")
    assert "leave the option out" not in str(error.value)
    assert "\n" not in str(error.value)
