"""Flair's published language models (`.pt`), read without flair and without running what a pickle asks for."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch._utils import _rebuild_parameter, _rebuild_tensor_v2

from hf_layerfusion.embeddings.word_vectors import ReadOptions
from hf_layerfusion.errors import UserError, one_line
from hf_layerfusion.modeling.configuration_flair import FlairConfig
from hf_layerfusion.modeling.modeling_flair import FlairModel


def read_flair(forward_path: Path, backward_path: Path, options: ReadOptions) -> FlairModel:
    """Read the two language models of one of Flair's embeddings.

    Args:
        forward_path: the forward model.
        backward_path: the backward model.
        options: not used, as there is no vocabulary of words.

    Raises:
        UserError: files that are none, that hold more than tensors and a dictionary, that are swapped, or that do not
            belong together.
    """
    paths = (forward_path, backward_path)
    files = [_read(path) for path in paths]
    for path, file, direction in zip(paths, files, ("forward", "backward"), strict=True):
        if file["is_forward_lm"] != (direction == "forward"):
            other = "backward" if direction == "forward" else "forward"
            raise UserError(
                f"{path}: must be the {direction} model, found a {other} one; write --flair FORWARD BACKWARD."
            )
    items = [_items(path, file) for path, file in zip(paths, files, strict=True)]
    for number, (first, second) in enumerate(zip_longest(*items)):
        if first != second:
            raise UserError(
                f"{backward_path}: must have the dictionary of {forward_path}, found {_shown(second)} in place of "
                f"{_shown(first)} as item {number}; name the two models of one embedding."
            )
    states = [_state(path, file, len(items[0])) for path, file in zip(paths, files, strict=True)]
    layers = [sum(name.startswith("lstm.weight_hh_l") for name in state) for state in states]
    if layers[0] != layers[1]:
        raise UserError(
            f"{backward_path}: must have as many layers as {forward_path}, {layers[0]}, found {layers[1]}; name the "
            "two models of one embedding."
        )
    config = FlairConfig(
        characters=items[0],
        char_embedding_sizes=[state["embedding.weight"].shape[1] for state in states],
        lstm_sizes=[state["lstm.weight_hh_l0"].shape[1] for state in states],
        num_lstm_layers=layers[0],
        lstm_dropout=files[0].get("dropout") or 0.0,
        dtype="float32",
    )
    with torch.device("meta"):  # no memory for sizes that the values may not have
        model = FlairModel(config)
    for path, part, state in zip(paths, (model.forward_model, model.backward_model), states, strict=True):
        try:
            part.load_state_dict(state, assign=True)
        except RuntimeError as error:
            raise _not_flairs(path, one_line(error)) from error
    return model


def _read(path: Path) -> dict[str, Any]:
    try:
        if _is_torchscript(path):
            raise UserError(
                f"{path}: must hold tensors and a dictionary alone, found a TorchScript archive, which is not run; get "
                "the file from its publisher."
            )
        found = torch.load(path, map_location="cpu", weights_only=False, pickle_module=restricted_pickle())
    except UserError:
        raise
    except Exception as error:  # of a damaged file, torch raises almost any
        if isinstance(error, pickle.UnpicklingError) and str(error).startswith(_REFUSED):
            raise UserError(
                f"{path}: must hold tensors and a dictionary alone, found {str(error).removeprefix(_REFUSED)}, "
                "which is not run; get the file from its publisher."
            ) from error
        raise UserError(
            f"{path}: must be a language model of Flair (.pt), found a damaged file or another "
            f"({one_line(error)[:100]}); get it anew."
        ) from error
    if not isinstance(found, dict) or not {"state_dict", "dictionary", "is_forward_lm"} <= found.keys():
        raise _not_flairs(path, "no state_dict, dictionary and is_forward_lm")
    if not isinstance(found["is_forward_lm"], bool):
        raise _not_flairs(path, f"is_forward_lm={_shown(found['is_forward_lm'])}")
    if str(found.get("recurrent_type", "lstm")).lower() != "lstm" or found.get("nout") is not None:
        raise UserError(
            f"{path}: must be an LSTM without a projection of its states, found recurrent_type="
            f"{_shown(found.get('recurrent_type'))} and nout={_shown(found.get('nout'))}; use another of Flair's "
            "models."
        )
    dropout = found.get("dropout")
    if dropout is not None and not (isinstance(dropout, int | float) and 0 <= dropout <= 1):
        raise _not_flairs(path, f"dropout={_shown(dropout)}")
    return found


def _is_torchscript(path: Path) -> bool:
    """Return whether `torch.load` would take the file for a program, which `torch.jit.load` runs with no restriction.

    It is asked of torch's own reader, as other readers of zip files may see other entries in a hostile one.
    """
    with path.open("rb") as file:
        if file.read(4) != b"PK\3\4":
            return False
        file.seek(0)
        return "constants.pkl" in torch._C.PyTorchFileReader(file).get_all_records()


def _items(path: Path, file: dict[str, Any]) -> list[str]:
    items = getattr(file["dictionary"], "idx2item", None)
    if not isinstance(items, list) or not items or not all(isinstance(item, str | bytes) for item in items):
        raise _not_flairs(path, "no dictionary of characters")
    texts = [item.decode("utf-8", errors="replace") if isinstance(item, bytes) else item for item in items]
    if not any(len(text) == 1 for text in texts):
        raise _not_flairs(path, "a dictionary without single characters")
    return texts


def _shown(value: object) -> str:
    return " ".join(repr(value).split())[:60]


def _state(path: Path, file: dict[str, Any], characters: int) -> dict[str, Tensor]:
    names = {"encoder.weight": "embedding.weight"}
    state = {}
    if not isinstance(file["state_dict"], Mapping):
        raise _not_flairs(path, "no weights as state_dict")
    for name, value in file["state_dict"].items():
        kept = names.get(name) or (name.replace("rnn.", "lstm.") if str(name).startswith("rnn.") else None)
        if kept is None:
            continue  # the decoder, which predicts characters
        if not isinstance(value, Tensor) or not value.isfinite().all():
            raise _not_flairs(path, f"values of {_shown(name)} that are not finite")
        state[kept] = value.float().clone().contiguous()
    matrices = [state.get(name) for name in ("embedding.weight", "lstm.weight_hh_l0")]
    if any(matrix is None or matrix.ndim != 2 or not matrix.numel() for matrix in matrices):
        raise _not_flairs(path, "no matrices encoder.weight and rnn.weight_hh_l0")
    if len(state["embedding.weight"]) != characters:
        raise _not_flairs(path, f"{len(state['embedding.weight'])} vectors for {characters} characters")
    return state


def _not_flairs(path: Path, found: str) -> UserError:
    return UserError(f"{path}: must be a language model of Flair (.pt), found {found}; get it anew.")


_REFUSED = "refused: "


def restricted_pickle() -> Any:
    """Return a stand-in for the module `pickle`, for `torch.load`.

    It makes tensors, dictionaries and Flair's `Dictionary`, and refuses all else with `pickle.UnpicklingError`.
    """

    # Made anew for each file, so that none can change what the next one is read with.
    class Dictionary:
        """Stands in for `flair.data.Dictionary`, whose attributes it takes over."""

    def rebuild_tensor(*args: Any) -> Tensor:
        return _rebuild_tensor_v2(*args)

    def rebuild_parameter(*args: Any) -> Any:
        return _rebuild_parameter(*args)

    def encode(text: str, encoding: str) -> bytes:
        if encoding != "latin1":  # how pickle writes bytes for Python 2; other codecs may unpack or worse
            raise pickle.UnpicklingError(f"{_REFUSED}the codec {encoding}")
        return text.encode(encoding)

    allowed = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
        ("torch._utils", "_rebuild_parameter"): rebuild_parameter,
        ("_codecs", "encode"): encode,
        ("flair.data", "Dictionary"): Dictionary,
    }

    class Unpickler(pickle.Unpickler):
        def find_class(self, module_name: str, global_name: str) -> Any:
            if (module_name, global_name) not in allowed:
                raise pickle.UnpicklingError(f"{_REFUSED}{module_name}.{global_name}")
            return allowed[module_name, global_name]

    def load(file: io.IOBase, **kwargs: Any) -> Any:
        return Unpickler(file, **kwargs).load()

    return SimpleNamespace(
        Unpickler=Unpickler, load=load, UnpicklingError=pickle.UnpicklingError, __name__="pickle"
    )
