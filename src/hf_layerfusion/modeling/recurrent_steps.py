"""Operators for recurrences along the tokens whose input gates have been computed for all tokens at once.

Each operator runs both directions of several cells, keeps little for its own backward pass, and never waits for the
device. A compiled graph holds it as one node, whatever the length of the texts.

Notation used for tensor shapes: R rows, the texts of the first cell, then those of the second, and so on; T tokens; H
units per direction. Index 0 of the dimension of size 2 is the onward direction, index 1 the backward one.
"""

import re

import torch

# One namespace per module, because the code that is saved with a checkpoint registers operators of its own.
OPERATORS = re.sub(r"\W", "_", __name__)
# Number of consecutive steps that a device with many cores scans one after the other, side by side with all others.
SCAN_CHUNK = 8
# Number of steps whose derivatives are computed at once.
STEPS_AT_ONCE = 16
# Number of gates that a CPU scans at once: rows do not depend on each other, and temporary tensors stay in its cache.
GATES_AT_ONCE = 2**18


def scan_(factors: torch.Tensor, states: torch.Tensor, backward: bool, chunk: int | None = None) -> None:
    """Compute the linear recurrence s_t ← s_t + f_t ∘ s_{t-1} in place.

    The steps of a chunk are scanned one after the other, all chunks side by side. Then the last states of the chunks
    are scanned, and each chunk receives the state before it. So about `chunk` · log T / log `chunk` of T steps depend
    on each other. Nothing is divided by products of factors, and no sums of their logarithms are subtracted: with
    factors between 0 and 1 the result is as accurate for thousands of steps as for one.

    Args:
        factors: `[R, T, …]`; overwritten.
        states: `[R, T, …]`.
        backward: Whether the recurrence runs from the last token to the first.
        chunk: Number of steps in a chunk, at least 2. By default `SCAN_CHUNK`, and all steps on a CPU.
    """
    length = states.shape[1]
    if chunk is None:
        chunk = max(length, 2) if states.device.type == "cpu" else SCAN_CHUNK
    if length <= chunk:
        _scan_steps(factors.unbind(1), states.unbind(1), backward)
        return
    # The steps that do not fill a chunk are the last ones.
    rest = length % chunk
    whole = slice(rest, None) if backward else slice(length - rest)
    left = slice(rest + 1) if backward else slice(length - rest - 1, None)
    shape = (length // chunk, chunk)
    in_chunks, states_in_chunks = factors[:, whole].unflatten(1, shape), states[:, whole].unflatten(1, shape)
    _scan_steps(in_chunks.unbind(2), states_in_chunks.unbind(2), backward)
    products = in_chunks.unbind(2)[:: -1 if backward else 1]
    for product, before in zip(products[1:], products, strict=False):
        product.mul_(before)
    # Of the chunks: those that pass a state on, those that receive one, and their steps but the last.
    passing, receiving, steps, last = (
        (slice(1, None), slice(-1), slice(1, None), 0)
        if backward
        else (slice(-1), slice(1, None), slice(-1), -1)
    )
    scan_(in_chunks[:, :, last], states_in_chunks[:, :, last], backward, chunk)
    received = in_chunks[:, receiving, steps] * states_in_chunks[:, passing, last].unsqueeze(2)
    states_in_chunks[:, receiving, steps] += received
    _scan_steps(factors[:, left].unbind(1), states[:, left].unbind(1), backward)


def _scan_steps(factors: tuple[torch.Tensor, ...], states: tuple[torch.Tensor, ...], backward: bool) -> None:
    if backward:
        factors, states = factors[::-1], states[::-1]
    for factor, state, before in zip(factors[1:], states[1:], states, strict=False):
        state.addcmul_(factor, before)


def _padding(real: torch.Tensor | None) -> torch.Tensor | None:
    """Return the mask of padding `[R, T, 1, 1]`, or `None` if there is none. Only a CPU is asked for values."""
    if real is None or (real.device.type == "cpu" and bool(real.all())):
        return None
    return ~real[:, :, None, None]


def _shifted(values: torch.Tensor, toward_start: bool) -> torch.Tensor:
    """Return the values `[R, T, 2, X]` of the neighbouring step, which are zero beyond the ends.

    Args:
        values: The values.
        toward_start: Whether step t receives those of the step after it in its direction, and not before it.
    """
    shifted = torch.zeros_like(values)
    first, second = (1, 0) if toward_start else (0, 1)
    shifted[:, 1:, first] = values[:, :-1, first]
    shifted[:, :-1, second] = values[:, 1:, second]
    return shifted


def _through_padding(states: torch.Tensor, padding: torch.Tensor | None) -> torch.Tensor:
    """Return states `[R, T, 2, H]` in which padding, at which they are zero, passes on the state before it."""
    if padding is None:
        return states
    states = states.clone()
    for direction in (0, 1):
        held = padding[:, :, 0].to(states.dtype, copy=True)
        scan_(held, states[:, :, direction], bool(direction))
    return states


def _compute_type(tensor: torch.Tensor) -> torch.dtype:
    """Return the type in which states are computed: float32 or better, because errors add up over the steps."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _gates_of_scan(
    gates: torch.Tensor, padding: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return 1 - z, the candidate h̃, and σ(min(v, 0)), each `[R, T, 2, H]`."""
    update, raw = gates.to(_compute_type(gates)).chunk(2, dim=-1)
    keep = torch.sigmoid(-update)
    squashed = raw.clamp(max=0).sigmoid_()
    candidate = raw.clamp(min=0).add_(squashed)
    if padding is not None:
        keep.masked_fill_(padding, 1.0)
        candidate.masked_fill_(padding, 0.0)
    return keep, candidate, squashed


def _blocks(gates: torch.Tensor) -> list[slice]:
    """Return the rows `[R, T, 2, 2 * H]` that are scanned at once."""
    rows = gates.shape[0]
    size = rows
    if gates.device.type == "cpu":
        size = max(1, GATES_AT_ONCE * rows // max(gates.numel(), 1))
    return [slice(start, start + size) for start in range(0, rows, max(size, 1))]


@torch.library.custom_op(f"{OPERATORS}::gated_scan", mutates_args=())
def gated_scan(gates: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
    """Return the states h_t = (1 - z_t) ∘ h_{t-1} + z_t ∘ h̃_t of a recurrence whose gates depend on the input alone.

    z = σ(k) and h̃ = g(v), with g(v) = v + 0.5 for v ≥ 0 and σ(v) otherwise (Feng et al. 2024, appendix B). The state
    before the first token is 0.

    Args:
        gates: k and v, `[R, T, 2, 2 * H]`.
        real: `[R, T]`, true for real tokens; `None` if all are. Padding leaves the state as it is.

    Returns:
        `[R, T, 2 * H]`, zero at padding.
    """
    padding = _padding(real)
    outputs = gates.new_empty([*gates.shape[:2], gates.shape[-1]])
    for rows in _blocks(gates):
        hidden = None if padding is None else padding[rows]
        keep, states, _ = _gates_of_scan(gates[rows], hidden)
        states.addcmul_(states, keep, value=-1)
        for direction in (0, 1):
            scan_(keep[:, :, direction], states[:, :, direction], bool(direction))
        if hidden is not None:
            states.masked_fill_(hidden, 0.0)
        outputs[rows] = states.flatten(2)
    return outputs


@torch.library.custom_op(f"{OPERATORS}::gated_scan_backward", mutates_args=())
def gated_scan_backward(
    gradient: torch.Tensor, gates: torch.Tensor, states: torch.Tensor, real: torch.Tensor | None
) -> torch.Tensor:
    """Return the gradient of the gates of `gated_scan` from that of its states."""
    padding = _padding(real)
    found = torch.empty_like(gates, memory_format=torch.contiguous_format)
    for rows in _blocks(gates):
        hidden = None if padding is None else padding[rows]
        keep, candidate, squashed = _gates_of_scan(gates[rows], hidden)
        total = gradient[rows].to(keep.dtype, copy=True).unflatten(-1, (2, -1))
        if hidden is not None:
            total.masked_fill_(hidden, 0.0)
        factors = _shifted(keep, toward_start=True)
        for direction in (0, 1):
            scan_(factors[:, :, direction], total[:, :, direction], not direction)
        # The derivative of g is that of σ below 0, and 1 above, where σ(min(v, 0)) is 0.5.
        slope = torch.where(squashed < 0.5, squashed.addcmul_(squashed, squashed, value=-1), 1.0)
        before = states[rows].to(keep.dtype).unflatten(-1, (2, -1))
        before = _shifted(_through_padding(before, hidden), toward_start=False)
        total.addcmul_(total, keep, value=-1)
        by_update = keep.mul_(total).mul_(candidate.sub_(before))
        by_gates = torch.cat([by_update, slope.mul_(total)], dim=-1)
        found[rows] = by_gates if hidden is None else by_gates.masked_fill_(hidden, 0.0)
    return found


@gated_scan.register_fake
def _gated_scan_shape(gates: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
    return gates.new_empty([*gates.shape[:2], gates.shape[-1]])


@gated_scan_backward.register_fake
def _gated_scan_backward_shape(
    gradient: torch.Tensor, gates: torch.Tensor, states: torch.Tensor, real: torch.Tensor | None
) -> torch.Tensor:
    return torch.empty_like(gates, memory_format=torch.contiguous_format)


def _keep_scan(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs, output)


def _scan_gradient(ctx, gradient):  # type: ignore[no-untyped-def]
    gates, real, states = ctx.saved_tensors
    return gated_scan_backward(gradient, gates, states, real), None


def _refuse_second_derivatives(ctx, *gradients):  # type: ignore[no-untyped-def]
    raise NotImplementedError(
        "a penalty on gradients must not go through a GRU on a CPU, a minGRU or a minLSTM, which have no second "
        "derivatives, found a backward pass through their gradient; use the cell 'lstm' or 'linear'."
    )


gated_scan.register_autograd(_scan_gradient, setup_context=_keep_scan)
gated_scan_backward.register_autograd(_refuse_second_derivatives)


@torch.library.custom_op(f"{OPERATORS}::gru_steps", mutates_args=())
def gru_steps(
    gates: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, real: torch.Tensor | None, keep: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the states of bidirectional GRUs, with torch's equations and order of gates (r, z, n).

    Args:
        gates: Contribution of the inputs to the gates, with its bias, `[R, T, 2, 3 * H]`.
        weight: Recurrent weights of K cells, `[K, 2, 3 * H, H]`; R is a multiple of K.
        bias: Their bias `[K, 2, 3 * H]`.
        real: `[R, T]`, true for real tokens; `None` if all are. Padding leaves the state as it is.
        keep: Whether the gates are returned too, for the backward pass.

    Returns:
        The states `[R, T, 2 * H]`, zero at padding, and the gates r, z and n, `[R, T, 2, 3 * H]`.
    """
    cells, _, _, size = weight.shape
    padding = _padding(real)
    with torch.autocast(gates.device.type, enabled=False):
        dtype = _compute_type(gates)
        by_cell = gates.unflatten(0, (cells, -1)).to(dtype)
        outputs = by_cell.new_empty([*by_cell.shape[:-1], size])
        kept = torch.empty_like(by_cell) if keep else by_cell.new_empty(0)
        hidden = None if padding is None else padding.unflatten(0, (cells, -1))
        for direction in (0, 1):
            matrices = weight[:, direction].to(dtype).transpose(1, 2)
            of_gates, of_new = matrices[..., : 2 * size], matrices[..., 2 * size :]
            shift, offset = bias[:, direction].to(dtype).unsqueeze(1).split([2 * size, size], dim=-1)
            state = torch.zeros_like(outputs[:, :, 0, 0])
            computed = state.new_empty([*state.shape[:2], 3 * size])
            length = gates.shape[1]
            for t in reversed(range(length)) if direction else range(length):
                entering = by_cell[:, :, t, direction]
                if keep:
                    computed = kept[:, :, t, direction]
                both, new = computed[..., : 2 * size], computed[..., 2 * size :]
                torch.add(entering[..., : 2 * size], shift, out=both)
                reset, update = both.baddbmm_(state, of_gates).sigmoid_().chunk(2, dim=-1)
                new.copy_(offset.expand_as(new)).baddbmm_(state, of_new)
                torch.addcmul(entering[..., 2 * size :], reset, new, out=new).tanh_()
                before, state = state, outputs[:, :, t, direction]
                torch.lerp(new, before, update, out=state)
                if hidden is not None:
                    torch.where(hidden[:, :, t, 0], before, state, out=state)
        if hidden is not None:
            outputs.masked_fill_(hidden, 0.0)
            if keep:
                kept.masked_fill_(hidden, 0.0)
                kept[..., size : 2 * size].masked_fill_(hidden, 1.0)
        states = outputs.flatten(0, 1).flatten(2).to(gates.dtype)
        return states, kept.flatten(0, 1) if keep else kept


@torch.library.custom_op(f"{OPERATORS}::gru_steps_backward", mutates_args=())
def gru_steps_backward(
    gradient: torch.Tensor,
    kept: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    states: torch.Tensor,
    real: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of the gates, the weights and the bias of `gru_steps` from that of its states."""
    cells, _, _, size = weight.shape
    padding = _padding(real)
    with torch.autocast(gradient.device.type, enabled=False):
        dtype = kept.dtype
        gradient, states = (each.unflatten(-1, (2, -1)) for each in (gradient, states))
        if padding is not None:
            gradient = gradient.masked_fill(padding, 0.0)
        gradient, states, gates = (
            each.unflatten(0, (cells, -1))
            for each in (gradient.to(dtype), _through_padding(states, padding).to(dtype), kept)
        )
        found = torch.empty_like(gates)
        weight_found, bias_found = torch.zeros_like(weight, dtype=dtype), torch.zeros_like(bias, dtype=dtype)
        length = states.shape[2]
        for direction in (0, 1):
            matrices = weight[:, direction].to(dtype)
            of_gates, of_new = matrices[:, : 2 * size], matrices[:, 2 * size :]
            offset = bias[:, direction, None, 2 * size :].to(dtype)
            total = torch.zeros_like(gradient[:, :, 0, 0])
            starts = range(0, length, STEPS_AT_ONCE)
            for start in starts if direction else reversed(starts):
                stop = min(start + STEPS_AT_ONCE, length)
                reset, update, new = gates[:, :, start:stop, direction].chunk(3, dim=-1)
                slopes = found[:, :, start:stop, direction]
                by_reset, by_update, by_new = slopes.chunk(3, dim=-1)
                before = torch.zeros_like(states[:, :, start:stop, direction])
                if direction:
                    inner = states[:, :, start + 1 : stop + 1, 1]
                    before[:, :, : inner.shape[2]] = inner
                else:
                    inner = states[:, :, max(start - 1, 0) : stop - 1, 0]
                    before[:, :, stop - start - inner.shape[2] :] = inner
                rows = before.flatten(1, 2)
                product = torch.baddbmm(offset, rows, of_new.transpose(1, 2)).view_as(before)
                # Derivatives of the state by each gate before its nonlinearity, and by the product W h + b in n.
                rest = 1 - update
                torch.addcmul(rest, rest * new, new, value=-1, out=by_new)
                torch.sub(before, new, out=by_update).mul_(update).mul_(rest)
                by_product = by_new * reset
                torch.mul(by_product, product, out=by_reset)
                by_reset.addcmul_(by_reset, reset, value=-1)
                for t in range(stop - start) if direction else reversed(range(stop - start)):
                    total.add_(gradient[:, :, start + t, direction])
                    slope = slopes[:, :, t].unflatten(-1, (3, size)).mul_(total.unsqueeze(-2)).flatten(2)
                    slope_of_product = by_product[:, :, t].mul_(total)
                    total.mul_(update[:, :, t]).baddbmm_(slope[..., : 2 * size], of_gates)
                    total.baddbmm_(slope_of_product, of_new)
                through_state = torch.cat([slopes[..., : 2 * size], by_product], dim=-1).flatten(1, 2)
                weight_found[:, direction] += through_state.transpose(1, 2) @ rows
                bias_found[:, direction] += through_state.sum(dim=1)
        return (
            found.flatten(0, 1).to(states.dtype),
            weight_found.to(weight.dtype),
            bias_found.to(bias.dtype),
        )


@gru_steps.register_fake
def _gru_steps_shape(
    gates: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, real: torch.Tensor | None, keep: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    states = gates.new_empty([*gates.shape[:2], 2 * weight.shape[-1]])
    return states, gates.new_empty(gates.shape if keep else [0], dtype=_compute_type(gates))


@gru_steps_backward.register_fake
def _gru_steps_backward_shape(
    gradient: torch.Tensor,
    kept: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    states: torch.Tensor,
    real: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    gates = torch.empty_like(kept, dtype=states.dtype)
    return gates, torch.empty_like(weight), torch.empty_like(bias)


def _keep_steps(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    _, weight, bias, real, _ = inputs
    states, kept = output
    ctx.save_for_backward(kept, weight, bias, states, real)
    ctx.set_materialize_grads(False)


def _steps_gradient(ctx, gradient, _):  # type: ignore[no-untyped-def]
    if gradient is None:
        return (None,) * 5
    return (*gru_steps_backward(gradient, *ctx.saved_tensors), None, None)


gru_steps.register_autograd(_steps_gradient, setup_context=_keep_steps)
gru_steps_backward.register_autograd(_refuse_second_derivatives)
