"""ELMo's published files: options in JSON and weights in HDF5, as TensorFlow's code saved them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from huggingface_hub.errors import StrictDataclassError

from hf_layerfusion.embeddings.word_vectors import ReadOptions
from hf_layerfusion.errors import UserError, one_line
from hf_layerfusion.modeling.configuration_elmo import ElmoConfig
from hf_layerfusion.modeling.modeling_elmo import NUM_CHARACTERS, ElmoModel
from hf_layerfusion.storage import read_object

Arrays = dict[str, npt.NDArray[Any]]

_WAY_OUT = "name the options.json that was published with the weights"
_CHARACTERS = (NUM_CHARACTERS - 1, NUM_CHARACTERS)  # files of before 2018 do not count padding words


def read_elmo(options_path: Path, weights_path: Path, options: ReadOptions) -> ElmoModel:
    """Read a model of ELMo.

    Args:
        options_path: `options.json`.
        weights_path: `weights.hdf5`.
        options: not used, as there is no vocabulary.

    Raises:
        UserError: options or weights that are none, or that do not fit each other.
    """
    config = _config(read_object(options_path, _WAY_OUT), options_path)
    weights = _Weights(read_hdf5(weights_path), weights_path, options_path)
    state = _state(config, weights)
    weights.check_all_taken()
    model = ElmoModel(config)
    model.load_state_dict(state)
    return model


def read_hdf5(path: Path) -> Arrays:
    """Return the arrays of an HDF5 file by their paths, such as `"CNN/W_cnn_0"`.

    Raises:
        UserError: h5py is not installed, or the file is damaged or none of HDF5.
    """
    try:
        import h5py
    except ImportError as error:
        raise UserError(
            'ELMo\'s weights need h5py, found none; run `pip install "hf_layerfusion[elmo]"`.'
        ) from error
    arrays: Arrays = {}

    def keep(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = np.asarray(item)

    try:
        with h5py.File(path, "r") as file:
            file.visititems(keep)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, MemoryError) as error:
        raise UserError(
            f"{path}: must be a whole HDF5 file, found another or a damaged one ({one_line(error)}); get it again."
        ) from error
    return arrays


def _config(found: dict[str, Any], path: Path) -> ElmoConfig:
    def whole(name: str, value: Any, least: int = 1) -> int:
        if type(value) is not int or value < least:
            raise UserError(
                f"{path}: `{name}` must be a whole number of {least} or more, found {value!r}; {_WAY_OUT}."
            )
        return value

    def bound(name: str) -> float | None:
        value = lstm.get(name)
        if value is not None and (type(value) not in (int, float) or not 0 < value < math.inf):
            raise UserError(
                f"{path}: `lstm.{name}` must be a finite number above 0, found {value!r}; {_WAY_OUT}."
            )
        return value

    try:
        lstm, characters = found["lstm"], found["char_cnn"]
        if characters.get("n_characters", NUM_CHARACTERS) not in _CHARACTERS:
            raise UserError(
                f"{path}: `n_characters` must be {_CHARACTERS[0]} or {_CHARACTERS[1]}, bytes and marks, found "
                f"{characters['n_characters']}; {_WAY_OUT}."
            )
        filters = [
            [whole("char_cnn.filters", each) for each in (width, count)]
            for width, count in characters["filters"]
        ]
        # A word of one byte with its two ends, and all that a filter reaches over.
        shortest = max([3, *(width for width, _ in filters)])
        return ElmoConfig(
            char_embedding_size=whole("char_cnn.embedding.dim", characters["embedding"]["dim"]),
            filters=filters,
            num_highway=whole("char_cnn.n_highway", characters.get("n_highway") or 0, least=0),
            activation=characters["activation"],
            max_characters=whole(
                "char_cnn.max_characters_per_token", characters["max_characters_per_token"], shortest
            ),
            lstm_size=whole("lstm.dim", lstm["dim"]),
            projection_size=whole("lstm.projection_dim", lstm["projection_dim"]),
            num_lstm_layers=whole("lstm.n_layers", lstm["n_layers"]),
            cell_clip=bound("cell_clip"),
            projection_clip=bound("proj_clip"),
            use_skip_connections=lstm.get("use_skip_connections") or False,
            dtype="float32",
        )
    except UserError:
        raise
    except KeyError as error:
        raise UserError(
            f"{path}: must have {error}, as ELMo's options do, found none; {_WAY_OUT}."
        ) from error
    except (TypeError, ValueError, AttributeError, StrictDataclassError) as error:
        raise UserError(f"{path}: must hold ELMo's options ({one_line(error)}); {_WAY_OUT}.") from error


class _Weights:
    """Arrays of a file, each taken in the shape that the options give it."""

    def __init__(self, arrays: Arrays, path: Path, options_path: Path) -> None:
        self.arrays, self.path, self.options_path = arrays, path, options_path
        self.taken: set[str] = set()

    def check_all_taken(self) -> None:
        """Refuse a file that holds more layers than the options name."""
        if left := sorted(self.arrays.keys() - self.taken):
            raise UserError(
                f"{self.path}: must hold the arrays of {self.options_path} alone, found {len(left)} more such as "
                f"{left[0]}; {_WAY_OUT}."
            )

    def take(self, name: str, *shape: int) -> npt.NDArray[Any]:
        self.taken.add(name)
        found = self.arrays.get(name)
        if found is None or found.shape != shape:
            raise UserError(
                f"{self.path}: {name} must be {list(shape)} by {self.options_path}, found "
                f"{'none' if found is None else list(found.shape)}; {_WAY_OUT}."
            )
        if found.dtype.kind != "f" or not np.isfinite(found).all():
            raise UserError(
                f"{self.path}: {name} must be finite numbers, found NaN, infinity or no numbers; get the file anew."
            )
        return found


def _state(config: ElmoConfig, weights: _Weights) -> dict[str, torch.Tensor]:
    filters: Any = config.filters
    width, size, cells = config.char_embedding_size, config.projection_size, config.lstm_size
    features = sum(count for _, count in filters)
    shape = getattr(weights.arrays.get("char_embed"), "shape", ())
    rows = next((rows for rows in _CHARACTERS if shape[:1] == (rows,)), _CHARACTERS[0])
    table = weights.take("char_embed", rows, width)
    # The row of padding words, the first, is zeros; older files begin with the next.
    state: dict[str, npt.NDArray[Any]] = {
        "characters.weight": np.concatenate([np.zeros((1, width)), table[-_CHARACTERS[0] :]]),
        "projection.weight": weights.take("CNN_proj/W_proj", features, size).T,
        "projection.bias": weights.take("CNN_proj/b_proj", size),
    }
    for number, (reach, count) in enumerate(filters):
        kernel = weights.take(f"CNN/W_cnn_{number}", 1, reach, width, count)
        state[f"convolutions.{number}.weight"] = kernel[0].transpose(2, 1, 0)
        state[f"convolutions.{number}.bias"] = weights.take(f"CNN/b_cnn_{number}", count)
    for number in range(config.num_highway):
        for own, name in (("gate", "carry"), ("transform", "transform")):
            matrix = weights.take(f"CNN_high_{number}/W_{name}", features, features)
            state[f"highways.{number}.{own}.weight"] = matrix.T
            state[f"highways.{number}.{own}.bias"] = weights.take(f"CNN_high_{number}/b_{name}", features)
    for direction, own in enumerate(("forward_lstms", "backward_lstms")):
        for layer in range(config.num_lstm_layers):
            cell = f"RNN_{direction}/RNN/MultiRNNCell/Cell{layer}/LSTMCell"
            both = weights.take(f"{cell}/W_0", 2 * size, 4 * cells).T
            state[f"{own}.{layer}.input.weight"] = both[:, :size]
            state[f"{own}.{layer}.recurrent.weight"] = both[:, size:]
            state[f"{own}.{layer}.input.bias"] = weights.take(f"{cell}/B", 4 * cells)
            state[f"{own}.{layer}.projection.weight"] = weights.take(f"{cell}/W_P_0", cells, size).T
    return {name: torch.from_numpy(np.array(values, np.float32)) for name, values in state.items()}
