"""A trained head under other labels: its rows follow their names."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import AutoConfig, AutoModelForSequenceClassification

from hf_layerfusion import (
    BertForGRUFusionClassification,
    BertWithPoolingModule,
    CerbertusForMultitask,
    add_adapters,
    load_adapter_model,
    relabel,
)
from hf_layerfusion.data.labels import LabelSchema
from hf_layerfusion.errors import UserError
from hf_layerfusion.modeling.label_rows import rows_by_name
from hf_layerfusion.recipes.model_setup import load_model
from hf_layerfusion.recipes.recipe_arguments import ModelArguments
from tests.tiny import MODEL_TYPES, tiny_config

SINGLE, REGRESSION = "single_label_classification", "regression"
NAMES = ["entailment", "neutral", "contradiction"]
IDS = {
    "input_ids": torch.tensor([[2, 7, 8, 9, 3], [2, 12, 15, 3, 0]]),
    "attention_mask": torch.tensor([[1] * 5, [1] * 4 + [0]]),
}
CLASSES: dict[str, tuple[Any, dict[str, Any]]] = {
    "gru_fusion": (BertForGRUFusionClassification, {"num_groups": 2}),
    "layer_pooling": (BertWithPoolingModule, {"dense_size": 8}),
    "cerbertus": (CerbertusForMultitask, {}),
}
ORDERS = {
    "same": NAMES,
    "permuted": ["neutral", "contradiction", "entailment"],
    "capitals": ["Neutral", "ENTAILMENT", "contradiction "],
    "fewer": ["contradiction", "entailment"],
    "one new": ["neutral", "unrelated", "entailment"],
    "others": ["a", "b", "c", "d"],
}


@pytest.fixture(autouse=True)
def _heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' loggers tell pytest nothing by themselves."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("hf_layerfusion"), "propagate", True)


def by_number(names: list[str]) -> dict[int, str]:
    return dict(enumerate(names))


def logits_by_name(model: Any, **options: Any) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        logits = model.eval()(**IDS, **options).logits
    config = getattr(model, "config", None) or model.get_base_model().config
    assert logits.shape[1] == config.num_labels
    assert {name: number for number, name in config.id2label.items()} == config.label2id
    return {name.strip().lower(): logits[:, number] for number, name in config.id2label.items()}


def assert_rows_follow(
    before: dict[str, torch.Tensor], after: dict[str, torch.Tensor], names: list[str]
) -> None:
    assert list(after) == [name.strip().lower() for name in names]
    for name, values in after.items():
        if name in before:
            torch.testing.assert_close(values, before[name])


@pytest.fixture(scope="module", params=CLASSES)
def trained(
    request: Any, tiny_encoder_dir: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Path, Any]:
    model_class, settings = CLASSES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    model = model_class.from_pretrained(tiny_encoder_dir, id2label=by_number(NAMES), **settings)
    model.save_pretrained(folder)
    return model_class, folder, logits_by_name(model)


@pytest.mark.parametrize(
    ("order", "way"),
    [(order, "id2label") for order in ORDERS]
    + [("permuted", way) for way in ("label2id", "auto", "auto label2id", "config", "config folder")]
    + [("one new", "auto")],
)
def test_rows_follow_names(
    trained, tmp_path: Path, order: str, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    model_class, folder, before = trained
    names = ORDERS[order]
    numbers = {name: number for number, name in enumerate(names)}
    if way == "id2label":
        model = model_class.from_pretrained(folder, id2label=by_number(names))
    elif way == "label2id":
        model = model_class.from_pretrained(folder, label2id=numbers)
    elif way == "auto":
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, id2label=by_number(names), label2id=numbers
        )
    elif way == "auto label2id":
        model = AutoModelForSequenceClassification.from_pretrained(folder, label2id=numbers)
    else:
        config = AutoConfig.from_pretrained(folder)
        config.id2label, config.label2id = by_number(names), numbers
        if way == "config folder":
            config.save_pretrained(tmp_path)
        model = model_class.from_pretrained(
            folder, config=str(tmp_path) if way == "config folder" else config
        )
    assert model.num_labels == len(names)
    assert_rows_follow(before, logits_by_name(model), names)
    warned = [message for message in caplog.messages if "at random" in message]
    assert len(warned) == (order in ("one new", "others"))
    if order == "one new":
        assert "not trained on unrelated: these rows" in warned[0]
    # What is saved opens as it was.
    model.save_pretrained(tmp_path / "again")
    again = logits_by_name(AutoModelForSequenceClassification.from_pretrained(tmp_path / "again"))
    for name, values in logits_by_name(model).items():
        torch.testing.assert_close(again[name], values)
    loss = model(**IDS, labels=torch.tensor([0, len(names) - 1])).loss
    loss.backward()


@pytest.mark.parametrize(
    ("stored", "wanted", "rows"),
    [
        (["pos", "Pos"], ["pos", "Pos"], [0, 1]),
        (["pos", "Pos"], ["Pos", "pos"], [1, 0]),
        (["Pos", "neg"], ["neg", " pos"], [1, 0]),
        (["Pos", "neg"], ["pos", "Pos"], [None, 0]),
        (["pos", "Pos", "neg"], ["POS", "neg"], [None, 2]),
        (["neg"], ["neg", "Neg"], [0, None]),
    ],
)
def test_names_that_differ_in_capitals_alone(
    stored: list[str], wanted: list[str], rows: list[int | None]
) -> None:
    assert rows_by_name(stored, wanted, stored, wanted) == rows


def test_a_number_of_labels_alone(trained) -> None:
    model_class, folder, before = trained
    assert_rows_follow(before, logits_by_name(model_class.from_pretrained(folder, num_labels=3)), NAMES)
    assert logits_by_name(model_class.from_pretrained(folder, num_labels=5)).keys() == {
        f"label_{n}" for n in range(5)
    }
    with pytest.raises(ValueError, match="`num_labels` must be the number of names, found 2 and 3 names"):
        model_class.from_pretrained(folder, num_labels=2, id2label=by_number(NAMES))


def test_names_for_a_head_without_names(
    tiny_encoder_dir: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = BertWithPoolingModule.from_pretrained(tiny_encoder_dir, num_labels=3)
    model.save_pretrained(tmp_path)
    named = BertWithPoolingModule.from_pretrained(tmp_path, id2label=by_number(NAMES))
    for found, expected in zip(logits_by_name(named).values(), logits_by_name(model).values(), strict=True):
        torch.testing.assert_close(found, expected)
    assert not [message for message in caplog.messages if "random" in message]


def test_a_regression_has_no_names(tiny_encoder_dir: str, tmp_path: Path) -> None:
    options = {"problem_type": REGRESSION, "num_labels": 1}
    model = BertWithPoolingModule.from_pretrained(tiny_encoder_dir, **options)
    model.save_pretrained(tmp_path)
    named = BertWithPoolingModule.from_pretrained(
        tmp_path, id2label={0: "similarity"}, problem_type=REGRESSION
    )
    torch.testing.assert_close(logits_by_name(named)["similarity"], logits_by_name(model)["label_0"])
    classes = BertWithPoolingModule.from_pretrained(tmp_path, id2label=by_number(NAMES), problem_type=SINGLE)
    assert classes(**IDS, labels=torch.tensor([0, 2])).loss > 0


def test_a_label2id_names_the_labels_of_a_new_head(tiny_encoder_dir: str) -> None:
    model = BertWithPoolingModule.from_pretrained(tiny_encoder_dir, label2id={"b": 1, "a": 0, "c": 2})
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}


# Several tasks

SST = {"labels": NAMES}
PAIR = {"pair": True, "labels": ["no", "yes"], "loss": "binary_cross_entropy"}
STS = {"pair": True, "problem_type": REGRESSION, "value_range": [0, 5]}
MSE = {**PAIR, "loss": "mse"}
COSINE = {"pair": True, "pair_encoding": "siamese", "head": "cosine", "labels": ["no", "yes"]}
TASKS = {"sst": SST, "para": PAIR, "sts": STS, "mse": MSE}


def outputs(model: Any, task: str) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**IDS, task=task).logits


@pytest.fixture(scope="module")
def several(tiny_encoder_dir: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("several")
    model = CerbertusForMultitask.from_pretrained(tiny_encoder_dir, tasks=TASKS)
    for head in model.heads.values():
        torch.nn.init.normal_(head.head.classifier.out_proj.bias)
    model.save_pretrained(folder)
    return folder, model


@pytest.mark.parametrize("way", ["tasks", "config"])
def test_heads_of_tasks_follow_their_names(several, way: str, caplog: pytest.LogCaptureFixture) -> None:
    folder, before = several
    tasks = {
        "sst": {"labels": NAMES[::-1], "dropout": 0.1},
        "para": {**PAIR, "labels": ["yes", "no"]},
        "sts": {**STS, "output": "clamp"},
        "mse": {**MSE, "labels": ["yes", "no"]},
        "new": {"labels": ["a", "b"]},
    }
    if way == "tasks":
        model = CerbertusForMultitask.from_pretrained(folder, tasks=tasks)
    else:
        config = AutoConfig.from_pretrained(folder)
        config.tasks = tasks
        model = CerbertusForMultitask.from_pretrained(folder, config=config)
    torch.testing.assert_close(outputs(model, "sst"), outputs(before, "sst").flip(1))
    for task in ("para", "mse"):
        torch.testing.assert_close(
            outputs(model, task).softmax(1), outputs(before, task).softmax(1).flip(1), atol=1e-5, rtol=1e-4
        )
    torch.testing.assert_close(outputs(model, "sts"), outputs(before, "sts").clamp(0, 5))
    assert outputs(model, "new").shape == (2, 2)
    assert model.heads["sst"].head.classifier.dropout.p == 0.1
    assert model.config.tasks == tasks
    assert (model.config.id2label, model.num_labels) == (by_number(NAMES[::-1]), 3)
    assert not [message for message in caplog.messages if "was trained on other labels" in message]


@pytest.mark.parametrize(
    ("task", "fields"),
    [
        ("sst", {"labels": ["a", "b"]}),
        ("para", {**PAIR, "labels": ["a", "b"]}),
        ("para", {"pair": True, "labels": ["no", "yes"]}),
        ("para", MSE),
        ("sts", {**STS, "value_range": [0, 1]}),
        ("sts", {"pair": True, "labels": NAMES}),
        ("sst", {"problem_type": REGRESSION}),
    ],
)
def test_a_head_for_other_answers_starts_anew(
    several, task: str, fields: Any, caplog: pytest.LogCaptureFixture
) -> None:
    folder, before = several
    model = CerbertusForMultitask.from_pretrained(folder, tasks={**TASKS, task: fields})
    warned = [
        message for message in caplog.messages if "its output layer is initialized at random" in message
    ]
    assert len(warned) == 1
    assert f"task '{task}' was trained on other labels" in warned[0]
    found = outputs(model, task)
    assert found.shape[1] == model.config.task_configs[task].num_labels
    expected = outputs(before, task)
    assert found.shape != expected.shape or not torch.allclose(found, expected)
    for other in TASKS.keys() - {task}:
        torch.testing.assert_close(outputs(model, other), outputs(before, other))


def test_a_checkpoint_goes_on_without_its_first_task(several, tmp_path: Path) -> None:
    folder, before = several
    first, *rest = TASKS
    model = CerbertusForMultitask.from_pretrained(folder, tasks={name: TASKS[name] for name in rest})
    assert model.config.task_name == rest[0] and before.config.task_name == first
    torch.testing.assert_close(outputs(model, rest[0]), outputs(before, rest[0]))
    model.save_pretrained(tmp_path)
    assert CerbertusForMultitask.from_pretrained(tmp_path).config.task_name == rest[0]
    with pytest.raises(ValueError, match=r"`task_name` must be one of .*found 'other'"):
        CerbertusForMultitask.from_pretrained(folder, tasks=dict(TASKS), task_name="other")


def test_the_classes_of_a_cosine_head_keep_their_order(tiny_encoder_dir: str, tmp_path: Path) -> None:
    CerbertusForMultitask.from_pretrained(tiny_encoder_dir, tasks={"para": COSINE}).save_pretrained(tmp_path)
    swapped = {"para": {**COSINE, "labels": ["yes", "no"]}}
    with pytest.raises(ValueError, match="task 'para': the classes of a cosine head must keep their order"):
        CerbertusForMultitask.from_pretrained(tmp_path, tasks=swapped)


# Adapters, and transformers' own classifiers


def test_adapters_bring_their_head_and_its_rows_follow_names(trained, tmp_path: Path) -> None:
    model_class, folder, _ = trained
    model = add_adapters(model_class.from_pretrained(folder), LoraConfig(init_lora_weights=False))
    for parameter in (p for name, p in model.named_parameters() if "modules_to_save" in name):
        torch.nn.init.normal_(parameter)
    before = logits_by_name(model)
    model.save_pretrained(str(tmp_path))
    names = ORDERS["permuted"]
    for opened in (
        model_class.from_pretrained(tmp_path, id2label=by_number(names)),
        AutoModelForSequenceClassification.from_pretrained(tmp_path, id2label=by_number(names)),
    ):
        assert_rows_follow(before, logits_by_name(opened), names)


@pytest.mark.parametrize("architecture", ["gru_fusion", "layer_pooling", "plain"])
def test_adapters_on_a_checkpoint_of_other_labels(
    tiny_encoder_dir: str, tmp_path: Path, architecture: str
) -> None:
    arguments = ModelArguments(
        tiny_encoder_dir, architecture=architecture, num_groups=2 if architecture == "gru_fusion" else None
    )
    load_model(arguments, LabelSchema(SINGLE, tuple(NAMES))).save_pretrained(tmp_path / "below")
    later = ModelArguments(str(tmp_path / "below"), architecture=architecture, use_lora=True)
    for number, names in enumerate((ORDERS["permuted"], ORDERS["others"])):
        model = load_model(later, LabelSchema(SINGLE, tuple(names)))
        before = logits_by_name(model)
        model.save_pretrained(str(tmp_path / f"adapter-{number}"))
        assert_rows_follow(before, logits_by_name(load_adapter_model(tmp_path / f"adapter-{number}")), names)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_transformers_own_classifiers_in_the_scripts(tmp_path: Path, model_type: str) -> None:
    config = tiny_config(
        model_type, 2, id2label=by_number(NAMES), label2id={name: n for n, name in enumerate(NAMES)}
    )
    model = AutoModelForSequenceClassification.from_config(config)
    before = logits_by_name(model)
    model.save_pretrained(tmp_path)
    arguments = ModelArguments(str(tmp_path), architecture="plain")
    for order in ("permuted", "one new", "others"):
        schema = LabelSchema(SINGLE, tuple(ORDERS[order]))
        found = load_model(arguments, schema)
        assert found.config.problem_type == SINGLE
        assert_rows_follow(before, logits_by_name(found), ORDERS[order])
        found(**IDS, labels=torch.tensor([0, 1])).loss.backward()


@pytest.mark.parametrize("architecture", ["gru_fusion", "plain"])
def test_integers_that_got_names_are_the_same_labels(
    tiny_encoder_dir: str, tmp_path: Path, architecture: str
) -> None:
    """And the other way round: names that the data's integers stood for."""
    settings = {"num_groups": 2} if architecture == "gru_fusion" else {}
    numbers = LabelSchema(SINGLE, ("-1", "0", "1"))
    named = LabelSchema(SINGLE, ("neg", "neutral", "pos"), ("-1", "0", "1"))
    arguments = ModelArguments(tiny_encoder_dir, architecture=architecture, **settings)
    for first, second in ((numbers, named), (named, numbers)):
        model = load_model(arguments, first)
        model.save_pretrained(tmp_path / architecture)
        again = load_model(ModelArguments(str(tmp_path / architecture), architecture=architecture), second)
        before, after = logits_by_name(model), logits_by_name(again)
        for old, new in zip(first.names, second.names, strict=True):
            torch.testing.assert_close(after[new], before[old])


