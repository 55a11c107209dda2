"""Tests of the card fields of multitask runs."""

from transformers import HfArgumentParser

from hf_layerfusion.hub.card_facts import CardFacts
from hf_layerfusion.recipes.multitask.multitask_card_fields import task_line, tasks_fields
from hf_layerfusion.recipes.multitask.task_preparation import make_tasks
from reproduction.release import public_releases
from reproduction.run_recipes import RUN_RECIPES, arguments_of, task_entries

RELEASE = public_releases()["cerbertus-2-bertweet"]


def test_each_task_says_its_data_and_how_it_is_answered(tmp_path):
    model, data, training = HfArgumentParser(RUN_RECIPES[RELEASE.recipe].arguments).parse_dict(
        arguments_of(RELEASE.settings)
    )
    entries = task_entries(RELEASE.settings)
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
