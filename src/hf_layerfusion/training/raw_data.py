"""Data sets of raw texts and labels by name, converted to the inputs of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from datasets import Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict
from transformers import PreTrainedTokenizerBase, TrainingArguments
from transformers.utils import logging

from hf_layerfusion.data.soft_labels import TEACHER_LOGITS
from hf_layerfusion.errors import UserError, one_line
from hf_layerfusion.evaluation.metrics import compute_metrics_for
from hf_layerfusion.regularizers.task_outputs import ONE_TASK
from hf_layerfusion.training.raw_labels import (
    LABEL_FEATURES,
    LabelColumn,
    ModelLabels,
    label_column,
)
from hf_layerfusion.training.raw_texts import (
    HubDataset,
    TextEncoder,
    check_texts,
    features_of,
    string_columns,
    text_columns,
)
from hf_layerfusion.training.task_data import LABELS
from hf_layerfusion.training.tokenizers import check_tokenizer

logger = logging.get_logger(__name__)

MODEL_INPUTS = ("input_ids", "inputs_embeds", "encoder_states", "attention_mask")
"""Columns that no data set of raw texts has."""


class RawData:
    """Converts data sets of raw texts to the inputs of a model, and their labels to ids.

    A data set is raw if it is a `datasets.Dataset`, a `datasets.IterableDataset` or a list of dictionaries, has a
    column of strings and none of model inputs, and is not tokenized by a transform of its own. Others stay as they are.

    Args:
        tokenizer: The tokenizer of the texts; raw data are refused without one.
        config: The model's configuration.
        args: The run's options.
        has_tasks: Whether the run has several tasks. The column `label` of their data becomes `labels`.

    Attributes:
        problem_types: The problem type of each task whose raw data had labels, those of one task under `ONE_TASK`.
    """

    def __init__(self, tokenizer: Any, config: Any, args: TrainingArguments, has_tasks: bool) -> None:
        self._tokenizer = tokenizer if isinstance(tokenizer, PreTrainedTokenizerBase) else None
        self._config, self._args, self._has_tasks = config, args, has_tasks
        self._encoder: TextEncoder | None = None
        self._labels: dict[str, ModelLabels | None] = {}
        self._pairs: dict[str, bool] = {}
        self.problem_types: dict[str, str] = {}

    def training(self, dataset: Any) -> Any:
        """Return the training data, by task if there are several, as inputs; unnamed classes take the data's names.

        Raises:
            UserError: See `inputs`; or `dataset` holds splits instead of rows.
        """
        declares_tasks = bool(getattr(self._config, "tasks", None))
        if (
            isinstance(dataset, DatasetDict | IterableDatasetDict)
            and "train" in dataset
            and not declares_tasks
        ):
            raise UserError(
                f"train_dataset must be one split, found those of a {type(dataset).__name__} "
                f"({', '.join(map(str, dataset))}); give train_dataset=data['train']"
            )
        return self.inputs(dataset, "training")

    def inputs(self, dataset: Any, role: str) -> Any:
        """Return a data set, or a dictionary of several, with model inputs in place of raw texts.

        Args:
            dataset: The rows; a dictionary by task, or by name for the evaluation data of one task. Anything else that
                is not raw is returned as it is.
            role: "training", "evaluation" or "prediction", for messages.

        Raises:
            UserError: A text or label is missing, a label is unknown, the labels do not fit the model, or the columns
                of the texts cannot be told; names the row or the columns.
        """
        if not isinstance(dataset, dict):
            return self._convert(dataset, ONE_TASK, role, f"{role} data")
        converted = {}
        for name, rows in dataset.items():
            task, what = (name, f" of task '{name}'") if self._has_tasks else (ONE_TASK, f" '{name}'")
            converted[name] = self._convert(rows, task, role, f"{role} data{what}")
        return converted

    def name(self, model: Any) -> None:
        """Write the problem type and the names of the classes into a model's configuration, if raw data gave them."""
        labels = self._labels.get(ONE_TASK)
        if labels is not None and ONE_TASK in self.problem_types:
            labels.name(model)

    def metrics(self) -> Any:
        """Return the functions that compute the metrics of raw data: one, or one for each task. None without labels."""
        if not self._has_tasks:
            found = self.problem_types.get(ONE_TASK)
            return None if found is None else compute_metrics_for(found)
        configs = getattr(self._config, "task_configs", {})
        if not self.problem_types or not configs:
            return None
        return {name: compute_metrics_for(task.problem_type) for name, task in configs.items()}

    def _convert(self, rows: Any, task: str, role: str, where: str) -> Any:
        if (
            isinstance(rows, Sequence)
            and rows
            and isinstance(rows[0], Mapping)
            and not {*rows[0]} & {*MODEL_INPUTS}
        ):
            try:
                rows = Dataset.from_list([dict(row) for row in rows])
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                raise UserError(
                    f"{where}: the rows must have values of the same types, found {one_line(error)}; correct them"
                ) from error
        if not isinstance(rows, Dataset | IterableDataset):
            return self._with_labels(rows)
        if isinstance(rows, Dataset) and rows.format["type"] == "custom":
            return rows
        features = features_of(rows)
        if {*features} & {*MODEL_INPUTS} or not string_columns(features):
            return self._with_labels(rows)
        if self._tokenizer is None:
            raise UserError(
                f"{where}: raw texts need a tokenizer, found the columns {', '.join(features)}; give the tokenizer as "
                "processing_class, or tokenize them"
            )
        if self._encoder is None:
            # Of other encoders a tokenizer may have tokens without an embedding, which no text has.
            if getattr(getattr(self._config, "encoder_config", None), "word_level", False):
                check_tokenizer(self._tokenizer, self._config, "processing_class")
            self._encoder = TextEncoder(self._tokenizer)
        if isinstance(rows, Dataset) and not len(rows):
            raise UserError(f"{where}: there must be rows, found none; check its source")
        return self._encoded(rows.with_format(None), features, task, role, where)

    def _with_labels(self, rows: Any) -> Any:
        """Return rows that are tokenized already; with several tasks, their column `label` is renamed to `labels`."""
        if not self._has_tasks:
            return rows
        if isinstance(rows, Dataset) and "label" in rows.column_names and LABELS not in rows.column_names:
            return rows.rename_column("label", LABELS)
        if isinstance(rows, list) and rows and "label" in rows[0] and LABELS not in rows[0]:
            return [
                {LABELS if name == "label" else name: value for name, value in row.items()} for row in rows
            ]
        return rows

    def _encoded(self, rows: HubDataset, features: Features, task: str, role: str, where: str) -> HubDataset:
        columns = text_columns(features, where)
        apart = self._is_apart(task, columns, where)
        column = label_column(features, where)
        stream = isinstance(rows, IterableDataset)
        may_lack = role != "training" and not stream
        if column is not None and may_lack and all(map(column.is_missing, column.values(rows))):
            column = None  # such as the test data of GLUE
        if column is None and role == "training":
            raise UserError(
                f"{where}: the labels must be in a column 'label', found {', '.join(features)}; rename theirs "
                "(rename_column)"
            )
        labels = self._settled(task, column, rows if role == "training" and not stream else None)
        encoder: Any = self._encoder
        kept = [TEACHER_LOGITS] if TEACHER_LOGITS in features and role == "training" else []
        read = [*columns, *kept, *([column.name] if column else [])]
        unused = [name for name in features if name not in read]
        logger.info(
            f"{where}: texts from {' and '.join(columns)}, labels from {column.name if column else 'no column'}"
            + (f"; not used: {', '.join(unused)}" if unused else "")
        )

        def encode(batch: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
            texts = [batch[name] for name in columns]
            for name, of_column in zip(columns, texts, strict=True):
                check_texts(of_column, indices, name, where)
            inputs: dict[str, list[Any]] = encoder(texts, apart, task)
            if column is not None:
                given = batch[column.name]
                inputs[LABELS] = (
                    given if labels is None else labels.targets(given, indices, column, may_lack=bool(kept))
                )
            return inputs

        options: dict[str, Any] = {} if stream else {"desc": f"tokenizing {where}"}
        with self._args.main_process_first(desc=f"tokenizing {where}"):
            encoded = rows.map(
                encode, batched=True, with_indices=True, remove_columns=[*{*features} - {*kept}], **options
            )
        if stream:
            return encoded
        encoder.warn_of_cut(rows, columns, apart, task, where)
        if labels is None or column is None:
            return encoded
        return encoded.cast_column(LABELS, LABEL_FEATURES[str(labels.problem_type)])

    def _settled(self, task: str, column: LabelColumn | None, training: Dataset | None) -> ModelLabels | None:
        """Return the labels of a task as its data and the model determine them; None for those that stay as they are,
        or of data without any.
        """
        if column is None:
            return None
        if task not in self._labels:
            self._labels[task] = self._of_model(task, column)
        labels = self._labels[task]
        if labels is not None:
            labels.settle(column, training)
            self.problem_types[task] = str(labels.problem_type)
        return labels

    def _of_model(self, task: str, column: LabelColumn) -> ModelLabels | None:
        if task == ONE_TASK:
            return ModelLabels.of_model(self._config)
        configs = getattr(self._config, "task_configs", {})
        if task in configs:
            return ModelLabels.of_task(task, configs[task])
        if column.is_named:
            raise UserError(
                f"{column.where}: labels by name need a model whose configuration declares the task's labels, found "
                f"tasks {', '.join(configs) or 'of none'}; give the ids of the classes"
            )
        return None

    def _is_apart(self, task: str, columns: Sequence[str], where: str) -> bool:
        """Return whether the texts of a task's pairs are encoded separately.

        Raises:
            UserError: Pairs where the model or the other data have single texts, or the reverse.
        """
        is_pair = len(columns) == 2
        config = getattr(self._config, "task_configs", {}).get(task) if task != ONE_TASK else None
        apart = bool(getattr(self._config, "pair_features", None)) if config is None else config.is_siamese
        expected = config.pair if config is not None else True if apart else self._pairs.get(task, is_pair)
        if is_pair != expected:
            kinds = ("single texts", "pairs of texts")
            raise UserError(
                f"{where}: must hold {kinds[expected]}, as the model or the other data do, found {kinds[is_pair]} "
                f"({', '.join(columns)}); name the columns 'text' and, for pairs alone, 'text_pair'"
            )
        self._pairs[task] = is_pair
        return apart
