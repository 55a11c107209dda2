"""Tests of data preparation: data sets, files and their labels before training."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from hf_layerfusion.data.labels import LabelSchema
from hf_layerfusion.data.statistics import corpus_statistics, statistics_table
from hf_layerfusion.errors import UserError
from hf_layerfusion.recipes.data_preparation import encode_splits, load_splits, prepare, tokenize
from hf_layerfusion.recipes.fold_runs import prepare_folds
from hf_layerfusion.recipes.recipe_arguments import (
    AbsaDataArguments,
    DataArguments,
    NliDataArguments,
    PairDataArguments,
    TextDataArguments,
)
from hf_layerfusion.recipes.run_report import training_texts
from tests.tiny import tiny_tokenizer

FEATURES = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})


@pytest.fixture
def kept_back(tmp_path: Path) -> str:
    """Return a data set without test labels, as GLUE's."""
    for split, size in (("train", 40), ("validation", 6), ("test", 5)):
        labels = [-1] * size if split == "test" else [row % 2 for row in range(size)]
        rows = {"text": [f"{split} {row}" for row in range(size)], "label": labels}
        Dataset.from_dict(rows, features=FEATURES).to_parquet(tmp_path / "set" / f"{split}.parquet")
    return str(tmp_path / "set")


def test_the_validation_split_may_be_the_test(kept_back: str) -> None:
    data = prepare(PairDataArguments(dataset_name=kept_back, test_split_name="validation"))
    assert data.splits["test"]["text"][:] == [f"validation {row}" for row in range(6)]
    assert len(data.splits["validation"]) == 4
    both = [*data.splits["train"]["text"], *data.splits["validation"]["text"]]
    assert sorted(both) == sorted(f"train {row}" for row in range(40))


def test_without_that_the_test_is_predicted_only(kept_back: str) -> None:
    data = prepare(PairDataArguments(dataset_name=kept_back))
    assert len(data.splits["validation"]) == 6
    assert "label" not in data.splits["test"].column_names


def test_a_split_that_is_not_there_is_refused(kept_back: str) -> None:
    with pytest.raises(
        UserError, match=r"--test_split_name dev: must be a split of .* found test, train, val"
    ):
        prepare(PairDataArguments(dataset_name=kept_back, test_split_name="dev"))


@pytest.mark.parametrize("rows", [[[1], [1, 2, 3]], [[[1], [2]], [[1, 2, 3], [1]]]])
def test_texts_that_are_longer_than_the_tokenizer_allows_are_refused(rows):
    """A row's ids are those of a text, or of two apart; an encoder has no positions for what is beyond."""
    splits = {"test": Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})}
    encoded = encode_splits(splits, lambda batch: {"input_ids": rows}, 3)
    assert encoded["test"].to_dict() == {"labels": [0, 1], "input_ids": rows}
    with pytest.raises(
        UserError, match="test: a text has 3 tokens and the tokenizer allows 2; set --max_seq_length"
    ):
        encode_splits(splits, lambda batch: {"input_ids": rows}, 2)
    nothing = {"test": splits["test"].select([])}
    assert len(encode_splits(nothing, lambda batch: {}, 2)["test"]) == 0


POLARITIES = ["conflict", "negative", "neutral", "positive"]


def aspects(labels: list[Any], feature: Any = None) -> Dataset:
    """Return sentences with an aspect each, with the labels in turn."""
    rows = {
        "sentence": [f"the food {row} was so" for row in range(40)],
        "aspect": ["food"] * 40,
        "label": [labels[row % len(labels)] for row in range(40)],
    }
    columns = {"sentence": Value("string"), "aspect": Value("string"), "label": feature}
    return Dataset.from_dict(rows, Features(columns) if feature else None)


