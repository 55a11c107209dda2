"""Runs the tables of the papers, and reports them.

python examples/reproduce.py --table grubert-2 --data $DATA --jobs 2

A finished run is not run again, one that was cut off goes on at its last checkpoint. `--report_only` prints what there
is; `--update docs/results.md` fills the tables into a document, between `<!-- table: NAME -->` and `<!-- end -->`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_layerfusion.errors import UserError
from hf_layerfusion.evaluation.plots import TableRow, plot_table
from hf_layerfusion.evaluation.significance import mean_sd
from hf_layerfusion.experiments.arguments import option
from hf_layerfusion.experiments.document import fill_tables
from hf_layerfusion.experiments.runner import pending_runs, run_table
from hf_layerfusion.experiments.script import parse_arguments, run_script
from hf_layerfusion.experiments.tables import Table, format_csv, format_markdown, read_rows, table_names


@dataclass
class ReproduceArguments:
    """Which tables, from which data, into which folder."""

    table: list[str] | None = option(None, "Tables to run.")
    data: str | None = option(None, "Folder of the data sets.")
    results: str = option("docs/results", "Folder of the run files and reports.")
    work: str = option("runs", "Folder for checkpoints of runs under way.")
    jobs: int = option(1, "Runs at once.")
    encoder: str | None = option(None, "Another encoder than the table's; goes with another --results.")
    limit_train: int | None = option(None, "Another number of training texts; goes with another --results.")
    list: bool = option(False, "Print the tables and stop.")
    dry_run: bool = option(False, "Print the runs that would be run and stop.")
    report_only: bool = option(False, "Run nothing; report the runs that have finished.")
    update: str | None = option(None, "Document whose tables are filled in.")


def overrides(arguments: ReproduceArguments) -> dict[str, Any]:
    """Settings from the command line that win over the table's."""
    given = {"model_name_or_path": arguments.encoder, "max_train_samples": arguments.limit_train}
    return {name: value for name, value in given.items() if value is not None}


def main() -> None:
    (arguments,) = parse_arguments(ReproduceArguments)
    results = Path(arguments.results)
    if arguments.list:
        for name in table_names():
            print(f"{name:22} {Table.load(name).title}")
        return
    if not arguments.table:
        raise UserError(f"--table must name a table, found none; choose from {', '.join(table_names())}.")
    for name in arguments.table:
        table = Table.load(name)
        if arguments.dry_run:
            for run in pending_runs(table, results, overrides(arguments)):
                print(f"{name}: {run.variant}, {run.name}: {run.settings}")
            continue
        if not arguments.report_only:
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
        rows = read_rows(table, results)
        if not rows:
            print(f"{name}: no run has finished yet")
            continue
        (results / f"{name}.md").write_text(format_markdown(table, rows) + "\n", encoding="utf-8")
        (results / f"{name}.csv").write_text(format_csv(table, rows), encoding="utf-8")
        bars = [TableRow(row.variant, *mean_sd(row.values)) for row in rows]
        plot_table(bars, results / f"{name}.png", f"{table.metric} on {table.split}", table.title)
        print(f"\n{table.title}\n\n{format_markdown(table, rows)}\n")
    if arguments.update is not None:
        fill_tables(Path(arguments.update), results)


if __name__ == "__main__":
    run_script(main)
