"""Data preparation: reading, cleaning, removing duplicates, splitting, encoding labels, tokenizing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, concatenate_datasets
from transformers import PreTrainedTokenizerBase

from hf_layerfusion.data.absa import count_absent_aspects
from hf_layerfusion.data.arrow_tables import column_values, row_number, to_table
from hf_layerfusion.data.files import read_competition, read_examples, read_hub
from hf_layerfusion.data.label_names import raw_labels, same_name, without_label
from hf_layerfusion.data.labels import LabelSchema, check_problem_type
from hf_layerfusion.data.spelling import SpellingCorrector
from hf_layerfusion.data.splits import draw_subset, remove_duplicates, split_train_validation, text_overlap
from hf_layerfusion.data.tweets import PRESETS, SPELLING, TweetPreprocessor, empty_rows
from hf_layerfusion.ensembling.trained_texts import Hashes
from hf_layerfusion.errors import UserError, nearest
from hf_layerfusion.recipes.prepared_cache import cached_by_content, tokenization_key, worker_processes
from hf_layerfusion.recipes.recipe_arguments import DataArguments
from hf_layerfusion.storage import writable

# Choices for the texts that `--remove_duplicates` compares.
DUPLICATES_IN = ("train", "all")

UNTRUNCATED_TEXT = {"longest_first": None, "only_first": 1, "only_second": 0}
"""Index of the text of a pair that is not truncated, by `--truncation`."""

UNLABELLED = "unlabelled"
"""The split of `--unlabelled_file`."""

AS_READ = "as read: "
"""Before the name of a column that holds a text column's texts as they were before cleaning."""


@dataclass
class PreparedData:
    """Cleaned splits of a run with encoded labels.

    Attributes:
        splits: the available splits among `train`, `validation`, `test` and `unlabelled`; columns: the
            texts, `label`, `id`, `row`, and of cleaned texts what `as_read` returns.
        raw_train: training texts before cleaning.
        schema: problem type and label names.
        text_columns: one name, or two for pairs.
        steps: names of the cleaning steps.
        notes: one line for each change to the rows.
        held_out: `(row, id)` of rows of `raw_train` that were split off for validation or as a fold.
        seen_by_teacher: hashes of texts that the run's teacher was trained or selected on.
    """

    splits: dict[str, Dataset]
    raw_train: Dataset
    schema: LabelSchema
    text_columns: tuple[str, ...]
    steps: tuple[str, ...]
    notes: list[str] = field(default_factory=list)
    held_out: frozenset[tuple[int, str]] = frozenset()
    seen_by_teacher: Hashes = field(default_factory=lambda: np.empty(0, np.uint64))


def text_columns(arguments: DataArguments) -> tuple[str, ...]:
    """Return the names of the text columns."""
    pair = arguments.text_pair_column
    return (arguments.text_column,) if pair is None else (arguments.text_column, pair)


def read_splits(arguments: DataArguments) -> dict[str, Dataset]:
    """Read the splits that the arguments name, with raw labels.

    Raises:
        UserError: No training data are named, or more than one kind; or as the readers of `data.files`.
    """
    columns = text_columns(arguments)
    pair = (arguments.train_pos_file, arguments.train_neg_file)
    sources = [arguments.train_file is not None, pair != (None, None), arguments.dataset_name is not None]
    if sum(sources) != 1:
        raise UserError(
            "exactly one of --train_file, --train_pos_file with --train_neg_file, and --dataset_name must be given, "
            f"found {sum(sources)}; name one source of training data."
        )
    splits: dict[str, Dataset] = {}
    if arguments.dataset_name is not None:
        found = read_hub(
            arguments.dataset_name,
            arguments.dataset_config_name,
            text_columns=columns,
            label_column=arguments.label_column,
            id_column=arguments.id_column,
            skip_incomplete=arguments.skip_incomplete,
        )
        names = {"train": "train", "validation": "validation", "test": arguments.test_split_name}
        if arguments.test_split_name != "test" and arguments.test_split_name not in found:
            raise UserError(
                f"--test_split_name {arguments.test_split_name}: must be a split of {arguments.dataset_name}, found "
                f"{', '.join(sorted(found))}; name one of them."
            )
        if arguments.test_split_name == "validation":
            names.pop("validation")
        splits = {split: found[name] for split, name in names.items() if name in found}
        if "train" not in splits:
            raise UserError(
                f"--dataset_name {arguments.dataset_name}: holds no split 'train', found {sorted(found)}."
            )
    elif arguments.train_file is None:
        if arguments.train_pos_file is None or arguments.train_neg_file is None:
            raise UserError(
                "--train_pos_file and --train_neg_file must be given together, found one of them; name both."
            )
        splits["train"] = read_competition(
            arguments.train_pos_file, arguments.train_neg_file, text_column=arguments.text_column
        )
    for split in ("train", "validation", "test"):
        if getattr(arguments, f"{split}_file") is not None:
            splits[split] = read_file(arguments, split)
    return splits


