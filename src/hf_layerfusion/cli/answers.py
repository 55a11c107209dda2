"""Printing of a finished run: its results, its files, and the predictions of its model for a few texts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import pipeline

from hf_layerfusion.cli.script import print_dry_run, print_outputs

MOST_SHOWN = 100
"""Number of characters of a text that are printed."""


def print_run(results: dict[str, Any], training_arguments: Any, texts: Sequence[Any] = ()) -> None:
    """Print what a run measured and wrote, by the main process, and what its model answers.

    Args:
        results: as the run returns them.
        training_arguments: its own.
        texts: to answer: strings, or pairs of the first text and the second.
    """
    if training_arguments.process_index != 0:
        return
    if training_arguments.dry_run:
        print_dry_run(results)
        return
    folder = Path(training_arguments.output_dir)
    print_outputs(results, folder)
    if texts and (folder / "config.json").exists():
        print_answers(folder, texts)


def print_answers(folder: Path, texts: Sequence[Any]) -> None:
    """Print what the pipeline of a model's folder says to each text or pair."""
    print(f'\npipeline("text-classification", model="{folder}") says:')
    classifier = pipeline("text-classification", model=str(folder), device="cpu", truncation=True)
    for text in texts:
        first, second = (text, None) if isinstance(text, str) else text
        answer: Any = classifier(first if second is None else {"text": first, "text_pair": second})
        answer = answer[0] if isinstance(answer, list) else answer
        shown = " | ".join(_shown(each) for each in (first, second) if each is not None)
        print(f"  {answer['label']} ({answer['score']:.2f})  {shown}")


def _shown(text: str) -> str:
    """Return a text as one line of a terminal, shortened, without control characters."""
    line = "".join(each if each.isprintable() else " " for each in text)
    return line if len(line) <= MOST_SHOWN else f"{line[: MOST_SHOWN - 1]}…"
