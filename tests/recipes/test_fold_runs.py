"""Cross-validation of the neutral recipe, which knows no groups, limits or labels beforehand."""

import json
import logging

import numpy as np
import pytest

from hf_layerfusion.errors import UserError
from hf_layerfusion.recipes.fold_runs import is_grouped, prepare_folds, train_one_task
from hf_layerfusion.recipes.recipe_arguments import (
    AbsaDataArguments,
    TextDataArguments,
    TextModelArguments,
    TextTrainingArguments,
)
from hf_layerfusion.recipes.run_folder import write_summary
from tests.tiny import read_csv, tiny_texts, write_csv


def test_a_regression_is_predicted_once_for_every_row_by_folds_with_one_limit(
    tmp_path, tiny_encoder_dir, caplog
):
    texts = [f"{text} {number}" for number, (text, _) in enumerate(tiny_texts(26))]
    write_csv(tmp_path / "train.csv", [(text, f"{number % 6}.5") for number, text in enumerate(texts)])
    with caplog.at_level(logging.INFO):
        summary = train_one_task(
            TextModelArguments(tiny_encoder_dir),
            TextDataArguments(str(tmp_path / "train.csv"), folds=2, problem_type="regression"),
            TextTrainingArguments(
                output_dir=str(tmp_path / "run"), num_train_epochs=1, use_cpu=True, disable_tqdm=True
            ),
        )
    assert "fold 2 of 2, not grouped" in caplog.text
    assert caplog.text.count("texts are truncated to") == 1
    folds = [tmp_path / "run" / f"fold-{number}" for number in (1, 2)]
    predicted = [row["text"] for fold in folds for row in read_csv(fold / "run" / "predictions.csv")]
    assert sorted(predicted) == sorted(texts)
    runs = [json.loads((fold / "run" / "all_results.json").read_text()) for fold in folds]
    assert summary["folds"] == 2
    assert summary["test_mse"]["mean"] == pytest.approx(np.mean([run["test_mse"] for run in runs]))
    assert isinstance(json.loads((tmp_path / "run" / "run" / "run.json").read_text())["max_seq_length"], int)


def test_folds_are_grouped_where_there_is_a_column_to_group_by():
    assert not is_grouped(TextDataArguments())
    assert is_grouped(TextDataArguments(group_column="text"))
    assert not is_grouped(TextDataArguments(group_column="text", fold_split="stratified"))
    assert is_grouped(AbsaDataArguments())
    with pytest.raises(UserError, match="needs --group_column, found none"):
        is_grouped(TextDataArguments(fold_split="stratified_group"))


def test_a_result_that_a_run_lacks_has_no_mean(tmp_path):
    """The best epoch of a task whose correlation was never defined in one of the folds."""
    runs = [{"test_loss": 1.0}, {"test_loss": 2.0, "best_of_each_sts_pearsonr": 0.5}]
    arguments = TextTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    summary = write_summary(tmp_path, {"folds": 2}, runs, arguments)
    assert summary["test_loss"] == {"mean": 1.5, "sd": pytest.approx(0.5**0.5)}
    assert summary["best_of_each_sts_pearsonr"] == {"mean": None, "sd": None}


def test_folds_report_on_every_text(tmp_path):
    with pytest.raises(UserError, match=r"--folds .* excludes --max_predict_samples"):
        prepare_folds(TextDataArguments(train_file="missing.csv", folds=2, max_predict_samples=5))
