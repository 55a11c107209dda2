"""The command `compare RUN RUN …`, which tests whether runs differ on the texts that they were tested on."""

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import Any

from hf_layerfusion.errors import UserError


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the runs."""
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="folders of runs on the same test data, the first to compare the others with; a run of several --seeds "
        "counts as one model, its scores averaged",
    )
    parser.add_argument(
        "--task", nargs="+", metavar="TASK", help="tasks of runs of several (default: all of the first run)"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as json")


def run(arguments: Namespace) -> None:
    """Print each run's score, its difference to the first with an interval, and the p-value after Holm's correction.

    Raises:
        UserError: fewer than two runs, or runs that cannot be compared.
    """
    if len(arguments.runs) < 2:
        raise UserError(
            f"compare needs two runs or more, found {len(arguments.runs)}; name the baseline first"
        )
    from hf_layerfusion.recipes.multitask.task_comparison import compare_tasks, tasks_of_run
    from hf_layerfusion.recipes.run_comparison import compare_runs, comparison_dict

    if arguments.task or tasks_of_run(arguments.runs[0]):
        found = compare_tasks(arguments.runs, arguments.task)
    else:
        found = {"": compare_runs(arguments.runs)}
    if arguments.json:
        content = {task: comparison_dict(*compared) for task, compared in found.items()}
        print(json.dumps(content.get("", content), indent=2))
        return
    for task, (measure, rows) in found.items():
        if task:
            print(f"\n{task}")
        _print_table(measure, rows)
    print(
        "\nA paired bootstrap over the test texts; p-values are corrected for the number of "
        f"{'comparisons' if '' not in found else 'runs'} by Holm's rule."
    )


def _print_table(measure: str, rows: Sequence[Any]) -> None:
    """Print the rows of a comparison."""
    width = max(len(row.run) for row in rows)
    print(f"{'run'.ljust(width)}  {measure:>24}  {'difference [95 %]':>28}  {'p (Holm)':>9}")
    for name, mean, difference, adjusted in rows:
        line = f"{name.ljust(width)}  {mean:>24.4f}"
        if difference is not None:
            interval = f"{difference.difference:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]"
            line += f"  {interval:>28}  {'–' if adjusted is None else f'{adjusted:.4f}':>9}"
            line += f"  {difference.remark}" if difference.remark else ""
        print(line.rstrip())
