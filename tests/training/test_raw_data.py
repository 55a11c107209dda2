"""Data sets of raw texts and labels by name, as they come from the Hub."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from transformers import PreTrainedTokenizerBase, TrainingArguments

from hf_layerfusion import (
    BertForGRUFusionClassification,
    BertWithPoolingModule,
    CerbertusConfig,
    CerbertusForMultitask,
    GRUFusionConfig,
    LayerFusionTrainer,
    LayerPoolingConfig,
)
from hf_layerfusion.data.text_preparation import prepared_tokenizer
from hf_layerfusion.errors import UserError
from hf_layerfusion.training.raw_data import RawData
from tests.tiny import tiny_config, tiny_texts, tiny_tokenizer
from tests.training.small import small_arguments, weights_digest

TEXTS = [text for text, _ in tiny_texts(32)]
NAMES = [label for _, label in tiny_texts(32)]
IDS = [int(name == "positive") for name in NAMES]


@pytest.fixture(autouse=True)
def _propagated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("hf_layerfusion"), "propagate", True)


def config(**changes: Any) -> GRUFusionConfig:
    return GRUFusionConfig(encoder_config=tiny_config("bert", 2), num_groups=2, **changes)


def named(*names: str) -> GRUFusionConfig:
    return config(id2label=dict(enumerate(names)))


def model(of_config: GRUFusionConfig | None = None) -> BertForGRUFusionClassification:
    torch.manual_seed(1)
    return BertForGRUFusionClassification(of_config or config())


def raw_data(folder: Path, of_config: Any = None, tokenizer: Any = None, has_tasks: bool = False) -> RawData:
    return RawData(tokenizer or tiny_tokenizer(), of_config or config(), small_arguments(folder), has_tasks)


def table(labels: Any, feature: Any = None, **texts: list[Any]) -> Dataset:
    columns = {**(texts or {"text": TEXTS[: len(labels)]}), "label": labels}
    data = Dataset.from_dict(columns)
    return data if feature is None else data.cast_column("label", feature)


def trainer(folder: Path, of_model: Any = None, train: Any = None, **settings: Any) -> LayerFusionTrainer:
    arguments = {
        name: settings.pop(name)
        for name in ("processing_class", "eval_dataset", "data_collator", "model_init", "compute_metrics")
        if name in settings
    }
    given = {"processing_class": tiny_tokenizer(), "eval_dataset": None, **arguments}
    if "model_init" not in given:
        given["model"] = of_model or model()
    return LayerFusionTrainer(
        args=small_arguments(folder, max_steps=2, **settings),
        train_dataset=table(NAMES) if train is None else train,
        **given,
    )


# What training makes of them


def tokenized(**columns: Any) -> Dataset:
    return Dataset.from_dict({**tiny_tokenizer()(TEXTS), **columns})


def test_raw_texts_and_names_train_as_ids_do(tmp_path: Path) -> None:
    raw = trainer(tmp_path)
    raw.train()
    by_hand = trainer(tmp_path, train=tokenized(labels=IDS))
    by_hand.train()
    assert weights_digest(raw.model) == weights_digest(by_hand.model)
    raw.save_model(str(tmp_path / "saved"))
    saved = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert saved["id2label"] == {"0": "negative", "1": "positive"}
    assert saved["problem_type"] == "single_label_classification"


def test_stock_arguments_will_do(tmp_path: Path) -> None:
    args = TrainingArguments(str(tmp_path), use_cpu=True, max_steps=1, save_strategy="no", report_to=[])
    made = LayerFusionTrainer(
        model(),
        args,
        train_dataset=table(NAMES),
        eval_dataset=table(NAMES[:8]),
        processing_class=tiny_tokenizer(),
    )
    made.train()
    assert {"eval_accuracy", "eval_f1_macro"} <= made.evaluate().keys()


def test_tokenized_data_stay_the_same_object(tmp_path: Path) -> None:
    rows = tokenized(labels=IDS, text=TEXTS)
    made = trainer(tmp_path, train=rows, eval_dataset=rows)
    assert made.train_dataset is rows and made.eval_dataset is rows
    assert made.compute_metrics is None
    listed = list(rows)
    assert trainer(tmp_path, train=listed).train_dataset is listed


def test_texts_that_a_transform_or_a_collator_tokenizes_stay_as_they_are(tmp_path: Path) -> None:
    lazy = table(IDS).with_transform(lambda rows: {**tiny_tokenizer()(rows["text"]), "labels": rows["label"]})
    made = trainer(tmp_path, train=lazy, remove_unused_columns=False)
    assert made.train_dataset is lazy
    made.train()

    def collate(rows: list[dict[str, Any]]) -> Any:
        batch = tiny_tokenizer()([row["text"] for row in rows], padding=True, return_tensors="pt")
        return {**batch, "labels": torch.tensor([row["label"] for row in rows])}

    made = trainer(tmp_path, train=table(IDS), data_collator=collate, remove_unused_columns=False)
    made.train()
    assert made.train_dataset.column_names == ["text", "label"]


def test_models_of_model_init_are_named_each(tmp_path: Path) -> None:
    made = trainer(tmp_path, model_init=model)
    first = made.model
    made.train()
    assert made.model is not first
    assert made.model.config.id2label == {0: "negative", 1: "positive"}


def test_evaluation_and_prediction_take_raw_texts_too(tmp_path: Path) -> None:
    made = trainer(tmp_path, eval_dataset={"a": table(NAMES), "b": table(NAMES[:8])})
    assert {"eval_a_accuracy", "eval_b_f1_macro"} <= made.evaluate().keys()
    listed = [{"text": text, "label": name} for text, name in tiny_texts(8)]
    assert made.evaluate(listed)["eval_accuracy"] == made.evaluate(table(NAMES[:8]))["eval_accuracy"]
    output = made.predict(Dataset.from_dict({"text": TEXTS}))
    expected = made.predict(tokenized()).predictions
    torch.testing.assert_close(torch.tensor(output.predictions), torch.tensor(expected))
    assert output.label_ids is None


def test_a_trainer_without_data_at_first_computes_the_metrics(tmp_path: Path) -> None:
    made = LayerFusionTrainer(
        model(named("negative", "positive")), small_arguments(tmp_path), processing_class=tiny_tokenizer()
    )
    assert "eval_accuracy" in made.evaluate(table(NAMES))


def test_metrics_of_the_user_s_own_come_first(tmp_path: Path) -> None:
    made = trainer(tmp_path, eval_dataset=table(NAMES), compute_metrics=lambda prediction: {"one": 1.0})
    found = made.evaluate()
    assert found["eval_one"] == 1 and "eval_accuracy" not in found


def test_an_unknown_metric_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="accuracy, f1_macro"):
        trainer(tmp_path, eval_dataset=table(NAMES), metric_for_best_model="acuracy", eval_strategy="epoch")


# Labels


SEVERAL = config(num_labels=3, problem_type="multi_label_classification")


@pytest.mark.parametrize(
    ("of_config", "data", "expected"),
    [
        (config(), table(["b", "a", "b"]), [1, 0, 1]),
        (config(), table([1, 0, 1]), [1, 0, 1]),
        (config(), table([True, False]), [1, 0]),
        (config(), table([0, 1, 0], ClassLabel(names=["z", "a"])), [0, 1, 0]),
        # The names decide, and not the numbers that a data set gives them.
        (named("a", "z"), table([0, 1, 0], ClassLabel(names=["z", "a"])), [1, 0, 1]),
        (named("a", "b", "c"), table(["c", " a "]), [2, 0]),
        (named("a", "b"), table([1, 0]), [1, 0]),
        (named("1", "2", "3"), table([3, 1]), [2, 0]),
        (config(label_values=["-1", "1"], id2label={0: "bad", 1: "good"}), table([1, -1]), [1, 0]),
        (config(num_labels=1), table([0.5, 2.0]), [0.5, 2.0]),
        (config(num_labels=1), table([3, 2]), [3.0, 2.0]),
        (config(num_labels=3), table([["x", "z"], [], ["y"]]), [[1, 0, 1], [0, 0, 0], [0, 1, 0]]),
        (config(num_labels=3), table([[1, 0, 1], [0, 0, 1]]), [[1, 0, 1], [0, 0, 1]]),
        (SEVERAL, table([[1.0, 0.0, 0.5]]), [[1, 0, 0.5]]),
        (
            config(num_labels=2),
            table([[1], [0, 1]], List(ClassLabel(names=["x", "y"]))),
            [[0, 1], [1, 1]],
        ),
    ],
)  # fmt: skip
def test_labels(tmp_path: Path, of_config: Any, data: Dataset, expected: list[Any]) -> None:
    encoded = raw_data(tmp_path, of_config).training(data)
    assert encoded["labels"][:] == expected
    assert set(encoded.column_names) == {*tiny_tokenizer().model_input_names, "labels"}


@pytest.mark.parametrize(
    ("num_labels", "labels", "metrics"),
    [
        (2, NAMES, {"accuracy", "f1_macro"}),
        (1, [float(number) for number in range(32)], {"pearsonr", "spearmanr"}),
        (2, [[name] for name in NAMES], {"f1_micro", "f1_macro"}),
    ],
)
def test_the_metrics_are_those_of_the_labels(
    tmp_path: Path, num_labels: int, labels: list[Any], metrics: set[str]
) -> None:
    made = trainer(tmp_path, model(config(num_labels=num_labels)), table(labels), eval_dataset=table(labels))
    made.train()
    assert {f"eval_{name}" for name in metrics} <= made.evaluate().keys()


@pytest.mark.parametrize(
    ("of_config", "data", "message"),
    [
        (config(num_labels=3), table(["a", "b"]), r"num_labels=3, found 2 \('a', 'b'\); load"),
        (config(), table(["a", "a"]), "needs two classes or more, found one, 'a'; add rows of others"),
        (config(), table([0, 1, 2]), "training data: row 2: the label '2' is not among the known ones, '0', '1'"),
        (config(), table([0, -1]), "row 1: the label '-1' is not among"),
        (config(), table([0, 1], ClassLabel(names=["a", "b", "c"])), "found 3 "),
        (named("pos", "neg"), table(["pos", "Neg"]), "row 1: the label 'Neg' is not among .* 'pos', 'neg'"),
        (config(), table(["a", None, "b"]), "row 1: the label is missing"),
        (config(), table(["a", " ", "b"]), "row 1: the label is missing"),
        (config(), table([0, -1], ClassLabel(names=["a", "b"])), "row 1: the label is missing"),
        (config(), table([0.5, 1.5]), "found fractions as labels; load the model with num_labels=1, a regression"),
        (config(num_labels=1), table(["a", "b"]), "predicts one number .num_labels=1., found names"),
        (config(num_labels=1), table([0.5, float("nan")]), "row 1: the label nan is not a finite number"),
        (config(num_labels=3), table([[1, 0], [0, 1]]), r"row 0: the label must be .* found \[1, 0\]"),
        (config(problem_type="single_label_classification"), table([["a"], ["b"]]), "problem_type='multi_label"),
        (config(), Dataset.from_dict({"text": ["x"], "sentiment": [1]}), "column 'label', found text, sentiment"),
        (config(), Dataset.from_dict({"text": ["x"], "label": [1], "labels": [1]}), "in one column"),
        (config(), Dataset.from_dict({"text": ["x"], "label": [{"a": 1}]}), "a label must be a name, a number"),
        (config(), [{"text": "x", "label": 1}, {"text": "y", "label": "b"}], "values of the same types"),
        # Texts
        (config(), table([0, 1], text=["x", None]), "row 1: the text must be a text, found None"),
        (config(), table([0, 1], a=["x", "y"], b=["x", "y"]), "found the columns of strings a, b; rename"),
        (config(), DatasetDict(train=table([0, 1]), test=table([0])), r"data\['train'\]"),
        (config(), table([0, 1]).select([]), "there must be rows"),
    ],
)  # fmt: skip
def test_refusals_are_one_line(tmp_path: Path, of_config: Any, data: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        raw_data(tmp_path, of_config).training(data)
    assert "\n" not in str(refused.value)


def test_labels_of_the_evaluation_that_training_lacks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="evaluation data: row 1: the label 'neutral' is not among"):
        trainer(tmp_path, eval_dataset=table(["positive", "neutral"]))


def test_texts_need_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give the tokenizer as processing_class"):
        trainer(tmp_path, processing_class=None)


def test_labels_that_all_rows_lack_are_none(tmp_path: Path) -> None:
    of_glue = table([-1, -1], ClassLabel(names=["a", "b"]))
    assert "labels" not in raw_data(tmp_path).inputs(of_glue, "prediction").column_names


# Texts


@pytest.mark.parametrize(
    "columns",
    [("text", "text_pair"), ("premise", "hypothesis"), ("sentence1", "sentence2"), ("question", "sentence")],
)
def test_pairs(tmp_path: Path, columns: tuple[str, str]) -> None:
    pairs = dict(zip(columns, (["so good", "bad"], ["the day", "a film"]), strict=True))
    encoded = raw_data(tmp_path).training(table([0, 1], idx=[5, 6], **pairs))
    assert encoded["input_ids"][:] == tiny_tokenizer()(*pairs.values())["input_ids"]


def test_pairs_that_the_model_reads_apart(tmp_path: Path) -> None:
    pooling = LayerPoolingConfig(
        encoder_config=tiny_config("bert", 2),
        pooling="mean",
        token_pooling="mean",
        pair_features=["abs_difference"],
    )
    pairs = table(NAMES, text=TEXTS, text_pair=TEXTS[::-1])
    made = trainer(tmp_path, BertWithPoolingModule(pooling), pairs, eval_dataset=pairs)
    made.train()
    assert "eval_accuracy" in made.evaluate()
    with pytest.raises(UserError, match="evaluation data: must hold pairs of texts"):
        made.evaluate(table(NAMES))


def test_pairs_in_training_alone_are_refused(tmp_path: Path) -> None:
    raw = raw_data(tmp_path)
    raw.training(table([0, 1], text=["a", "b"], text_pair=["c", "d"]))
    with pytest.raises(UserError, match="must hold pairs of texts"):
        raw.inputs(table([0, 1]), "evaluation")


def test_columns_that_are_not_read_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    raw_data(tmp_path).training(table([0, 1], text=["a", "b"], aspect=["c", "d"], id=["1", "2"]))
    assert "read from text, and not from aspect" in caplog.text


def test_texts_are_cut_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 6
    texts = ["so good so good so good", "bad day"]
    encoded = raw_data(tmp_path, tokenizer=tokenizer).training(table([0, 1], text=texts))
    assert list(map(len, encoded["input_ids"])) == [6, 4]
    assert "50.0% of the texts have more than 6 tokens, up to 8, and are cut" in caplog.text
    caplog.clear()
    raw_data(tmp_path).training(table([0, 1], text=texts))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_texts_are_prepared_as_the_tokenizer_s_model_was_trained(tmp_path: Path) -> None:
    # "emoticons" cannot stand in a tokenizer, so that the preparation is all done here.
    steps = ["users", "emoticons", "lowercase"]
    tokenizer: PreTrainedTokenizerBase = prepared_tokenizer(tiny_tokenizer(), steps)
    encoded = raw_data(tmp_path, tokenizer=tokenizer).training(table([0, 1], text=["@bob GOOD :)", "bad"]))
    first = tiny_tokenizer().decode(encoded["input_ids"][0])
    assert "xxuser" in first and ")" not in first


# A teacher


@pytest.mark.parametrize(
    ("labels", "num_labels", "without"),
    [
        (["a", None, "b"], 2, -100),
        ([1.0, None, 2.0], 1, float("nan")),
        ([["a"], None, ["b"]], 2, float("nan")),
    ],
)
def test_rows_that_a_teacher_has_seen_may_lack_labels(
    tmp_path: Path, labels: list[Any], num_labels: int, without: float
) -> None:
    seen = table(labels, text=TEXTS[:3], teacher_logits=[[0.5] * num_labels] * 3)
    encoded = raw_data(tmp_path, config(num_labels=num_labels)).training(seen)
    assert encoded["teacher_logits"][:] == [[0.5] * num_labels] * 3
    found = torch.tensor(encoded["labels"][:], dtype=torch.float64)
    assert found[1].flatten().tolist() == pytest.approx([without] * found[1].numel(), nan_ok=True)
    assert not found[[0, 2]].isnan().any()
    made = trainer(tmp_path, model(config(num_labels=num_labels)), seen, distillation_weight=0.5)
    made.train()


# Streams


def test_a_stream_trains_as_its_rows_do(tmp_path: Path) -> None:
    made = []
    for data in (table(IDS), table(IDS).to_iterable_dataset()):
        of_config = named("negative", "positive")
        made.append(trainer(tmp_path, model(of_config), data, train_sampling_strategy="sequential"))
        made[-1].train()
    assert weights_digest(made[0].model) == weights_digest(made[1].model)
    assert made[1].model.config.problem_type == "single_label_classification"
    names = Features({"text": Value("string"), "label": ClassLabel(names=["negative", "positive"])})
    stream = table(IDS).cast(names).to_iterable_dataset()
    assert "eval_accuracy" in made[1].evaluate(stream)
    unknown = made[1].get_eval_dataloader(table(["a"]).to_iterable_dataset())
    with pytest.raises(UserError, match="row 0: the label 'a' is not among"):
        next(iter(unknown))


def test_names_in_a_stream_must_be_known(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="load the model with id2label"):
        raw_data(tmp_path).training(table(NAMES).to_iterable_dataset())
    columns = table(NAMES).to_iterable_dataset().map(lambda row: row)  # of unknown features
    encoded = raw_data(tmp_path, named("negative", "positive")).training(columns)
    assert [row["labels"] for row in encoded] == IDS


# Several tasks


TASKS = {
    "sentiment": {"labels": ["negative", "positive"]},
    "similar": {"pair": True, "problem_type": "regression", "pair_encoding": "siamese", "features": ["concat"]},
    "topics": {"labels": ["x", "y"], "problem_type": "multi_label_classification"},
}  # fmt: skip


@pytest.fixture
def tasks_config() -> CerbertusConfig:
    return CerbertusConfig(encoder_config=tiny_config("bert", 2), tasks=TASKS)


def of_tasks(rows: int) -> dict[str, Dataset]:
    pairs = {"sentence1": TEXTS[:rows], "sentence2": TEXTS[-rows:]}
    return {
        "sentiment": table(NAMES[:rows]),
        "similar": table([row / 2 for row in range(rows)], **pairs),
        "topics": table([["x"], ["x", "y"], [], ["y"]] * (rows // 4)),
    }


def test_several_tasks(tmp_path: Path, tasks_config: CerbertusConfig) -> None:
    made = trainer(
        tmp_path, CerbertusForMultitask(tasks_config), of_tasks(16), eval_dataset=of_tasks(8), num_train_epochs=1
    )  # fmt: skip
    made.train()
    found = made.evaluate()
    assert {"eval_sentiment_accuracy", "eval_similar_pearsonr", "eval_topics_f1_micro", "eval_mean"} <= set(
        found
    )
    texts = {task: data.remove_columns("label") for task, data in of_tasks(4).items()}
    assert {task: output.predictions.shape for task, output in made.predict(texts).items()} == {
        "sentiment": (4, 2), "similar": (4, 1), "topics": (4, 2),
    }  # fmt: skip


def test_a_column_label_of_tokenized_tasks(tmp_path: Path, tasks_config: CerbertusConfig) -> None:
    rows: list[Any] = [tokenized(label=IDS), list(tokenized(label=IDS))]
    for each in rows:
        (found,) = raw_data(tmp_path, tasks_config, has_tasks=True).training({"sentiment": each}).values()
        assert [row["labels"] for row in found] == IDS


def changed(task: str, **columns: Any) -> Callable[[dict[str, Dataset]], Dataset]:
    return lambda data: Dataset.from_dict({**data[task].to_dict(), **columns})


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("sentiment", changed("sentiment", label=["neutral"] * 4), "task 'sentiment': row 0: the label 'neutral'"),
        ("sentiment", changed("sentiment", text_pair=["a"] * 4), "must hold single texts"),
        ("similar", changed("sentiment", label=[0.5] * 4), "must hold pairs of texts"),
        ("similar", changed("similar", label=["a"] * 4), "task 'similar' predicts one number"),
        ("topics", changed("topics", label=["x"] * 4), "is not a list of classes"),
    ],
)  # fmt: skip
def test_tasks_that_the_data_do_not_fit(
    tmp_path: Path, tasks_config: CerbertusConfig, task: str, change: Any, message: str
) -> None:
    data = of_tasks(4)
    data[task] = change(data)
    with pytest.raises(UserError, match=message):
        raw_data(tmp_path, tasks_config, has_tasks=True).training(data)


def test_names_of_a_task_that_the_model_does_not_declare_are_refused(tmp_path: Path) -> None:
    raw = raw_data(tmp_path, has_tasks=True)
    with pytest.raises(UserError, match="declares the task's labels"):
        raw.training({"sentiment": table(NAMES)})
    encoded = raw.training({"other": table(IDS)})
    assert encoded["other"]["labels"][:] == IDS
