"""Tests of the ids that the predictions of a split are written with."""

from __future__ import annotations

import pytest
from datasets import Dataset

from hf_layerfusion.recipes.recipe_arguments import DataArguments
from hf_layerfusion.recipes.split_predictions import prediction_ids

ROWS = Dataset.from_dict({"id": ["0", "1", "3"]})


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        ({"prediction_format": "kaggle", "test_file": "test.csv"}, ["1", "2", "4"]),
        ({"prediction_format": "kaggle", "test_file": "test.csv", "id_column": "id"}, ["0", "1", "3"]),
        ({"prediction_format": "kaggle", "test_file": "test_data.txt"}, ["0", "1", "3"]),
        ({"test_file": "test.csv"}, ["0", "1", "3"]),
    ],
)
def test_ids_count_from_one_in_kaggles_format_where_the_data_have_none(
    options: dict[str, str], ids: list[str]
) -> None:
    assert prediction_ids(ROWS, DataArguments(**options)) == ids
