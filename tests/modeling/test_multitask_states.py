"""States of a shared encoder in place of the texts of several tasks."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from hf_layerfusion import CerbertusForMultitask
from tests.modeling.multitask_cases import TASKS, batches, build

CONCAT = {"fusion": {"pooling": "concat", "token_pooling": "mean"}}
TOKENS_OF_CASES: dict[str, tuple[dict[str, dict[str, Any]], tuple[int, ...], str]] = {
    "no fusion": ({}, (3,), "all"),
    "one vector": (
        {name: {"sentence_vector": "mean"} for name in TASKS},
        (3,),
        "mean",
    ),
    "all layers": (
        {name: {**CONCAT, "sentence_vector": "cls"} for name in TASKS},
        (0, 1, 2, 3),
        "mean",
    ),
    "two vectors": (
        {
            name: {"fusion": {"pooling": "lstm", "token_pooling": "cls_mean"}, "sentence_vector": "cls"}
            for name in TASKS
        },
        (0, 1, 2, 3),
        "cls_mean",
    ),
    "different": (
        {"sst5": CONCAT, "quora": {"fusion": {"fusion": "last_mean", "num_last_layers": 2}}},
        (0, 1, 2, 3),
        "all",
    ),
    "tokens of a pair": (
        {"sts": {"features": ["cross_attention"]}}
        | {n: {"sentence_vector": "mean"} for n in ("sst5", "quora")},
        (3,),
        "all",
    ),
}


def model_of(case: str, **settings: Any) -> CerbertusForMultitask:
    tasks = copy.deepcopy(TASKS)
    for name, changes in TOKENS_OF_CASES[case][0].items():
        tasks[name] |= changes
    return build(tasks=tasks, num_task_layers=0, **settings).double()


def in_states(model: CerbertusForMultitask, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A task's batch with the states of its texts."""
    texts = {name: value for name, value in batch.items() if name != "labels"}
    is_pair = texts["input_ids"].dim() == 3
    flat = {name: value.flatten(0, 1) if is_pair else value for name, value in texts.items()}
    states = model.read_states(**flat)
    mask = flat["attention_mask"]
    if model.state_spec.tokens != "all":
        mask = torch.ones(states.shape[0], states.shape[2], dtype=torch.long)
    if is_pair:
        states, mask = states.unflatten(0, (-1, 2)), mask.unflatten(0, (-1, 2))
    rest = {"labels": batch["labels"]} if "labels" in batch else {}
    return {"encoder_states": states, "attention_mask": mask, **rest}


@pytest.mark.parametrize("encoders", [["shared"], ["frozen"]])
@pytest.mark.parametrize("case", TOKENS_OF_CASES)
def test_states_give_the_outputs_of_the_texts(case: str, encoders: list[str]) -> None:
    model = model_of(case, encoders=encoders)
    _, layers, tokens = TOKENS_OF_CASES[case]
    assert model.state_spec == (layers, tokens, 32)
    given = batches(labels=True)
    with torch.no_grad():
        expected = model(tasks=given)
        states = {name: in_states(model, batch) for name, batch in given.items()}
        runs: list[int] = []
        model.model.encoders[encoders[0]].register_forward_hook(lambda *args: runs.append(1))
        found = model(tasks=states)
        alone = {name: model(task=name, **batch) for name, batch in states.items()}
    assert not runs
    for name in TASKS:
        for each in (found.logits[name], alone[name].logits):
            torch.testing.assert_close(each, expected.logits[name], rtol=0, atol=1e-12)
        for each in (found.losses[name], alone[name].loss):
            torch.testing.assert_close(each, expected.losses[name], rtol=0, atol=1e-12)
    torch.testing.assert_close(found.loss, expected.loss, rtol=0, atol=1e-12)


def test_some_tasks_may_have_states_and_others_texts() -> None:
    model = model_of("all layers")
    given = batches(labels=True)
    with torch.no_grad():
        expected = model(tasks=given)
        found = model(tasks=given | {"sts": in_states(model, given["sts"])})
    for name in TASKS:
        torch.testing.assert_close(found.logits[name], expected.logits[name], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "settings", [{"num_task_layers": 1}, {"encoders": ["own"]}, {"encoders": ["shared", "frozen"]}], ids=str
)
def test_tasks_with_an_encoder_or_layers_of_their_own_have_no_common_states(settings: dict[str, Any]) -> None:
    model = build(**{"num_task_layers": 0, **settings})
    batch = batches()["sst5"]
    with pytest.raises(ValueError, match=r"one encoder that all tasks share.*set encoders=\['shared'\]"):
        model.read_states(**batch)
    with pytest.raises(ValueError, match="one encoder that all tasks share"):
        model(encoder_states=torch.zeros(3, 1, 7, 32))


def test_states_exclude_other_inputs_and_have_their_shape() -> None:
    model = model_of("all layers")
    batch = batches()["sst5"]
    states = in_states(model, batch)["encoder_states"]
    with pytest.raises(ValueError, match=r"one of `input_ids`, `inputs_embeds` and `encoder_states`"):
        model(**batch, encoder_states=states)
    with pytest.raises(ValueError, match="found output_hidden_states"):
        model(encoder_states=states, output_hidden_states=True)
    with pytest.raises(ValueError, match=r"must be \[B, 4, T, 32\]"):
        model(encoder_states=states[:, :, :, 1:])
    with pytest.raises(ValueError, match=r"`encoder_states` of task 'sts' must be \[B, 2, T\]"):
        model(task="sts", encoder_states=states)
    with pytest.raises(
        ValueError, match=r"must be of the 1 tokens of `encoder_states`, found 7; leave it out"
    ):
        model(encoder_states=states, attention_mask=batch["attention_mask"])
    with pytest.raises(ValueError, match=r"`input_ids` must be \[B, T\], found \[4, 2, 6\]; flatten"):
        model.read_states(**batches()["sts"])
