"""Teachers of table runs: models that are trained once for all runs that learn from their averaged predictions."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser

from hf_layerfusion.recipes.training_run import classify
from hf_layerfusion.run_layout import RESULTS_FILE, find
from hf_layerfusion.storage import LOCK_FILE, locked, read_object
from reproduction.run_table import TEACHER_MEMBERS, in_folder


def start_from_teacher(
    settings: dict[str, Any], arguments: Sequence[type], data_dir: Path, work: Path
) -> dict[str, Any]:
    """Train the members of a run's teacher, or reuse those that runs with the same members have left in `work`.

    Args:
        settings: settings of the run.
        arguments: dataclasses of the arguments of the script that trains the members.
        data_dir: folder that files are relative to.
        work: folder of the members.

    Returns:
        The run's settings with the members' folders as `teacher` instead of `teacher_members`. Settings without
        members are returned unchanged.

    Raises:
        UserError: As `classify`.
    """
    if TEACHER_MEMBERS not in settings:
        return settings
    folders = [_train_member(member, arguments, data_dir, work) for member in settings[TEACHER_MEMBERS]]
    rest = {name: value for name, value in settings.items() if name != TEACHER_MEMBERS}
    return {**rest, "teacher": folders}


def members_cost(folders: Sequence[str]) -> dict[str, Any]:
    """Return the number of parameters and the training time of a teacher's members, summed."""
    found = [read_object(find(Path(folder), RESULTS_FILE), "delete the folder") for folder in folders]
    return {name: sum(result[name] for result in found) for name in ("parameters", "training_seconds")}


def _train_member(member: dict[str, Any], arguments: Sequence[type], data_dir: Path, work: Path) -> str:
    member = in_folder(member, data_dir.resolve())
    key = hashlib.sha256(json.dumps(member, sort_keys=True).encode()).hexdigest()[:16]
    folder = work / "teachers" / key
    # Of several jobs one trains, the others wait.
    with locked(folder.with_name(f".{key}{LOCK_FILE}"), f"--work {work}", wait=True):
        place = {
            "output_dir": str(folder),
            "resume_from_checkpoint": "True" if folder.exists() else None,
            "disable_tqdm": True,
        }
        classify(*HfArgumentParser(arguments).parse_dict({**member, **place}))
    return str(folder)