@pytest.mark.parametrize(
    ("labels", "feature", "class_names", "names"),
    [
        (POLARITIES, None, None, ("negative", "neutral", "positive")),
        ([name.capitalize() for name in POLARITIES], None, None, ("Negative", "Neutral", "Positive")),
        ([0, 1, 2, 3], ClassLabel(names=POLARITIES), None, ("negative", "neutral", "positive")),
        ([0, 1, 2, 3], ClassLabel(names=POLARITIES[::-1]), None, ("positive", "neutral", "negative")),
        ([-2, -1, 0, 1], None, POLARITIES, ("negative", "neutral", "positive")),
        (POLARITIES, None, POLARITIES[::-1], ("positive", "neutral", "negative")),
    ],
)
@pytest.mark.parametrize("source", ["parquet", "hub"])
def test_conflict_is_left_out_however_it_is_written(
    tmp_path: Path, source: str, labels: list[Any], feature: Any, class_names: Any, names: tuple[str, ...]
) -> None:
    path = tmp_path / "set" / "train.parquet"
    aspects(labels, feature).to_parquet(path)
    where = {"train_file": str(path)} if source == "parquet" else {"dataset_name": str(path.parent)}
    data = load_splits(AbsaDataArguments(**where, class_names=class_names))
    assert data.schema.names == names
    assert len(data.splits["train"]) == 30
    assert "train: 10 texts of label conflict left out" in data.notes
    # The labels come in the order of POLARITIES, or by their numbers in that of the feature.
    first = POLARITIES if feature is None else feature.names
    kept = [name for name in first if name != "conflict"] * 10
    assert [names[number].lower() for number in data.splits["train"]["label"]] == kept
    everything = load_splits(AbsaDataArguments(**where, class_names=class_names, keep_conflict=True))
    assert everything.schema.num_labels == 4


@pytest.mark.parametrize("arguments", [NliDataArguments, AbsaDataArguments])
def test_pairs_are_grouped_by_their_first_text_whatever_its_column_is_called(
    tmp_path: Path, arguments: Any
) -> None:
    rows = [(f"premise {row // 3}", f"hypothesis {row}", "no" if row % 2 else "yes") for row in range(60)]
    path = tmp_path / "pairs.csv"
    pd.DataFrame(rows, columns=["premise", "hypothesis", "label"]).to_csv(path, index=False)
    columns = {"text_column": "premise", "text_pair_column": "hypothesis"}
    found = arguments(train_file=str(path), **columns)
    assert found.group_column == "premise"
    data = prepare(found)
    assert not set(data.splits["train"]["premise"]) & set(data.splits["validation"]["premise"])
    assert arguments().group_column == arguments().text_column
    assert arguments(group_column=None).group_column is None
    with pytest.raises(UserError, match=r"--group_column must be a text column \(premise, hypothesis\)"):
        prepare(arguments(train_file=str(path), **columns, group_column="sentence1"))


REPEATED = [("good  day", 1), ("bad day", 0), ("good day", 1), ("good  day", 1), ("bad day", 0), ("so so", 0)]


def repeated(folder: Path) -> dict[str, Any]:
    """Splits with repeated texts, two of which are equal only once white space is collapsed."""
    files = {}
    for split, rows in (("train", REPEATED * 2), ("validation", REPEATED), ("test", REPEATED)):
        files[f"{split}_file"] = str(folder / f"{split}.csv")
        pd.DataFrame(rows, columns=["text", "label"]).to_csv(files[f"{split}_file"], index=False)
    return {**files, "preprocessing_steps": ["whitespace"]}


def test_duplicates_leave_train_after_cleaning_or_every_split_before(tmp_path: Path) -> None:
    files = repeated(tmp_path)
    data = load_splits(DataArguments(**files, problem_type="regression"))
    assert data.splits["train"]["text"][:] == ["good day", "bad day", "so so"]
    assert [len(data.splits[name]) for name in ("validation", "test")] == [6, 6]
    paper = load_splits(DataArguments(**files, problem_type="regression", duplicates_in="all"))
    for name in ("train", "validation", "test"):
        assert paper.splits[name]["text"][:] == ["good day", "bad day", "good day", "so so"]
    assert "test: 2 repeated texts removed, before cleaning" in paper.notes
    kept = load_splits(
        DataArguments(**files, problem_type="regression", duplicates_in="all", remove_duplicates=False)
    )
    assert [len(split) for split in kept.splits.values()] == [12, 6, 6]
    with pytest.raises(UserError, match="--duplicates_in must be one of train, all, found 'test'"):
        load_splits(DataArguments(**files, duplicates_in="test"))


def test_every_text_to_predict_is_kept(tmp_path: Path) -> None:
    files = repeated(tmp_path)
    pd.DataFrame({"text": ["a", "a"]}).to_csv(files["test_file"], index=False)
    arguments = DataArguments(**files, problem_type="regression", duplicates_in="all")
    assert len(load_splits(arguments).splits["test"]) == 2
    assert len(load_splits(arguments, LabelSchema("regression", ("score",))).splits["test"]) == 2


