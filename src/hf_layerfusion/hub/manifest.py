"""Manifests of checksums in the folders of checkpoints, models and ensembles: writing and verifying them."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from hf_layerfusion.errors import UserError
from hf_layerfusion.hub.paths import inside
from hf_layerfusion.run_layout import RUN, TRAINED_TEXTS_FILE
from hf_layerfusion.storage import write_json

MODEL_MANIFEST = "model_manifest.json"
"""Manifest of a saved model or ensemble. `modeling/saved_files.py` writes the same file without this package."""

CHECKPOINT_MANIFEST = "checkpoint_manifest.json"
"""Manifest of a checkpoint, with the files needed to resume."""

LOADED_FILES = (
    "model*.safetensors", "model*.safetensors.index.json", "adapter_model*.safetensors", "pytorch_model*.bin",
    "pytorch_model*.bin.index.json", "adapter_config.json", "config.json",
)  # fmt: skip
"""Patterns of the files that `from_pretrained` loads. One that no manifest lists was added after the model was "
"saved."""

COMPANION_FILES = (
    "*.py", "tokenizer*", "vocab*", "merges.txt", "*.model", "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip
"""Patterns of files that are loaded with a model and may be saved after it, such as a tokenizer's."""

_ENSEMBLE_FILES = ("ensemble.json", f"{RUN}/{TRAINED_TEXTS_FILE}", TRAINED_TEXTS_FILE)
_GRAPHS = ("*.onnx", "*.onnx.data")
_ADAPTER = "adapter_config.json"
_BELOW = "below/config.json"  # configuration of the model under an adapter, saved by `training/adapters.py`


class Verified(NamedTuple):
    """Result of comparing a folder with its manifests.

    Attributes:
        files: number of unchanged files.
        not_listed: names of the model's files that no manifest lists, such as a tokenizer saved after the model.
    """

    files: int
    not_listed: list[str]


def write_model_manifest(folder: str | Path) -> Path:
    """Write the manifest of a saved model, adapter or ensemble, with size and sha256 of each file, and return its
    path.

    Files of the tokenizer are included.
    """
    folder = Path(folder)
    return write_manifest(folder / MODEL_MANIFEST, _saved_files(folder))


def model_files(folder: Path) -> list[Path]:
    """Return the files that a model's predictions depend on, including those of adapters in folders below."""
    folders = [folder]
    if not (folder / _ADAPTER).exists():
        folders += [path.parent for path in folder.glob(f"*/{_ADAPTER}") if not _manifests(path.parent)]
    found = {
        path for each in folders for pattern in LOADED_FILES + COMPANION_FILES for path in each.glob(pattern)
    }
    return sorted(path for path in found if path.is_file())


def _saved_files(folder: Path) -> list[Path]:
    others = [folder / name for name in (_BELOW, *_ENSEMBLE_FILES)]
    graphs = sorted(path for pattern in _GRAPHS for path in folder.glob(pattern))
    return [*model_files(folder), *(path for path in [*others, *graphs] if path.is_file())]


def _manifests(folder: Path) -> list[Path]:
    return [path for name in (MODEL_MANIFEST, CHECKPOINT_MANIFEST) if (path := folder / name).is_file()]


def write_manifest(manifest: Path, files: Iterable[Path]) -> Path:
    """Write a manifest with size and sha256 of files below its folder, and return its path.

    Call it after all other files were written. The manifest is written atomically.
    """
    listed = {path.relative_to(manifest.parent).as_posix(): _entry(path) for path in files}
    write_json(manifest, {"files": listed})
    return manifest


def add_to_manifest(path: Path) -> None:
    """Add a file that was saved later to the model's manifest, if there is one.

    Other entries are left as they are, so that later damage to their files is still found.

    Raises:
        UserError: The manifest cannot be read.
    """
    manifest = path.parent / MODEL_MANIFEST
    if not manifest.is_file():
        return
    if (reason := unreadable(manifest)) is not None:
        raise UserError(f"{path.parent}: {reason}; copy or save it again")
    files = json.loads(manifest.read_text(encoding="utf-8"))["files"]
    write_json(manifest, {"files": {**files, path.name: _entry(path)}})


def damage(manifest: Path) -> str | None:
    """Return a description of the damage that a manifest reveals in its folder, or None."""
    if (reason := unreadable(manifest)) is not None:
        return reason
    for name, (size, digest) in listed_files(manifest).items():
        try:
            path = inside(manifest.parent, name, manifest.name)
        except UserError as error:
            return str(error)
        if not path.is_file():
            return f"{name} is missing"
        found = path.stat().st_size
        if found != size:
            return f"{name} has {found} bytes instead of {size}"
        if file_sha256(path) != digest:
            return f"{name} has changed since it was saved (sha256 differs)"
    return None


def unreadable(manifest: Path) -> str | None:
    """Return a description of what is wrong with the manifest file itself, or None."""
    try:
        listed_files(manifest)
    except FileNotFoundError:
        return f"{manifest.name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{manifest.name} is not a manifest"
    return None


def holds_model(folder: Path) -> bool:
    """Return whether a folder itself, not only folders below it, holds a model, an ensemble or a manifest."""
    return bool(_manifests(folder)) or any(path.parent == folder for path in _saved_files(folder))


def folders_below(folder: Path) -> list[Path]:
    """Return the folders below that have a manifest of their own, such as each task's best model, checkpoints, seeds,
    folds or a soup."""
    return sorted({path.parent for path in _found_below(folder, (MODEL_MANIFEST, CHECKPOINT_MANIFEST))})


def models_below(folder: Path) -> list[Path]:
    """Return the model and graph files in folders below, at any depth."""
    return _found_below(folder, (*LOADED_FILES, *_GRAPHS))


def _found_below(folder: Path, patterns: Iterable[str]) -> list[Path]:
    """Return the files matching the patterns in folders below, without hidden folders, which are unfinished."""
    found = {path for pattern in patterns for path in folder.glob(f"*/**/{pattern}") if path.is_file()}
    return sorted(
        path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def verify_folder(folder: str | Path) -> Verified:
    """Compare the files of a saved model, adapter or checkpoint with the manifests in its folder.

    Raises:
        UserError: There is no manifest, or a file is missing, has changed or was added since.
    """
    folder = Path(folder)
    found = _manifests(folder)
    if not found:
        raise UserError(
            f"{folder}: must hold {MODEL_MANIFEST}, found none; it is written by save_pretrained of this package's "
            "models and by its Trainer, and for other models by hf_layerfusion.write_model_manifest"
        )
    for manifest in found:
        if (reason := damage(manifest)) is not None:
            raise UserError(f"{folder}: {reason}; copy or save it again")
    listed = listed_paths(folder)
    beside = [path for path in _saved_files(folder) if path not in listed]
    if added := [
        path for path in beside if any(path.match(name) for name in (*LOADED_FILES, *_ENSEMBLE_FILES[:1]))
    ]:
        raise UserError(
            f"{folder}: {added[0].relative_to(folder)} was added since the model was saved; remove it, or save the "
            "model again"
        )
    return Verified(len(listed), [path.relative_to(folder).as_posix() for path in beside])


def listed_files(manifest: Path) -> dict[str, tuple[int, str]]:
    """Return size and sha256 of each file that a manifest lists, by name."""
    files = json.loads(manifest.read_text(encoding="utf-8"))["files"]
    return {name: (entry["bytes"], entry["sha256"]) for name, entry in files.items()}


def listed_paths(folder: Path) -> set[Path]:
    """Return the paths of the files that a folder's manifests list."""
    return {folder / name for manifest in _manifests(folder) for name in listed_files(manifest)}


def _entry(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}


def bytes_entry(content: bytes) -> dict[str, Any]:
    """Return the entry of a file with this content."""
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
