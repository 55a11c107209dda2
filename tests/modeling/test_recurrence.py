from __future__ import annotations

import pytest
import torch

from hf_layerfusion.modeling import recurrence
from hf_layerfusion.modeling.fusion_grouped import token_cell
from hf_layerfusion.modeling.recurrence import CELLS, BidirectionalRNN
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


@pytest.mark.parametrize("cell", [*CELLS, "linear"])
@pytest.mark.parametrize("is_masked", [False, True])
def test_inputs_in_parts_give_what_they_give_side_by_side(cell: str, is_masked: bool) -> None:
    rnn = token_cell(cell, 7, 3).double()
    inputs = torch.randn(3, 6, 7, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [0, 1, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0]]) if is_masked else None
    state = torch.get_rng_state()
    parts = [rnn.project(inputs[:, :, start:end], start) for start, end in ((0, 2), (2, 3), (3, 7))]
    outputs = rnn.run_projected(sum(parts), mask)
    torch.testing.assert_close(outputs, rnn(inputs, mask), rtol=0, atol=1e-12)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(rnn.state_dict()) == len(token_cell(cell, 7, 3).state_dict())


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


@pytest.mark.parametrize("case", ["cat-gru", "share-gru"])
def test_a_forward_pass_reads_its_mask_once(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reading waits for the device. The recurrences are those of the groups and, on top, GRUBERT's own."""
    model, given = build(case), inputs(3, 8)
    read = []
    packed = recurrence._packed
    monkeypatch.setattr(recurrence, "_packed", lambda mask: read.append(mask) or packed(mask))
    for _ in range(2):  # a mask may be given twice, unchanged or not
        expected = [*read]
        given["attention_mask"] = given["attention_mask"].clone()
        model(**given)
        assert len(read) == len(expected) + 1


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
