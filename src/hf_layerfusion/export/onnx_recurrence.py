"""ONNX recurrences that replace torch's, which are exported with a fixed length, or not at all if they are packed.

No node uses `sequence_lens`, which runtimes other than onnxruntime interpret wrongly: OpenVINO 2026 ignores it in the
backward direction. Both directions are forward recurrences instead, the second one over each text's real tokens in
reverse order. Padding comes last in both, where it affects no real token.
"""

from typing import Any

import torch
from torch import nn
from torch._higher_order_ops.scan import scan

# Indices of torch's gates in the order of ONNX. torch orders those of a GRU as r, z, n and of an LSTM as i, f, g, o;
# ONNX as z, r, h and i, o, f, c.
GATES = {nn.GRU: (1, 0, 2), nn.LSTM: (0, 3, 1, 2)}


class OnnxRNN(nn.Module):
    """Single-layer, batch-first `nn.GRU` or `nn.LSTM` as one ONNX node. It can be exported but not run.

    Args:
        rnn: The recurrence; its weights are copied.
        sides: Directions to use: `""` for the forward one, `"_reverse"` for the backward one, which by itself is run
            forward. None uses all of the recurrence's directions.
    """

    def __init__(self, rnn: nn.GRU | nn.LSTM, sides: tuple[str, ...] | None = None):
        super().__init__()
        self.kind = "GRU" if isinstance(rnn, nn.GRU) else "LSTM"
        self.hidden_size = rnn.hidden_size
        taken = sides or (("", "_reverse") if rnn.bidirectional else ("",))
        order = GATES[type(rnn)]

        def stacked(*names: str) -> nn.Buffer:
            weights = [[getattr(rnn, f"{name}_l0{side}").detach() for name in names] for side in taken]
            reordered = [[torch.cat([w.chunk(len(order))[i] for i in order]) for w in row] for row in weights]
            return nn.Buffer(torch.stack([torch.cat(row) for row in reordered]))

        self.input_weights = stacked("weight_ih")
        self.recurrent_weights = stacked("weight_hh")
        self.biases = stacked("bias_ih", "bias_hh")

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | tuple[torch.Tensor, ...]]:
        """Map `[B, T, F]` like torch's recurrence."""
        directions = len(self.input_weights)
        attributes: dict[str, Any] = {
            "hidden_size": self.hidden_size,
            "direction": "bidirectional" if directions == 2 else "forward",
        }
        if self.kind == "GRU":
            attributes["linear_before_reset"] = 1
        batch, steps = inputs.shape[:2]
        last = (directions, batch, self.hidden_size)
        shapes = ((steps, *last), last) + ((last,) if self.kind == "LSTM" else ())
        outputs, *states = torch.onnx.ops.symbolic_multi_out(
            self.kind,
            (inputs.transpose(0, 1), self.input_weights, self.recurrent_weights, self.biases),
            attributes,
            dtypes=(inputs.dtype,) * len(shapes),
            shapes=shapes,
        )
        # ONNX returns [T, directions, B, H].
        return outputs.permute(2, 0, 1, 3).flatten(2), states[0] if self.kind == "GRU" else tuple(states)


class OnnxBidirectionalRNN(nn.Module):
    """The package's recurrence over tokens, with padding on either side.

    Args:
        rnn: Its `nn.GRU` or `nn.LSTM`.
    """

    def __init__(self, rnn: nn.GRU | nn.LSTM):
        super().__init__()
        self.takes_parts = lambda device: False
        self.onward, self.backward = OnnxRNN(rnn, ("",)), OnnxRNN(rnn, ("_reverse",))

    def forward(self, inputs: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Map `[B, T, F]` to `[B, T, 2 * hidden_size]`, zero at padding."""
        if attention_mask is None:
            return torch.cat([self.onward(inputs)[0], self.backward(inputs.flip(1))[0].flip(1)], dim=-1)
        real = attention_mask.bool()
        padding = (~real).long()
        batch, length = real.shape
        lengths = real.sum(dim=1, keepdim=True)
        # Position of each token if the real ones come first, in their order or reversed.
        behind = lengths + padding.cumsum(1) - 1
        rank = real.long().cumsum(1)
        rows = torch.arange(batch)[:, None]
        outputs = []
        for rnn, among_real in ((self.onward, rank - 1), (self.backward, lengths - rank)):
            place = torch.where(real, among_real, behind)
            origin = torch.zeros_like(place).scatter(1, place, torch.arange(length).expand_as(place))
            outputs.append(rnn(inputs[rows, origin])[0][rows, place])
        return torch.cat(outputs, dim=-1).masked_fill(~real.unsqueeze(-1), 0.0)


class OnnxGatedScan(nn.Module):
    """Scan of a minGRU or minLSTM as ONNX loops with two operations per step, one for each direction."""

    def forward(self, gates: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
        """Map gates `[R, T, 2, 2 * H]` to states `[R, T, 2 * H]`, zero at padding."""
        update, raw = gates.chunk(2, dim=-1)
        keep = torch.sigmoid(-update)
        states = (1 - keep) * (raw.clamp(min=0) + raw.clamp(max=0).sigmoid())
        if real is None:
            return torch.cat([scanned(keep[:, :, d], states[:, :, d], bool(d)) for d in (0, 1)], dim=-1)
        mask = real[:, :, None]
        found = [
            scanned(keep[:, :, d].masked_fill(~mask, 1.0), states[:, :, d].masked_fill(~mask, 0.0), bool(d))
            for d in (0, 1)
        ]
        return torch.cat(found, dim=-1).masked_fill(~mask, 0.0)


def scanned(factors: torch.Tensor, states: torch.Tensor, backward: bool) -> torch.Tensor:
    """Return s_t + f_t ∘ s_{t-1}, `[R, T, H]`, for all steps, as the `Scan` node of a graph."""

    def step(
        state: torch.Tensor, inputs: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        factor, added = inputs
        state = factor * state + added
        return state, state.clone()

    steps = (factors.transpose(0, 1), states.transpose(0, 1))
    _, found = scan(step, torch.zeros_like(states[:, 0]), steps, dim=0, reverse=backward)
    return found.transpose(0, 1)


def replace_recurrences(module: nn.Module) -> None:
    """Replace all recurrences in `module` by ONNX recurrences."""
    for name, child in module.named_children():
        # Recognized by its attribute instead of its class, because code saved with a checkpoint has its own classes.
        inner = getattr(child, "rnn", None)
        if isinstance(child, nn.GRU | nn.LSTM):
            setattr(module, name, OnnxRNN(child))
        elif isinstance(inner, nn.GRU | nn.LSTM):
            setattr(module, name, OnnxBidirectionalRNN(inner))
        elif getattr(child, "is_gated_scan", False):
            setattr(module, name, OnnxGatedScan())
        else:
            replace_recurrences(child)
