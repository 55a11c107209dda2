"""Run the papers' tables, and report them.

python -m reproduction --table grubert-2 --data $DATA --jobs 2

Finished runs are not repeated, and interrupted ones resume from their last checkpoint. A table of ensembles runs
nothing: it combines the predictions in the run files of other tables. `--report_only` prints the results so far;
`--update docs/paper-results.md` fills the tables into a document, between `<!-- table: NAME -->` and `<!-- end -->`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_layerfusion.cli.script import parse_arguments, run_script
from hf_layerfusion.errors import UserError
from hf_layerfusion.recipes.recipe_arguments import option
from reproduction.ensemble_table import EnsembleTable, ensemble_table_names
from reproduction.ensemble_table_report import report_of_ensembles
from reproduction.results_document import fill_tables
from reproduction.run_table import RunTable, table_names
from reproduction.runner import pending_runs, run_table
from reproduction.table_report import plot_predictions, report_of_runs


@dataclass
class ReproduceArguments:
    """Arguments: the tables, their data, and the folders of the results."""

    table: list[str] | None = option(None, "Tables to run.")
    data: str | None = option(None, "Folder of the data sets.")
    results: str = option("docs/results", "Folder of the run files and reports.")
    work: str = option("runs", "Folder for checkpoints of unfinished runs.")
    jobs: int = option(1, "Number of parallel runs; with --gpu each on a GPU of its own if there are enough.")
    gpu: bool = option(
        False, "Run on GPUs instead of the CPU that the tables specify; needs another --results."
    )
    encoder: str | None = option(None, "Encoder to use instead of the table's; needs another --results.")
    limit_train: int | None = option(
        None, "Number of training texts to use instead of the table's; needs another --results."
    )
    list: bool = option(False, "Print the tables and stop.")
    dry_run: bool = option(False, "Print the runs that would be run and stop.")
    report_only: bool = option(False, "Run nothing; report the runs that have finished.")
    update: str | None = option(None, "Document whose tables are updated.")


def overrides(arguments: ReproduceArguments) -> dict[str, Any]:
    """Return the settings from the command line that override those of the tables."""
    given = {"model_name_or_path": arguments.encoder, "max_train_samples": arguments.limit_train}
    if arguments.gpu:
        given["use_cpu"] = False
    return {name: value for name, value in given.items() if value is not None}


def load_table(name: str) -> RunTable | EnsembleTable:
    """Return a table of runs or of ensembles by name."""
    if name in ensemble_table_names():
        return EnsembleTable.load(name)
    if name in table_names():
        return RunTable.load(name)
    raise UserError(f"--table must name tables of {', '.join(all_names())}, found {name!r}; see --list.")


def all_names() -> list[str]:
    """Return the names of all tables."""
    return [*table_names(), *ensemble_table_names()]


def print_pending(table: RunTable | EnsembleTable, results: Path, overrides: dict[str, Any]) -> None:
    """Print the runs that have no result file and, for members of ensembles, the tables that run them."""
    if isinstance(table, RunTable):
        for run in pending_runs(table, results, overrides):
            print(f"{table.name}: {run.variant}, {run.name}: {run.settings}")
    else:
        for member in table.runs():
            if not table.file(results, member).exists():
                print(f"{table.name}: {member}: run by {', '.join(table.declared.get(member, []))}")


def main() -> None:
    """Run the command line."""
    (arguments,) = parse_arguments(ReproduceArguments)
    results = Path(arguments.results)
    if arguments.list:
        for name in all_names():
            print(f"{name:22} {load_table(name).title}")
        return
    if not arguments.table:
        raise UserError(f"--table must name a table, found none; choose from {', '.join(all_names())}.")
    if arguments.jobs < 1:
        raise UserError(f"--jobs must be 1 or more, found {arguments.jobs}; set the number of parallel runs.")
    for table in map(load_table, arguments.table):
        if arguments.dry_run:
            print_pending(table, results, overrides(arguments))
            continue
        if isinstance(table, RunTable) and not arguments.report_only:
            if arguments.data is None:
                raise UserError("--data must name the folder of the data sets, found none; name it.")
            run_table(
                table,
                data_dir=Path(arguments.data),
                results=results,
                work=Path(arguments.work),
                jobs=arguments.jobs,
                overrides=overrides(arguments),
            )
        report = (
            report_of_runs(table, results)
            if isinstance(table, RunTable)
            else report_of_ensembles(table, results)
        )
        if report is None:
            print(f"{table.name}: no run has finished yet")
            continue
        report.write(results, table.name)
        if isinstance(table, RunTable):
            plot_predictions(table, results)
        print(f"\n{report.title}\n\n{report.markdown()}")
    if arguments.update is not None:
        fill_tables(Path(arguments.update), results)


if __name__ == "__main__":
    run_script(main)
