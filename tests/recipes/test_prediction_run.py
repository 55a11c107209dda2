"""Tests of `--do_predict True` without `--do_train True`: a trained model's predictions, with texts prepared as in
its training."""

import csv
import json
import logging
import shutil
from dataclasses import replace

import pytest
from transformers import AutoModelForSequenceClassification

from hf_layerfusion import CerbertusConfig, CerbertusForMultitask
from hf_layerfusion.data.labels import LabelSchema
from hf_layerfusion.ensembling.member_models import label_values
from hf_layerfusion.errors import UserError
from hf_layerfusion.recipes import prediction_run
from hf_layerfusion.recipes.fold_runs import cross_validate
from hf_layerfusion.recipes.model_setup import load_model
from hf_layerfusion.recipes.multitask.multitask_run import train_tasks
from hf_layerfusion.recipes.recipe_arguments import ModelArguments
from hf_layerfusion.recipes.training_run import classify
from hf_layerfusion.training.trainer import LayerFusionTrainer
from reproduction.run_recipes import RUN_RECIPES
from tests.examples.command_line import parse
from tests.tiny import tiny_config, tiny_texts, tiny_tokenizer, write_csv

CLASSES = RUN_RECIPES["tweets"].arguments


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def trained(tiny_encoder_dir, tmp_path_factory):
    """A run on texts that preparation changes: truncated to 6 tokens, users replaced."""
    folder = tmp_path_factory.mktemp("trained")
    for name, size in {"train": 32, "validation": 8, "test": 16}.items():
        texts = [(f"@someone {text}", label) for text, label in tiny_texts(size, size)]
        write_csv(folder / f"{name}.csv", texts)
    options = {
        "model_name_or_path": tiny_encoder_dir,
        **{f"{name}_file": folder / f"{name}.csv" for name in ("train", "validation", "test")},
        "output_dir": folder / "run",
        "use_cpu": True,
        "num_groups": 2,
        "num_train_epochs": 1,
        "learning_rate": 3e-3,
        "preprocessing": "light",
        "max_seq_length": 6,
    }
    classify(*parse(CLASSES, options))
    return folder


@pytest.fixture
def predict(trained, tmp_path, monkeypatch):
    monkeypatch.delattr(LayerFusionTrainer, "train")

    def run(**changes):
        options = {
            "model_name_or_path": trained / "run",
            "test_file": trained / "test.csv",
            "output_dir": tmp_path / "predictions",
            "use_cpu": True,
            "do_predict": True,
            **changes,
        }
        return classify(*parse(CLASSES, options))

    return run


def test_predictions_and_metrics_are_those_of_the_run(trained, tmp_path, predict):
    results = predict()
    folder = tmp_path / "predictions"
    for name in ("predictions.csv", "logits.csv"):
        assert (folder / name).read_text() == (trained / "run" / "run" / name).read_text()
    measured = json.loads((trained / "run" / "run" / "all_results.json").read_text())
    assert results == {name: value for name, value in measured.items() if name.startswith("test_")}
    assert json.loads((folder / "all_results.json").read_text()) == results
    assert (folder / "plots" / "confusion_matrix.png").exists()
    assert not list(folder.glob("*.safetensors"))
    stored = json.loads((folder / "run.json").read_text())
    assert (stored["preprocessing"], stored["max_seq_length"]) == ("light", 6)


def test_texts_without_labels_by_a_checkpoint_of_the_run(trained, tmp_path, predict):
    tweets = [row["text"] for row in rows_of(trained / "test.csv")]
    numbered = tmp_path / "test_data.txt"
    numbered.write_text("".join(f"{number},{tweet}\n" for number, tweet in enumerate(tweets, start=1)))
    (checkpoint,) = (trained / "run").glob("checkpoint-*")
    assert predict(model_name_or_path=checkpoint, test_file=numbered, prediction_format="kaggle") == {}
    found = rows_of(tmp_path / "predictions" / "predictions.csv")
    answers = {"positive": "1", "negative": "-1"}
    expected = [answers[row["label"]] for row in rows_of(trained / "run" / "run" / "predictions.csv")]
    assert [row["Id"] for row in found] == [str(number) for number in range(1, 17)]
    assert [row["Prediction"] for row in found] == expected


def without_settings(trained, folder, tokenizer=None):
    """A copy of the run without its settings, as `push_to_hub` of model and tokenizer leaves it."""
    shutil.copytree(trained / "run", folder)
    (folder / "run" / "run.json").unlink()
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder


def test_texts_are_prepared_as_the_tokenizer_says_where_there_are_no_settings(trained, tmp_path, predict):
    elsewhere = without_settings(trained, tmp_path / "elsewhere")
    predict(model_name_or_path=elsewhere)
    found = (tmp_path / "predictions" / "logits.csv").read_text()
    assert found == (trained / "run" / "run" / "logits.csv").read_text()
    with pytest.raises(UserError, match="was trained with 6, as its tokenizer says; leave it out"):
        predict(model_name_or_path=elsewhere, output_dir=tmp_path / "other", max_seq_length=12)


def test_a_model_of_another_origin_is_given_texts_by_the_options(trained, tmp_path, predict, caplog):
    elsewhere = without_settings(trained, tmp_path / "elsewhere", tiny_tokenizer())
    same = {"preprocessing": "light", "max_seq_length": 6}
    with caplog.at_level(logging.INFO, "hf_layerfusion"):
        predict(model_name_or_path=elsewhere, **same)
    assert "no run.json beside the model: texts are prepared as the options say" in caplog.text
    whole = tmp_path / "predictions" / "logits.csv"
    assert whole.read_text() == (trained / "run" / "run" / "logits.csv").read_text()
    predict(model_name_or_path=elsewhere, output_dir=tmp_path / "other", preprocessing="none")
    assert (tmp_path / "other" / "logits.csv").read_text() != whole.read_text()


