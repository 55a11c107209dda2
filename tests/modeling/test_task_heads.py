from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from hf_layerfusion import TaskConfig
from hf_layerfusion.modeling.fusion_base import LayerFuser
from hf_layerfusion.modeling.fusion_pooling import SENTENCE_FUSERS
from hf_layerfusion.modeling.fusion_registry import TOKEN_FUSERS
from hf_layerfusion.modeling.layer_routing import TaskStates
from hf_layerfusion.modeling.pair_features import PAIR_FEATURES
from hf_layerfusion.modeling.sentence_vectors import SENTENCE_VECTORS
from hf_layerfusion.modeling.task_heads import CosineHead, TaskHead, restrict_values
from tests.tiny import tiny_config

TEXT = {"labels": ["no", "yes"], "dropout": 0.0}
PAIR = {**TEXT, "pair": True, "pair_encoding": "siamese"}
SMALL = {"num_groups": 2, "num_last_layers": 2, "fusion_hidden_size": 6}
CASES: dict[str, dict[str, Any]] = {
    **{f"vector-{name}": {**TEXT, "sentence_vector": name} for name in SENTENCE_VECTORS},
    **{f"feature-{name}": {**PAIR, "features": [name]} for name in PAIR_FEATURES},
    # Of a recurrence's state at the first token, half has seen no other.
    **{
        f"fusion-{name}": {**TEXT, "fusion": {"fusion": name, **SMALL}, "sentence_vector": "mean"}
        for name in TOKEN_FUSERS
    },
    **{f"pooling-{name}": {**TEXT, "fusion": {"pooling": name}} for name in SENTENCE_FUSERS},
    "all features": {**PAIR, "features": list(PAIR_FEATURES), "dense_size": 5, "vector_layers": 2},
    "fused pair": {**PAIR, "features": ["cross_attention", "cosine"], "fusion": {"fusion": "cat", **SMALL}},
    "cosine": {**PAIR, "head": "cosine", "sentence_vector": "mean"},
    "cosine embedding": {**PAIR, "head": "cosine", "loss": "cosine_embedding", "sentence_vector": "mean"},
    "several labels": {**TEXT, "problem_type": "multi_label_classification"},
}
ENCODERS = ("shared", "frozen")
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 0]])


def head_of(case: str) -> TaskHead:
    head = TaskHead(TaskConfig(**CASES[case]), ENCODERS, tiny_config("bert"))
    for module in head.modules():
        if isinstance(module, LayerFuser):
            module.reset_parameters()
    return head.double().eval()


def states_of(rows: int = 4) -> dict[str, TaskStates]:
    found = {}
    for kind in ENCODERS:
        layers = [torch.randn(rows, 5, 32, dtype=torch.float64) for _ in range(4)]
        found[kind] = TaskStates(layers[-1], layers)
    return found


def changed(states: dict[str, TaskStates], change: Any) -> dict[str, TaskStates]:
    made = {kind: [change(layer) for layer in each.layers] for kind, each in states.items()}
    return {kind: TaskStates(layers[-1], layers) for kind, layers in made.items()}


