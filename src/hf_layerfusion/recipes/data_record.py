"""The record of a run's data, so that the run never goes on with others."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from hf_layerfusion.data.fingerprints import Fingerprint, fingerprint
from hf_layerfusion.errors import UserError
from hf_layerfusion.recipes.data_preparation import PreparedData
from hf_layerfusion.recipes.run_folder import SETTINGS_FILE
from hf_layerfusion.storage import read_object

logger = logging.getLogger(__name__)

DATA = "data"
"""The entry of a run's `run.json` that holds its `DataRecord`."""

DataRecord: TypeAlias = dict[str, Fingerprint]


def data_record(data: PreparedData, task: str = "") -> DataRecord:
    """Return the fingerprints of the splits as the run uses them: texts, labels and ids, by split, of one of several
    tasks by `TASK SPLIT`."""
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
    """Check that data are those of the run whose record was stored.

    Args:
        place: what to name in an error: the run's folder, or its checkpoint.
        stored: the content of its `run.json`. One of an earlier version says nothing of the data.
        record: of the data now.
        files: where they come from, by the names of the record or by `SPLIT_file`.
        option: what the user has named `place` by.

    Raises:
        UserError: names each part that is another one now, and its file.
    """
    if DATA not in stored:
        logger.warning(
            "%s: the run's record does not say what its data were, which are taken to be these", place
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
            "name another folder to begin anew" if option == "--output_dir" else "leave it out to begin anew"
        )
        raise UserError(
            f"{option} {place}: holds a run on other data: {', '.join(changed)}; put the data back as they were, or "
            f"{way_out}."
        )


def check_record(
    folder: Path, record: DataRecord, files: Mapping[str, Any], checkpoint: str | None = None
) -> None:
    """Check data, as `check_data`, against the `run.json` of a folder; where there is none there is no run yet.

    Args:
        folder: the run's.
        record: of the data now.
        files: as for `check_data`.
        checkpoint: what the run is to go on from, if the user named one: that of another folder was trained on that
            run's data, whose `run.json` lies above it.

    Raises:
        UserError: as `check_data`.
    """
    path = folder / SETTINGS_FILE
    if path.exists():
        check_data(folder, read_object(path, "name another folder"), record, files)
    if checkpoint is not None:
        place = Path(checkpoint).absolute()
        above = (parent / SETTINGS_FILE for parent in place.parents[:2])
        if (found := next((path for path in above if path.is_file()), None)) is not None:
            stored = read_object(found, "name another checkpoint")
            check_data(Path(checkpoint), stored, record, files, option="--resume_from_checkpoint")
