"""Tests of the card's facts that are known before a run: data named by their Hub id, or as files."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import HfArgumentParser

from hf_layerfusion import GRUFusionConfig
from hf_layerfusion.data.tweets import PRESETS, TweetPreprocessor
from hf_layerfusion.hub.card import build_card
from hf_layerfusion.hub.card_facts import CardFacts
from hf_layerfusion.recipes.card_fields import classifier_fields, preparation_fields, recipe_settings
from hf_layerfusion.recipes.data_preparation import prepare
from hf_layerfusion.recipes.recipe_arguments import DataArguments, TextTrainingArguments
from hf_layerfusion.recipes.run_report import RunResult, card_facts
from hf_layerfusion.training.probe_recipes import TUNED_TRAINING
from reproduction.release import public_releases
from reproduction.run_recipes import RUN_RECIPES, arguments_of
from tests.hub.small import Elements, outline, render
from tests.tiny import tiny_config, tiny_texts, write_csv

PUBLIC = public_releases()


def parsed(name):
    release = PUBLIC[name]
    return HfArgumentParser(RUN_RECIPES[release.recipe].arguments).parse_dict(arguments_of(release.settings))


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


# Preparation: what the pipeline does not do to a text

TEXT = "@someone it was soo  good https://example.org"
SKIPPED = "The model and its pipeline do not clean texts."


def defined_by(code):
    """Return the `prepare` that a card's code defines."""
    names = {}
    exec(code, names)
    return names["prepare"]


@pytest.mark.parametrize("steps", ["light", "paper"])
def test_a_card_says_what_the_pipeline_skips_and_how_to_do_it(steps):
    fields = preparation_fields({"": DataArguments(preprocessing=steps)})
    card = build_card(CardFacts("m", **fields)).text
    usage = card[card.index("## How to use") :]
    assert usage.index(SKIPPED) < usage.index("pipeline(")
    assert all(f"- {step.replace('_', chr(95))}" in usage.replace("\\", "") for step in PRESETS[steps])
    blocks = [part.partition("```")[0] for part in usage.split("```python\n")[1:]]
    assert "prepare" in blocks[0]
    assert defined_by(blocks[0])(TEXT) == TweetPreprocessor(steps).clean(TEXT) != TEXT


def test_each_task_has_its_own_preparation_and_no_preparation_no_line():
    tasks = {
        "mood": DataArguments(preprocessing="light"),
        "tone": DataArguments(preprocessing_steps=["lowercase"]),
        "plain": DataArguments(preprocessing="none"),
    }
    fields = preparation_fields(tasks)
    assert fields["preparation"] == ["mood: bertweet_users, bertweet_links, whitespace", "tone: lowercase"]
    found = defined_by(fields["preparation_code"])
    assert found.keys() == {"mood", "tone"}
    assert found["tone"](TEXT) == TEXT.lower()
    plain = preparation_fields({"": tasks["plain"]})
    assert plain == {} and SKIPPED not in build_card(CardFacts("m", **plain)).text


def test_the_dictionary_of_the_spelling_is_named_without_its_folder():
    arguments = DataArguments(preprocessing="paper", spelling_language="de")
    arguments.spelling_dictionary = "/home/somebody/words.json"
    code = preparation_fields({"": arguments})["preparation_code"]
    assert 'SpellingCorrector("de", "words.json")' in code and "somebody" not in code


# Names that others gave

HOSTILE = ["<img src=x onerror=alert(1)>", "a|b ## c", "`**x**` [l](http://example.org)", "--- <h1>"]


def card_of_labels(names, folder):
    """Return the card of a run whose classes have these names."""
    (folder / "data").mkdir(parents=True)
    path = write_csv(
        folder / "data" / "train.csv",
        [(f"{text} {number}", names[number % 4]) for number, (text, _) in enumerate(tiny_texts(40))],
    )
    model, data_arguments, training = parsed("grubert-share-3-bert-base")
    data_arguments.dataset_name, data_arguments.train_file = None, str(path)
    data_arguments.validation_fraction = 0.2
    data = prepare(data_arguments)
    assert sorted(data.schema.names) == sorted(names)
    config = GRUFusionConfig(encoder_config=tiny_config("bert", num_hidden_layers=3), num_groups=3)
    result = RunResult({"validation": {"accuracy": 0.5}}, None, None, [], 1.0, 3)
    facts = card_facts(
        folder, data, result, SimpleNamespace(config=config), model, data_arguments, training, []
    )
    return build_card(facts)


def test_names_of_labels_change_nothing_of_a_runs_card(tmp_path):
    tame = card_of_labels(["one", "two", "three", "four"], tmp_path / "tame")
    hostile = card_of_labels(HOSTILE, tmp_path / "hostile")
    assert [level for level, _ in outline(tame)] == [level for level, _ in outline(hostile)]
    tame_page, page = Elements(render(tame)), Elements(render(hostile))
    assert page.counts == tame_page.counts
    assert page.counts["table"] > 0
    assert all(name in page.text for name in HOSTILE)


def test_a_card_names_what_the_recipe_for_a_tuned_encoder_sets(tmp_path):
    arguments = TextTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **TUNED_TRAINING)
    assert recipe_settings(arguments, {}).items() >= TUNED_TRAINING.items()
    plain = recipe_settings(TextTrainingArguments(output_dir=str(tmp_path), use_cpu=True), {})
    assert not {"init_from_probe", "head_first_epochs", "weight_interpolation"} & plain.keys()
