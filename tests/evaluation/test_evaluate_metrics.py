"""Our metrics inside `evaluate`: by themselves, combined, and in its evaluator over our models. No network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import datasets
import evaluate
import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics as sk
from transformers import AutoTokenizer, EvalPrediction, PreTrainedModel

from hf_layerfusion.evaluation.evaluate_metrics import (
    MultiLabelMetrics,
    RegressionMetrics,
    SingleLabelMetrics,
)
from hf_layerfusion.evaluation.metrics import compute_metrics_for
from hf_layerfusion.modeling.configuration_cerbertus import CerbertusConfig
from hf_layerfusion.modeling.modeling_cerbertus import CerbertusForMultitask
from tests.modeling.cases import build
from tests.tiny import tiny_config, tiny_texts

RNG = np.random.default_rng(0)
NAMES = {0: "negative", 1: "positive", 2: "neutral"}  # no text of the tests is neutral


def test_single_label_is_sklearn_s() -> None:
    found, true = RNG.integers(0, 4, 200), RNG.integers(0, 5, 200)
    assert SingleLabelMetrics().compute(predictions=found, references=true) == pytest.approx(
        {
            "accuracy": sk.accuracy_score(true, found),
            "f1_macro": sk.f1_score(true, found, average="macro"),
            "recall_macro": sk.recall_score(true, found, average="macro"),
        }
    )


def test_multi_label_is_sklearn_s() -> None:
    found, true = RNG.integers(0, 2, (200, 3)), RNG.integers(0, 2, (200, 3))
    assert MultiLabelMetrics().compute(predictions=found, references=true) == pytest.approx(
        {
            "f1_micro": sk.f1_score(true, found, average="micro"),
            "f1_macro": sk.f1_score(true, found, average="macro"),
            "subset_accuracy": sk.accuracy_score(true, found),
        }
    )


def test_regression_is_sklearn_s_and_scipy_s() -> None:
    found, true = RNG.normal(size=200), RNG.normal(size=200)
    assert RegressionMetrics().compute(predictions=found, references=true) == pytest.approx(
        {
            "mse": sk.mean_squared_error(true, found),
            "mae": sk.mean_absolute_error(true, found),
            "pearsonr": stats.pearsonr(true, found).statistic,
            "spearmanr": stats.spearmanr(true, found).statistic,
        }
    )


def test_batches_add_up() -> None:
    found, true = RNG.integers(0, 3, 20), RNG.integers(0, 3, 20)
    metric = SingleLabelMetrics()
    for start in (0, 7, 14):
        metric.add_batch(predictions=found[start : start + 7], references=true[start : start + 7])
    assert metric.compute() == SingleLabelMetrics().compute(predictions=found, references=true)


def test_it_combines_with_another_metric() -> None:
    class Kappa(evaluate.Metric):
        def _info(self) -> evaluate.MetricInfo:
            return SingleLabelMetrics()._info()

        def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
            return {"kappa": sk.cohen_kappa_score(references, predictions)}

    found, true = RNG.integers(0, 3, 50), RNG.integers(0, 3, 50)
    both = evaluate.combine([SingleLabelMetrics(), Kappa()]).compute(predictions=found, references=true)
    assert both.keys() == {"accuracy", "f1_macro", "recall_macro", "kappa"}
    assert both["accuracy"] == sk.accuracy_score(true, found)


def test_predictions_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="predictions must be finite; found NaN or infinity in 1 of 2 rows"):
        RegressionMetrics().compute(predictions=[0.0, float("nan")], references=[0.0, 1.0])


# The evaluator


def fusion() -> PreTrainedModel:
    return build("share-gru", id2label=NAMES)


def pooling() -> PreTrainedModel:
    return build("lstm-cls", id2label=NAMES)


def cerbertus_task() -> PreTrainedModel:
    kind = "single_label_classification"
    tasks = {
        "polarity": {"problem_type": kind, "labels": ["negative", "positive"]},
        "topic": {"problem_type": kind, "labels": ["a", "b", "c"]},
    }
    config = CerbertusConfig(
        encoder_config=tiny_config("bert"), tasks=tasks, num_task_layers=1, task_name="topic"
    )
    return CerbertusForMultitask(config).task("polarity")


@pytest.mark.parametrize("make", [fusion, pooling, cerbertus_task])
@pytest.mark.parametrize("from_folder", [False, True])
def test_the_evaluator_s_accuracy_is_ours(
    make: Any, from_folder: bool, tiny_encoder_dir: str, tmp_path: Path
) -> None:
    model, tokenizer = make().eval(), AutoTokenizer.from_pretrained(tiny_encoder_dir)
    label2id = {name: index for index, name in model.config.id2label.items()}
    texts, names = zip(*tiny_texts(24), strict=True)
    labels = [label2id[name] for name in names]
    given: dict[str, Any] = {"model_or_pipeline": model, "tokenizer": tokenizer}
    if from_folder:
        model.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        given = {"model_or_pipeline": str(tmp_path)}
    found = evaluate.evaluator("text-classification").compute(
        **given,
        data=datasets.Dataset.from_dict({"text": texts, "label": labels}),
        metric=SingleLabelMetrics(),
        label_mapping=label2id,
    )
    batch = tokenizer(list(texts), padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**batch).logits.numpy()
    expected = compute_metrics_for(model.config.problem_type or "single_label_classification")(
        EvalPrediction(predictions=logits, label_ids=np.array(labels))
    )
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["accuracy"] > 0


def test_the_evaluator_takes_no_pipeline_yet(tiny_encoder_dir: str) -> None:
    # The page on evaluation says so; once this fails, evaluate knows transformers 5.
    with pytest.raises(AttributeError, match=re.escape("TFPreTrainedModel")):
        evaluate.evaluator("text-classification").compute(
            model_or_pipeline=lambda texts: [],
            data=datasets.Dataset.from_dict({"text": ["a"], "label": [0]}),
            metric=SingleLabelMetrics(),
        )
