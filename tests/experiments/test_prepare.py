"""Which split of a data set of the Hub is tested on."""

from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from hf_layerfusion.errors import UserError
from hf_layerfusion.experiments.arguments import PairDataArguments
from hf_layerfusion.experiments.prepare import prepare

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
