"""Trained models, of one task or several, and ensembles as functions from texts to scores."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel, pipeline
from transformers.utils import cached_file

from hf_layerfusion import Ensemble, MultitaskPipeline
from hf_layerfusion.ensembling.ensemble_manifest import FILE_NAME as ENSEMBLE_FILE
from hf_layerfusion.errors import LOADING_ERRORS, UserError, one_line
from hf_layerfusion.recipes.model_setup import load_tokenizer, load_trained, resolve_path
from hf_layerfusion.recipes.prediction_run import config_schema, training_settings
from hf_layerfusion.recipes.recipe_arguments import ModelArguments

Item = str | dict[str, str]
"""A text, or a pair `{"text": …, "text_pair": …}`."""

BATCH_SIZE = 32


@dataclass(frozen=True)
class TaskKind:
    """Labels of a task, and the texts that it takes.

    Attributes:
        problem_type: Problem type as in a transformers configuration.
        labels: Names of the classes in the order of their scores; empty for a regression.
        pair: Whether it takes pairs; None if it is not known.
    """

    problem_type: str
    labels: tuple[str, ...]
    pair: bool | None

    @property
    def is_regression(self) -> bool:
        """True for a task whose score is a value instead of probabilities."""
        return self.problem_type == "regression"


class Predictor(Protocol):
    """A trained model as a function from texts to scores.

    Attributes:
        tasks: Its tasks by name; one without a name for a model of one task.
    """

    tasks: dict[str, TaskKind]

    def scores(self, items: Sequence[Item]) -> list[dict[str, list[float]]]:
        """Return for each item the scores of each task that takes it: probabilities of the labels, or one value."""
        ...


class OneTask:
    """A model of one task, by the pipeline of transformers."""

    def __init__(self, model: Any, tokenizer: Any, pair: bool | None):
        schema = config_schema(model.config)
        labels = () if schema.problem_type == "regression" else schema.names
        self.tasks = {"": TaskKind(schema.problem_type, labels, pair)}
        self.model: PreTrainedModel = model
        self.pipeline: Any = pipeline(
            "text-classification", model=model, tokenizer=tokenizer, device=model.device
        )

    def scores(self, items: Sequence[Item]) -> list[dict[str, list[float]]]:
        """Return the scores of each item."""
        kind = self.tasks[""]
        function = {"regression": "none", "multi_label_classification": "sigmoid"}.get(
            kind.problem_type, "softmax"
        )
        found = self.pipeline(
            list(items), top_k=None, batch_size=BATCH_SIZE, function_to_apply=function, truncation=True
        )
        return [{"": in_order(answer, kind)} for answer in found]

    def inputs(self, item: Item) -> dict[str, torch.Tensor]:
        """Return the inputs of the model for one item, `[1, T]`."""
        return dict(self.pipeline.preprocess(item, truncation=True))


class SeveralTasks:
    """A model of several tasks."""

    def __init__(self, model: Any, tokenizer: Any):
        self.tasks = {
            name: TaskKind(
                task.problem_type, () if task.is_regression else tuple(task.labels), bool(task.pair)
            )
            for name, task in model.config.task_configs.items()
        }
        self.pipeline = MultitaskPipeline(model, tokenizer, batch_size=BATCH_SIZE, top_k=None)

    def scores(self, items: Sequence[Item]) -> list[dict[str, list[float]]]:
        """Return the scores of each item: of a pair those of the tasks on pairs, of a text those of all others."""
        found: list[dict[str, list[float]]] = [{} for _ in items]
        for is_pair in (False, True):
            places = [place for place, item in enumerate(items) if isinstance(item, dict) == is_pair]
            names = [name for name, kind in self.tasks.items() if kind.pair == is_pair]
            if not places or not names:
                continue
            answers = self.pipeline([items[place] for place in places], tasks=names)
            for place, answer in zip(places, answers, strict=True):
                found[place] = {name: in_order(answer[name], self.tasks[name]) for name in names}
        return found


class SeveralModels:
    """An ensemble."""

    def __init__(self, ensemble: Ensemble):
        self.ensemble = ensemble
        self.tasks = {
            "" if len(ensemble.tasks) == 1 else name: TaskKind(
                task.problem_type, () if task.is_regression else tuple(task.labels), None
            )
            for name, task in ensemble.tasks.items()
        }

    def scores(self, items: Sequence[Item]) -> list[dict[str, list[float]]]:
        """Return the scores of each item for each task."""
        found: list[dict[str, list[float]]] = [{} for _ in items]
        for name, kind in self.tasks.items():
            answers = self.ensemble(list(items), task=name or None, top_k=None)
            for scores, answer in zip(found, answers, strict=True):
                scores[name] = in_order(answer, kind)
        return found


def in_order(answer: Any, kind: TaskKind) -> list[float]:
    """Return the scores of a pipeline's answer in the order of the labels."""
    if kind.is_regression:
        row = answer[0] if isinstance(answer, list) else answer
        return [float(row["score"] if isinstance(row, dict) else row)]
    scores = {row["label"]: float(row["score"]) for row in answer}
    return [scores[label] for label in kind.labels]


def open_predictor(name_or_path: str, use_cpu: bool = False, trust_remote_code: bool = False) -> Predictor:
    """Open a trained model of one task or several, or an ensemble.

    Args:
        name_or_path: Folder or Hub id.
        use_cpu: Run on the CPU where there is a GPU too.
        trust_remote_code: Run code that lies beside the model.

    Raises:
        UserError: There is no such model, or it is damaged.
    """
    device = "cuda" if torch.cuda.is_available() and not use_cpu else "cpu"
    if is_ensemble(name_or_path):
        try:
            return SeveralModels(
                Ensemble.from_pretrained(name_or_path, device=device, trust_remote_code=trust_remote_code)
            )
        except LOADING_ERRORS as error:
            raise UserError(f"MODEL {name_or_path}: {one_line(error)}") from error
    arguments = ModelArguments(model_name_or_path=name_or_path, trust_remote_code=trust_remote_code)
    try:
        model = load_trained(arguments).to(device).eval()
        tokenizer = load_tokenizer(arguments, keep_preparation=True)
    except UserError as error:
        raise UserError(str(error).replace("--model_name_or_path", "MODEL")) from error
    if getattr(model.config, "tasks", None):
        return SeveralTasks(model, tokenizer)
    return OneTask(model, tokenizer, _takes_pairs(model, name_or_path))


def is_ensemble(name_or_path: str) -> bool:
    """Return whether a folder or a repository of the Hub holds an ensemble."""
    if Path(name_or_path).is_dir():
        return (Path(name_or_path) / ENSEMBLE_FILE).is_file()
    with suppress(*LOADING_ERRORS):  # no such file; or no such model, which its loading reports
        return cached_file(name_or_path, ENSEMBLE_FILE) is not None
    return False


def _takes_pairs(model: Any, name_or_path: str) -> bool | None:
    """Return whether a model of one task takes pairs of texts, None if nothing says so."""
    if getattr(model.config, "pair_features", None):
        return True
    settings = training_settings(resolve_path(name_or_path)) or {}
    return settings["text_pair_column"] is not None if "text_pair_column" in settings else None
