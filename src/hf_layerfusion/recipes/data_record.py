"""Fingerprints of a run's data, so that a run is never resumed on other data."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from hf_layerfusion.data.fingerprints import Fingerprint, fingerprint
from hf_layerfusion.errors import UserError
from hf_layerfusion.recipes.data_preparation import PreparedData
from hf_layerfusion.run_layout import SETTINGS_FILE, find
from hf_layerfusion.storage import read_object

logger = logging.getLogger(__name__)

DATA = "data"
"""Key of the `DataRecord` in a run's `run.json`."""

DataRecord: TypeAlias = dict[str, Fingerprint]


def data_record(data: PreparedData, task: str = "") -> DataRecord:
    """Return the fingerprints of a run's splits over texts, labels and ids, by `SPLIT` or, for several tasks, `TASK
    SPLIT`."""
    columns = (*data.text_columns, "label", "id")
    return {
        f"{task} {name}".strip(): fingerprint(split, columns, data.schema.names)
        for name, split in data.splits.items()
    }


def check_data(
    place: Path,
    stored: Mapping[str, Any],
    record: DataRecord,
    files: Mapping[str, Any],
    option: str = "--output_dir",
) -> None:
    """Check that data match the record of a run.

    Args:
        place: the run's folder or checkpoint, for the error message.
        stored: content of its `run.json`; earlier versions hold no record of the data.
        record: record of the current data.
        files: files of the data, by the names of the record or by `SPLIT_file`.
        option: option that names `place`.

    Raises:
        UserError: Names each part that differs, and its file.
    """
    if DATA not in stored:
        logger.warning(
            "%s: the run has no record of its data, which are assumed to be the current ones", place
        )
        return
    earlier: DataRecord = stored[DATA]
    changed = []
    for name in dict.fromkeys((*earlier, *record)):
        was, now = earlier.get(name), record.get(name)
        if was != now:
            file = files.get(name) or files.get(f"{name}_file")
            before, after = was["rows"] if was else 0, now["rows"] if now else 0
            how = f"{before:,} rows then, {after:,} now" if before != after else "other content"
            changed.append(f"{name} ({file}: {how})" if file else f"{name} ({how})")
    if changed:
        way_out = (
            "name another folder to start again"
            if option == "--output_dir"
            else "leave it out to start again"
        )
        raise UserError(
            f"{option} {place}: holds a run on other data: {', '.join(changed)}; restore the data, or "
            f"{way_out}."
        )


def check_record(
    folder: Path, record: DataRecord, files: Mapping[str, Any], checkpoint: str | None = None
) -> None:
    """Check data with `check_data` against the `run.json` in a folder, if there is one.

    Args:
        folder: the run's folder.
        record: record of the current data.
        files: as for `check_data`.
        checkpoint: the checkpoint to resume from, if the user named one. A checkpoint of another folder was trained
            on that run's data, whose `run.json` lies above it.

    Raises:
        UserError: As `check_data`.
    """
    path = find(folder, SETTINGS_FILE)
    if path.exists():
        check_data(folder, read_object(path, "name another folder"), record, files)
    if checkpoint is not None:
        place = Path(checkpoint).absolute()
        above = (find(parent, SETTINGS_FILE) for parent in place.parents[:2])
        if (found := next((path for path in above if path.is_file()), None)) is not None:
            stored = read_object(found, "name another checkpoint")
            check_data(Path(checkpoint), stored, record, files, option="--resume_from_checkpoint")
