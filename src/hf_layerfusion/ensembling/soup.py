"""Model soup: one model whose weights are the average of several models' weights (Wortsman et al. 2022)."""

import json
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import AutoTokenizer
from transformers.utils import SAFE_WEIGHTS_NAME

from hf_layerfusion.ensembling.trained_texts import PARTS, read_trained_texts, write_trained_texts
from hf_layerfusion.errors import UserError, one_line
from hf_layerfusion.hub.manifest import model_files, write_model_manifest
from hf_layerfusion.storage import check_new, new_folder

# Fields of a configuration that do not affect the computation.
_IRRELEVANT = {"_name_or_path", "transformers_version"}


def make_soup(
    folders: Sequence[str | Path], output: str | Path, weights: Sequence[float] | None = None
) -> None:
    """Average the weights of models of one architecture into a new model folder, with the first model's tokenizer.

    Only models fine-tuned from the same weights make a useful soup; averaging heads that were initialized with
    different seeds yields nothing.

    Args:
        folders: the members' folders, with safetensors weights.
        output: the soup's folder; must be new or empty.
        weights: one non-negative weight for each member; only their ratios matter. None weights all the same.

    Raises:
        UserError: There are fewer than two members; configurations, tokenizers, tensors or shapes differ; the weights
            are invalid; or the folder is not empty.
    """
    members, output = [Path(folder) for folder in folders], Path(output)
    if len(members) < 2:
        raise UserError(f"a soup needs two members or more, found {len(members)}; name more.")
    given = [1.0] * len(members) if weights is None else list(weights)
    if len(given) != len(members) or min(given) < 0 or sum(given) <= 0:
        raise UserError(
            f"weights must have one non-negative value for each of {len(members)} members, found {given}."
        )
    check_new(output)
    check_soup(members)
    tensors = _average(members, [weight / sum(given) for weight in given])
    with new_folder(output) as partial:
        for path in model_files(members[0]):
            if not path.name.endswith((".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json")):
                shutil.copyfile(path, partial / path.name)
        seen = [texts for texts in map(read_trained_texts, members) if texts is not None]
        if len(seen) == len(members):
            write_trained_texts(partial, *(np.concatenate([texts[part] for texts in seen]) for part in PARTS))
        try:
            save_file(tensors, partial / SAFE_WEIGHTS_NAME, metadata={"format": "pt"})
        except SafetensorError as error:  # raised for a full disk
            raise UserError(
                f"{output}: the weights cannot be written: {one_line(error)}; free some space and run again."
            ) from error
        write_model_manifest(partial)


def check_soup(members: Sequence[Path]) -> None:
    """Check that the configurations and vocabularies of the members agree.

    Raises:
        UserError: Names the first member that differs from the first.
    """
    config, vocabulary = _config(members[0]), _vocabulary(members[0])
    for member in members[1:]:
        theirs = _config(member)
        differing = [name for name in {*config, *theirs} if config.get(name) != theirs.get(name)]
        if differing:
            # Models of different types differ in most fields; the type explains why.
            name = min(differing, key=lambda name: (name != "model_type", name))
            raise UserError(
                f"member {member.name}: a soup's members must have one configuration, found another {name} "
                f"({theirs.get(name)} for {config.get(name)}); leave it out."
            )
        if _vocabulary(member) != vocabulary:
            raise UserError(f"member {member.name}: a soup's members must share a vocabulary; leave it out.")


def _config(folder: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"member {folder}: must be a model's folder, found no config.json; check the path."
        ) from error
    return {name: value for name, value in content.items() if name not in _IRRELEVANT}


def _vocabulary(folder: Path) -> dict[str, int]:
    try:
        vocabulary: dict[str, int] = AutoTokenizer.from_pretrained(folder).get_vocab()
    except (OSError, ValueError) as error:
        raise UserError(
            f"member {folder.name}: must have its tokenizer beside it, found none; save it."
        ) from error
    return vocabulary


def _average(members: Sequence[Path], shares: Sequence[float]) -> dict[str, torch.Tensor]:
    """Return the weighted mean of the tensors, computed in float64 one tensor at a time; integer tensors must be
    equal."""
    with ExitStack() as stack:
        opened = []
        for member in members:
            files = sorted(member.glob("*.safetensors"))
            try:
                handles = [stack.enter_context(safe_open(path, "pt")) for path in files]
            except (OSError, SafetensorError) as error:
                raise UserError(f"member {member.name}: its safetensors cannot be read ({error}).") from error
            opened.append({name: handle for handle in handles for name in handle.keys()})  # noqa: SIM118
            if opened[-1].keys() != opened[0].keys() or not opened[-1]:
                odd = sorted(opened[-1].keys() ^ opened[0].keys()) or ["no tensors"]
                raise UserError(
                    f"member {member.name}: a soup's members must have the same tensors in safetensors, found a "
                    f"difference in {odd[0]}; leave it out."
                )
        averaged = {}
        for name in opened[0]:
            tensors = [tensors_of[name].get_tensor(name) for tensors_of in opened]
            for member, tensor in zip(members, tensors, strict=True):
                if tensor.shape != tensors[0].shape or tensor.dtype != tensors[0].dtype:
                    raise UserError(
                        f"member {member.name}: a soup's members must have tensors of one shape and type, found "
                        f"{tuple(tensor.shape)} {tensor.dtype} of {name}; leave it out."
                    )
                if not tensor.is_floating_point() and not torch.equal(tensor, tensors[0]):
                    raise UserError(
                        f"member {member.name}: integer tensors of a soup must be equal, found a difference in {name}."
                    )
            if tensors[0].is_floating_point():
                mean = sum(share * tensor.double() for share, tensor in zip(shares, tensors, strict=True))
                averaged[name] = torch.as_tensor(mean).to(tensors[0].dtype)
            else:
                averaged[name] = tensors[0]
    return averaged
