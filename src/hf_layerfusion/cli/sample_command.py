"""The command `sample FOLDER`, which writes a small data set and the configuration of a run on it."""

from argparse import ArgumentParser, Namespace
from importlib.resources import files
from pathlib import Path

from hf_layerfusion.storage import new_folder, write_text


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the folder."""
    parser.add_argument("folder", metavar="FOLDER", help="new folder for sample.yaml and its csv files")


def run(arguments: Namespace) -> None:
    """Write the files, and say how to go on.

    Raises:
        UserError: a folder that is not empty or cannot be written to.
    """
    folder = Path(arguments.folder)
    with new_folder(folder, "FOLDER") as place:
        for file in sorted(
            files("hf_layerfusion.cli").joinpath("sample").iterdir(), key=lambda each: each.name
        ):
            write_text(place / file.name, file.read_text(encoding="utf-8"))
    print(f"cd {folder} && hf-layerfusion train --config sample.yaml")
