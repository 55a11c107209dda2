"""Operators for recurrences along the tokens whose input gates have been computed for all tokens at once.

Each operator runs both directions of several cells, keeps little for its own backward pass, and never waits for the
device. A compiled graph holds it as one node, whatever the length of the texts.

Notation used for tensor shapes: R rows, the texts of the first cell, then those of the second, and so on; T tokens; H
units per direction. Index 0 of the dimension of size 2 is the onward direction, index 1 the backward one.
"""

import re
from collections.abc import Sequence

import torch

# One namespace per module, because the code that is saved with a checkpoint registers operators of its own.
OPERATORS = re.sub(r"\W", "_", __name__)
# Number of consecutive steps that a device with many cores scans one after the other, side by side with all others.
SCAN_CHUNK = 8
# Number of rows, of both directions of all cells, whose derivatives are computed at once: few, to save memory.
ROWS_AT_ONCE = 512
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
    """Return states `[R, T, 2, …]` in which padding, at which they are zero, passes on the state before it."""
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


def _in_order_of_steps(values: torch.Tensor, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return steps `start` to `stop - 1` of each direction of values `[B, T, 2, …]`, each `[steps, B, …]`."""
    onward, backward = values.transpose(0, 1).unbind(2)
    length = values.shape[1]
    return onward[start:stop], backward[length - stop : length - start].flip(0)


@torch.library.custom_op(f"{OPERATORS}::gru_steps", mutates_args=())
def gru_steps(
    gates: Sequence[torch.Tensor],
    weight: torch.Tensor,
    bias: torch.Tensor,
    real: torch.Tensor | None,
    keep: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the states of bidirectional GRUs, with torch's equations and order of gates (r, z, n).

    Both directions of all GRUs take a step at once, with one product of matrices: the first step is that of the first
    token and, for the backward direction, of the last one.

    Args:
        gates: Contributions of the inputs of C GRUs to their gates, with the bias, each `[B, T, 2 * 3 * H]`.
        weight: Recurrent weights `[K, 2, 3 * H, H]`, where K is C, or 1 if all GRUs share them.
        bias: Their bias `[K, 2, 3 * H]`.
        real: `[B, T]`, true for real tokens; `None` if all are. Padding leaves the state as it is.
        keep: Whether the gates are returned too, for the backward pass.

    Returns:
        The states side by side, `[B, T, C * 2 * H]`, zero at padding, and the gates r, z and n in the order of the
        steps, `[K, 2, T, C / K, B, 3 * H]`.
    """
    cells, _, _, size = weight.shape
    rows, length, _ = gates[0].shape
    shared = len(gates) // cells
    padding = _padding(real)
    with torch.autocast(weight.device.type, enabled=False):
        dtype = _compute_type(gates[0])
        kept = weight.new_empty([cells, 2, length, shared, rows, 3 * size], dtype=dtype)
        for index, each in enumerate(gates):
            cell, place = divmod(index, shared)
            for side, values in enumerate(_in_order_of_steps(each.unflatten(-1, (2, -1)), 0, length)):
                kept[cell, side, :, place] = values
        if padding is not None:
            hidden = torch.stack(_in_order_of_steps(padding[:, :, 0].expand(-1, -1, 2), 0, length))
            # z is exactly 1 at padding, so that the state before it stays.
            stays = kept.new_tensor([0.0, torch.inf, 0.0]).repeat_interleave(size)
            kept.permute(1, 2, 4, 0, 3, 5)[hidden] = stays
        states = kept.new_empty([*kept.shape[:-1], size])
        matrices = weight.to(dtype).flatten(0, 1).transpose(1, 2)
        offset = bias.to(dtype).flatten(0, 1).unsqueeze(1)
        # [2 * K, T, C / K * B, …]: the rows of a step that share weights are a matrix.
        all_gates, all_states = (each.flatten(3, 4).flatten(0, 1) for each in (kept, states))
        product = torch.empty_like(all_gates[:, 0])
        of_both, of_new = product.split([2 * size, size], dim=-1)
        both = all_gates[..., : 2 * size].unbind(1)
        resets, updates, news = (each.unbind(1) for each in all_gates.chunk(3, dim=-1))
        before = torch.zeros_like(all_states[:, 0])
        for step, state in enumerate(all_states.unbind(1)):
            torch.baddbmm(offset, before, matrices, out=product)
            both[step].add_(of_both).sigmoid_()
            new = news[step].addcmul_(resets[step], of_new).tanh_()
            before = torch.lerp(new, before, updates[step], out=state)
        if padding is not None:
            states.permute(1, 2, 4, 0, 3, 5)[hidden] = 0.0
        found = gates[0].new_empty([rows, length, cells, shared, 2, size])
        by_cell = found.permute(2, 4, 1, 3, 0, 5)
        by_cell[:, 0] = states[:, 0]
        by_cell[:, 1] = states[:, 1].flip(1)
        return found.flatten(2), kept if keep else kept.new_empty(0)


@torch.library.custom_op(f"{OPERATORS}::gru_steps_backward", mutates_args=())
def gru_steps_backward(
    gradient: torch.Tensor,
    kept: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    states: torch.Tensor,
    real: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of all gates `[C, B, T, 2 * 3 * H]`, of the weights and of the bias of `gru_steps`."""
    cells, _, length, shared, rows, _ = kept.shape
    size = weight.shape[-1]
    padding = _padding(real)
    with torch.autocast(weight.device.type, enabled=False):
        dtype = kept.dtype
        # [B, T, 2, K, C / K, H]
        gradient, states = (
            each.unflatten(-1, (cells, shared, 2, size)).movedim(4, 2) for each in (gradient, states)
        )
        found = gradient.new_empty([cells, shared, rows, length, 2, 3, size])
        if padding is not None:
            padding = padding[..., None, None]
            gradient = gradient.masked_fill(padding, 0.0)
            states = _through_padding(states, padding)
        matrices = weight.to(dtype).flatten(0, 1)
        of_new = matrices[:, 2 * size :].transpose(1, 2)
        offset = bias.to(dtype).flatten(0, 1)[:, None, 2 * size :]
        weight_found, bias_found = (
            torch.zeros_like(each, dtype=dtype) for each in (matrices, bias.flatten(0, 1))
        )
        all_gates = kept.flatten(3, 4).flatten(0, 1)
        total = torch.zeros_like(all_gates[:, 0, :, :size])
        steps_at_once = max(1, ROWS_AT_ONCE // max(2 * cells * shared * rows, 1))
        for start in reversed(range(0, length, steps_at_once)):
            stop = min(start + steps_at_once, length)
            shape = [cells, 2, stop - start, shared, rows, size]
            entering, before = all_gates.new_empty(shape), all_gates.new_zeros(shape)
            first = max(start, 1)
            for side, values in enumerate(_in_order_of_steps(gradient, start, stop)):
                entering[:, side] = values.permute(2, 0, 3, 1, 4)
            for side, values in enumerate(_in_order_of_steps(states, first - 1, stop - 1)):
                before[:, side, first - start :] = values.permute(2, 0, 3, 1, 4)
            entering, before = (each.flatten(3, 4).flatten(0, 1) for each in (entering, before))
            reset, update, new = all_gates[:, start:stop].chunk(3, dim=-1)
            inputs = before.flatten(1, 2)
            product = torch.baddbmm(offset, inputs, of_new).view_as(before)
            # Derivatives of the state by r and z before their sigmoid, by the product W h + b in n, and by n before its
            # tanh.
            slopes = all_gates.new_empty([*before.shape[:3], 4, size])
            by_reset, by_update, by_product, by_new = slopes.unbind(-2)
            rest = 1 - update
            torch.addcmul(rest, rest * new, new, value=-1, out=by_new)
            torch.sub(before, new, out=by_update).mul_(update).mul_(rest)
            torch.mul(by_new, reset, out=by_product)
            torch.mul(by_product, product, out=by_reset).addcmul_(by_reset, reset, value=-1)
            through_state = slopes[..., :3, :].flatten(-2)
            steps = zip(*(each.unbind(1) for each in (entering, slopes, through_state, update)), strict=True)
            for from_output, slope, through, keeping in reversed(list(steps)):
                slope.mul_(total.add_(from_output).unsqueeze(-2))
                total.mul_(keeping).baddbmm_(through, matrices)
            columns = through_state.flatten(1, 2)
            weight_found.baddbmm_(columns.transpose(1, 2), inputs)
            bias_found += columns.sum(dim=1)
            by_cell = slopes.unflatten(2, (shared, rows)).unflatten(0, (cells, 2))
            for side, values in enumerate((by_cell[:, 0], by_cell[:, 1].flip(1))):
                tokens = slice(length - stop, length - start) if side else slice(start, stop)
                into = found[:, :, :, tokens, side].permute(0, 3, 1, 2, 4, 5)
                into[..., :2, :] = values[..., :2, :]
                into[..., 2, :] = values[..., 3, :]
        return (
            found.flatten(4).flatten(0, 1),
            weight_found.view_as(weight).to(weight.dtype),
            bias_found.view_as(bias).to(bias.dtype),
        )


@gru_steps.register_fake
def _gru_steps_shape(
    gates: Sequence[torch.Tensor],
    weight: torch.Tensor,
    bias: torch.Tensor,
    real: torch.Tensor | None,
    keep: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    first, (cells, _, _, size) = gates[0], weight.shape
    rows, length, width = first.shape
    states = first.new_empty([rows, length, len(gates) * 2 * size])
    shape = [cells, 2, length, len(gates) // cells, rows, width // 2] if keep else [0]
    return states, first.new_empty(shape, dtype=_compute_type(first))


@gru_steps_backward.register_fake
def _gru_steps_backward_shape(
    gradient: torch.Tensor,
    kept: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    states: torch.Tensor,
    real: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    cells, _, length, shared, rows, width = kept.shape
    gates = states.new_empty([cells * shared, rows, length, 2 * width])
    return gates, torch.empty_like(weight), torch.empty_like(bias)


def _keep_steps(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    gates, weight, bias, real, _ = inputs
    states, kept = output
    ctx.count = len(gates)
    ctx.save_for_backward(kept, weight, bias, states, real)
    ctx.set_materialize_grads(False)


def _steps_gradient(ctx, gradient, _):  # type: ignore[no-untyped-def]
    if gradient is None:
        return ([None] * ctx.count, *[None] * 4)
    gates, weight, bias = gru_steps_backward(gradient, *ctx.saved_tensors)
    return (list(gates.unbind(0)), weight, bias, None, None)


gru_steps.register_autograd(_steps_gradient, setup_context=_keep_steps)
gru_steps_backward.register_autograd(_refuse_second_derivatives)
