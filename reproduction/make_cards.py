"""Write the cards of `model_cards/` from the run files below `docs/results/`.

python -m reproduction.make_cards
"""

from dataclasses import dataclass
from pathlib import Path

from hf_layerfusion.cli.script import parse_arguments, run_script
from hf_layerfusion.recipes.recipe_arguments import option
from reproduction.release import measured_releases
from reproduction.release_cards import release_card


@dataclass
class CardArguments:
    """Arguments: the folders of run files and cards."""

    results: str = option("docs/results", "Folder of the run files.")
    cards: str = option("model_cards", "Folder of the cards.")


def main() -> None:
    """Run the command line."""
    (arguments,) = parse_arguments(CardArguments)
    for name, release in measured_releases().items():
        card = release_card(release, Path(arguments.results))
        card.save(Path(arguments.cards) / f"{name}.md")
        print(f"{arguments.cards}/{name}.md")


if __name__ == "__main__":
    run_script(main)
