"""Threads that share a model: each call answers for its own task, and leaves the model as it was."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LNTuningConfig, LoraConfig, PeftConfig
from transformers import AutoModel, AutoModelForSequenceClassification

from hf_layerfusion import CerbertusForMultitask, MultitaskPipeline
from hf_layerfusion.training.adapters import add_adapters
from hf_layerfusion.training.training_arguments import CHECKPOINTING
from tests.tiny import tiny_tokenizer

TASKS: dict[str, Any] = {
    "five": {"labels": ["a", "b", "c", "d", "e"]},
    "two": {"labels": ["no", "yes"]},
    "score": {"problem_type": "regression"},
}
CALLS = 15  # of each of 8 threads


def adapted(folder: str, config: PeftConfig | None = None) -> Any:
    model = CerbertusForMultitask.from_pretrained(folder, tasks=TASKS, num_task_layers=1)
    return shake(add_adapters(model, config or LoraConfig(r=2))).eval()


@torch.no_grad()
def shake(model: Any) -> Any:
    """Moves all that is trained, as training does."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def batch() -> dict[str, torch.Tensor]:
    return {"input_ids": torch.tensor([[2, 9, 14, 3], [2, 30, 21, 3]])}


def state(model: Any) -> list[Any]:
    """The `requires_grad` flags of a model, and the adapters that are active in it."""
    modules = [(name, getattr(module, "_active_adapter", None)) for name, module in model.named_modules()]
    return [(name, weight.requires_grad) for name, weight in model.named_parameters()] + modules


def check_calls(model: Any, call: Callable[[str], Any], options: list[str]) -> None:
    """Calls in eight threads give what calls one after the other give, and leave the model as it was."""
    before = state(model)

    @torch.no_grad()
    def answer(option: str) -> Any:
        return call(option)

    expected = {option: answer(option) for option in options}
    asked = random.Random(0).choices(options, k=8 * CALLS)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(answer, asked))
    for option, given in zip(asked, found, strict=True):
        assert torch.equal(given, expected[option]) if torch.is_tensor(given) else given == expected[option]
    assert state(model) == before


@pytest.mark.parametrize(
    "config", [LoraConfig(r=2), IA3Config(), LNTuningConfig()], ids=lambda c: c.peft_type
)
def test_tasks_in_threads(config: Any, tiny_encoder_dir: str) -> None:
    model, inputs = adapted(tiny_encoder_dir, config), batch()
    check_calls(model, lambda task: model(task=task, **inputs).logits, list(TASKS))


def test_models_and_pipelines_that_are_opened_from_a_folder(tmp_path: Path, tiny_encoder_dir: str) -> None:
    model, inputs = adapted(tiny_encoder_dir), batch()
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    opened = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    check_calls(opened, lambda task: opened(task=task, **inputs).logits, list(TASKS))
    both = {"five": {"five": inputs, "two": inputs}, "score": {"two": inputs, "score": inputs}}
    check_calls(opened, lambda task: opened(tasks=both[task]).logits[task], list(both))
    base = AutoModel.from_pretrained(tmp_path)
    check_calls(base, lambda task: base(task=task, **inputs).last_hidden_state, list(TASKS))
    ask = MultitaskPipeline.from_pretrained(str(tmp_path))
    check_calls(ask.model, ask, ["a good day", "an awful day", "what a day to be sad and to hate it all"])


def test_the_base_model_encodes_with_the_tasks_adapter(tiny_encoder_dir: str) -> None:
    model, inputs = adapted(tiny_encoder_dir), batch()
    base = model.get_base_model().base_model
    states = {task: base(task=task, **inputs).last_hidden_state for task in TASKS}
    for task, found in states.items():
        model.set_adapter(task)  # peft's own way, which chooses for the whole model
        assert torch.equal(found, base.encode_one(task, inputs, False)[1].last_hidden_state)
    assert not torch.equal(states["five"], states["two"])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_answer_as_the_model(copied: Any, tiny_encoder_dir: str) -> None:
    model, inputs = adapted(tiny_encoder_dir).get_base_model(), batch()
    expected = {task: model(task=task, **inputs).logits for task in TASKS}
    other = copied(model)
    for task, logits in expected.items():
        assert torch.equal(other(task=task, **inputs).logits, logits)


def test_layers_that_are_run_again_in_the_backward_are_refused(tiny_encoder_dir: str) -> None:
    model = adapted(tiny_encoder_dir).train()
    enable = f"{CHECKPOINTING.removesuffix('_checkpointing')}_checkpointing_enable"
    getattr(model.get_base_model(), enable)()
    loss = model(task="two", labels=torch.tensor([0, 1]), **batch()).loss
    with pytest.raises(ValueError, match="activation checkpointing must be off"):
        loss.backward()
