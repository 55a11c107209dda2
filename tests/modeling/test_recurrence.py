from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from hf_layerfusion.modeling import recurrent_steps
from hf_layerfusion.modeling.recurrence import CELLS, TOKEN_CELLS, BidirectionalRNN, MinGRU, MinLSTM
from tests.modeling.cases import build, inputs


def plain(rnn: BidirectionalRNN, inputs: torch.Tensor, cell: str) -> torch.Tensor:
    """Return the output of torch's recurrence with the same weights for `[B, T, F]` without padding."""
    stock = CELLS[cell](inputs.shape[-1], 3, batch_first=True, bidirectional=True).to(inputs)
    stock.load_state_dict(rnn.rnn.state_dict())
    return stock(inputs)[0]


@pytest.mark.parametrize("cell", CELLS)
def test_steps_from_one_real_token_to_the_next(cell: str) -> None:
    rnn = BidirectionalRNN(4, 3, cell).double()
    inputs = torch.randn(3, 6, 4, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [0, 1, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0]])
    outputs = rnn(inputs, mask)
    for row in range(3):
        real = mask[row].bool()
        assert not outputs[row, ~real].any()
        if real.any():
            alone = plain(rnn, inputs[row : row + 1, real], cell)[0]
            torch.testing.assert_close(outputs[row, real], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("cell", TOKEN_CELLS)
@pytest.mark.parametrize("is_masked", [False, True])
def test_inputs_in_parts_give_what_they_give_side_by_side(cell: str, is_masked: bool) -> None:
    rnn = TOKEN_CELLS[cell](7, 3).double()
    inputs = torch.randn(3, 6, 7, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [0, 1, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0]]) if is_masked else None
    state = torch.get_rng_state()
    parts = [rnn.project(inputs[:, :, start:end], start) for start, end in ((0, 2), (2, 3), (3, 7))]
    outputs = rnn.run_projected(sum(parts), mask)
    torch.testing.assert_close(outputs, rnn(inputs, mask), rtol=0, atol=1e-12)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(rnn.state_dict()) == len(TOKEN_CELLS[cell](7, 3).state_dict())


def test_without_a_mask_every_position_is_a_step() -> None:
    rnn = BidirectionalRNN(4, 3)
    inputs = torch.randn(2, 5, 4)
    expected = plain(rnn, inputs, "gru")
    torch.testing.assert_close(rnn(inputs, None), expected)
    torch.testing.assert_close(rnn(inputs, torch.ones(2, 5)), expected)


def test_no_gradient_comes_through_padding() -> None:
    rnn = BidirectionalRNN(4, 3)
    inputs = torch.randn(2, 5, 4, requires_grad=True)
    mask = torch.tensor([[1, 1, 0, 0, 0], [0, 1, 1, 0, 1]])
    rnn(inputs, mask).sum().backward()
    assert torch.equal(inputs.grad.abs().sum(dim=-1) > 0, mask.bool())