class CleaningArguments(Protocol):
    """Arguments that say how texts are cleaned."""

    preprocessing: str
    preprocessing_steps: list[str] | None


def cleaning_steps(arguments: CleaningArguments) -> tuple[str, ...]:
    """Return the names of the cleaning steps; none for an unknown preset."""
    return tuple(arguments.preprocessing_steps or ()) or PRESETS.get(arguments.preprocessing, ())


def check_names(arguments: DataArguments) -> None:
    """Check named options before data are read.

    Raises:
        UserError: `--truncation`, `--problem_type` or `--duplicates_in` is unknown, or `--group_column` is not a text
            column.
    """
    columns = text_columns(arguments)
    if arguments.duplicates_in not in DUPLICATES_IN:
        raise UserError(
            f"--duplicates_in must be one of {', '.join(DUPLICATES_IN)}, found {arguments.duplicates_in!r}; "
            f"{nearest(arguments.duplicates_in, DUPLICATES_IN)}"
        )
    if arguments.group_column not in (None, *columns):
        raise UserError(
            f"--group_column must be a text column ({', '.join(columns)}), found {arguments.group_column!r}; name one."
        )
    if arguments.problem_type is not None:
        check_problem_type(arguments.problem_type)
    if arguments.truncation not in UNTRUNCATED_TEXT:
        raise UserError(
            f"--truncation must be one of {', '.join(UNTRUNCATED_TEXT)}, found {arguments.truncation!r}; "
            f"{nearest(arguments.truncation, UNTRUNCATED_TEXT)}"
        )


def read_file(arguments: DataArguments, split: str) -> Dataset:
    """Read the file that the arguments name for a split, with raw labels.

    Raises:
        UserError: As `read_examples`.
    """
    return read_examples(
        getattr(arguments, f"{split}_file"),
        text_columns=text_columns(arguments),
        label_column=arguments.label_column,
        label_required=split != "test",
        id_column=arguments.id_column,
        skip_incomplete=arguments.skip_incomplete,
    )


def make_cleaner(arguments: DataArguments) -> TweetPreprocessor:
    """Return the text cleaner that the arguments describe.

    Raises:
        UserError: As `TweetPreprocessor` and `SpellingCorrector`.
    """
    steps = cleaning_steps(arguments)
    spelling = None
    if SPELLING in steps:
        spelling = SpellingCorrector(arguments.spelling_language, arguments.spelling_dictionary)
    return TweetPreprocessor(steps or arguments.preprocessing, spelling, text_columns=text_columns(arguments))


def as_read(split: Dataset, column: str) -> list[str]:
    """Return the texts of a column as they were before cleaning."""
    return column_values(
        split, f"{AS_READ}{column}" if f"{AS_READ}{column}" in split.column_names else column
    )


def clean(split: Dataset, cleaner: TweetPreprocessor, name: str) -> tuple[Dataset, int]:
    """Clean a split.

    Texts that cleaning would empty are removed from `train`. In other splits they are left as they were, so that
    every row gets a prediction.

    Returns:
        The cleaned split, and the number of texts that cleaning would empty.
    """
    if not cleaner.steps:
        return split, 0
    for column in cleaner.text_columns:
        split = split.add_column(f"{AS_READ}{column}", column_values(split, column))
    cleaned = split.map(cleaner, batched=True, desc=f"cleaning {name}", num_proc=worker_processes(split))
    emptied = {row for column in cleaner.text_columns for row in empty_rows(cleaned[column])}
    if name == "train":
        cleaned = cleaned.select([row for row in range(len(cleaned)) if row not in emptied])
    elif emptied:
        cleaned = cleaned.map(lambda text, row: split[row] if row in emptied else text, with_indices=True)
    return cleaned, len(emptied)


