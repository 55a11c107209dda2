"""Bidirectional recurrence over tokens that ignores padding."""

from typing import NamedTuple

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


class Packing(NamedTuple):
    """Packing of the real tokens of a batch.

    Attributes:
        real: `[B, T]`, true for real tokens.
        lengths: `[B]` on the CPU, the number of real tokens, at least 1: a row without any takes one step,
            which the mask wipes out.
        order: `[B, T, 1]`, positions with real tokens first, or None where they come first anyway (right padding).
        is_full: true if there is no padding.
    """

    real: torch.Tensor
    lengths: torch.Tensor
    order: torch.Tensor | None
    is_full: bool


def packing_of(attention_mask: torch.Tensor) -> Packing:
    """Return the packing of a mask `[B, T]`.

    Reading it waits for the device once. The packing is kept with the mask, so that all recurrences of a forward pass
    share one.
    """
    # Tensors of inference mode do not tell whether they were changed.
    version = None if attention_mask.is_inference() else attention_mask._version
    known = getattr(attention_mask, "_packing", None)
    if known is not None and version is not None and known[0] == version:
        packing: Packing = known[1]
        return packing
    original, count = getattr(attention_mask, "_repeats", (None, 1))
    packing = _packed(attention_mask) if original is None else _repeated(packing_of(original), count)
    attention_mask._packing = (version, packing)  # type: ignore[attr-defined]
    return packing


def repeat_mask(attention_mask: torch.Tensor, count: int) -> torch.Tensor:
    """Return a mask `[B, T]` repeated to `[count * B, T]`, which shares its packing."""
    repeated = attention_mask.repeat(count, 1)
    if not torch.compiler.is_compiling():
        repeated._repeats = (attention_mask, count)  # type: ignore[attr-defined]
    return repeated


def _packed(attention_mask: torch.Tensor) -> Packing:
    real = attention_mask.bool()
    is_right_padded = (real[:, 1:] <= real[:, :-1]).all()
    *lengths, stands_first = torch.cat([real.sum(dim=1), is_right_padded.view(1)]).tolist()
    order = None if stands_first else torch.argsort(~real, dim=1, stable=True).unsqueeze(-1)
    is_full = all(length == real.shape[1] for length in lengths)
    return Packing(real, torch.tensor(lengths).clamp(min=1), order, is_full)


def _repeated(packing: Packing, count: int) -> Packing:
    order = None if packing.order is None else packing.order.repeat(count, 1, 1)
    return Packing(packing.real.repeat(count, 1), packing.lengths.repeat(count), order, packing.is_full)


# Packing depends on the values of a batch, and torch does not compile recurrences: break the graph once, here.
@torch.compiler.disable
def run_unpadded(
    rnn: nn.GRU | nn.LSTM, inputs: torch.Tensor, attention_mask: torch.Tensor | None
) -> torch.Tensor:
    """Run `rnn` over the real tokens of `inputs` `[B, T, F]`; the output at padding is zero."""
    packing = None if attention_mask is None else packing_of(attention_mask)
    # The same memory layout with and without padding, so that the code after it is compiled only once.
    if packing is None or packing.is_full:
        return rnn(inputs)[0].contiguous()
    if packing.order is not None:
        inputs = inputs.gather(1, packing.order.expand_as(inputs))
    packed = pack_padded_sequence(inputs, packing.lengths, batch_first=True, enforce_sorted=False)
    outputs, _ = pad_packed_sequence(rnn(packed)[0], batch_first=True, total_length=inputs.shape[1])
    if packing.order is not None:
        outputs = torch.zeros_like(outputs).scatter(1, packing.order.expand_as(outputs), outputs)
    return outputs.masked_fill(~packing.real.unsqueeze(-1), 0.0)
