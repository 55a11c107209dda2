from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from hf_layerfusion.modeling.layer_routing import (
    ALL_ROWS,
    Route,
    add_task_layers,
    copy_module,
    find_layers,
    join_outputs,
    run_routed,
    select_task_rows,
)
from tests.modeling.multitask_cases import DEPTH, build, sequences, stock
from tests.tiny import MODEL_TYPES, tiny_config

SPLITTABLE = [model_type for model_type in MODEL_TYPES if model_type != "albert"]
TWO = {"a": {"labels": ["0", "1"]}, "b": {"labels": ["0", "1"]}}


@pytest.mark.parametrize("num_layers", range(DEPTH + 1))
@pytest.mark.parametrize("model_type", SPLITTABLE)
def test_each_tasks_rows_see_its_layers(model_type: str, num_layers: int) -> None:
    """Against transformers' own encoder with the task's layers: every layer's states, and the output."""
    # Its convolution reads the embeddings again above the first layer.
    changes = {"conv_kernel_size": 3} if model_type == "deberta-v2" else {}
    model = build(model_type, changes, tasks=TWO, num_task_layers=num_layers)
    batch = sequences(5, 7, [7, 4, 7, 2, 6])
    routes = [
        Route("a", slice(0, 3), 3),
        Route("b", torch.tensor([4, 1, 4]), 3),
    ]
    with torch.no_grad():
        _, found = run_routed(model.model.encoders["shared"], batch, routes, num_layers, with_layers=True)
        for route, states in zip(routes, found, strict=True):
            rows = {name: value[route.rows] for name, value in batch.items()}
            expected = stock(model, route.task)(**rows, output_hidden_states=True)
            assert len(states.layers) == DEPTH
            torch.testing.assert_close(states.last, expected.last_hidden_state, rtol=0, atol=2e-6)
            for layer, state in enumerate(states.layers):
                torch.testing.assert_close(state, expected.hidden_states[layer + 1], rtol=0, atol=2e-6)


@pytest.mark.parametrize("num_layers", range(DEPTH + 1))
def test_one_task_is_transformers_own_encoder_to_the_last_bit(num_layers: int) -> None:
    model = build(tasks=TWO, num_task_layers=num_layers)
    batch = sequences(3, 7, [7, 5, 2])
    for task in TWO:
        with torch.no_grad():
            outputs, (states,) = run_routed(
                model.model.encoders["shared"],
                batch,
                [Route(task, ALL_ROWS, 3)],
                num_layers,
                with_layers=True,
            )
            expected = stock(model, task)(**batch, output_hidden_states=True)
        assert torch.equal(states.last, expected.last_hidden_state)
        assert len(outputs.hidden_states) == DEPTH + 1
        assert all(map(torch.equal, outputs.hidden_states, expected.hidden_states))
        assert all(map(torch.equal, states.layers, expected.hidden_states[1:]))


def test_shared_layers_run_once_and_copies_on_their_rows() -> None:
    model = build(tasks=TWO, num_task_layers=2)
    encoder = model.model.encoders["shared"]
    seen: dict[str, list[int]] = {}
    for name, module in encoder.named_modules():
        if type(module).__name__ == "BertLayer":
            module.register_forward_hook(
                lambda _, args, __, name=name: seen.setdefault(name, []).append(args[0].shape[0])
            )
    run_routed(
        encoder, sequences(5, 4), [Route("a", ALL_ROWS, 5), Route("b", slice(1, 3), 2)], 2, with_layers=False
    )
    assert seen == {
        "encoder.layer.0": [5],
        "encoder.layer.1": [5],
        "encoder.layer.2.copies.a": [5],
        "encoder.layer.2.copies.b": [2],
        "encoder.layer.3.copies.a": [5],
        "encoder.layer.3.copies.b": [2],
    }


def test_threads_do_not_mix_up_their_tasks() -> None:
    model = build(tasks=TWO, num_task_layers=3)
    batch = sequences(4, 6)
    with torch.no_grad():
        expected = {task: model(task=task, **batch).logits for task in TWO}

    def ask(task: str) -> bool:
        with torch.no_grad():
            return all(torch.equal(model(task=task, **batch).logits, expected[task]) for _ in range(20))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, ["a", "b"] * 4))


