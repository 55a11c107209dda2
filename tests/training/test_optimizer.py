from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModel, BertModel, PreTrainedModel, Trainer

from hf_layerfusion.errors import UserError
from hf_layerfusion.training.optimizer import encoder_parameter_ids, epoch_decay_schedule, parameter_groups
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
        assert encoder_parameter_ids(model) == {id(parameter) for parameter in model.parameters()}


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
    schedule = epoch_decay_schedule(optimizer, 0.5, steps_per_epoch=3)
    rates = []
    for _ in range(7):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]