class Reads(TorchFunctionMode):
    """Counts how often values of tensors are asked for, but not of those made of numbers, which are on the host."""

    ASKING = frozenset(
        getattr(torch.Tensor, name)
        for name in "tolist item cpu numpy nonzero __bool__ __int__ __float__ __index__".split()
    )

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.on_host: list[torch.Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        is_on_host = all(any(each is other for other in self.on_host) for each in given)
        self.count += func in self.ASKING and not is_on_host
        found = func(*args, **(kwargs or {}))
        if is_on_host and (given or func is torch.tensor):
            self.on_host += [each for each in tree_leaves(found) if isinstance(each, torch.Tensor)]
        elif "pack_padded_sequence" in getattr(func, "__name__", ""):
            self.on_host.append(found[1])  # batch sizes
        return found


@pytest.mark.parametrize(("case", "most"), [("cat-gru", 1), ("share-lstm", 1), ("share-minlstm", 0)])
def test_a_forward_pass_asks_the_device_once(case: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All recurrences share one reading of the mask, those of the groups and GRUBERT's own on top; as on a GPU, where a
    GRU takes torch's kernel."""
    monkeypatch.setattr(BidirectionalRNN, "takes_parts", lambda self, device: False)
    model, given = build(case), inputs(3, 8)
    with Reads() as encoder:
        model.model.encoder(**given)
    for _ in range(2):  # a mask may be given again
        given["attention_mask"] = given["attention_mask"].clone()
        with Reads() as reads:
            model(**given)
        assert reads.count - encoder.count == most


def reference(rnn: MinGRU, inputs: torch.Tensor) -> torch.Tensor:
    """The equations of the paper's recurrent mode, one token `[T, F]` after the other."""

    def g(value: torch.Tensor) -> torch.Tensor:
        return torch.where(value >= 0, value + 0.5, value.sigmoid())

    outputs = []
    weight, bias = rnn.gates.weight.chunk(2), rnn.gates.bias.chunk(2)
    for direction in (0, 1):
        tokens = inputs.flip(0) if direction else inputs
        state, states = torch.zeros(len(bias[0]) // rnn.num_gates).to(inputs), []
        for token in tokens:
            *gates, candidate = (weight[direction] @ token + bias[direction]).chunk(rnn.num_gates)
            gates = [gate.sigmoid() for gate in gates]
            if isinstance(rnn, MinLSTM):
                forget, enter = gates
                forget, enter = forget / (forget + enter), enter / (forget + enter)
            else:
                forget, enter = 1 - gates[0], gates[0]
            state = forget * state + enter * g(candidate)
            states.append(state)
        outputs.append(torch.stack(states[::-1] if direction else states))
    return torch.cat(outputs, dim=-1)


@pytest.mark.parametrize("cell", ["mingru", "minlstm"])
@pytest.mark.parametrize("chunk", [None, 2, 3])
def test_the_papers_equations(cell: str, chunk: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """With padding anywhere, in values and gradients; `chunk` is what a device with many cores does."""
    scan = recurrent_steps.scan_
    monkeypatch.setattr(recurrent_steps, "scan_", lambda f, s, back, size=chunk: scan(f, s, back, size))
    rnn = TOKEN_CELLS[cell](4, 3).double()
    inputs = torch.randn(3, 11, 4, dtype=torch.float64, requires_grad=True)
    mask = torch.ones(3, 11)
    mask[0, 7:] = mask[1, :2] = mask[1, 4:6] = mask[2] = 0
    outputs = rnn(inputs, mask)
    expected = torch.zeros_like(outputs)
    for row in range(2):
        real = mask[row].bool()
        expected[row, real] = reference(rnn, inputs[row, real])
    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-12)
    weights = [inputs, *rnn.parameters()]
    upstream = torch.randn_like(outputs)
    found, wanted = (torch.autograd.grad(each, weights, upstream) for each in (outputs, expected))
    for gradient, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(gradient, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cell", ["mingru", "minlstm", "gru"])
def test_2048_steps_are_as_exact_as_one(cell: str, dtype: torch.dtype) -> None:
    """Gates that hardly ever open or hardly ever close, on which divisions by products of factors fail."""
    rnn = TOKEN_CELLS[cell](4, 3)
    inputs = (20 * torch.randn(2, 2048, 4)).to(dtype)
    outputs = rnn.to(dtype)(inputs, torch.ones(2, 2048))
    exact = rnn.double()(inputs.double(), None)
    assert outputs.dtype == dtype
    size = exact.abs().amax()
    # The rounding of the gates' logits and of the output is that of a single step.
    assert (outputs.double() - exact).abs().amax() < 50 * torch.finfo(dtype).eps * size
    outputs.float().sum().backward()
    assert all(torch.isfinite(each.grad).all() for each in rnn.parameters())


@pytest.mark.parametrize(("count", "shared"), [(2, False), (2, True)])
def test_gradients_of_grus_are_those_of_torch(
    count: int, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several GRUs at once, on parts of their inputs, against torch's GRU on each text alone."""
    monkeypatch.setattr(recurrent_steps, "ROWS_AT_ONCE", 40)  # three of the 20 steps
    cells = [BidirectionalRNN(4, 3).double() for _ in range(1 if shared else count)]
    parts = [
        [torch.randn(3, 20, 2, dtype=torch.float64, requires_grad=True) for _ in range(2)]
        for _ in range(count)
    ]
    mask = torch.ones(3, 20)
    mask[0, 17:] = mask[1, :2] = mask[1, 4:6] = mask[2] = 0
    outputs = cells[0].run_parts(cells, parts, mask).unflatten(-1, (count, -1))
    expected = torch.zeros_like(outputs)
    for index, part in enumerate(parts):
        rnn = cells[index % len(cells)].rnn
        for row in range(2):
            real = mask[row].bool()
            expected[row, real, index] = rnn(torch.cat(part, dim=-1)[row : row + 1, real])[0][0]
    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-12)
    weights = [*itertools.chain(*parts), *(weight for cell in cells for weight in cell.parameters())]
    upstream = torch.randn_like(outputs)
    found, wanted = (torch.autograd.grad(each, weights, upstream) for each in (outputs, expected))
    for gradient, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(gradient, other, rtol=0, atol=1e-12)


def test_a_gru_may_train_its_bias_alone() -> None:
    rnn, values = BidirectionalRNN(4, 3).double(), torch.randn(2, 5, 4, dtype=torch.float64)
    rnn.requires_grad_(False)
    biases = [each.requires_grad_() for each in rnn.weights("bias_hh")]
    found, wanted = (
        torch.autograd.grad(outputs.square().sum(), biases)
        for outputs in (rnn(values, torch.ones(2, 5)), rnn.rnn(values)[0])
    )
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("cell", ["gru", "mingru"])
def test_second_derivatives_are_refused(cell: str) -> None:
    rnn, values = TOKEN_CELLS[cell](4, 3), torch.randn(2, 5, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(rnn(values, None).square().sum(), values, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"no second derivatives.*use the cell 'lstm' or 'linear'"):
        gradient.square().sum().backward()


def test_padding_may_hold_anything() -> None:
    mask = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1]])
    for cell in TOKEN_CELLS:
        if cell == "linear":
            continue
        rnn, values = TOKEN_CELLS[cell](4, 3), torch.randn(2, 4, 4)
        expected = rnn(values, mask)
        values[mask == 0] = torch.nan
        assert torch.equal(rnn(values, mask), expected)


def test_a_mask_that_was_changed_is_read_again() -> None:
    rnn = BidirectionalRNN(4, 3)
    values, mask = torch.randn(2, 5, 4), torch.ones(2, 5)
    rnn(values, mask)
    mask[:, 3:] = 0
    assert not rnn(values, mask)[:, 3:].any()
    with torch.inference_mode():
        mask = torch.ones(2, 5)
        rnn(values, mask)
        mask[:, 3:] = 0
        assert not rnn(values, mask)[:, 3:].any()