def limit_first(split: Dataset, number: int) -> Dataset:
    """Return the first `number` rows."""
    return split.select(range(min(len(split), number)))


def load_splits(arguments: DataArguments, schema: LabelSchema | None = None) -> PreparedData:
    """Read, clean and encode the splits that are given; with a trained model's schema, the test file only.

    Duplicates are removed according to `--duplicates_in`.

    Raises:
        UserError: As `read_splits`, `check_names`, `LabelSchema` and `TweetPreprocessor`.
    """
    columns = text_columns(arguments)
    check_names(arguments)
    cleaner = make_cleaner(arguments)
    splits = read_splits(arguments) if schema is None else {"test": read_file(arguments, "test")}
    seed = arguments.split_seed
    if arguments.max_train_samples is not None and "train" in splits:
        splits["train"] = draw_subset(splits["train"], arguments.max_train_samples, seed)
    validates = not _reports_on_validation(arguments, splits)
    if arguments.max_eval_samples is not None and "validation" in splits and validates:
        splits["validation"] = draw_subset(splits["validation"], arguments.max_eval_samples, seed)
    if arguments.max_predict_samples is not None and "test" in splits:
        splits["test"] = limit_first(splits["test"], arguments.max_predict_samples)
    notes = [f"{name}: {len(split):,} texts read" for name, split in splits.items()]
    class_names = arguments.class_names
    for label in arguments.dropped_labels:
        named = _names_of_integers(splits.get("train"), class_names)
        for name, split in splits.items():
            splits[name] = without_label(split, label, named)
            left_out = len(split) - len(splits[name])
            notes += [f"{name}: {left_out:,} texts of label {label} left out"] if left_out else []
        class_names = class_names and [name for name in class_names if not same_name(name, label)]
    raw_train = splits["train"] if schema is None else splits["test"].select([])
    if arguments.pair_is_aspect and len(columns) == 2:
        for name, split in splits.items():
            absent = count_absent_aspects(split, *columns)
            notes += [f"{name}: {absent:,} aspects do not occur in their sentence"] if absent else []

    everywhere = arguments.remove_duplicates and arguments.duplicates_in == "all"
    for name, split in splits.items():
        if everywhere and schema is None and "label" in split.column_names:
            splits[name] = remove_duplicates(split, columns)
            notes.append(
                f"{name}: {len(split) - len(splits[name]):,} repeated texts removed, before cleaning"
            )
    for name, split in splits.items():
        splits[name], emptied = clean(split, cleaner, name)
        if emptied:
            what = "left out" if name == "train" else "kept uncleaned"
            notes.append(f"{name}: {emptied:,} texts {what}, because cleaning emptied them")
    if arguments.remove_duplicates and not everywhere and "train" in splits:
        before = len(splits["train"])
        splits["train"] = remove_duplicates(splits["train"], columns)
        notes.append(f"train: {before - len(splits['train']):,} repeated texts removed")

    where = {name: getattr(arguments, f"{name}_file") or name for name in splits}
    if schema is None:
        schema = LabelSchema.infer(splits["train"], class_names, arguments.problem_type, where=where["train"])
    else:
        schema = schema.with_numeric_labels(splits["test"], where["test"])
    splits = {name: schema.encode(split, where[name]) for name, split in splits.items()}
    return PreparedData(splits, raw_train, schema, columns, cleaner.steps, notes)


def _reports_on_validation(arguments: DataArguments, splits: Mapping[str, Dataset]) -> bool:
    """Return whether the validation data take the place of test data, so that checkpoints are chosen on others."""
    reports_on_others = arguments.report_on_selection or arguments.folds is not None or "test" in splits
    return "validation" in splits and not reports_on_others


def _names_of_integers(train: Dataset | None, class_names: list[str] | None) -> dict[Any, str]:
    """Return the declared names of integer labels, in ascending order; empty for other labels."""
    if train is None or class_names is None or "label" not in train.column_names:
        return {}
    found = raw_labels(train)
    if not all(isinstance(label, int) for label in found):
        return {}
    numbers = sorted(set(found))
    return dict(zip(numbers, class_names, strict=True)) if len(numbers) == len(class_names) else {}


