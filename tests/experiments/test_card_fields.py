"""What a card says before anything was measured: the data by their name on the Hub, or as files."""

from pathlib import Path

import pytest
from transformers import HfArgumentParser

from hf_layerfusion import GRUFusionConfig
from hf_layerfusion.data.tweets import PRESETS
from hf_layerfusion.experiments.card_fields import classifier_fields
from hf_layerfusion.experiments.releases.release import public_releases
from hf_layerfusion.experiments.tables.recipes import RECIPES, arguments_of
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
