"""Bidirectional recurrences over tokens that ignore padding."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .recurrent_steps import gated_scan, gru_steps

# Recurrences of torch.
CELLS: dict[str, type[nn.GRU] | type[nn.LSTM]] = {"gru": nn.GRU, "lstm": nn.LSTM}
SIDES = ("", "_reverse")


class TokenCell(nn.Module):
    """Base class of the cells that map inputs of tokens to embeddings: a linear projection, and what follows it.

    The projection of inputs that come in parts is the sum of the parts' projections, so that they need not be
    concatenated.

    Notation used for tensor shapes: C cells, B batch size, T tokens, F inputs, P projected inputs, D outputs.
    """

    def input_weights(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the weight `[P, F]` and the bias `[P]` of the projection."""
        raise NotImplementedError

    def takes_parts(self, device: torch.device) -> bool:
        """Return whether `run_parts` is the fastest way to run the cell on a device."""
        return True

    def run_parts(
        self,
        cells: Sequence["TokenCell"],
        inputs: Sequence[Sequence[torch.Tensor]],
        attention_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Run several cells at once, each on inputs that come in parts, and return their outputs side by side.

        Args:
            cells: C cells of this class and size; or one, which is this cell, for all inputs.
            inputs: The parts of the inputs of each cell, each `[B, T, F']`.
            attention_mask: `[B, T]`, 1 for real tokens, or `None`.

        Returns:
            `[B, T, C * D]`.
        """
        weights = [cell.input_weights() for cell in cells] * (len(inputs) // len(cells))
        projected = [project_parts(parts, *each) for parts, each in zip(inputs, weights, strict=True)]
        return self.run(cells, projected, attention_mask)

    def run(
        self,
        cells: Sequence["TokenCell"],
        projected: Sequence[torch.Tensor],
        attention_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Map the projections of several cells, each `[B, T, P]`, to their outputs side by side, `[B, T, C * D]`.

        Args:
            cells: The cells, as for `run_parts`.
            projected: Projections, with the bias.
            attention_mask: `[B, T]`, 1 for real tokens, or `None`.
        """
        raise NotImplementedError

    def forward(self, inputs: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Map `[B, T, F]` to `[B, T, D]`.

        With an `attention_mask` `[B, T]`, a recurrence steps from one real token to the next, with padding on either
        side, and its output at padding is zero. Without a mask every position is a step.
        """
        return self.run_parts([self], [[inputs]], attention_mask)

    def project(self, part: torch.Tensor, start: int) -> torch.Tensor:
        """Return the projection `[B, T, P]` of input columns `start …`, `[B, T, F']`, without the bias."""
        return F.linear(part, self.input_weights()[0][:, start : start + part.shape[-1]])

    @property
    def projected_size(self) -> int:
        """Width P of the projections."""
        return self.input_weights()[0].shape[0]

    def run_projected(self, projected: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Return the output of `forward` for the sum of the results of `project` for all parts."""
        return self.run([self], [projected + self.input_weights()[1]], attention_mask)


class TokenLinear(nn.Linear, TokenCell):
    """Linear map of each token in place of a recurrence (GRUBERT, Table 3: "replaced by fully connected linear
    layers").

    Args:
        input_size: Width F of the inputs.
        hidden_size: Half the width of the output, as for the recurrences.
    """

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__(input_size, 2 * hidden_size)

    def input_weights(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return weight and bias."""
        return self.weight, self.bias

    def run(
        self,
        cells: Sequence[TokenCell],
        projected: Sequence[torch.Tensor],
        attention_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return the projections side by side."""
        return torch.cat(list(projected), dim=-1)

    def forward(  # type: ignore[override]
        self, inputs: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Map `[B, T, F]` to `[B, T, 2 * hidden_size]`; the mask is not used."""
        return super().forward(inputs)


class BidirectionalRNN(TokenCell):
    """Bi-GRU or bi-LSTM along the tokens (GRUBERT, section 2.2).

    Args:
        input_size: Width F of the inputs.
        hidden_size: Units per direction; the output has twice as many.
        cell: `"gru"` or `"lstm"`.
    """

    def __init__(self, input_size: int, hidden_size: int, cell: str = "gru"):
        super().__init__()
        self.cell = cell
        self.rnn = CELLS[cell](input_size, hidden_size, batch_first=True, bidirectional=True)

    def weights(self, name: str) -> list[torch.Tensor]:
        """Return the weights called `name`, such as `"weight_hh"`, of both directions."""
        return [getattr(self.rnn, f"{name}_l0{side}") for side in SIDES]

    def input_weights(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the input weights and their bias, for the gates of both directions."""
        return torch.cat(self.weights("weight_ih")), torch.cat(self.weights("bias_ih"))

    def takes_parts(self, device: torch.device) -> bool:
        """Return whether this is a GRU on a CPU: other devices have kernels for a whole recurrence."""
        return device.type == "cpu" and self.cell == "gru"

    # torch does not compile recurrent modules: break the graph here, once for each recurrence.
    @torch.compiler.disable
    def run_parts(
        self,
        cells: Sequence[TokenCell],
        inputs: Sequence[Sequence[torch.Tensor]],
        attention_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Run several GRUs at once; see `TokenCell.run_parts`."""
        return super().run_parts(cells, inputs, attention_mask)

    @torch.compiler.disable
    def forward(self, inputs: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Map `[B, T, F]` to `[B, T, 2 * hidden_size]`; see `TokenCell.forward`."""
        if self.takes_parts(inputs.device):
            return super().forward(inputs, attention_mask)
        return run_unpadded(self.rnn, inputs, attention_mask)

    def run(
        self,
        cells: Sequence[TokenCell],
        projected: Sequence[torch.Tensor],
        attention_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Run GRUs on their input gates; see `TokenCell.run`."""
        recurrent = [weight for cell in cells for weight in cell.weights("weight_hh")]  # type: ignore[operator]
        biases = [bias for cell in cells for bias in cell.weights("bias_hh")]  # type: ignore[operator]
        weight = torch.stack(recurrent).unflatten(0, (-1, 2))
        bias = torch.stack(biases).unflatten(0, (-1, 2))
        is_kept = torch.is_grad_enabled() and any(each.requires_grad for each in (*projected, weight, bias))
        real = None if attention_mask is None else attention_mask.bool()
        states: torch.Tensor = gru_steps(projected, weight, bias, real, is_kept)[0]
        return states

    def run_projected(self, projected: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Return the output of `forward` for the sum of the projections of all parts."""
        if self.takes_parts(projected.device):
            return super().run_projected(projected, attention_mask)
        # The same recurrence with the identity as input weights, so that each direction reads its own gates.
        weights = dict(self.rnn.named_parameters())
        recurrent = weights["weight_hh_l0"]
        own = torch.eye(projected.shape[-1], device=recurrent.device, dtype=recurrent.dtype).chunk(2)
        weights |= {
            f"weight_ih_l0{side}": nn.Parameter(weight, requires_grad=False)
            for side, weight in zip(SIDES, own, strict=True)
        }
        rnn = type(self.rnn)(
            projected.shape[-1], self.rnn.hidden_size, batch_first=True, bidirectional=True, device="meta"
        )
        for name, weight in weights.items():
            setattr(rnn, name, weight)
        return run_unpadded(rnn, projected.to(recurrent.dtype), attention_mask)


class GatedScan(nn.Module):
    """Recurrence without recurrent weights, h_t = (1 - z_t) ∘ h_{t-1} + z_t ∘ h̃_t, in both directions.

    It is a module so that an export can replace it.
    """

    is_gated_scan = True

    def forward(self, gates: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
        """Map gates `[R, T, 2, 2 * H]` to states `[R, T, 2 * H]`; see `recurrent_steps.gated_scan`."""
        return gated_scan(gates, real)


class MinGRU(TokenCell):
    """Bidirectional minGRU along the tokens (Feng et al. 2024, "Were RNNs All We Needed?", arXiv 2410.01201).

    Gates and candidates depend on the input alone: z_t = σ(W_z x_t + b_z), h̃_t = g(W_h x_t + b_h) and h_t = (1 - z_t) ∘
    h_{t-1} + z_t ∘ h̃_t, with h_0 = 0 (section 3.1, with the positive g of the log-space form in appendix B). So all
    tokens are computed by a parallel scan instead of one after the other.

    Args:
        input_size: Width F of the inputs.
        hidden_size: Units per direction; the output has twice as many.
    """

    num_gates = 2

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__()
        # Of each direction, the units of z (minLSTM: of the forget and of the input gate), then those of the candidate.
        self.gates = nn.Linear(input_size, 2 * self.num_gates * hidden_size)
        self.scan = GatedScan()

    def input_weights(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return weight and bias of the gates of both directions."""
        return self.gates.weight, self.gates.bias

    def run(
        self,
        cells: Sequence[TokenCell],
        projected: Sequence[torch.Tensor],
        attention_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Scan the gates; see `TokenCell.run`."""
        count = len(projected)
        gates = self.scan_gates(torch.cat(list(projected)).unflatten(-1, (2, -1)))
        real = None if attention_mask is None else attention_mask.bool().repeat(count, 1)
        states = self.scan(gates, real)
        return states if count == 1 else states.unflatten(0, (count, -1)).permute(1, 2, 0, 3).flatten(2)

    def scan_gates(self, gates: torch.Tensor) -> torch.Tensor:
        """Return the logits of z and the candidates before g, `[R, T, 2, 2 * H]`, from the gates of the cell."""
        return gates


class MinLSTM(MinGRU):
    """Bidirectional minLSTM along the tokens (Feng et al. 2024, section 3.2 and appendix B).

    Its forget and input gates are normalized: h_t = f'_t ∘ h_{t-1} + i'_t ∘ h̃_t with f' = f / (f + i) and i' = i / (f +
    i). That is a minGRU with z = i', whose logit is log i - log f.
    """

    num_gates = 3

    def scan_gates(self, gates: torch.Tensor) -> torch.Tensor:
        """Return the logits of i' and the candidates before g, `[R, T, 2, 2 * H]`."""
        forget, enter, candidate = gates.chunk(3, dim=-1)
        return torch.cat([F.logsigmoid(enter) - F.logsigmoid(forget), candidate], dim=-1)


TOKEN_CELLS: dict[str, Callable[[int, int], TokenCell]] = {
    "gru": partial(BidirectionalRNN, cell="gru"),
    "lstm": partial(BidirectionalRNN, cell="lstm"),
    "linear": TokenLinear,
    "mingru": MinGRU,
    "minlstm": MinLSTM,
}
"""Cells by name: functions from the width of the inputs and the units per direction to a cell."""


def project_parts(parts: Sequence[torch.Tensor], weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Return the projection `[B, T, P]` of the concatenation of `parts`, each `[B, T, F']`."""
    columns = weight.split([part.shape[-1] for part in parts], dim=1)
    projected = F.linear(parts[0], columns[0], bias)
    if len(parts) == 1:
        return projected
    rows = projected.flatten(0, 1)
    for part, each in zip(parts[1:], columns[1:], strict=True):
        # Sum and product at once.
        rows = torch.addmm(rows, part.flatten(0, 1), each.t())
    return rows.view_as(projected)


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
