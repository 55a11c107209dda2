"""Models that have run can still be copied, pickled and saved by torch.save."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification
from transformers.utils import output_capturing

from hf_layerfusion import CerbertusConfig, CerbertusForMultitask
from tests.modeling.cases import build, inputs
from tests.tiny import tiny_config

TASKS = {name: {"labels": ["x", "y"], "fusion": {"pooling": "lstm"}} for name in ("a", "b")}


def multitask() -> Any:
    config = CerbertusConfig(encoder_config=tiny_config("bert"), num_task_layers=2, tasks=TASKS)
    return CerbertusForMultitask(config).eval()


MODELS: dict[str, Callable[[], Any]] = {
    "gru_fusion": lambda: build("share-gru"),
    "layer_pooling": lambda: build("attention-cls"),
    "cerbertus": multitask,
    "base model": lambda: build("share-gru").model,
}


def through_torch(model: nn.Module) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": through_torch,
    "deepcopy": copy.deepcopy,
    "twice": lambda model: pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(model)))),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_a_model_that_has_run_is_copied(name: str, way: str) -> None:
    model, batch = MODELS[name](), inputs()
    expected = model(**batch, output_hidden_states=True)
    copied = WAYS[way](model)
    for _ in range(2):  # hooks are registered in the first pass, and only once
        found = copied(**batch, output_hidden_states=True)
        assert len(found.hidden_states) == len(expected.hidden_states)
        torch.testing.assert_close(found[0], expected[0], rtol=0, atol=0)
    assert not {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in copied.parameters()}
    torch.testing.assert_close(model(**batch)[0], expected[0], rtol=0, atol=0)


@torch.no_grad()
def test_a_process_that_never_built_such_a_model_opens_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = multitask(), inputs()
    expected = model(**batch).logits
    stored = pickle.dumps(model)
    monkeypatch.setattr(
        output_capturing, "_CAN_RECORD_REGISTRY", type(output_capturing._CAN_RECORD_REGISTRY)()
    )
    torch.testing.assert_close(pickle.loads(stored)(**batch).logits, expected, rtol=0, atol=0)


def test_pickling_keeps_the_hooks_of_others() -> None:
    model = build("share-gru")
    model.model.encoder.register_forward_hook(count_pass)
    model(**inputs())
    layers = [m for m in model.modules() if m._forward_hooks]
    assert len(layers) > 1  # transformers' own stand there
    pickle.dumps(model)
    assert [m for m in model.modules() if m._forward_hooks] == layers
    kept = [m for m in pickle.loads(pickle.dumps(model)).modules() if m._forward_hooks]
    assert [list(m._forward_hooks.values()) for m in kept] == [[count_pass]]


def count_pass(*_: Any) -> None:
    """A hook that does nothing."""


def test_a_shallow_copy_shares_its_modules() -> None:
    model = multitask()
    view = model.task("b")
    assert view.heads is model.heads
    assert view.config.default_task == "b"


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["gru_fusion", "layer_pooling", "cerbertus"])
def test_the_configuration_says_which_attention_the_encoder_uses(
    name: str, attention: str, tmp_path: Any
) -> None:
    MODELS[name]().save_pretrained(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path, attn_implementation=attention)
    configs = [model.config, *(m.config for m in model.modules() if hasattr(m, "config"))]
    assert {config._attn_implementation for config in configs} == {attention}


def test_an_encoder_that_has_eager_attention_alone() -> None:
    model = build("share-gru", encoder_config=tiny_config("deberta-v2", 4))
    assert model.config._attn_implementation == model.model.encoder.config._attn_implementation == "eager"
