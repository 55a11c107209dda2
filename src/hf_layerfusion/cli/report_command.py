"""The command `report RUN …`, which writes what runs measured as one HTML page."""

from argparse import ArgumentParser, Namespace
from pathlib import Path


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the runs and the file."""
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="folders of runs, ensembles or predictions; the others are compared with the first",
    )
    parser.add_argument(
        "--output_file", default="report.html", help="new file for the page (default: report.html)"
    )


def run(arguments: Namespace) -> None:
    """Write the page.

    Raises:
        UserError: A folder that is no finished run, or a file that exists or cannot be written.
    """
    path = Path(arguments.output_file)
    from hf_layerfusion.recipes.report.report_run import write_report

    runs = write_report(arguments.runs, path)
    what = f"the report of {len(runs)} run{'s' if len(runs) > 1 else ''}"
    print(f"{path}: {what}, {path.stat().st_size / 1000:,.0f} kB; open it in a browser")
