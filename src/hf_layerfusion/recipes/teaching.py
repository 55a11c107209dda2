"""Training on a teacher's predictions, of labelled and of further texts (`--teacher`, `--unlabelled_file`)."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import Dataset, List, Value, concatenate_datasets
from huggingface_hub.constants import HF_HOME

from hf_layerfusion import Teacher
from hf_layerfusion.data.arrow_tables import select_rows
from hf_layerfusion.data.files import read_examples
from hf_layerfusion.data.labels import LabelSchema
from hf_layerfusion.data.soft_labels import unlabelled_target
from hf_layerfusion.data.splits import draw_subset
from hf_layerfusion.ensembling.teacher import with_teacher
from hf_layerfusion.errors import UserError
from hf_layerfusion.hub.markdown import escape_markdown
from hf_layerfusion.recipes.data_preparation import (
    UNLABELLED,
    PreparedData,
    as_read,
    clean,
    make_cleaner,
    text_columns,
)
from hf_layerfusion.recipes.data_record import DataRecord
from hf_layerfusion.recipes.recipe_arguments import DataArguments, RunTrainingArguments
from hf_layerfusion.training.distillation import TEMPERATURE, check_temperature

logger = logging.getLogger(__name__)

DEFAULT_WEIGHT = 0.5
CACHE = Path(HF_HOME) / "hf_layerfusion" / "teacher_predictions"
"""The folder of teachers' predictions, by the content of models and texts."""
SECTION = "Distillation"


def refuse_teacher(arguments: DataArguments, training_arguments: RunTrainingArguments, reason: str) -> None:
    """Refuse the options of a teacher where there can be none.

    Raises:
        UserError: Names the option; `reason` is the rule.
    """
    given = {
        name: getattr(arguments, name) for name in ("teacher", "unlabelled_file", "max_unlabelled_samples")
    }
    for name in ("distillation_weight", "distillation_temperature"):
        given[name] = getattr(training_arguments, name)
    for name, value in given.items():
        if value is not None:
            raise UserError(f"--{name} {reason}; leave it out.")


def with_weight(arguments: DataArguments, training_arguments: RunTrainingArguments) -> RunTrainingArguments:
    """Return the training arguments with the default weight of a teacher, if there is one.

    Raises:
        UserError: Options of a teacher are given without one.
    """
    if arguments.teacher is None:
        refuse_teacher(arguments, training_arguments, "needs --teacher, found none")
        return training_arguments
    if arguments.max_unlabelled_samples is not None and arguments.unlabelled_file is None:
        raise UserError(
            "--max_unlabelled_samples needs --unlabelled_file, found none; name one or leave it out."
        )
    if training_arguments.distillation_weight is not None:
        return training_arguments
    return replace(training_arguments, distillation_weight=DEFAULT_WEIGHT)


def open_teacher(arguments: DataArguments, training_arguments: RunTrainingArguments) -> Teacher | None:
    """Return the teacher that the arguments name, before data are read; None if they name none.

    Raises:
        UserError: As `Teacher.of`.
    """
    if arguments.teacher is None:
        return None
    try:
        return Teacher.of(
            arguments.teacher,
            device=str(training_arguments.device),
            batch_size=training_arguments.per_device_eval_batch_size,
            cache_dir=CACHE,
            progress=not training_arguments.disable_tqdm,
        )
    except UserError as error:
        raise UserError(f"--teacher: {error}") from error


def with_unlabelled(data: PreparedData, arguments: DataArguments) -> PreparedData:
    """Return the data with the split `unlabelled`, if a file of such texts is named: cleaned, each text once, without
    the texts of the other splits, and at most `max_unlabelled_samples`, drawn with the seed of the split.

    Raises:
        UserError: As `read_examples`; or no text is left.
    """
    path = arguments.unlabelled_file
    if path is None:
        return data
    columns = text_columns(arguments)
    read = read_examples(
        path,
        text_columns=columns,
        label_column=None,
        id_column=None,
        skip_incomplete=arguments.skip_incomplete,
    )
    notes = [f"{UNLABELLED}: {len(read):,} texts read"]
    cleaned, emptied = clean(read, make_cleaner(arguments), "train")
    notes += [f"{UNLABELLED}: {emptied:,} texts left out, because cleaning emptied them"] if emptied else []
    seen: set[tuple[str, ...]] = set()
    for split in data.splits.values():
        seen |= set(_rows(split, columns))
    kept = []
    for place, row in enumerate(_rows(cleaned, columns)):
        if row not in seen:
            kept.append(place)
            seen.add(row)
    if repeated := len(cleaned) - len(kept):
        notes.append(f"{UNLABELLED}: {repeated:,} texts left out that occur before or in another split")
    if not kept:
        raise UserError(
            f"--unlabelled_file {path}: must hold texts that are in no other split, found none; name another file or "
            "leave it out."
        )
    unlabelled, most = select_rows(cleaned, kept), arguments.max_unlabelled_samples
    if most is not None and most < len(unlabelled):
        unlabelled = draw_subset(unlabelled, most, arguments.split_seed)
        notes.append(f"{UNLABELLED}: {most:,} of {len(kept):,} texts drawn")
    splits = {**data.splits, UNLABELLED: unlabelled}
    return replace(data, splits=splits, notes=[*data.notes, *notes])