def shared_groups(splits: dict[str, Dataset], name: str, column: str) -> list[str]:
    """Return a note on how many rows of a split share a value of `column` with `train`, in a list that is empty if
    none do."""
    shared = text_overlap(splits[name], splits["train"], [column])
    return [f"{name}: {shared:,} texts have a {column} that also occurs in train"] if shared else []


def cut_validation(data: PreparedData, arguments: DataArguments) -> PreparedData:
    """Split validation data off the training data if there are none, and note the overlap between splits.

    Raises:
        UserError: As `split_train_validation`.
    """
    splits, notes, held_out = dict(data.splits), list(data.notes), data.held_out
    group = arguments.group_column
    if "validation" not in splits:
        splits["train"], splits["validation"] = split_train_validation(
            splits["train"], arguments.validation_fraction, arguments.split_seed, group_column=group
        )
        grouped = "" if group is None else f", with no {group} in common"
        notes.append(f"validation: {len(splits['validation']):,} texts split from train{grouped}")
        if not arguments.train_on_all:
            held_out |= row_keys(splits["validation"])
            if arguments.max_eval_samples is not None:
                splits["validation"] = draw_subset(
                    splits["validation"], arguments.max_eval_samples, arguments.split_seed
                )
    if arguments.train_on_all:
        splits["train"] = concatenate_datasets([splits["train"], splits.pop("validation")])
        notes.append(f"train: {len(splits['train']):,} texts, including those of validation")
    for name in ("validation", "test"):
        if name in splits:
            shared = text_overlap(splits[name], splits["train"], data.text_columns)
            notes += [f"{name}: {shared:,} texts also occur in train"] if shared else []
            if group is not None:
                notes += shared_groups(splits, name, group)
    return replace(data, splits=splits, notes=notes, held_out=held_out)


def row_keys(split: Dataset) -> frozenset[tuple[int, str]]:
    """Return `(row, id)` of each row, which identify rows across the splits of one source."""
    return frozenset(zip(column_values(split, "row"), column_values(split, "id"), strict=True))


def prepare(arguments: DataArguments) -> PreparedData:
    """Load the splits, then split off validation data if needed: 30 % by default (GRUBERT, section 2.4).

    Raises:
        UserError: As `load_splits` and `cut_validation`.
    """
    data = load_splits(arguments)
    if _reports_on_validation(arguments, data.splits):
        data.splits["test"] = data.splits.pop("validation")
        if arguments.max_predict_samples is not None:
            data.splits["test"] = limit_first(data.splits["test"], arguments.max_predict_samples)
        data.notes.append(
            "test: the validation data, as no test data is given; checkpoints are chosen on data cut from train"
        )
    return cut_validation(data, arguments)


def check_length(tokenizer: PreTrainedTokenizerBase, arguments: Any, trains: bool = False) -> None:
    """Check that `--max_seq_length` leaves room for a token of each text, before data are read.

    Args:
        tokenizer: the tokenizer, which adds special tokens, limited to what the encoder takes.
        arguments: has `max_seq_length` and, if inputs may be pairs, `text_pair_column`.
        trains: whether the length must not exceed what the encoder takes either. The default of an option may, as texts
            may be short.

    Raises:
        UserError: The special tokens alone use up the length, or the encoder takes fewer tokens.
    """
    asked, takes = arguments.max_seq_length, tokenizer.model_max_length
    (default,) = (each.default for each in fields(arguments) if each.name == "max_seq_length")
    if trains and asked is not None and asked > takes and asked != default:
        raise UserError(
            f"--max_seq_length must be at most {takes}, the tokens that the encoder and its tokenizer take, found "
            f"{asked}; lower it."
        )
    is_pair = getattr(arguments, "text_pair_column", None) is not None
    most = tokenizer.num_special_tokens_to_add(pair=is_pair) + is_pair
    if arguments.max_seq_length is not None and arguments.max_seq_length <= most:
        raise UserError(
            f"--max_seq_length must be above {most}, to leave room for the text beside the tokenizer's "
            f"special tokens, found {arguments.max_seq_length}."
        )


