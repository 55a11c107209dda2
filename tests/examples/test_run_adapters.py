"""Tests of adapters from the command line: the run's files, loading its folder, and one line for every mistake."""

import json
import re

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import pipeline

from hf_layerfusion import load_adapter_model
from hf_layerfusion.errors import UserError
from hf_layerfusion.recipes.adapter_setup import read_peft_config
from hf_layerfusion.recipes.multitask.multitask_run import train_tasks
from hf_layerfusion.recipes.recipe_arguments import DataArguments, ModelArguments, TweetTrainingArguments
from hf_layerfusion.recipes.training_run import classify
from reproduction.run_recipes import MULTITASK_CLASSES
from tests.examples.command_line import QUICK_TRAINING, parse
from tests.tiny import read_csv

SMALL = {
    "num_groups": 2,
    "fusion_hidden_size": 8,
    "downstream_hidden_size": 8,
    "dense_size": 8,
    "preprocessing": "light",
}


@pytest.fixture
def call(tiny_encoder_dir, tiny_tweets):
    def run(output, *extra, **changes):
        options = {
            "model_name_or_path": tiny_encoder_dir,
            "train_file": tiny_tweets["train"],
            "validation_file": tiny_tweets["validation"],
            "test_file": tiny_tweets["test"],
            "output_dir": output,
            **QUICK_TRAINING,
            **changes,
        }
        return classify(*parse((ModelArguments, DataArguments, TweetTrainingArguments), options, *extra))

    return run


def test_a_run_with_lora_leaves_an_adapter_that_opens_as_a_model(call, tmp_path, tiny_tweets):
    folder = tmp_path / "run"
    results = call(folder, "--lora_target_modules", "query", "key", use_lora=True, lora_r=4, **SMALL)
    assert not (folder / "model.safetensors").exists()
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert (settings["r"], settings["peft_type"]) == (4, "LORA")
    weights = load_file(folder / "adapter_model.safetensors")
    assert {name.split(".")[-3] for name in weights if "lora_A" in name} == {"query", "key"}
    adapted = load_adapter_model(folder)
    assert results["parameters"] == adapted.get_base_model().model.encoder.num_parameters() + sum(
        value.numel() for name, value in weights.items() if "lora_" not in name
    )
    predictions = read_csv(folder / "run" / "predictions.csv")
    classifier = pipeline("text-classification", model=str(folder), device="cpu")
    for row in predictions[:4]:
        answer = classifier(row["text"])[0]
        assert answer["label"] == row["label"]
        assert answer["score"] == pytest.approx(float(row["score"]), abs=1e-4)
    assert json.loads((folder / "run" / "layer_use.json").read_text())["accuracy"] == pytest.approx(
        results["validation_accuracy"]
    )
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "peft"
    assert "load_adapter_model" in card.text
    assert "Adapter: LORA of rank 4" in card.text


def test_plain_classifiers_and_other_methods(call, tmp_path):
    settings = tmp_path / "ia3.json"
    settings.write_text('{"peft_type": "IA3"}')
    call(
        tmp_path / "run", architecture="plain", peft_config=settings, num_train_epochs=1, max_train_samples=32
    )
    adapted = load_adapter_model(tmp_path / "run")
    assert adapted.config.id2label == {0: "negative", 1: "positive"}
    # As the predictions were made: the pipeline prepares raw texts by itself.
    usage = re.findall(r"```python\n(.*?)```", ModelCard.load(tmp_path / "run" / "README.md").text, re.S)[0]
    names = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        exec(usage, names)
    row = read_csv(tmp_path / "run" / "run" / "predictions.csv")[0]
    assert names["classifier"](row["text"])[0]["label"] == row["label"]


