"""Runs of several tasks compared task by task, on the texts that they were tested on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_layerfusion.data.labels import LabelSchema
from hf_layerfusion.errors import UserError, nearest
from hf_layerfusion.recipes.data_preparation import read_splits
from hf_layerfusion.recipes.multitask.multitask_arguments import MultitaskDataArguments
from hf_layerfusion.recipes.multitask.task_preparation import make_tasks
from hf_layerfusion.recipes.run_comparison import (
    RunAnswers,
    RunDifference,
    compare_scores,
    read_answers,
    scores_of,
    with_holm,
)
from hf_layerfusion.run_layout import PREDICTIONS, SETTINGS_FILE, find, find_in_parts
from hf_layerfusion.storage import read_object


def tasks_of_run(folder: str | Path) -> dict[str, Any] | None:
    """Return the settings of a run of several tasks; None for any other folder.

    Raises:
        UserError: The settings are damaged.
    """
    path = find(folder, SETTINGS_FILE)
    stored = read_object(path, "name the folder of a run") if path.is_file() else {}
    return stored if isinstance(stored.get("tasks"), dict) and "tasks_file" in stored else None


def compare_tasks(
    folders: Sequence[str], asked: Sequence[str] | None = None
) -> dict[str, tuple[str, list[RunDifference]]]:
    """Compare runs of several tasks with the first of them.

    Args:
        folders: of runs, those of several seeds above their `seed-…`.
        asked: the tasks; None for all of the first run.

    Returns:
        By task the name of the score, and a row for each run, the first without a difference. The p-values are
        corrected for all differences of all tasks.

    Raises:
        UserError: A run without one of the tasks; or as `compare_runs`.
    """
    stored = [tasks_of_run(folder) for folder in folders]
    tasks = list(asked or (stored[0] or {}).get("tasks", ()))
    found = {}
    for task in tasks:
        for folder, settings in zip(folders, stored, strict=True):
            known = (settings or {}).get("tasks", {})
            if task not in known:
                raise UserError(
                    f"{folder}: must be a run of the task {task!r}, found {', '.join(known) or 'one without tasks'}; "
                    f"{nearest(task, known, 'choose tasks that all runs share by --task')}"
                )
        scores = [
            scores_of(task_answers(Path(folder), task, settings or {}))
            for folder, settings in zip(folders, stored, strict=True)
        ]
        found[task] = compare_scores(folders, scores)
    corrected = iter(with_holm([row for _, rows in found.values() for row in rows]))
    return {task: (measure, [next(corrected) for _ in rows]) for task, (measure, rows) in found.items()}


def task_answers(folder: Path, task: str, stored: dict[str, Any]) -> RunAnswers:
    """Read what a run answered to each text that a task was tested on, and the truth.

    Args:
        folder: The folder of the run.
        task: One of its tasks.
        stored: Its settings.

    Raises:
        UserError: as `compare_runs`.
    """
    name = f"{PREDICTIONS}/{task}-test.csv"
    files = find_in_parts(folder, "seed-*", name) or {folder: find(folder, name)}
    if not all(path.is_file() for path in files.values()):
        raise UserError(f"{folder}: holds no {name}; name a run that has ended")
    data_dir = stored.get("data_dir") or Path(str(stored["tasks_file"])).parent
    spec = make_tasks({task: stored["tasks"][task]}, Path(str(data_dir)), MultitaskDataArguments())[task]
    train = read_splits(spec.data)["train"]
    schema = LabelSchema.infer(train, spec.data.class_names, spec.settings.get("problem_type"), where=task)
    return read_answers(folder, [[path] for path in files.values()], spec.data, schema)
