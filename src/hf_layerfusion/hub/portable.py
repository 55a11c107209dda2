"""Files of a run without the folders of the machine that it ran on, as they are pushed."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from hf_layerfusion.errors import UserError
from hf_layerfusion.hub.encoder import encoder_hub_id
from hf_layerfusion.hub.manifest import CHECKPOINT_MANIFEST, MODEL_MANIFEST, bytes_entry
from hf_layerfusion.run_layout import RUN, SETTINGS_FILE

LOCAL = "(local) "
"""Beginning of what stands for an absolute path in a pushed file, before the last part of the path."""

_ADAPTER = "adapter_config.json"
# Records at the top of a folder: those of the Trainer, of adapters and of runs of earlier versions.
_RECORDS = (_ADAPTER, SETTINGS_FILE, "training_args.json", "trainer_state.json", "best.json")
_ENCODERS = ("model_name_or_path", "base_model_name_or_path", "tokenizer_name")


def without_folders(path: str) -> str | None:
    """Return the last part of an absolute path, None for any other string."""
    for kind in (PurePosixPath, PureWindowsPath):
        if kind(path).is_absolute() and len(kind(path).parts) > 1:
            return kind(path).name
    return None


@contextmanager
def portable(folder: Path, files: Sequence[str]) -> Iterator[Path]:
    """Yield a folder that has these files without absolute paths: the folder itself if it has no such paths, else a
    temporary one.

    In records of a run and configurations of adapters, an encoder in a local folder is named by its Hub id if its card
    tells that, and any other absolute path by its last part (`(local) NAME`). Manifests follow these changes.

    Args:
        folder: the folder; it is not changed.
        files: names of the files to push.

    Raises:
        UserError: An ensemble carries an adapter whose encoder has no Hub id there.
    """
    changed = portable_files(folder, files)
    if not changed:
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        for name in files:
            path = Path(temporary, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            if name in changed:
                path.write_bytes(changed[name])
                continue
            try:
                path.symlink_to((folder / name).resolve())
            except OSError:  # Windows, without the right to make links
                shutil.copyfile(folder / name, path)
        yield Path(temporary)


def portable_files(folder: Path, files: Sequence[str]) -> dict[str, bytes]:
    """Return the new content of each file that `portable` changes."""
    changed: dict[str, bytes] = {}
    for name in files:
        parts = PurePosixPath(name).parts
        if parts[-1] not in _RECORDS and not (parts[-1].endswith(".json") and RUN in parts):
            continue
        content = _read(folder / name)
        portable = _portable(content)
        if portable == content:
            continue
        if parts[-1] == _ADAPTER and (folder / "ensemble.json").is_file():
            raise UserError(
                f"{folder / name}: an adapter in a pushed ensemble must name its encoder by Hub id, found the folder "
                f"{content['base_model_name_or_path']}; merge the adapter, or train it on the encoder's Hub id."
            )
        changed[name] = _json(portable)
    for name in files:
        path = PurePosixPath(name)
        if path.name not in (MODEL_MANIFEST, CHECKPOINT_MANIFEST) or not isinstance(
            content := _read(folder / name), dict
        ):
            continue
        entries = dict(content.get("files", {}))
        entries |= {
            listed: bytes_entry(changed[place])
            for listed in entries
            if (place := (path.parent / listed).as_posix()) in changed
        }
        if entries != content.get("files", {}):
            changed[name] = _json({**content, "files": entries})
    return changed


def _read(path: Path) -> Any:
    """Return the content of a JSON file, None if it is damaged, for it is pushed as it is then."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def _portable(content: Any, key: str = "") -> Any:
    if isinstance(content, dict):
        return {name: _portable(value, name) for name, value in content.items()}
    if isinstance(content, list):
        return [_portable(value, key) for value in content]
    if not isinstance(content, str) or (name := without_folders(content)) is None:
        return content
    hub_id = encoder_hub_id(content) if key in _ENCODERS and os.path.isdir(content) else None
    return hub_id or f"{LOCAL}{name}"
