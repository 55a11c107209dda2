"""Which split of a data set of the Hub is tested on."""

from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from hf_layerfusion.errors import UserError
from hf_layerfusion.experiments.arguments import PairDataArguments
from hf_layerfusion.experiments.prepare import encode_splits, prepare

FEATURES = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})


@pytest.fixture
def kept_back(tmp_path: Path) -> str:
    """A data set whose test labels are not given, as GLUE's."""
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
