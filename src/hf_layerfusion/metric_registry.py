"""Registry of the metrics: direction, range, and name on the Hub and in print."""

from math import inf
from typing import NamedTuple

IGNORED = -100
"""Label of a row that has none, as in torch."""
EVAL_PREFIX = "eval_"
MAIN_METRIC = "main"
"""Placeholder for the main metric of a problem type that is not known yet."""


class Metric(NamedTuple):
    """A metric with its names, direction and range.

    Attributes:
        hub_id: Id on the Hub; None if the Hub has no such metric.
        title: Name in print.
        greater_is_better: Whether higher values are better.
        least, most: Range of its values; an undefined correlation may be NaN too.
    """

    hub_id: str | None
    title: str
    greater_is_better: bool
    least: float
    most: float


METRICS: dict[str, Metric] = {
    "accuracy": Metric("accuracy", "Accuracy", True, 0, 1),
    "f1_macro": Metric("f1", "Macro F1", True, 0, 1),
    "f1_micro": Metric("f1", "Micro F1", True, 0, 1),
    "recall_macro": Metric("recall", "Macro recall", True, 0, 1),
    "subset_accuracy": Metric("accuracy", "Subset accuracy", True, 0, 1),
    "mse": Metric("mse", "Mean squared error", False, 0, inf),
    "mae": Metric("mae", "Mean absolute error", False, 0, inf),
    "pearsonr": Metric("pearsonr", "Pearson correlation", True, -1, 1),
    "spearmanr": Metric("spearmanr", "Spearman correlation", True, -1, 1),
    "loss": Metric(None, "Loss", False, -inf, inf),
    "perplexity": Metric("perplexity", "Perplexity", False, 0, inf),
    "mean": Metric(None, "Mean over the tasks", True, -1, 1),
}
"""Every metric that a run may report, by name. A new metric is one row here."""

PROBLEM_METRICS: dict[str, tuple[str, ...]] = {
    "single_label_classification": ("accuracy", "f1_macro", "recall_macro"),
    "multi_label_classification": ("f1_micro", "f1_macro", "subset_accuracy"),
    "regression": ("mse", "mae", "pearsonr", "spearmanr"),
}
"""Metrics of each problem type, in the order in which they are reported."""

# Metrics of other libraries for which lower is better; transformers itself knows only the loss.
_LESS_IS_BETTER_ELSEWHERE = (
    "rmse", "msle", "rmsle", "mape", "smape", "error", "error_rate", "nll", "ppl", "bits_per_byte", "wer", "cer", "ter",
    "brier", "brier_score", "ece",
)  # fmt: skip
# `mean` is left out, because a name that ends with `_mean` may be the mean of anything.
_BY_SUFFIX = {
    **dict.fromkeys(_LESS_IS_BETTER_ELSEWHERE, False),
    **{name: metric.greater_is_better for name, metric in METRICS.items() if name != "mean"},
}


def inline_name(name: str) -> str:
    """Return the name of a metric within a sentence; that of an unknown metric has spaces instead of underscores."""
    if name not in METRICS:
        return name.replace("_", " ")
    title = METRICS[name].title
    return title if name in ("pearsonr", "spearmanr") else title[0].lower() + title[1:]


def selection_metrics(problem_type: str) -> tuple[str, ...]:
    """Return the metrics of a problem type for which higher is better; the first is its main metric."""
    return tuple(name for name in PROBLEM_METRICS[problem_type] if METRICS[name].greater_is_better)


def known_direction(name: str) -> bool | None:
    """Return whether higher values of a metric are better, or None for an unknown metric.

    Args:
        name: Name of the metric, optionally with `eval_`, a task or a data set as a prefix: `eval_sts_mse` is
            recognized as `mse`.
    """
    name = name.removeprefix(EVAL_PREFIX)
    if name in METRICS or name == MAIN_METRIC:
        return name == MAIN_METRIC or METRICS[name].greater_is_better
    endings = (name[place + 1 :] for place, letter in enumerate(name) if letter == "_")
    return next((_BY_SUFFIX[end] for end in (name, *endings) if end in _BY_SUFFIX), None)


def greater_is_better(name: str) -> bool:
    """Return whether higher values of a metric are better.

    Metrics unknown to `known_direction` are judged as in transformers: lower is better if the name ends with `loss`.
    """
    known = known_direction(name)
    return not name.endswith("loss") if known is None else known