def tokenize(
    data: PreparedData,
    tokenizer: PreTrainedTokenizerBase,
    arguments: DataArguments,
    *,
    separate_pairs: bool = False,
) -> dict[str, Dataset]:
    """Tokenize each split into `input_ids`, `attention_mask`, … and, where there are labels, `labels`.

    Args:
        data: the texts.
        tokenizer: the encoder's tokenizer.
        arguments: the maximum length, and which text is truncated.
        separate_pairs: whether to encode the two texts of a pair separately; a column then holds a list for each.

    Raises:
        UserError: A text that must not be truncated leaves no room for the other one of its pair; `separate_pairs` is
            set for single texts; or as `encode_splits`.
    """
    if separate_pairs and len(data.text_columns) == 1:
        raise UserError(
            "--pair_features needs pairs of texts, found single ones; name --text_pair_column, or leave it out."
        )
    if not separate_pairs:
        _check_room(data, tokenizer, arguments)

    columns = data.text_columns  # a name of its own, as worker processes receive what the function refers to
    settings = {
        "truncation": True if separate_pairs else arguments.truncation,
        "max_length": arguments.max_seq_length,
        "padding": "max_length" if arguments.pad_to_max_length else False,
    }

    def encode(*texts: list[str]) -> Mapping[str, list[Any]]:
        return tokenizer(*texts, **settings)

    def encode_rows(batch: dict[str, list[str]]) -> Mapping[str, list[Any]]:
        texts = [batch[column] for column in columns]
        return side_by_side(*map(encode, texts)) if separate_pairs else encode(*texts)

    key = tokenization_key(tokenizer, columns, separate_pairs=separate_pairs, **settings)
    return encode_splits(data.splits, encode_rows, tokenizer.model_max_length, key)


def side_by_side(first: Mapping[str, list[Any]], second: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Return the inputs of pairs whose texts were encoded separately: a list for each text in every column."""
    return {name: [list(texts) for texts in zip(first[name], second[name], strict=True)] for name in first}


def encode_splits(
    splits: Mapping[str, Dataset],
    encode: Callable[[dict[str, list[str]]], Mapping[str, list[Any]]],
    most_tokens: int,
    key: str | None = None,
) -> dict[str, Dataset]:
    """Map each split to model inputs; the column `label` becomes `labels`.

    Args:
        splits: datasets by split.
        encode: function from a batch of rows to model inputs.
        most_tokens: maximum number of tokens in a text.
        key: what `tokenization_key` returns; None keeps nothing in the cache.

    Raises:
        UserError: A text has more tokens than `most_tokens`, for which the encoder may lack positions.
    """
    encoded = {}
    for name, split in splits.items():
        unused = [column for column in split.column_names if column != "label"]
        with writable(f"cache {datasets.config.HF_DATASETS_CACHE} (environment variable HF_DATASETS_CACHE)"):
            inputs = split.map(
                encode,
                batched=True,
                remove_columns=unused,
                desc=f"tokenizing {name}",
                num_proc=worker_processes(split),
                **cached_by_content(split, key),
            )
        if (longest := _longest(inputs)) > most_tokens:
            raise UserError(
                f"{name}: a text has {longest} tokens and the tokenizer allows {most_tokens}; set --max_seq_length "
                "to at most that."
            )
        encoded[name] = inputs.rename_column("label", "labels") if "label" in inputs.column_names else inputs
    return encoded


def _longest(inputs: Dataset) -> int:
    """Return the most tokens in a text; a row of `input_ids` holds one text, or two separate ones."""
    if not len(inputs):
        return 0  # `map` creates no columns for an empty split
    ids = to_table(inputs.select_columns(["input_ids"]))["input_ids"]
    if pa.types.is_nested(ids.type.value_type):
        ids = pc.list_flatten(ids)
    return int(pc.max(pc.list_value_length(ids)).as_py())


def _check_room(data: PreparedData, tokenizer: PreTrainedTokenizerBase, arguments: DataArguments) -> None:
    """Check that a text of a pair that must not be truncated leaves room for the other one."""
    position = UNTRUNCATED_TEXT[arguments.truncation]
    if position is None or len(data.text_columns) == 1:
        return
    column = data.text_columns[position]
    length = arguments.max_seq_length or tokenizer.model_max_length
    room = length - tokenizer.num_special_tokens_to_add(pair=True)
    for name, split in data.splits.items():
        texts = column_values(split, column)
        lengths = {text: len(tokenizer.tokenize(text)) for text in set(texts)}
        for index, text in enumerate(texts):
            if lengths[text] >= room:
                raise UserError(
                    f"{name}: row {row_number(split, index)}: the {column} has {lengths[text]} tokens and is not "
                    f"truncated, which leaves no room for the other text; raise --max_seq_length (found {length})."
                )
