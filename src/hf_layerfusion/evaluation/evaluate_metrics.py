"""The package's metrics as `evaluate.Metric` classes, so that no metric script is fetched from the Hub.

They take predictions instead of logits, like `evaluate.evaluator`, `evaluate.combine` and the other metrics of that
library.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from hf_layerfusion.evaluation.metrics import (
    Array,
    check_rows,
    multi_label_metrics,
    regression_metrics,
    single_label_metrics,
)

__all__ = ["MultiLabelMetrics", "RegressionMetrics", "SingleLabelMetrics"]


class SingleLabelMetrics(evaluate.Metric):
    """Metric of predicted classes: `accuracy`, `f1_macro` and `recall_macro`, computed by `single_label_metrics`.

    Example:
        >>> SingleLabelMetrics().compute(predictions=[0, 1, 1], references=[0, 1, 0])["recall_macro"]
        0.75
    """

    def _info(self) -> evaluate.MetricInfo:
        return _info(
            "Accuracy, macro F1 and macro recall over the classes that occur among labels or predictions.",
            "classes, a whole number a text",
            datasets.Value("int64"),
        )

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        return single_label_metrics(*_arrays(predictions, references))


class MultiLabelMetrics(evaluate.Metric):
    """Metric of 0/1 labels `[N, C]`: `f1_micro`, `f1_macro` and `subset_accuracy`, computed by
    `multi_label_metrics`.
    """

    def _info(self) -> evaluate.MetricInfo:
        return _info(
            "Micro F1, macro F1 and the share of texts whose labels are all right.",
            "lists of 0 and 1, one entry a label",
            datasets.List(datasets.Value("int64")),
        )

    def _compute(
        self, predictions: Sequence[Sequence[int]], references: Sequence[Sequence[int]]
    ) -> dict[str, float]:
        return multi_label_metrics(*_arrays(predictions, references))


class RegressionMetrics(evaluate.Metric):
    """Metric of numbers: `mse`, `mae`, `pearsonr` and `spearmanr`, computed by `regression_metrics`."""

    def _info(self) -> evaluate.MetricInfo:
        return _info(
            "Mean squared and absolute error, correlations of Pearson and Spearman (nan where undefined).",
            "numbers, one a text",
            datasets.Value("float64"),
        )

    def _compute(self, predictions: Sequence[float], references: Sequence[float]) -> dict[str, float]:
        return regression_metrics(*_arrays(predictions, references))


def _info(description: str, inputs: str, feature: Any) -> evaluate.MetricInfo:
    return evaluate.MetricInfo(
        description=description,
        citation="",
        inputs_description=f"predictions, references: {inputs}.",
        features=datasets.Features({"predictions": feature, "references": feature}),
    )


def _arrays(predictions: Sequence[Any], references: Sequence[Any]) -> tuple[Array, Array]:
    found, labels = np.asarray(predictions), np.asarray(references)
    check_rows(found, labels)
    return found, labels
