"""`Teacher`: models or ensembles whose averaged predictions another model is trained on."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, List, Value
from scipy.special import log_expit, log_softmax, logsumexp

from hf_layerfusion.data.arrow_tables import column_values
from hf_layerfusion.data.soft_labels import TEACHER_LOGITS
from hf_layerfusion.ensembling.ensemble import open_member
from hf_layerfusion.ensembling.ensemble_member import EnsembleMember, seen_by
from hf_layerfusion.ensembling.member_models import ONLY_TASK, Runtime, TaskSchema, tasks_of
from hf_layerfusion.ensembling.prediction_files import Array, Rows
from hf_layerfusion.ensembling.trained_texts import Hashes, seen_rows, text_hashes
from hf_layerfusion.errors import UserError


class Teacher:
    """Models or ensembles whose averaged predictions another model, the student, is trained on.

    A teacher reads raw texts: each of its models prepares and tokenizes them as in its own training. Its classes and
    the student's are matched by name.

    Args:
        members: models or ensembles, each used for one task.

    Raises:
        UserError: There are none, or one has several tasks.

    Example:
        ```python
        teacher = Teacher.of(["outputs/vote"])
        train = teacher.add_to(train, model.config)  # adds the column teacher_logits
        args = LayerFusionTrainingArguments("outputs/student", distillation_weight=0.5)
        ```
    """

    def __init__(self, members: Sequence[EnsembleMember]):
        if not members:
            raise UserError("a teacher needs one model or ensemble or more, found none; name one.")
        self.members = list(members)
        for member in self.members:
            if len(member.tasks) != 1:
                name = member.predictor.name
                raise UserError(
                    f"teacher {name}: must be used for one task, found {', '.join(member.tasks)}; name one as "
                    f"TASK={name}."
                )

    @classmethod
    def of(
        cls,
        names: str | Sequence[str],
        *,
        device: str | None = None,
        batch_size: int = 32,
        cache_dir: str | Path | None = None,
        max_loaded_members: int | None = 1,
        trust_remote_code: bool = False,
        progress: bool = True,
    ) -> "Teacher":
        """Open a teacher from the names of its models and ensembles; their weights are loaded when needed.

        Args:
            names: folders or Hub ids, `[TASK=]NAME[@REVISION]`. Their predictions are averaged.
            device: device to predict on; None for a GPU if there is one.
            batch_size: texts in a batch.
            cache_dir: folder that keeps predictions, by the content of models and texts; None keeps none.
            max_loaded_members: number of models in memory at a time.
            trust_remote_code: whether to run code that comes with a model.
            progress: whether to show a progress bar for each model.

        Raises:
            UserError: A model is missing or no trained classifier; as `Teacher`.
        """
        runtime = Runtime(
            max_loaded_members,
            device,
            batch_size,
            cache_dir,
            trust_remote_code,
            prepares_texts=True,
            progress=progress,
        )
        return cls([open_member(name, runtime) for name in ([names] if isinstance(names, str) else names)])

    @property
    def names(self) -> list[str]:
        """Names of the models and ensembles."""
        return [member.predictor.name for member in self.members]

    @property
    def sha256(self) -> str:
        """Hash of everything that its predictions of a text depend on."""
        parts = [f"{next(iter(member.tasks.values()))} {member.predictor.sha256}" for member in self.members]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def check(self, problem_type: str, labels: Sequence[str], num_texts: int | None = None) -> None:
        """Check that every model has the student's problem type and labels, and reads its texts.

        Args:
            problem_type: the student's.
            labels: names of the student's classes; of a regression they are not compared.
            num_texts: number of texts in a row; None if it is not known.

        Raises:
            UserError: Names the first model that has others, or that encodes the texts of pairs separately where texts
                are single.
        """
        for member in self.members:
            schema, name = self._schema(member), member.predictor.name
            if schema.is_siamese and num_texts not in (2, None):
                raise UserError(
                    f"teacher {name}: reads pairs of texts, found single ones; name another teacher."
                )
            if schema.problem_type != problem_type:
                raise UserError(
                    f"teacher {name}: its problem type must be the student's, {problem_type}, found "
                    f"{schema.problem_type}; name another teacher."
                )
            if not schema.is_regression and sorted(schema.labels) != sorted(labels):
                raise UserError(
                    f"teacher {name}: its labels must be the student's, {', '.join(labels)}, found "
                    f"{', '.join(schema.labels)}; rename them in its config.json, or the data's classes."
                )

    def logits(self, rows: Rows, problem_type: str, labels: Sequence[str]) -> Array:
        """Return the averaged predictions of raw texts as logits `[N, C]` in float32.

        For one class a text, softmax gives the mean of the models' probabilities; for several, the sigmoid does. For a
        regression they are the mean values, `[N, 1]`.

        Args:
            rows: a text each, or the two texts of a pair.
            problem_type: the student's.
            labels: names of the student's classes, in the order of its logits.

        Raises:
            UserError: As `check`; single texts for a model that encodes the texts of pairs separately; or a prediction
                is not finite.
        """
        widths = {len(row) for row in rows}
        self.check(problem_type, labels, min(widths, default=None))
        found = []
        for member in self.members:
            schema = self._schema(member)
            (task,) = member.tasks.values()
            predicted = member.predictor.predict(task, rows)
            if schema.is_regression:
                found.append(predicted[:, None])
            else:
                found.append(predicted[:, [schema.labels.index(label) for label in labels]])
        return average(np.stack(found), problem_type).astype(np.float32)

    def add_to(self, dataset: Dataset, config: Any, text_columns: Sequence[str] = ("text",)) -> Dataset:
        """Return training rows with the column `teacher_logits`, which `distillation_weight` needs.

        Args:
            dataset: rows with raw texts. Those without a label have -100 as `labels`, or NaN where labels are floats.
            config: configuration of the student, with its labels.
            text_columns: column of the text, or the two columns of a pair.

        Raises:
            UserError: The rows are no `Dataset`, lack a column or a text, or have `teacher_logits`; or as `logits`.
        """
        if not isinstance(dataset, Dataset):
            raise UserError(
                f"rows must be a datasets.Dataset, found {type(dataset).__name__}; make one by Dataset.from_list"
            )
        found = dataset.column_names
        if missing := [column for column in text_columns if column not in found]:
            raise UserError(
                f"rows must have the columns {', '.join(text_columns)}, found no {missing[0]} among "
                f"{', '.join(found)}; name text_columns"
            )
        if TEACHER_LOGITS in found:
            raise UserError(
                f"rows must have no column {TEACHER_LOGITS} yet, found one; remove it (remove_columns)"
            )
        for column in text_columns:
            if None in (texts := column_values(dataset, column)):
                raise UserError(
                    f"column '{column}' must have a text in every row, found none in row {texts.index(None)}; remove "
                    "the row (filter)"
                )
        schema = tasks_of(config)[ONLY_TASK]
        rows = list(zip(*(column_values(dataset, column) for column in text_columns), strict=True))
        return with_teacher(dataset, self.logits(rows, schema.problem_type, schema.labels))

    def overlap(self, rows: Rows) -> dict[str, int | None]:
        """Return how many rows each model was trained or selected on, by its name; None where it does not record
        that. Models that have seen none are left out."""
        hashes = text_hashes(rows)
        counts = {
            name: None if seen is None else int(seen_rows(hashes, seen).sum())
            for name, seen in seen_by(self.members)
        }
        return {name: count for name, count in counts.items() if count != 0}

    def trained_texts(self) -> Hashes:
        """Return the hashes of all texts that its models record as seen in training or selection."""
        found = [part for _, seen in seen_by(self.members) if seen is not None for part in seen.values()]
        return np.unique(np.concatenate([np.empty(0, np.uint64), *found]))

    def _schema(self, member: EnsembleMember) -> TaskSchema:
        (task,) = member.tasks.values()
        return member.predictor.tasks[task]


def average(predictions: Array, problem_type: str) -> Array:
    """Return the average of predictions `[M, N, C]` as `Teacher.logits` describes it, `[N, C]` in float64."""
    predictions = predictions.astype(np.float64)
    if problem_type == "regression":
        found: Array = predictions.mean(axis=0)
    elif problem_type == "multi_label_classification":
        found = logsumexp(log_expit(predictions), axis=0) - logsumexp(log_expit(-predictions), axis=0)
    else:
        found = logsumexp(log_softmax(predictions, axis=2), axis=0) - np.log(len(predictions))
    return found


def with_teacher(dataset: Dataset, logits: Array) -> Dataset:
    """Return rows with the column `teacher_logits`, from logits `[N, C]`."""
    return dataset.add_column(TEACHER_LOGITS, logits.tolist(), feature=List(Value("float32")))
