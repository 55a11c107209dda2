"""The answer of a demo as HTML."""

import functools
from importlib import resources

import jinja2

from hf_layerfusion.app.answers import Answer, TaskAnswer

MOST_LABELS = 10
"""Number of labels that are shown, the most likely ones."""


def render_answer(answer: Answer) -> str:
    """Return an answer as HTML, without scripts and addresses; texts and labels are escaped."""
    return _template().render(answer=answer, most=MOST_LABELS, strength=strength, shown=shown)


def render_message(message: str) -> str:
    """Return a sentence about bad input as HTML."""
    return _template().render(message=message, answer=None, most=MOST_LABELS, strength=strength, shown=shown)


def strength(value: float, values: list[float]) -> float:
    """Return a value relative to the largest absolute one, −1 to 1."""
    largest = max(map(abs, values), default=0.0)
    return value / largest if largest else 0.0


def shown(task: TaskAnswer, value: float) -> str:
    """Return a difference in the unit of a task's scores: percentage points, or the unit of its value."""
    number = f"{value:+.3f}" if task.kind.is_regression else f"{100 * value:+.1f}"
    return number.replace("-", "−")


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(
        resources.files(__package__).joinpath("answer_template.html").read_text(encoding="utf-8")
    )
