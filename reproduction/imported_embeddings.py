"""Runs of a table around word embeddings, which are imported once for all runs that share them."""

import hashlib
import json
from pathlib import Path
from typing import Any

from hf_layerfusion import import_embeddings
from hf_layerfusion.embeddings.registry import SOURCES
from hf_layerfusion.storage import LOCK_FILE, locked

SETTING = "embeddings"
"""The arguments of `import_embeddings`, with files relative to the folder of the data."""


def source_files(options: dict[str, Any], data_dir: Path) -> dict[str, list[str]]:
    """Return the files of each format that is imported, in the folder of the data; of packages their names."""
    found = {}
    for name, given in options.items():
        if name in SOURCES:
            files = [given] if isinstance(given, str) else given
            found[name] = [str(data_dir / file) if SOURCES[name].reads_files else file for file in files]
    return found


def missing_files(settings: dict[str, Any], data_dir: Path) -> list[str]:
    """Return the files of embeddings that a run needs and the folder of the data lacks: they are not ours to give."""
    files = source_files(settings.get(SETTING, {}), data_dir)
    return [
        file
        for name, of_format in files.items()
        for file in of_format
        if SOURCES[name].reads_files and not Path(file).is_file()
    ]


def start_from_embeddings(settings: dict[str, Any], data_dir: Path, work: Path) -> dict[str, Any]:
    """Import the embeddings of a run, or take what a run with the same has left in the folder `work`.

    Returns:
        The run's settings with that encoder in place of `embeddings`; the settings as they are if they name none.

    Raises:
        UserError: as `import_embeddings`.
    """
    if SETTING not in settings:
        return settings
    options = settings[SETTING]
    files = [
        (file, Path(file).stat().st_size, Path(file).stat().st_mtime_ns)
        for name, of_format in source_files(options, data_dir).items()
        for file in of_format
        if SOURCES[name].reads_files
    ]
    key = hashlib.sha256(json.dumps([options, files]).encode()).hexdigest()[:16]
    folder = work / "embeddings" / key
    # Of several jobs one imports, the others wait.
    with locked(folder.with_name(f".{key}{LOCK_FILE}"), f"--work {work}", wait=True):
        if not folder.exists():
            import_embeddings(folder, **{**options, **source_files(options, data_dir)})
    rest = {name: value for name, value in settings.items() if name != SETTING}
    return {**rest, "model_name_or_path": str(folder)}
