"""Joining of the batches of several tasks into one batch of sequences."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from .layer_routing import ALL_ROWS, Route

# Inputs with one number per token; all others have a vector per token, or one per layer and token.
_FLAT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# Forms of a text, of which a batch has one.
_TEXTS = ("input_ids", "inputs_embeds", "encoder_states")
MODEL_INPUTS = (*_FLAT_INPUTS, *_TEXTS[1:])


def flatten_pairs(
    inputs: Mapping[str, torch.Tensor | None], task: str, is_siamese: bool
) -> dict[str, torch.Tensor]:
    """Return the inputs of a task as sequences `[B, T]`; the two texts of each siamese pair become consecutive rows of
    `[2B, T]`.

    Raises:
        ValueError: Unless there is one of `input_ids`, `inputs_embeds` and `encoder_states`, and every input has its
            shape.
    """
    given = {name: value for name, value in inputs.items() if value is not None}
    if sum(name in given for name in _TEXTS) != 1:
        raise ValueError(
            f"task '{task}' must be given one of `input_ids`, `inputs_embeds` and `encoder_states`, found "
            f"{sorted(given)}."
        )
    for name, value in given.items():
        dims = value.dim() - (name not in _FLAT_INPUTS) - (name == "encoder_states")
        if is_siamese and (dims != 3 or value.shape[1] != 2):
            raise ValueError(
                f"`{name}` of task '{task}' must be [B, 2, T], as its pairs are encoded each text by itself, found "
                f"{list(value.shape)}; MultitaskPipeline of hf_layerfusion prepares texts for it, a "
                "text-classification pipeline cannot."
            )
        if not is_siamese and dims != 2:
            raise ValueError(f"`{name}` of task '{task}' must be [B, T], found {list(value.shape)}.")
    return {name: value.flatten(0, 1) for name, value in given.items()} if is_siamese else given


def join_batches(
    batches: Mapping[str, Mapping[str, torch.Tensor]], siamese: Collection[str], pad_token_id: int
) -> tuple[dict[str, torch.Tensor], list[Route]]:
    """Stack the batches of several tasks, padded on the right to a common length.

    Tasks that are given the same tensors (the same objects) share their rows.

    Args:
        batches: Batch of each task: tensors by the names in `MODEL_INPUTS` and the encoder's `extra_inputs`, `[B, T]`,
            or `[B, 2, T]` for siamese pairs; embeddings and extra inputs have one more dimension.
        siamese: Names of the tasks with siamese pairs.
        pad_token_id: Padding value of `input_ids`.

    Returns:
        The joined batch of sequences, and the rows of each task in it.

    Raises:
        ValueError: If there is no task, a batch has the wrong shape, or some batches hold ids and others embeddings.
    """
    known: dict[tuple[tuple[str, int], ...], slice] = {}
    different = []
    routes = []
    end = 0
    for task, batch in batches.items():
        flat = flatten_pairs(batch, task, task in siamese)
        size = len(next(iter(flat.values())))
        key = tuple(sorted((name, id(value)) for name, value in batch.items()))
        if key not in known:
            known[key] = slice(end, end + size)
            end += size
            different.append(flat)
        routes.append(Route(task, known[key], size))
    if len({"inputs_embeds" in flat for flat in different}) != 1:
        raise ValueError(
            f"`tasks` must hold batches, all of `input_ids` or all of `inputs_embeds`, found those of {list(batches)}; "
            "give the model one kind at a time."
        )
    if len(different) == 1:
        return different[0], [route._replace(rows=ALL_ROWS) for route in routes]
    return pad_and_stack(different, pad_token_id), routes


def pad_and_stack(
    batches: Sequence[Mapping[str, torch.Tensor]], pad_token_id: int
) -> dict[str, torch.Tensor]:
    """Stack batches of sequences, padded on the right to the longest.

    A missing attention mask is filled with ones, missing token types with zeros.
    """
    complete: list[dict[str, Any]] = []
    typed = any("token_type_ids" in batch for batch in batches)
    for batch in batches:
        first = next(iter(batch.values()))
        ones = torch.ones(first.shape[:2], dtype=torch.long, device=first.device)
        defaults = {"attention_mask": ones} | ({"token_type_ids": torch.zeros_like(ones)} if typed else {})
        complete.append(defaults | dict(batch))
    length = max(batch["attention_mask"].shape[1] for batch in complete)
    joined = {}
    for name in complete[0]:
        parts = []
        width = 0 if name in _FLAT_INPUTS else max(batch[name].shape[2] for batch in complete)
        for batch in complete:
            missing = length - batch[name].shape[1]
            ends: tuple[int, ...] = (0, missing)
            if name not in _FLAT_INPUTS:
                ends = (0, width - batch[name].shape[2], *ends)
            parts.append(F.pad(batch[name], ends, value=pad_token_id if name == "input_ids" else 0))
        joined[name] = torch.cat(parts)
    return joined
