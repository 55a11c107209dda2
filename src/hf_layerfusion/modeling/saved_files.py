# Copyright 2026 The hf_layerfusion team
"""Manifest of a saved model: size and SHA-256 of each file, to detect damage later."""

import hashlib
import json
import os
from pathlib import Path

MANIFEST_NAME = "model_manifest.json"
# Files saved by a model itself. Its tokenizer may be saved later and is not listed.
OWN_FILES = (
    "model*.safetensors", "model*.safetensors.index.json", "adapter_model*.safetensors", "adapter_config.json",
    "config.json", "*.py",
)  # fmt: skip


def write_manifest(folder: str | os.PathLike[str]) -> None:
    """Write the manifest of a model that has just been saved, atomically; `hf_layerfusion.verify_saved` checks it."""
    place = Path(folder)
    paths = sorted({path for pattern in OWN_FILES for path in place.glob(pattern) if path.is_file()})
    files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in paths}
    partial = place / f".{MANIFEST_NAME}.partial"
    with partial.open("w", encoding="utf-8") as file:
        json.dump({"files": files}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(place / MANIFEST_NAME)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, as `hub/manifest.py` does, which this folder must not import."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