@pytest.mark.parametrize("class_names", [None, ["bad", "good"]])
def test_word_counts_are_of_the_same_classes_and_of_the_rows_that_are_trained_on(
    tmp_path: Path, class_names: list[str] | None
) -> None:
    rows = [(f"word{number} " * (2 + number % 2), number % 2) for number in range(40)]
    path = tmp_path / "train.csv"
    pd.DataFrame(rows, columns=["text", "label"]).to_csv(path, index=False)
    arguments = {"class_names": class_names, "preprocessing_steps": ["whitespace"]}
    data = prepare(DataArguments(str(path), **arguments))
    names = class_names or ["0", "1"]
    before, after = (corpus_statistics(*part) for part in training_texts(data))
    assert list(before) == list(after) == names
    assert [before[name]["texts"] for name in names] == [after[name]["texts"] for name in names] == [14, 14]
    assert [row[1:] for row in statistics_table(before, after)[1] if "–" in row] == []
    everything = prepare(DataArguments(str(path), **arguments, train_on_all=True))
    assert [len(texts) for texts, _ in training_texts(everything)] == [40, 40]
    folds = AbsaDataArguments(
        str(path), text_column="text", text_pair_column=None, folds=4, fold_split="stratified", **arguments
    )
    for fold in prepare_folds(folds):
        assert (
            [len(texts) for texts, _ in training_texts(fold)] == [len(fold.splits["train"])] * 2 == [27, 27]
        )


def test_a_class_that_cleaning_leaves_nothing_of_is_still_counted_before(tmp_path: Path) -> None:
    rows = [("good", 0), ("good", 1), ("good", 1), ("bad", 0), ("so", 2), ("lala", 2)]
    path = tmp_path / "train.csv"
    pd.DataFrame(rows, columns=["text", "label"]).to_csv(path, index=False)
    before, after = (
        corpus_statistics(*part)
        for part in training_texts(load_splits(DataArguments(str(path), preprocessing="none")))
    )
    assert (list(before), list(after)) == (["0", "1", "2"], ["0", "2"])


def test_the_texts_of_pairs_are_encoded_separately_on_request(tmp_path: Path) -> None:
    rows = [{"sentence1": "good", "sentence2": "a bad day", "label": label} for label in ("x", "y")]
    rows = [row | {"sentence1": f"good {number}"} for number in range(4) for row in rows]
    file = tmp_path / "pairs.csv"
    pd.DataFrame(rows).to_csv(file, index=False)
    arguments = NliDataArguments(train_file=str(file), validation_fraction=0.5)
    tokenizer = tiny_tokenizer()
    data = prepare(arguments)
    row = tokenize(data, tokenizer, arguments, separate_pairs=True)["train"][0]
    texts = [data.splits["train"][0][name] for name in ("sentence1", "sentence2")]
    assert row["input_ids"] == [tokenizer(text)["input_ids"] for text in texts]


def test_single_texts_have_no_features_of_pairs(tmp_path: Path) -> None:
    file = tmp_path / "texts.csv"
    pd.DataFrame({"text": list("abcd"), "label": list("xyxy")}).to_csv(file, index=False)
    arguments = DataArguments(train_file=str(file), validation_fraction=0.5)
    with pytest.raises(UserError, match="--pair_features needs pairs of texts"):
        tokenize(prepare(arguments), tiny_tokenizer(), arguments, separate_pairs=True)


def test_max_eval_samples_limits_what_checkpoints_are_chosen_on(tmp_path: Path) -> None:
    files = {}
    for split, count in (("train", 40), ("validation", 20), ("test", 20)):
        files[f"{split}_file"] = str(tmp_path / f"{split}.csv")
        rows = [(f"{split} {row}", row % 2) for row in range(count)]
        pd.DataFrame(rows, columns=["text", "label"]).to_csv(files[f"{split}_file"], index=False)

    def sizes(*names: str, **changes: Any) -> dict[str, int]:
        given = {f"{name}_file": files[f"{name}_file"] for name in names}
        data = prepare(TextDataArguments(**given, max_eval_samples=3, **changes))
        return {name: len(split) for name, split in data.splits.items()}

    assert sizes("train", "validation", "test") == {"train": 40, "validation": 3, "test": 20}
    assert sizes("train") == {"train": 36, "validation": 3}
    apart = sizes("train", "validation", report_on_selection=False)
    assert apart == {"train": 36, "validation": 3, "test": 20}
    assert sizes("train", train_on_all=True) == {"train": 40}
