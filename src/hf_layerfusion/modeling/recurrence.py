"""Bidirectional recurrence over tokens that ignores padding."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

CELLS: dict[str, type[nn.GRU] | type[nn.LSTM]] = {"gru": nn.GRU, "lstm": nn.LSTM}
INPUT_WEIGHTS = ("weight_ih_l0", "weight_ih_l0_reverse")


class BidirectionalRNN(nn.Module):
    """Bi-GRU or bi-LSTM along the tokens (GRUBERT, section 2.2).

    Args:
        input_size: Width F of the inputs.
        hidden_size: Units per direction; the output has twice as many.
        cell: `"gru"` or `"lstm"`.
    """

    def __init__(self, input_size: int, hidden_size: int, cell: str = "gru"):
        super().__init__()
        self.rnn = CELLS[cell](input_size, hidden_size, batch_first=True, bidirectional=True)

    def forward(self, inputs: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Map `[B, T, F]` to `[B, T, 2 * hidden_size]`.

        With an `attention_mask` `[B, T]` the recurrence steps from one real token to the next, with padding on either
        side, and the output at padding is zero. Without a mask every position is a step.
        """
        return run_unpadded(self.rnn, inputs, attention_mask)

    def project(self, part: torch.Tensor, start: int) -> torch.Tensor:
        """Return the contribution of input columns `start …`, `[B, T, F']`, to the gates of both directions, `[B, T,
        G]`.

        `run_projected` takes the sum over all parts, so that inputs that arrive in parts need not be concatenated.
        """
        columns = slice(start, start + part.shape[-1])
        return F.linear(part, torch.cat([getattr(self.rnn, name)[:, columns] for name in INPUT_WEIGHTS]))

    @property
    def projected_size(self) -> int:
        """Width G of the output of `project`."""
        return sum(getattr(self.rnn, name).shape[0] for name in INPUT_WEIGHTS)

    def run_projected(self, gates: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Return the output of `forward` for the sum of the projections of all parts."""
        # The same recurrence with the identity as input weights, so that each direction reads its own gates.
        weights = dict(self.rnn.named_parameters())
        recurrent = weights["weight_hh_l0"]
        own = torch.eye(gates.shape[-1], device=recurrent.device, dtype=recurrent.dtype).chunk(2)
        weights |= {
            name: nn.Parameter(weight, requires_grad=False)
            for name, weight in zip(INPUT_WEIGHTS, own, strict=True)
        }
        rnn = type(self.rnn)(
            gates.shape[-1], self.rnn.hidden_size, batch_first=True, bidirectional=True, device="meta"
        )
        for name, weight in weights.items():
            setattr(rnn, name, weight)
        return run_unpadded(rnn, gates.to(recurrent.dtype), attention_mask)


# Packing depends on the values of a batch, and torch does not compile recurrences: break the graph once, here.
@torch.compiler.disable
def run_unpadded(
    rnn: nn.GRU | nn.LSTM, inputs: torch.Tensor, attention_mask: torch.Tensor | None
) -> torch.Tensor:
    """Run `rnn` over the real tokens of `inputs` `[B, T, F]`; the output at padding is zero."""
    # The same memory layout with and without padding, so that the code after it is compiled only once.
    if attention_mask is None:
        return rnn(inputs)[0].contiguous()
    real = attention_mask.bool()
    lengths = real.sum(dim=1).cpu()
    if bool((lengths == inputs.shape[1]).all()):  # nothing to pack
        return rnn(inputs)[0].contiguous()
    # Move real tokens to the front, in order; for right padding, which is most common, they are already there.
    order = None
    if not bool((real[:, 1:] <= real[:, :-1]).all()):
        order = torch.argsort(~real, dim=1, stable=True).unsqueeze(-1)
        inputs = inputs.gather(1, order.expand_as(inputs))
    # A row without real tokens cannot be packed; it takes one step, which the final mask removes.
    packed = pack_padded_sequence(inputs, lengths.clamp(min=1), batch_first=True, enforce_sorted=False)
    outputs, _ = pad_packed_sequence(rnn(packed)[0], batch_first=True, total_length=inputs.shape[1])
    if order is not None:
        outputs = torch.zeros_like(outputs).scatter(1, order.expand_as(outputs), outputs)
    return outputs.masked_fill(~real.unsqueeze(-1), 0.0)