@pytest.mark.parametrize("case", CASES)
def test_blind_to_padding(case: str) -> None:
    head, states = head_of(case), states_of()
    expected = head(states, MASK).logits
    assert expected.shape == (2 if "pair" in CASES[case] else 4, 2)
    real = MASK.bool().unsqueeze(-1)
    noise = changed(states, lambda layer: torch.where(real, layer, 50 * torch.randn_like(layer)))
    torch.testing.assert_close(head(noise, MASK).logits, expected, rtol=0, atol=1e-11)
    longer = changed(
        states, lambda layer: torch.cat([layer, torch.randn(4, 3, 32, dtype=layer.dtype)], dim=1)
    )
    mask = torch.cat([MASK, torch.zeros(4, 3, dtype=torch.long)], dim=1)
    torch.testing.assert_close(head(longer, mask).logits, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("case", CASES)
def test_gradient_on_every_weight_and_both_encoders(case: str) -> None:
    head, states = head_of(case), states_of()
    states = changed(states, lambda layer: layer.requires_grad_())
    labels = torch.tensor([0, 1, 1, 0])[: 2 if "pair" in CASES[case] else 4]
    if case == "several labels":
        labels = torch.eye(2)[labels]
    head.train()(states, MASK, labels).loss.backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any() or name.endswith(("key.bias", "query.bias")), name
    for kind in ENCODERS:
        assert any(layer.grad is not None and layer.grad.any() for layer in states[kind].layers), kind


def test_vectors_of_the_encoders_stand_side_by_side() -> None:
    head, states = head_of("vector-cls"), states_of()
    linear = head.head.classifier.out_proj
    both = torch.cat([states["shared"].last[:, 0], states["frozen"].last[:, 0]], dim=1)
    torch.testing.assert_close(head(states, None).logits, both @ linear.weight.T + linear.bias)


def test_texts_of_a_pair_are_neighbours() -> None:
    head, states = head_of("feature-concat"), states_of()
    linear = head.head.classifier.out_proj
    vectors = torch.cat([states["shared"].last[:, 0], states["frozen"].last[:, 0]], dim=1)
    u, v = vectors[[0, 2]], vectors[[1, 3]]
    torch.testing.assert_close(
        head(states, None).logits, torch.cat([u, v], 1) @ linear.weight.T + linear.bias
    )


def test_a_fuser_reads_the_layers() -> None:
    head, states = head_of("fusion-scalar_mix"), states_of()
    expected = head(states, MASK).logits
    assert head.reads_layers
    for layer in range(4):
        layers = list(states["shared"].layers)
        layers[layer] = torch.randn_like(layers[layer])
        other = states | {"shared": TaskStates(states["shared"].last, layers)}
        assert not torch.allclose(head(other, MASK).logits, expected)
    assert not head_of("vector-cls").reads_layers


@pytest.mark.parametrize(("value_range", "factor", "shift"), [([0, 5], 5, 0), ([1, 3], 2, 1), (None, 1, 0)])
def test_cosine_head_by_hand(value_range: list[float] | None, factor: float, shift: float) -> None:
    head = TaskHead(
        TaskConfig(
            pair=True,
            pair_encoding="siamese",
            head="cosine",
            **({"problem_type": "regression", "value_range": value_range} if value_range else TEXT),
        ),
        ["shared"],
        tiny_config("bert"),
    ).double()
    states = states_of()
    u, v = states["shared"].last[0, 0], states["shared"].last[1, 0]
    cosine = sum(a * b for a, b in zip(u.tolist(), v.tolist(), strict=True))
    cosine /= math.sqrt(sum(a * a for a in u.tolist())) * math.sqrt(sum(b * b for b in v.tolist()))
    assert isinstance(head.head, CosineHead)
    found = head.eval()(states, None).logits[0, -1]  # of two classes, the second's logit
    assert found.item() == pytest.approx(shift + factor * cosine, rel=1e-9)


@pytest.mark.parametrize("output", ["raw", "clamp", "squash"])
def test_outputs_are_brought_into_the_range_at_inference_only(output: str) -> None:
    task = TaskConfig(problem_type="regression", value_range=[1, 5], output=output, dropout=0.0)
    head = TaskHead(task, ["shared"], tiny_config("bert")).double()
    with torch.no_grad():
        head.head.classifier.out_proj.weight.mul_(20)
    states, labels = states_of(), torch.tensor([1.0, 5, 2, 3])
    trained, asked = head.train()(states, None, labels), head.eval()(states, None, labels)
    raw = trained.logits
    assert (raw < 1).any() and (raw > 5).any()
    expected = {
        "raw": raw,
        "clamp": torch.where(raw < 1, 1.0, torch.where(raw > 5, 5.0, raw)),
        "squash": 1 + 4 / (1 + (3 - raw).exp()),
    }[output]
    torch.testing.assert_close(asked.logits, expected)
    torch.testing.assert_close(asked.loss, trained.loss)
    torch.testing.assert_close(asked.loss.double(), ((raw.view(-1) - labels.double()) ** 2).mean())


def test_squashing_leaves_the_middle_as_it_is() -> None:
    values = torch.tensor([2.5, 2.5001, -100.0, 100.0], dtype=torch.float64)
    middle, above, low, high = restrict_values(values, 0, 5, "squash").tolist()
    assert middle == 2.5
    assert (above - middle) / 1e-4 == pytest.approx(1)
    assert (low, high) == (pytest.approx(0), pytest.approx(5))
