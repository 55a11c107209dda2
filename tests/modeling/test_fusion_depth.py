from __future__ import annotations

import pytest
import torch
from torch import nn

from hf_layerfusion.modeling.fusion_depth import DepthFuser

GROUPS = ((0, 1, 2), (3, 4, 5))


def last_state(rnn: nn.GRU, steps: list[torch.Tensor], suffix: str) -> torch.Tensor:
    """The state after the last of `steps` by `nn.GRUCell`, with the weights of one direction of `rnn`."""
    cell = nn.GRUCell(rnn.input_size, rnn.hidden_size).double()
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    cell.load_state_dict({name: getattr(rnn, f"{name}_l0{suffix}") for name in names})
    hidden = torch.zeros(len(steps[0]), rnn.hidden_size, dtype=torch.float64)
    for step in steps:
        hidden = cell(step, hidden)
    return hidden


@pytest.mark.parametrize("shared", [True, False])
def test_each_token_runs_through_the_layers_of_a_group(shared: bool) -> None:
    fuser = DepthFuser(GROUPS, 4, 3, "gru", shared).double()
    states = tuple(torch.randn(2, 5, 4, dtype=torch.float64) for _ in range(6))
    fused = fuser(states, None)
    for token in range(5):
        expected = []
        for index, group in enumerate(GROUPS):
            rnn = fuser.cells[0 if shared else index]
            steps = [states[layer][:, token] for layer in group]
            expected += [last_state(rnn, steps, ""), last_state(rnn, steps[::-1], "_reverse")]
        torch.testing.assert_close(fused[:, token], torch.cat(expected, dim=1), rtol=0, atol=1e-12)


def test_lstm_gives_its_hidden_state_not_its_cell() -> None:
    fuser = DepthFuser(((0, 1),), 4, 3, "lstm", shared=True)
    states = tuple(torch.randn(1, 1, 4) for _ in range(2))
    outputs = fuser.cells[0](torch.stack([state[:, 0] for state in states], dim=1))[0][0]
    expected = torch.cat([outputs[-1, :3], outputs[0, 3:]])
    torch.testing.assert_close(fuser(states, None)[0, 0], expected)
