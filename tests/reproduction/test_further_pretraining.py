"""Tests of table runs that start from a further pretrained encoder."""

import json

import pytest
import torch
from transformers import AutoModel, HfArgumentParser

from hf_layerfusion.training.objectives import make_objective
from reproduction import further_pretraining
from reproduction.further_pretraining import PRETRAINING_CLASSES, missing_texts, pretraining_settings
from reproduction.run_table import RunTable, TableRun, table_names
from reproduction.runner import execute
from tests.tiny import tiny_texts, write_csv


@pytest.mark.parametrize("name", table_names())
def test_further_pretraining_of_a_table_is_made_of_settings_that_exist(name, tmp_path):
    for run in RunTable.load(name).runs():
        if (settings := pretraining_settings(run.settings)) is not None:
            *_, arguments = HfArgumentParser(PRETRAINING_CLASSES).parse_dict(
                {**settings, "output_dir": str(tmp_path)}
            )
            make_objective(arguments.objective)


def test_texts_that_the_data_folder_lacks_are_named(tmp_path):
    (tmp_path / "dev.csv").touch()
    further = {"train_file": ["reviews/laptop.jsonl"], "validation_file": ["dev.csv"]}
    assert missing_texts({"further_pretraining": further}, tmp_path) == [
        str(tmp_path / "reviews/laptop.jsonl")
    ]
    assert missing_texts({}, tmp_path) == []


@pytest.fixture
def run_of(tiny_encoder_dir, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    write_csv(data / "train.csv", tiny_texts(64))
    write_csv(data / "dev.csv", tiny_texts(24, seed=1))

    def make(variant, further, seed=0):
        settings = {
            "tasks": {"sst5": {"train_file": "train.csv", "validation_file": "dev.csv"}},
            "model_name_or_path": tiny_encoder_dir, "use_cpu": True, "num_train_epochs": 1, "seed": seed,
            "num_task_layers": 0, "max_train_samples": 32,
        }  # fmt: skip
        if further is not None:
            settings["further_pretraining"] = {"train_file": ["train.csv"], "use_cpu": True, **further}
        return (
            TableRun("g", variant, seed, settings, "multitask"),
            data,
            tmp_path / "results",
            tmp_path / "work",
        )

    return make


def test_a_cell_starts_from_the_encoder_trained_further_once_for_all_that_share_it(
    run_of, tmp_path, monkeypatch
):
    further = {"learning_rate": 1e-2, "head_steps": 2, "max_seq_length": 32, "validation_file": ["dev.csv"]}
    calls = []
    pretrain = further_pretraining.pretrain
    monkeypatch.setattr(
        further_pretraining, "pretrain", lambda *arguments: calls.append(arguments) or pretrain(*arguments)
    )
    seen = []
    load = AutoModel.from_pretrained.__func__
    monkeypatch.setattr(
        AutoModel,
        "from_pretrained",
        classmethod(
            lambda cls, name, *args, **kwargs: seen.append(str(name)) or load(cls, name, *args, **kwargs)
        ),
    )
    contents = {}
    for variant, settings in (
        ("none", None),
        ("mlm", further),
        ("same", further),
        ("slow", {**further, "learning_rate": 0}),
    ):
        file = execute(*run_of(variant, settings))
        contents[variant] = json.loads(file.read_text())
        contents[variant]["encoder"] = seen[-1]
    assert "further_pretraining" not in contents["none"]
    found = contents["mlm"]["further_pretraining"]
    assert (found["steps"], found["texts"], found["head_steps"]) == (2, 64, 2)
    assert found["validation_loss"] != found["start_loss"]
    assert contents["same"]["further_pretraining"] == found
    assert contents["mlm"]["settings"]["further_pretraining"]["train_file"] == ["train.csv"]
    assert contents["mlm"]["logits"] == contents["same"]["logits"] != contents["none"]["logits"]
    encoders = [content["encoder"] for content in contents.values()]
    assert len(set(encoders)) == 3
    assert all(str(tmp_path / "work" / "further-pretraining") in path for path in encoders[1:])
    assert len(list((tmp_path / "work" / "further-pretraining").glob("*.lock"))) == 2
    start, slow = AutoModel.from_pretrained(encoders[0]), AutoModel.from_pretrained(encoders[3])
    assert all(torch.equal(slow.state_dict()[name], weight) for name, weight in start.state_dict().items())
