"""torch.compile: how the models are cut into graphs, and that no new length makes a new one.

The graphs are what is asked for here, not what becomes of them: the backend runs them as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import PreTrainedModel

from tests.modeling import multitask_cases
from tests.modeling.cases import build, inputs
from tests.tiny import tiny_config

# How many graphs the recurrences of a model cut it into.
GRAPHS = {
    "share-gru": 2,
    "share-lstm": 4,
    "share-mingru": 1,
    "share_depth-gru": 2,
    "cat_depth-minlstm": 1,
    "lstm-cls": 3,
    "attention-mean": 1,
}
BREAKS = ("torch.compiler.disable()", "RNN, GRU, or LSTM")


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def batches(siamese: bool = False) -> list[dict[str, torch.Tensor]]:
    """Batches of different sizes, padded and not; the first is the warm-up."""
    found: list[Any] = [inputs(*shape) for shape in ((3, 8), (2, 11), (5, 16))]
    found[2]["attention_mask"] = torch.ones_like(found[2]["attention_mask"])
    if siamese:
        found = [{name: v.unsqueeze(1).repeat(1, 2, 1) for name, v in each.items()} for each in found]
    return found


def check(model: PreTrainedModel, siamese: bool = False) -> int:
    """The number of graphs, all of which the first batch makes; answers are the model's."""
    with torch.no_grad():
        model(**batches(siamese)[0])  # makes transformers' hooks
        compiled = torch.compile(model, backend="eager", dynamic=True)
        made = []
        for batch in batches(siamese):
            torch.testing.assert_close(compiled(**batch).logits, model(**batch).logits)
            made.append(counters["stats"]["unique_graphs"])
    assert made == [made[0]] * len(made)
    return made[0]


# Models that are cut at recurrences take ten seconds and more to compile; `make test` compiles those of one graph.
SLOW = ("share-gru", "share-lstm", "share_depth-gru", "lstm-cls")


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] * (case in SLOW)) for case in GRAPHS]
)
def test_no_graph_for_a_new_length(case: str) -> None:
    assert check(build(case, encoder_config=tiny_config("bert", 2))) == GRAPHS[case]
    for reason in counters["graph_break"]:
        assert any(name in reason for name in BREAKS), reason


def test_a_task_of_cerbertus_is_one_graph() -> None:
    assert check(multitask_cases.build().task("sts"), siamese=True) == 1
    assert not counters["graph_break"]
