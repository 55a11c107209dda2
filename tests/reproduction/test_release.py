"""Tests that the declared releases can be trained, and that the committed cards agree with their run files."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from transformers import HfArgumentParser

from hf_layerfusion.errors import UserError
from hf_layerfusion.recipes.model_setup import model_settings
from hf_layerfusion.recipes.multitask.task_preparation import make_tasks
from reproduction.release import choose_releases, measured_releases, public_releases
from reproduction.release_cards import release_card
from reproduction.release_run import ReleaseArguments, chosen_releases, train_release
from reproduction.run_recipes import RUN_RECIPES, arguments_of, task_entries

ROOT = Path(__file__).parents[2]
CARDS = ROOT / "model_cards"
MEASURED = measured_releases()
PUBLIC = public_releases()


def test_the_public_releases_are_four_models_on_two_encoders():
    models = ("grubert-share-3", "bert-lstm", "bert-attention", "cerbertus-2")
    assert set(PUBLIC) == {f"{model}-{encoder}" for model in models for encoder in ("bert-base", "bertweet")}
    assert set(public_releases({"tiny": "a/b"})) == {f"{model}-tiny" for model in models}
    assert not set(PUBLIC) & set(MEASURED)


@pytest.mark.parametrize("release", [*PUBLIC.values(), *MEASURED.values()], ids=lambda release: release.name)
def test_a_release_is_made_of_settings_that_exist(release, tmp_path):
    settings = {**arguments_of(release.settings), "output_dir": str(tmp_path)}
    model, data, _ = HfArgumentParser(RUN_RECIPES[release.recipe].arguments).parse_dict(settings)
    assert data.dataset_description and data.dataset_defects
    if "tasks" in release.settings:
        assert len(make_tasks(task_entries(release.settings), tmp_path, data)) == 3
    else:
        assert model_settings(model)


# The committed cards.


@pytest.mark.parametrize("name", MEASURED)
@pytest.mark.usefixtures("encoder_dir")
def test_the_committed_card_is_what_its_run_files_say(name):
    card = release_card(MEASURED[name], ROOT / "docs" / "results")
    assert (CARDS / f"{name}.md").read_text(encoding="utf-8") == card.content, "run `make cards`"


def test_every_card_is_of_a_release_and_claims_no_weights():
    cards = {path.stem: path.read_text(encoding="utf-8") for path in CARDS.glob("*.md")}
    assert cards.keys() - {"README"} == MEASURED.keys()
    cards.pop("README")
    for text in cards.values():
        assert "No weights are published." in text
        assert "from_pretrained" not in text and "pipeline(" not in text


# What a card says, of run files written here.


@pytest.fixture
def release():
    return replace(MEASURED["bert-lstm-minilm"], name="small", labels={"": ["no", "maybe", "yes"]})


def write_run(folder, run, accuracy, **more):
    rng = np.random.default_rng(run.seed)
    predictions, labels = rng.integers(0, 3, (2, 40)).tolist()
    content = {
        "settings": {**run.settings},
        "metrics": {"test": {"accuracy": accuracy, "f1_macro": accuracy / 2}},
        "parameters": 123_456,
        "training_seconds": 60.0 + run.seed,
        "num_examples": {"train": 100, "test": 40},
        "epochs": [{"epoch": 1.0, "training loss": 0.5}],
        "threads": 2,
        "predictions": " ".join(map(str, predictions)),
        "labels": " ".join(map(str, labels)),
        **more,
    }
    run.file(folder).parent.mkdir(parents=True, exist_ok=True)
    run.file(folder).write_text(json.dumps(content))
    return list(zip(labels, predictions, strict=True))


@pytest.mark.usefixtures("encoder_dir")
def test_figures_are_means_over_seeds_with_their_spread(release, tmp_path):
    predicted = [write_run(tmp_path, run, 0.5 + 0.1 * run.seed) for run in release.runs]
    card = release_card(release, tmp_path)
    results = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert results == {"Accuracy": 0.55, "Macro F1": 0.275}
    assert card.data.license == "apache-2.0"
    deviation = np.std([0.5, 0.6], ddof=1)
    for said in (
        f"0.5500 ({deviation:.4f})",
        "Seeds: 0, 1.",
        "Parameters: 123,456",
        "Training time: 1 min 0 s per run, averaged over the seeds.",
        "Hardware: CPU, 2 threads.",
        "## Each seed",
        "seen these pairs",
        "--releases small",
    ):
        assert said in card.text
    counts = Counter(pair for run in predicted for pair in run)
    for number, name in enumerate(["no", "maybe", "yes"]):
        cells = " | ".join(str(counts[number, answer]) for answer in range(3))
        assert f"| {name} | {cells} |" in card.text


@pytest.mark.usefixtures("encoder_dir")
def test_what_a_run_file_knows_of_its_machine_and_layers_is_said(release, tmp_path):
    use = {
        "num_texts": 9,
        "loss": 1.0,
        "accuracy": 0.5,
        "loss_rise": [0.0, 0.25],
        "accuracy_drop": [0.0, 0.1],
    }
    machine = {"hardware": "2 × A GPU", "environment": {"torch": "2.0"}, "layer_use": use}
    write_run(tmp_path, release.runs[0], 0.5, **machine)
    text = release_card(release, tmp_path).text
    assert "Hardware: 2 × A GPU." in text and "Versions: torch 2.0." in text
    assert "Seed 0. Measured on 9 validation texts" in text and "| 2 | 10.00 | 0.2500 |" in text
    assert "Only one seed was run" in text and "Each seed" not in text and "(0.0" not in text


def test_a_release_that_has_not_run_has_no_card(release, tmp_path):
    with pytest.raises(UserError, match=r"small: needs a run file such as .*python -m reproduction"):
        release_card(release, tmp_path)


def test_a_card_of_several_tasks_has_each_ones_figures():
    card = ModelCard.load(CARDS / "cerbertus-2-minilm.md")
    content = json.loads(MEASURED["cerbertus-2-minilm"].runs[0].file(ROOT / "docs" / "results").read_text())
    found = {(r.dataset_name, r.dataset_split, r.metric_type): r.metric_value for r in card.data.eval_results}
    assert found[("sts", "test", "pearsonr")] > 0
    if "## Each seed" not in card.text:
        expected = content["metrics"]["test"]["quora_accuracy"]
        assert found[("quora", "test", "accuracy")] == pytest.approx(expected, abs=1e-5)


# What is refused.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"releases": ["grubert"]}, "--releases must be of grubert-share-3-bert-base, .* found 'grubert'"),
        ({"encoders": ["org/encoder"]}, "--encoders must be NAME=MODEL, found 'org/encoder'"),
        ({"encoders": ["tiny="]}, "--encoders must be NAME=MODEL, found 'tiny='"),
        (
            {"encoders": ["minilm=a/b"]},
            "must not produce the name of a measured release, found bert-attention-minilm",
        ),
    ],
)
def test_unknown_names_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        chosen_releases(ReleaseArguments(**changes))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("bert-lstm-minilm", {}, "--data must name the folder of snli/train.csv for bert-lstm-minilm"),
        ("cerbertus-2-minilm", {}, "--data must name the folder of sst5/train.csv"),
        ("bert-lstm-bert-base", {"settings": "{"}, "--settings must be json, found '{'"),
        ("bert-lstm-bert-base", {"settings": "[]"}, "--settings must be a json object"),
        ("bert-lstm-bert-base", {"settings": '{"colour": 1}'}, "bert-lstm-bert-base: .*colour"),
    ],
)
def test_wrong_options_are_refused(name, changes, message, tmp_path):
    (release,) = choose_releases({**PUBLIC, **MEASURED}, [name])
    with pytest.raises(UserError, match=message):
        train_release(release, ReleaseArguments(output_dir=str(tmp_path / "out"), **changes))
    assert not (tmp_path / "out").exists()
