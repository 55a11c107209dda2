from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    BertModel,
    PreTrainedModel,
    Trainer,
    get_constant_schedule,
)

from hf_layerfusion import CerbertusConfig, CerbertusForMultitask
from hf_layerfusion.errors import UserError
from hf_layerfusion.training.callbacks import EpochDecay
from hf_layerfusion.training.model_preparation import group_rows
from hf_layerfusion.training.parameter_groups import freeze_encoder, parameter_groups
from hf_layerfusion.training.parameter_parts import parameter_parts
from tests.tiny import tiny_config
from tests.training.small import small_arguments, small_model


class Base(PreTrainedModel):
    """As a fusion model nests its encoder: one level down."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.encoder = AutoModel.from_config(config)
        self.gru = nn.GRU(32, 8)
        self.norm = nn.LayerNorm(8)


class Classifier(PreTrainedModel):
    """And two levels down."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.fusion = Base(config)
        self.classifier = nn.Linear(8, 2)


def groups_by_name(model: nn.Module, args: Any) -> dict[str, set[str]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decay = Trainer.get_decay_parameter_names(None, model)
    return {
        group["name"]: {names[id(parameter)] for parameter in group["params"]}
        for group in parameter_groups(model, args, decay)
    }


@pytest.mark.parametrize("make", [small_model, lambda: Classifier(tiny_config("bert", 2))])
def test_each_trainable_parameter_is_in_one_group(tmp_path: Path, make: Any) -> None:
    model = make()
    frozen = next(model.parameters())
    frozen.requires_grad_(False)
    groups = parameter_groups(
        model, small_arguments(tmp_path), Trainer.get_decay_parameter_names(None, model)
    )
    found = [id(parameter) for group in groups for parameter in group["params"]]
    expected = [id(parameter) for parameter in model.parameters() if parameter.requires_grad]
    assert sorted(found) == sorted(expected)
    assert id(frozen) not in found


def test_groups_of_a_nested_model(tmp_path: Path) -> None:
    groups = groups_by_name(Classifier(tiny_config("bert", 2)), small_arguments(tmp_path))
    assert list(groups) == ["encoder", "encoder_no_decay", "fusion", "fusion_no_decay"]
    assert all(name.startswith("fusion.encoder.") for name in groups["encoder"] | groups["encoder_no_decay"])
    assert groups["fusion"] == {"fusion.gru.weight_ih_l0", "fusion.gru.weight_hh_l0", "classifier.weight"}
    assert groups["fusion_no_decay"] == {
        "fusion.gru.bias_ih_l0",
        "fusion.gru.bias_hh_l0",
        "fusion.norm.weight",
        "fusion.norm.bias",
        "classifier.bias",
    }
    assert "fusion.encoder.embeddings.LayerNorm.weight" in groups["encoder_no_decay"]


def test_groups_of_a_plain_classifier(tmp_path: Path) -> None:
    groups = groups_by_name(small_model(), small_arguments(tmp_path))
    assert groups["fusion"] == {"classifier.weight"}
    assert groups["fusion_no_decay"] == {"classifier.bias"}


def test_a_model_that_nests_none_is_all_encoder() -> None:
    for model in (BertModel(tiny_config("bert", 1)), nn.Linear(2, 2)):
        places = parameter_parts(model)
        assert all(places[id(parameter)].in_encoder for parameter in model.parameters())


def test_rates_and_decay(tmp_path: Path) -> None:
    args = small_arguments(tmp_path, learning_rate=1e-5, fusion_learning_rate=1e-3, weight_decay=0.1)
    model = small_model()
    groups = parameter_groups(model, args, Trainer.get_decay_parameter_names(None, model))
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [
        (1e-5, 0.1),
        (1e-5, 0.0),
        (1e-3, 0.1),
        (1e-3, 0.0),
    ]


def test_fusion_rate_defaults_to_the_learning_rate(tmp_path: Path) -> None:
    groups = parameter_groups(small_model(), small_arguments(tmp_path, learning_rate=2e-4), ())
    assert {group["lr"] for group in groups} == {2e-4}


def test_nothing_to_train_is_refused(tmp_path: Path) -> None:
    model = small_model().requires_grad_(False)
    with pytest.raises(UserError, match="no trainable parameter"):
        parameter_groups(model, small_arguments(tmp_path), ())


def test_epoch_decay_schedule() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_constant_schedule(optimizer)
    args = SimpleNamespace(epoch_decay=0.5, gradient_accumulation_steps=2)
    batches = [None] * 5  # three steps of two micro-batches, the last of one
    EpochDecay().on_train_begin(args, None, None, lr_scheduler=schedule, train_dataloader=batches)
    rates = []
    for _ in range(7):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]


# Rates and freezing by depth