def test_relabel_a_model_in_memory(tiny_encoder_dir: str) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(tiny_encoder_dir, id2label=by_number(NAMES))
    with torch.no_grad():
        before = model.eval()(**IDS).logits
    relabel(model, NAMES[::-1])
    torch.testing.assert_close(logits_by_name(model)["neutral"], before[:, 1])
    torch.testing.assert_close(logits_by_name(model)["entailment"], before[:, 0])
    model.classifier = torch.nn.Identity()
    with pytest.raises(
        ValueError, match="the labels of a 'bert' classifier cannot be changed, found no linear layer"
    ):
        relabel(model, NAMES)


def test_both_heads_of_a_model_with_a_residual_head(tiny_encoder_dir: str, tmp_path: Path) -> None:
    options = {"num_groups": 2, "residual_head": "mean"}
    model = BertForGRUFusionClassification.from_pretrained(
        tiny_encoder_dir, id2label=by_number(NAMES), **options
    )
    torch.nn.init.normal_(model.classifier.out_proj.weight)
    model.save_pretrained(tmp_path)
    names = ORDERS["one new"]
    found = BertForGRUFusionClassification.from_pretrained(tmp_path, id2label=by_number(names))
    assert_rows_follow(logits_by_name(model), logits_by_name(found), names)
    assert not found.classifier.out_proj.weight[1].any()  # the branch adds nothing to the new label yet


def test_an_encoder_of_another_size_below_adapters_is_refused(tiny_encoder_dir: str, tmp_path: Path) -> None:
    arguments = ModelArguments(tiny_encoder_dir, architecture="plain")
    load_model(arguments, LabelSchema(SINGLE, tuple(NAMES))).save_pretrained(tmp_path / "below")
    later = ModelArguments(str(tmp_path / "below"), architecture="plain", use_lora=True)
    load_model(later, LabelSchema(SINGLE, tuple(NAMES))).save_pretrained(str(tmp_path / "adapter"))
    other = AutoModelForSequenceClassification.from_pretrained(tmp_path / "below")
    other.resize_token_embeddings(other.config.vocab_size + 3)
    other.save_pretrained(tmp_path / "below")
    with pytest.raises(
        UserError, match="must be the checkpoint that the adapters were trained on, found another size"
    ):
        load_adapter_model(tmp_path / "adapter")
