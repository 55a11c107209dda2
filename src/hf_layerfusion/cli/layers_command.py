"""The command `layers MODEL`, which shows which layers of its encoder a trained model uses."""

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from hf_layerfusion.cli.recipe_command import check_model_path
from hf_layerfusion.errors import UserError
from hf_layerfusion.run_layout import LAYER_USE_FILE, owner


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the models."""
    parser.add_argument(
        "models", nargs="+", metavar="MODEL", help="folders of runs; those of several seeds are shown each"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as json")


def run(arguments: Namespace) -> None:
    """Print what is lost where one layer's states are replaced by their mean, as each run measured it.

    Raises:
        UserError: a folder without such figures.
    """
    found: dict[str, Any] = {}
    for model in arguments.models:
        check_model_path("MODEL", model)
        places = sorted(Path(model).rglob(LAYER_USE_FILE)) if Path(model).is_dir() else []
        if not places:
            raise UserError(
                f"{model}: must be a run's folder with {LAYER_USE_FILE}, found none; a plain model reads its last "
                "layer alone, and a run of several tasks, or without validation data, measures none"
            )
        found |= {str(owner(place)): json.loads(place.read_text(encoding="utf-8")) for place in places}
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    from hf_layerfusion.evaluation.layer_use import LayerUse

    for folder, content in found.items():
        use = LayerUse(**content)
        header, rows = use.table()
        widths = [max(len(row[place]) for row in (header, *rows)) for place in range(len(header))]
        print(f"\n{folder}: on {use.num_texts} validation texts; the layers used most are "
              f"{', '.join(map(str, use.ranking()[:3]))}")  # fmt: skip
        for row in (header, *rows):
            print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