def rate_of(model: nn.Module, args: Any) -> dict[str, float]:
    """The rate of each parameter by its name; 0 where it has no gradient."""
    freeze_encoder(model, args)
    groups = parameter_groups(model, args, Trainer.get_decay_parameter_names(None, model))
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    return {name: rates.get(id(parameter), 0.0) for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(
    "model_type", ["bert", "roberta", "distilbert", "electra", "deberta-v2", "modernbert", "mpnet"]
)
def test_each_layer_learns_slower_than_the_one_above(tmp_path: Path, model_type: str) -> None:
    """By the definition: the top layer at the rate, each below at 0.9 of the one above it, the embeddings last."""
    model = Classifier(tiny_config(model_type, 3))
    args = small_arguments(tmp_path, learning_rate=1e-3, fusion_learning_rate=0.5, layer_decay=0.9)
    layers = {2: 1e-3, 1: 0.9e-3, 0: 0.81e-3}
    seen = set()
    for name, rate in rate_of(model, args).items():
        number = next((int(part) for part in name.split(".") if part.isdigit()), None)
        if not name.startswith("fusion.encoder."):
            assert rate == 0.5, name
        elif "embed" in name:
            assert rate == pytest.approx(0.729e-3), name
        elif number is not None:
            seen.add(number)
            assert rate == pytest.approx(layers[number]), name
        else:
            assert rate == 1e-3, name
    assert seen == {0, 1, 2}


def test_rates_of_heads_and_embeddings(tmp_path: Path) -> None:
    args = small_arguments(
        tmp_path,
        learning_rate=1e-3,
        fusion_learning_rate=0.5,
        head_learning_rate=0.25,
        embedding_learning_rate=1e-4,
    )
    rates = rate_of(Classifier(tiny_config("bert", 2)), args)
    assert {rate for name, rate in rates.items() if "embeddings" in name} == {1e-4}
    assert {rate for name, rate in rates.items() if name.startswith("fusion.encoder.encoder")} == {1e-3}
    # `Classifier` names no base model, so that all beside its encoder is of one kind.
    model = AutoModelForSequenceClassification.from_config(tiny_config("bert", 2))
    rates = rate_of(model, args)
    assert rates["classifier.weight"] == rates["classifier.bias"] == 0.25


def test_tasks_copies_learn_at_the_rate_of_their_layer(tmp_path: Path) -> None:
    tasks = {name: {"labels": ["a", "b"]} for name in ("x", "y")}
    model = CerbertusForMultitask(
        CerbertusConfig(encoder_config=tiny_config("bert", 3).to_dict(), tasks=tasks, num_task_layers=1)
    )
    rates = rate_of(
        model, small_arguments(tmp_path, learning_rate=1e-3, layer_decay=0.5, head_learning_rate=0.1)
    )
    tops = {rate for name, rate in rates.items() if ".layer.2." in name}
    assert tops == {1e-3}
    assert {name for name in rates if ".layer.2." in name and ".x." in name}
    assert {rate for name, rate in rates.items() if ".layer.1." in name} == {0.5e-3}
    assert {rate for name, rate in rates.items() if name.startswith("heads.")} == {0.1}


@pytest.mark.parametrize(
    ("changes", "frozen"),
    [
        ({"frozen_layers": 1}, ("embeddings", "layer.0.")),
        ({"frozen_layers": 2}, ("embeddings", "layer.0.", "layer.1.")),
        ({"embedding_learning_rate": 0.0}, ("embeddings",)),
        ({"freeze_encoder": True}, ("fusion.encoder.",)),
        ({}, ()),
    ],
)
def test_what_is_frozen_has_no_gradient(
    tmp_path: Path, changes: dict[str, Any], frozen: tuple[str, ...]
) -> None:
    model = Classifier(tiny_config("bert", 2))
    freeze_encoder(model, small_arguments(tmp_path, **changes))
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (not any(part in name for part in frozen)), name


def test_the_rows_of_a_dry_run_hold_every_parameter_once(tmp_path: Path) -> None:
    model = Classifier(tiny_config("bert", 2))
    rows = group_rows(model, small_arguments(tmp_path, layer_decay=0.9, frozen_layers=1))
    assert [row[0] for row in rows] == [
        "layer_1", "layer_1_no_decay", "encoder", "encoder_no_decay", "fusion", "fusion_no_decay", "frozen",
    ]  # fmt: skip
    assert sum(int(row[4].replace(",", "")) for row in rows) == sum(p.numel() for p in model.parameters())
    with pytest.raises(UserError, match="head_first_epochs needs a model that takes encoder_states"):
        group_rows(model, small_arguments(tmp_path, head_first_epochs=1))


def test_an_encoder_without_a_list_of_layers_is_refused(tmp_path: Path) -> None:
    model = Classifier(tiny_config("albert", 2))
    with pytest.raises(UserError, match="layers stand in one list, found AlbertModel"):
        parameter_groups(model, small_arguments(tmp_path, layer_decay=0.9), ())
    with pytest.raises(UserError, match="frozen_layers must be at most the encoder's depth 2, found 3"):
        freeze_encoder(Classifier(tiny_config("bert", 2)), small_arguments(tmp_path, frozen_layers=3))


def test_embeddings_are_known_by_other_names_too() -> None:
    """GPT-2 calls them `wte` and `wpe`."""
    config = AutoConfig.for_model("gpt2", vocab_size=90, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    model = AutoModelForSequenceClassification.from_config(config)
    places = parameter_parts(model)
    found = [
        name for name, parameter in model.named_parameters() if places[id(parameter)].part == "embeddings"
    ]
    assert found == ["transformer.wte.weight", "transformer.wpe.weight"]


def test_decay_of_all_parameters(tmp_path: Path) -> None:
    model = small_model()
    for decay_all in (False, True):
        args = small_arguments(tmp_path, weight_decay=0.1, decay_all=decay_all)
        names = Trainer.get_decay_parameter_names(cast(Any, None), model)
        groups = parameter_groups(model, args, names)
        assert all(group["weight_decay"] == 0.1 for group in groups) == decay_all