def test_a_run_that_was_cut_off_goes_on(call, tmp_path):
    options = {"use_lora": True, "num_train_epochs": 2, "max_train_samples": 32, **SMALL}
    call(tmp_path / "whole", **options)
    call(tmp_path / "run", save_total_limit=3, **options)
    (tmp_path / "run" / "run" / "all_results.json").unlink()
    call(tmp_path / "run", resume_from_checkpoint=True, save_total_limit=3, **options)
    whole, run = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "run"))
    assert whole.keys() == run.keys()
    assert all(torch.equal(value, run[name]) for name, value in whole.items())


@pytest.mark.parametrize("each", [True, False])
def test_several_tasks(each, tmp_path, tiny_encoder_dir, tiny_tweets):
    task = {f"{split}_file": path.name for split, path in tiny_tweets.items()}
    task["labels"] = ["negative", "positive"]
    (tmp_path / "tasks.json").write_text(json.dumps({"one": task, "two": task}))
    options = {
        "model_name_or_path": tiny_encoder_dir,
        "tasks_file": tmp_path / "tasks.json",
        "data_dir": tiny_tweets["train"].parent,
        "output_dir": tmp_path / "run",
        "use_lora": True,
        "adapter_per_task": each,
        "num_task_layers": 0,
        **QUICK_TRAINING,
        "max_train_samples": 32,
    }
    results = train_tasks(*parse(MULTITASK_CLASSES, options))
    assert results["best_of_each_mean"] == pytest.approx(
        np.mean([results[f"best_of_each_{name}_accuracy"] for name in ("one", "two")])
    )
    adapted = load_adapter_model(tmp_path / "run")
    assert set(adapted.peft_config) == ({"one", "two"} if each else {"default"})
    row = read_csv(tmp_path / "run" / "run" / "predictions" / "two-test.csv")[0]
    names = {}
    blocks = ModelCard.load(tmp_path / "run" / "README.md").text.split("```python\n")[1:3]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        for block in blocks:
            exec(block.partition("```")[0], names)
    assert names["classifier"](row["text"])[0]["label"] == row["label"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora_r": 4}, "--lora_r is a setting of LoRA, found no --use_lora"),
        ({"use_lora": True, "lora_r": 0}, "--lora_r must be 1 or more, found 0"),
        ({"use_lora": True, "lora_dropout": 1.0}, r"--lora_dropout must lie in \[0, 1\)"),
        ({"use_lora": True, "lora_target_modules": "q"}, "target_modules must be of the layers of 'bert'"),
        ({"lora_target_modules": "query"}, "--lora_target_modules is a setting of LoRA"),
        ({"use_lora": True, "peft_config": "x.json"}, "--use_lora and --peft_config name a method each"),
        ({"peft_config": "none.json"}, "--peft_config none.json: must be a json object .*FileNotFoundError"),
        ({"use_lora": True, "freeze_encoder": True}, "freeze_encoder keeps the encoder .* excludes adapters"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_mistakes(options, message, call, tmp_path):
    with pytest.raises(UserError, match=message):
        call(tmp_path / "run", **options, **SMALL)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "content", ["[]", '{"r": 8}', '{"peft_type": "LORA", "rank": 8}', '{"peft_type": "X"}']
)
def test_files_of_no_method(content, tmp_path):
    (tmp_path / "peft.json").write_text(content)
    with pytest.raises(UserError, match="must be a json object with a peft_type and settings of that method"):
        read_peft_config(str(tmp_path / "peft.json"))


def test_settings_that_peft_refuses_and_an_adapter_to_start_from(call, tmp_path):
    (tmp_path / "peft.json").write_text('{"peft_type": "BOFT", "boft_block_size": 7}')
    with pytest.raises(UserError, match="--peft_config: "):
        call(tmp_path / "run", peft_config=tmp_path / "peft.json", **SMALL)
    call(tmp_path / "first", use_lora=True, num_train_epochs=1, max_train_samples=32, **SMALL)
    with pytest.raises(UserError, match="must be a model without adapters, found some; merge them"):
        call(tmp_path / "second", model_name_or_path=tmp_path / "first", **SMALL)
