"""A Trainer that keeps the best of the checkpoints that it saves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import Trainer
from transformers.trainer_utils import IntervalStrategy, SaveStrategy
from transformers.utils import logging

from hf_layerfusion.errors import UserError
from hf_layerfusion.evaluation.metrics import ComputeMetrics
from hf_layerfusion.metric_registry import EVAL_PREFIX
from hf_layerfusion.training.trainer_card import NO_METRIC
from hf_layerfusion.training.training_arguments import LayerFusionTrainingArguments

logger = logging.get_logger(__name__)


class ChoosingTrainer(Trainer):
    """The stock Trainer, but the best evaluation is one whose weights are saved, and a metric that is not computed is
    refused, before training where it is known what `compute_metrics` gives."""

    args: LayerFusionTrainingArguments
    compute_metrics: Any
    eval_dataset: Any

    def metric_names(self) -> tuple[str, ...] | None:
        """Return the metrics of an evaluation of one task, or None where only the evaluation can tell."""
        if isinstance(self.compute_metrics, ComputeMetrics):
            return ("loss", *self.compute_metrics.names)
        return None

    def check_metric(self) -> None:
        """Check that the evaluation of one task will have `metric_for_best_model`.

        Raises:
            UserError: names the metrics that it will have.
        """
        chosen, names = self.args.metric_for_best_model, self.metric_names()
        if chosen is None or names is None or self.args.eval_strategy == IntervalStrategy.NO:
            return
        if isinstance(self.eval_dataset, Mapping):  # of several data sets, as for the stock Trainer
            names = tuple(f"{part}_{name}" for part in self.eval_dataset for name in names)
        if chosen.removeprefix(EVAL_PREFIX) not in names:
            raise _unknown_metric(chosen, names)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        chosen = self.args.metric_for_best_model
        if chosen is not None and EVAL_PREFIX + chosen.removeprefix(EVAL_PREFIX) not in metrics:
            named = (name.removeprefix(EVAL_PREFIX) for name in metrics if name.startswith(EVAL_PREFIX))
            found = [name for name in named if not f"_{name}".endswith(NO_METRIC)]
            raise _unknown_metric(chosen, found)
        by_interval = self.args.save_strategy in (SaveStrategy.STEPS, SaveStrategy.EPOCH)
        if by_interval and not self.control.should_save:
            return False  # these weights will be gone: nothing could be loaded for the best that they are
        return super()._determine_best_metric(metrics, trial)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint is None:
            logger.warning(
                f"load_best_model_at_end: no checkpoint had a {self.args.metric_for_best_model} that is a number; the "
                "last weights are kept"
            )
        return super()._finalize_training(*args, **kwargs)


def _unknown_metric(chosen: str, names: Any) -> UserError:
    return UserError(
        f"metric_for_best_model must be a metric of the evaluation ({', '.join(names)}), found {chosen!r}; name one of "
        "them"
    )
