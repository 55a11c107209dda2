"""The command `evaluate MODEL FILE`, which measures a trained model on labelled texts."""

import tempfile
from argparse import ArgumentParser, Namespace
from pathlib import Path

from hf_layerfusion.cli.predict_command import add_data_arguments, predicted
from hf_layerfusion.errors import UserError


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the model, the texts and what is written."""
    add_data_arguments(parser)
    parser.add_argument("--output_dir", help="new folder for the predictions too (default: none is kept)")


def run(arguments: Namespace) -> None:
    """Measure the model and print a table of its metrics.

    Raises:
        UserError: texts without labels, or whatever else the user can mend.
    """
    with tempfile.TemporaryDirectory() as folder:
        results = predicted(arguments, arguments.output_dir or str(Path(folder) / "run"))
    if not results:
        raise UserError(
            f"{arguments.file}: has no labels to compare with; name their column by --label_column, and for a model of "
            "several tasks the task by --task"
        )
    for name, value in results.items():
        shown = "undefined" if value is None else f"{value:.4f}"
        print(f"{name.removeprefix('test_'):24}{shown}")
