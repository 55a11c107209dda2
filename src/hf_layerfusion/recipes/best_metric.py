"""The metric that selects a run's checkpoint: validated before data are read, resolved once the labels are known."""

from dataclasses import replace
from typing import Any, TypeVar

from transformers.trainer_utils import IntervalStrategy

from hf_layerfusion.errors import UserError, nearest
from hf_layerfusion.metric_registry import EVAL_PREFIX, MAIN_METRIC, PROBLEM_METRICS, selection_metrics
from hf_layerfusion.recipes.recipe_arguments import RunTrainingArguments

WITHOUT_EVALUATION: dict[str, Any] = {
    "eval_strategy": "no",
    "load_best_model_at_end": False,
    "early_stopping_patience": None,
}
"""Training arguments of a run that has no data to evaluate on."""

AnyArguments = TypeVar("AnyArguments", bound=RunTrainingArguments)


def check_metric(arguments: RunTrainingArguments, *problem_types: str) -> None:
    """Check that `--metric_for_best_model` is a metric of a run on one task.

    Args:
        arguments: the script's arguments.
        *problem_types: the possible problem types; by default all, for use before the labels are read.

    Raises:
        UserError: Lists the metrics there are.
    """
    chosen = arguments.metric_for_best_model
    if chosen is None or arguments.eval_strategy == IntervalStrategy.NO:
        return
    kinds = problem_types or tuple(PROBLEM_METRICS)
    names = dict.fromkeys(["loss", MAIN_METRIC, *(name for kind in kinds for name in PROBLEM_METRICS[kind])])
    if chosen.removeprefix(EVAL_PREFIX) not in names:
        of_what = f" of a {kinds[0].replace('_', ' ')}" if len(kinds) == 1 else ""
        raise UserError(
            f"--metric_for_best_model{of_what} must be one of {', '.join(names)}, found {chosen!r}; "
            f"{nearest(chosen.removeprefix(EVAL_PREFIX), names)}"
        )


def with_metric(arguments: AnyArguments, problem_type: str) -> AnyArguments:
    """Return the arguments with `main` replaced by the main metric of the problem type.

    Raises:
        UserError: As `check_metric`.
    """
    check_metric(arguments, problem_type)
    if (arguments.metric_for_best_model or "").removeprefix(EVAL_PREFIX) != MAIN_METRIC:
        return arguments
    changes: dict[str, Any] = {
        "metric_for_best_model": selection_metrics(problem_type)[0],
        "greater_is_better": None,
    }
    return replace(arguments, **changes)