def check_teacher(teacher: Teacher, schema: LabelSchema, num_texts: int, temperature: float | None) -> None:
    """Check a teacher's labels and inputs against those of the data.

    Args:
        teacher: The teacher.
        schema: The labels of the data.
        num_texts: Number of texts in a row.
        temperature: The run's `distillation_temperature`.

    Raises:
        UserError: They differ; or a regression has a temperature.
    """
    check_temperature(temperature, schema.problem_type)
    try:
        teacher.check(schema.problem_type, schema.names, num_texts)
    except UserError as error:
        raise UserError(f"--teacher: {error}") from error


def with_teachers_texts(teacher: Teacher, data: PreparedData) -> PreparedData:
    """Return the data with a note for each model of the teacher that has seen texts of the student's validation or test
    data, and with the hashes of all texts that they have seen.

    The student's scores on such texts are optimistic. A warning says so.
    """
    notes = []
    for split in ("validation", "test"):
        if split not in data.splits:
            continue
        raw = raw_rows(data.splits[split], data.text_columns)
        for name, count in teacher.overlap(raw).items():
            if count is None:
                notes.append(f"{split}: it is not known whether the teacher {name} was trained on its texts")
            else:
                notes.append(
                    f"{split}: the teacher {name} was trained or selected on {count:,} of {len(raw):,} texts, so "
                    "scores on them are optimistic"
                )
    for note in notes:
        logger.warning(note)
    return replace(data, notes=[*data.notes, *notes], seen_by_teacher=teacher.trained_texts())


def teacher_record(teacher: Teacher) -> DataRecord:
    """Return the fingerprint of a teacher, for the record of a run's data."""
    return {"teacher": {"rows": len(teacher.members), "sha256": teacher.sha256}}


def with_predictions(teacher: Teacher, data: PreparedData, encoded: dict[str, Dataset]) -> dict[str, Dataset]:
    """Return the splits as model inputs with the teacher's predictions of the training rows, to which the unlabelled
    texts are added.

    Raises:
        UserError: As `Teacher.logits`.
    """
    schema, encoded = data.schema, dict(encoded)
    parts = []
    for name in ("train", UNLABELLED):
        if name not in encoded:
            continue
        rows, inputs = raw_rows(data.splits[name], data.text_columns), encoded.pop(name)
        labels: Any = inputs["labels"][:] if name == "train" else _no_labels(schema, len(inputs))
        if name == "train":
            inputs = inputs.remove_columns("labels")
        inputs = inputs.add_column("labels", labels, feature=_LABELS[schema.problem_type])
        parts.append(with_teacher(inputs, teacher.logits(rows, schema.problem_type, schema.names)))
    encoded["train"] = parts[0] if len(parts) == 1 else concatenate_datasets(parts)
    return encoded


_LABELS: dict[str, Any] = {
    "single_label_classification": Value("int64"),
    "multi_label_classification": List(Value("float32")),
    "regression": Value("float32"),
}


def _no_labels(schema: LabelSchema, count: int) -> list[Any]:
    return [unlabelled_target(schema.problem_type, schema.num_labels)] * count


def teacher_section(
    arguments: DataArguments, training_arguments: RunTrainingArguments, data: PreparedData, teacher: Teacher
) -> tuple[str, str]:
    """Return the section of the model card on what the model was distilled from, `(title, Markdown)`."""
    names = " and ".join(escape_markdown(name) for name in teacher.names)
    averaged = "the averaged predictions of " if len(teacher.names) > 1 else "the predictions of "
    lines = [
        f"The model was trained on {averaged}{names} (sha256 `{teacher.sha256[:16]}`), as well as on the labels."
    ]
    if UNLABELLED in data.splits:
        name = escape_markdown(Path(str(arguments.unlabelled_file)).name)
        lines.append(f"{len(data.splits[UNLABELLED]):,} further texts, from {name}, had no labels.")
    weight = training_arguments.distillation_weight
    how = (
        "squared error to the mean value"
        if data.schema.problem_type == "regression"
        else f"temperature {training_arguments.distillation_temperature or TEMPERATURE:g}"
    )
    lines.append(f"Weight of the loss towards the predictions: {weight:g}; {how} (Hinton et al. 2015).")
    return SECTION, " ".join(lines)


def _rows(split: Dataset, columns: Sequence[str]) -> list[tuple[str, ...]]:
    return list(zip(*(split[column][:] for column in columns), strict=True))


def raw_rows(split: Dataset, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the texts of a split before cleaning, which is what a teacher reads: a tuple for each row."""
    return list(zip(*(as_read(split, column) for column in columns), strict=True))
