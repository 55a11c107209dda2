"""What a card says before anything was measured: the data by their name on the Hub, or as files."""

from pathlib import Path

import pytest
from transformers import HfArgumentParser

from hf_layerfusion import GRUFusionConfig
from hf_layerfusion.data.tweets import PRESETS
from hf_layerfusion.experiments.card_fields import classifier_fields, task_line, tasks_fields
from hf_layerfusion.experiments.multitask.tasks import make_tasks
from hf_layerfusion.experiments.releases.release import public_releases
from hf_layerfusion.experiments.tables.recipes import RECIPES, arguments_of, task_entries
from hf_layerfusion.hub.card_facts import CardFacts
from tests.tiny import tiny_config

PUBLIC = public_releases()


def parsed(name):
    release = PUBLIC[name]
    return HfArgumentParser(RECIPES[release.recipe].arguments).parse_dict(arguments_of(release.settings))


def test_data_of_the_hub_are_named_by_their_id():
    config = GRUFusionConfig(encoder_config=tiny_config("bert", num_hidden_layers=3), num_groups=3)
    fields = classifier_fields(config, *parsed("grubert-share-3-bert-base"))
    facts = CardFacts("m", **fields)
    assert facts.dataset_id == facts.dataset_name == "cardiffnlp/tweet_eval"
    assert facts.base_model == facts.encoder == "google-bert/bert-base-uncased"
    assert facts.preparation == list(PRESETS["light"])
    assert facts.recipe["batch"] == 64 and facts.recipe["tokens"] == 64
    assert facts.methods == ["grubert"] and facts.needs_package and not facts.text_pair
    assert len(facts.dataset_defects) == 2 and facts.language == ["en"]


@pytest.mark.parametrize("name", ["cardiffnlp/tweet_eval", "./data"])
def test_a_folder_is_no_data_set_of_the_hub(name, tmp_path, monkeypatch):
    """`load_dataset` takes a folder of that name before the Hub's."""
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir(parents=True)
    model, data, training = parsed("grubert-share-3-bert-base")
    data.dataset_name = name
    config = GRUFusionConfig(encoder_config=tiny_config("bert", num_hidden_layers=3), num_groups=3)
    assert CardFacts("m", **classifier_fields(config, model, data, training)).dataset_id is None


def test_each_task_says_its_data_and_how_it_is_answered(tmp_path):
    model, data, training = parsed("cerbertus-2-bertweet")
    entries = task_entries(PUBLIC["cerbertus-2-bertweet"].settings)
    tasks = make_tasks(entries, tmp_path, data)
    for task in tasks.values():
        task.settings.update(task.settings_of("single_label_classification"))
    facts = CardFacts("m", **tasks_fields(tasks, model, data, training))
    assert facts.task_dataset_ids == dict.fromkeys(("sst2", "qqp", "stsb"), "nyu-mll/glue")
    assert facts.tasks == {"sst2": 1, "qqp": 2, "stsb": 2}
    assert facts.methods == ["serbertus"] and facts.recipe["pair_order"] == "random"
    assert facts.architecture[1:] == [
        "Task sst2: single label classification",
        "Task qqp: single label classification of pairs; loss binary_cross_entropy",
        "Task stsb: regression of pairs; value_range [0, 5], output clamp",
    ]


def test_a_tasks_line_leaves_out_what_goes_without_saying():
    settings = {"problem_type": "regression", "metric": "pearsonr", "pair": False, "labels": ["a"]}
    assert task_line("x", settings) == "Task x: regression"