def test_copies_have_weights_of_their_own_and_one_configuration() -> None:
    encoder = AutoModel.from_config(tiny_config("modernbert"))
    add_task_layers(encoder, ["a", "b"], 2)
    layer = find_layers(encoder)[3]
    first, second = layer.copies["a"], layer.copies["b"]
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
        assert one.data_ptr() != other.data_ptr()
    assert layer.attention_type == first.attention_type
    assert {id(m.config) for m in encoder.modules() if hasattr(m, "config")} == {id(encoder.config)}


def test_hooks_of_a_used_encoder_are_not_doubled() -> None:
    encoder = AutoModel.from_config(tiny_config("bert"))
    batch = sequences(2, 4)
    encoder(**batch, output_hidden_states=True)
    add_task_layers(encoder, ["a", "b"], 2)
    for each in (encoder, copy.deepcopy(encoder), copy_module(encoder)):
        outputs, _ = run_routed(each, batch, [Route("b", ALL_ROWS, 2)], 2, with_layers=True)
        assert len(outputs.hidden_states) == DEPTH + 1


def test_encoders_without_one_list_of_layers() -> None:
    encoder = AutoModel.from_config(tiny_config("albert"))
    with pytest.raises(
        ValueError, match=r"^`num_task_layers` must be 0 for 'albert', .*; use an encoder .*$"
    ):
        add_task_layers(encoder, ["a"], 1)
    add_task_layers(encoder, ["a"], 0)


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [("squeezebert", "dictionaries"), ("xlnet", "tokens first"), ("xmod", "language of each text")],
)
def test_encoders_whose_layers_do_not_take_rows(model_type: str, reason: str) -> None:
    encoder = nn.Module()
    encoder.config = AutoConfig.for_model(model_type)
    with pytest.raises(ValueError, match=f"^`num_task_layers` must be 0 for '{model_type}', .*{reason}"):
        add_task_layers(encoder, ["a"], 1)


def test_a_decoder_shares_a_pass_without_its_cache() -> None:
    config = AutoConfig.for_model(
        "gpt2", vocab_size=1000, n_embd=16, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=2
    )
    routes = [Route("a", slice(0, 1), 1), Route("b", slice(1, 2), 1)]
    encoder = AutoModel.from_config(config)
    add_task_layers(encoder, ["a", "b"], 1)
    with pytest.raises(ValueError, match=r"found a DynamicCache; .*use_cache=False"):
        run_routed(encoder, sequences(2, 4), routes, 1, with_layers=False)
    encoder.config.use_cache = False
    run_routed(encoder, sequences(2, 4), routes, 1, with_layers=False)


def test_a_list_inside_a_layer_is_not_taken_for_the_layers() -> None:
    encoder = AutoModel.from_config(tiny_config("bert"))
    for layer in encoder.encoder.layer:
        layer.experts = nn.ModuleList(nn.Linear(1, 1) for _ in range(DEPTH))
    assert find_layers(encoder) is encoder.encoder.layer


def test_an_encoder_with_routed_layers_is_called_through_its_model() -> None:
    model = build()
    with pytest.raises(ValueError, match="must be called through its model"):
        model.model.encoders["shared"](**sequences(2, 4))


def test_rows_of_what_a_layer_is_given() -> None:
    mask, bias, table = torch.randn(5, 1, 7, 7), torch.randn(5, 7), torch.randn(5, 32)
    rows = torch.tensor([3, 0])
    assert torch.equal(select_task_rows(mask, rows, 5, 7), mask[rows])
    assert torch.equal(select_task_rows(bias, slice(1, 3), 5, 7), bias[1:3])
    assert select_task_rows(table, rows, 5, 7) is table  # no row a text: its width is not the length
    assert select_task_rows(mask, ALL_ROWS, 5, 7) is mask
    cosine, sine = select_task_rows((mask, table), rows, 5, 7)
    assert torch.equal(cosine, mask[rows]) and sine is table
    for value in (None, True, 3, 0.5, "x"):
        assert select_task_rows(value, rows, 5, 7) is value
    with pytest.raises(ValueError, match=r"must be tensors .* found a object; choose attn_implementation"):
        select_task_rows(object(), rows, 5, 7)
    assert select_task_rows(object, ALL_ROWS, 5, 7) is object


def test_joined_rows() -> None:
    one, two = torch.ones(2, 3), torch.zeros(1, 3)
    assert torch.equal(join_outputs([one, two]), torch.cat([one, two]))
    states, nothing = join_outputs([(one, None), (two, None)])
    assert torch.equal(states, torch.cat([one, two])) and nothing is None
