"""The report of finished runs, from their folders to a file."""

from collections.abc import Sequence
from pathlib import Path

from hf_layerfusion import __version__
from hf_layerfusion.errors import UserError
from hf_layerfusion.recipes.multitask.task_comparison import compare_tasks
from hf_layerfusion.recipes.report.recorded_runs import RunRecord, read_run
from hf_layerfusion.recipes.report.report_page import render_report
from hf_layerfusion.recipes.run_comparison import RunDifference, compare_scores, scores_of, with_holm
from hf_layerfusion.storage import writable, write_text


def write_report(names: Sequence[str], path: Path) -> list[RunRecord]:
    """Write the report of runs as one HTML file.

    Args:
        names: Folders of runs; the others are compared with the first.
        path: The file, which must not exist yet.

    Returns:
        The runs.

    Raises:
        UserError: A folder is no finished run or is named twice, or the file cannot be written.
    """
    check_output_file(path)
    places = [Path(name).resolve() for name in names]
    for name, place in zip(names, places, strict=True):
        if places.count(place) > 1:
            raise UserError(f"{name}: is named more than once; name each run once")
    runs = [read_run(name) for name in names]
    comparisons, note = compared(runs)
    page = render_report(runs, comparisons, note, __version__)
    with writable(f"--output_file {path}"):
        write_text(path, page)
    return runs


def check_output_file(path: Path) -> None:
    """Check that the file of a report can be written, before the runs are read.

    Raises:
        UserError: It exists, or its folder does not.
    """
    if path.exists():
        raise UserError(f"--output_file {path}: exists already; name another file, or delete it")
    if not path.parent.is_dir():
        raise UserError(f"--output_file {path}: there is no folder {path.parent}; make it")


def compared(runs: Sequence[RunRecord]) -> tuple[dict[str, tuple[str, list[RunDifference]]], str]:
    """Return the runs compared with the first of them by task, or nothing and the reason in one line."""
    if len(runs) < 2:
        return {}, ""
    try:
        if runs[0].has_tasks:
            return compare_tasks([run.name for run in runs]), ""
        for run in runs:
            if run.has_tasks:
                raise UserError(f"{run.name}: is a run of several tasks, {runs[0].name} one of one task")
            if run.kind == "folds":
                raise UserError(f"{run.name}: is a cross-validation, whose folds have models of their own")
        answers = [run.tasks[0].answers for run in runs]
        known = [each for each in answers if each is not None]
        if len(known) < len(runs):
            return {}, next(run.tasks[0].missing for run in runs if run.tasks[0].answers is None)
        measure, rows = compare_scores([run.name for run in runs], [scores_of(each) for each in known])
        return {"": (measure, with_holm(rows))}, ""
    except UserError as error:
        return {}, str(error)