def test_settings_of_a_model_of_the_hub(trained, monkeypatch):
    """Downloaded from where a pushed folder has them, or an earlier version had."""
    for place in ("run/run.json", "run.json"):

        def cached_file(model, name, place=place):
            assert model == "org/model"
            if name != place:
                raise OSError(f"org/model does not appear to have a file named {name}")
            return str(trained / "run" / "run" / "run.json")

        monkeypatch.setattr(prediction_run, "cached_file", cached_file)
        assert prediction_run.training_settings("org/model")["preprocessing"] == "light"
    monkeypatch.undo()
    assert prediction_run.training_settings("org/nowhere") is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_file": None}, "--do_predict without --do_train needs --test_file, found none"),
        (
            {"preprocessing": "none"},
            r"--preprocessing none: the model was trained with light, as its run\.json says",
        ),
        ({"max_seq_length": 12}, "--max_seq_length 12: the model was trained with 6"),
        ({"text_pair_column": "label"}, "the model was trained on single texts and would be given pairs"),
        ({"hp_search": "optuna"}, "--hp_search is for training"),
        ({"push_to_hub": True}, "--push_to_hub is for training"),
        ({"model_name_or_path": "nowhere"}, "--model_name_or_path nowhere: "),
    ],
)
def test_one_line_for_every_mistake(predict, tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as error:
        predict(**changes)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "predictions").exists()


def test_a_folder_that_is_not_empty(predict, trained):
    with pytest.raises(UserError, match=r"another run's files; name another folder\.$"):
        predict(output_dir=trained)


def test_labels_that_the_model_does_not_know(predict, tmp_path):
    strange = write_csv(tmp_path / "strange.csv", [("a", "sarcastic"), ("b", "positive")])
    with pytest.raises(UserError, match="row 2: the label 'sarcastic' is not among the known ones"):
        predict(test_file=strange)


def test_models_that_cannot_answer(predict, tiny_encoder_dir, tmp_path):
    with pytest.raises(UserError, match="must be a trained classifier, found no weights of classifier"):
        predict(model_name_or_path=tiny_encoder_dir)
    tasks = {"a": {"labels": ["x", "y"]}, "b": {"labels": ["x", "y"]}}
    model = CerbertusForMultitask(CerbertusConfig(encoder_config=tiny_config("bert", 2), tasks=tasks))
    model.save_pretrained(tmp_path / "tasks")
    tiny_tokenizer().save_pretrained(tmp_path / "tasks")
    with pytest.raises(
        UserError, match="must be a model of one task, found one of several; use `hf-layerfusion predict`"
    ):
        predict(model_name_or_path=tmp_path / "tasks")


def test_a_file_beside_the_model_that_is_no_json(predict, trained, tmp_path):
    shutil.copytree(trained / "run", tmp_path / "broken")
    (tmp_path / "broken" / "run" / "run.json").write_text("{")
    with pytest.raises(UserError, match=r"run\.json: is not JSON .*; delete it"):
        predict(model_name_or_path=tmp_path / "broken")


def test_a_plain_regression_of_transformers(tmp_path):
    model = AutoModelForSequenceClassification.from_config(tiny_config("bert", 2, num_labels=1))
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    options = {
        "model_name_or_path": tmp_path / "model",
        "test_file": write_csv(tmp_path / "test.csv", [("good day", 0.5), ("bad day", 0.25)]),
        "output_dir": tmp_path / "predictions",
        "use_cpu": True,
        "do_predict": True,
    }
    results = classify(*parse(CLASSES, options))
    values = [float(row["value"]) for row in rows_of(tmp_path / "predictions" / "predictions.csv")]
    assert results["test_mse"] == pytest.approx(
        sum((v - t) ** 2 for v, t in zip(values, (0.5, 0.25), strict=True)) / 2
    )


def test_folds_and_several_tasks(tmp_path):
    options = {"output_dir": tmp_path / "run", "use_cpu": True, "do_predict": True}
    absa = parse(RUN_RECIPES["absa"].arguments, {**options, "folds": 2})
    with pytest.raises(UserError, match="predicts --test_file and excludes --folds"):
        cross_validate(*absa)
    tasks = parse(RUN_RECIPES["multitask"].arguments, options)
    with pytest.raises(UserError, match="--do_predict without --do_train is for one task"):
        train_tasks(*tasks)


@pytest.mark.parametrize("values", [("0", "1"), ("1", "2"), None])
def test_raw_labels_of_a_model_whose_classes_were_named(tmp_path, tiny_encoder_dir, values):
    """None: a model that does not say which raw labels it was trained on."""
    names = ("negative", "positive")
    arguments = ModelArguments(tiny_encoder_dir, architecture="plain")
    schema = LabelSchema("single_label_classification", names, values or names)
    load_model(arguments, schema).save_pretrained(tmp_path / "model")
    # Training goes on with other raw labels, and without any.
    for later in (values or names, ("7", "8"), names):
        model = load_model(
            ModelArguments(str(tmp_path / "model"), architecture="plain"), replace(schema, values=later)
        )
        assert label_values(model.config) == (later if later != names else ())
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    texts = tiny_texts(8)
    accuracy = []
    for number, labels in enumerate((names, values or ("0", "1"))):
        named = [(text, labels[names.index(label)]) for text, label in texts]
        options = {
            "model_name_or_path": tmp_path / "model",
            "test_file": write_csv(tmp_path / "test.csv", named),
            "output_dir": tmp_path / f"predictions-{number}",
            "use_cpu": True,
            "do_predict": True,
        }
        accuracy.append(classify(*parse(CLASSES, options))["test_accuracy"])
    assert accuracy[0] == accuracy[1]
