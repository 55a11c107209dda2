"""Tests of `--hp_search` from the command line: a search on validation data, then one ordinary run with the best
settings."""

import csv
import itertools
import json
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest
from matplotlib import image
from safetensors import SafetensorError
from transformers.trainer_utils import BestRun

from hf_layerfusion.__main__ import main
from hf_layerfusion.errors import UserError
from hf_layerfusion.recipes.recipe_arguments import DataArguments, ModelArguments, TweetTrainingArguments
from hf_layerfusion.recipes.training_run import classify
from hf_layerfusion.training.trainer import LayerFusionTrainer
from tests.examples.command_line import parse
from tests.tiny import tiny_texts, write_csv

SPACE = {
    "learning_rate": {"low": 1e-3, "high": 1e-1, "log": True},
    "per_device_train_batch_size": [8, 16],
    "fusion": ["share", "cat"],
}


@pytest.fixture
def call(tiny_encoder_dir, tmp_path):
    """Run the function of run_tweets.py on 24 training, 16 validation and 12 test texts."""
    sizes = {"train": 24, "validation": 16, "test": 12}
    files = {
        name: write_csv(tmp_path / f"{name}.csv", tiny_texts(size, size)) for name, size in sizes.items()
    }
    space = tmp_path / "space.json"
    space.write_text(json.dumps(SPACE))

    def run(output, **changes):
        options = {
            "model_name_or_path": tiny_encoder_dir,
            **{f"{name}_file": path for name, path in files.items()},
            "output_dir": output,
            "use_cpu": True,
            "disable_tqdm": True,
            "num_groups": 2,
            "fusion_hidden_size": 8,
            "downstream_hidden_size": 8,
            "num_train_epochs": 1,
            "preprocessing": "none",
            "hp_search": "optuna",
            "hp_space": space,
            "hp_trials": 2,
            **changes,
        }
        return classify(*parse((ModelArguments, DataArguments, TweetTrainingArguments), options))

    return run


@pytest.fixture
def sizes(monkeypatch):
    """Numbers of rows that were evaluated or predicted, in order."""
    seen = []
    loop = LayerFusionTrainer.evaluation_loop

    def counting(self, dataloader, *args, **kwargs):
        seen.append(len(dataloader.dataset))
        return loop(self, dataloader, *args, **kwargs)

    monkeypatch.setattr(LayerFusionTrainer, "evaluation_loop", counting)
    return seen


def trials_in(folder):
    with (folder / "run" / "search" / "trials.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.usefixtures("drawn_figures")
def test_search_then_run(call, tmp_path, sizes):
    folder = tmp_path / "run"
    results = call(folder)
    # Each trial and the run evaluate once an epoch; then the run predicts validation and, for the first time, test.
    assert sizes == [16, 16, 16, 16, 12]
    best = json.loads((folder / "run" / "search" / "best.json").read_text())
    trials = trials_in(folder)
    assert [trial["state"] for trial in trials] == ["finished"] * 2
    losses = [float(trial["validation loss"]) for trial in trials]
    # The run is the best trial once more.
    assert results["validation_loss"] == best["objective"] == min(losses)
    chosen = trials[int(best["trial"])]
    assert {name: str(value) for name, value in best["settings"].items()} == {
        name: chosen[name] for name in SPACE
    }
    arguments = json.loads((folder / "run" / "training_args.json").read_text())
    assert arguments["learning_rate"] == best["settings"]["learning_rate"]
    assert json.loads((folder / "config.json").read_text())["fusion"] == best["settings"]["fusion"]
    for name in ("history", "settings"):
        assert image.imread(folder / "run" / "search" / f"{name}.png").std() > 0.02
    assert (
        (folder / "run" / "search" / "trials.md")
        .read_text()
        .startswith("| trial | state | validation loss |")
    )
    card = (folder / "README.md").read_text()
    assert "Selected from 2 trials of Optuna (tpe) by the validation loss" in card


@pytest.mark.slow
@pytest.mark.usefixtures("drawn_figures")
def test_a_search_that_was_killed_goes_on(call, tmp_path, monkeypatch):
    call(tmp_path / "whole")

    class Killed(BaseException):
        """Exception that Optuna does not catch, so that the trial stays running as after SIGKILL."""

    step = LayerFusionTrainer.training_step

    def dying(self, *args, **kwargs):
        if self._trial.number == 1:
            raise Killed
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(LayerFusionTrainer, "training_step", dying)
        with pytest.raises(Killed):
            call(tmp_path / "cut")
    with pytest.raises(UserError, match="must be empty, found another run's files"):
        call(tmp_path / "cut")
    trained = []
    init = LayerFusionTrainer.call_model_init
    monkeypatch.setattr(
        LayerFusionTrainer,
        "call_model_init",
        lambda self, trial=None: (trained.append(trial.number), init(self, trial))[1],
    )
    results = call(tmp_path / "cut", resume_from_checkpoint=True)
    assert trained == [2]
    keep = ("validation loss", *SPACE)
    whole, resumed = (
        [
            {name: trial[name] for name in keep}
            for trial in trials_in(tmp_path / name)
            if trial["state"] == "finished"
        ]
        for name in ("whole", "cut")
    )
    assert resumed == whole
    assert [(trial["trial"], trial["state"]) for trial in trials_in(tmp_path / "cut")] == [
        ("0", "finished"),
        ("1", "finished"),
    ]
    for plot in ("history.png", "settings.png"):
        drawn = [(tmp_path / name / "run" / "search" / plot).read_bytes() for name in ("whole", "cut")]
        assert drawn[0] == drawn[1]
    # Once more, nothing is left to do.
    assert call(tmp_path / "cut", resume_from_checkpoint=True) == results
    assert trained == [2]


@pytest.mark.slow
def test_a_search_that_a_full_disk_ended_goes_on(call, tmp_path, monkeypatch):
    call(tmp_path / "whole")
    save = LayerFusionTrainer._save

    def full(self, *args, **kwargs):
        if self._trial is not None and self._trial.number == 0:
            raise SafetensorError("No space left on device")
        return save(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(LayerFusionTrainer, "_save", full)
        with pytest.raises(UserError, match="could not be written: No space left"):
            call(tmp_path / "full")
    assert not (tmp_path / "full" / "run" / "search" / "trials.csv").exists()
    call(tmp_path / "full", resume_from_checkpoint=True)
    keep = ("trial", "state", "validation loss", *SPACE)
    whole, again = (
        [[trial[name] for name in keep] for trial in trials_in(tmp_path / name)] for name in ("whole", "full")
    )
    assert again == whole


def test_without_test_file_the_validation_data_are_reported(call, tmp_path, sizes):
    call(tmp_path / "run", test_file=None, validation_fraction=0.25, hp_trials=1)
    assert sizes == [6, 6, 6, 16]


def test_trials_that_fail(call, tmp_path):
    (tmp_path / "high.json").write_text('{"learning_rate": [1e30]}')
    for again in (False, True):  # then nothing is left to try
        with pytest.raises(UserError, match=r"--hp_search: no trial succeeded; the last one: .* finite"):
            call(tmp_path / "run", hp_space=tmp_path / "high.json", resume_from_checkpoint=again)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hp_search": "grid"}, "--hp_search must be one of optuna, ray, wandb, found 'grid'"),
        ({"hp_search": None}, "--hp_space is for a search, found no --hp_search"),
        ({"hp_space": None}, "--hp_space must name a .json file"),
        (
            {"hp_search": "ray"},
            r"--hp_search ray needs the package ray, found none; run `pip install 'ray\[tune\]'`",
        ),
        (
            {"hp_search": "wandb"},
            "--hp_search wandb needs the package wandb, found none; run `pip install wandb`",
        ),
        ({"hp_trials": 0}, "--hp_trials must be 1 or more, found 0"),
        ({"hp_sampler": "grid"}, "--hp_sampler must be one of tpe, random, found 'grid'"),
        ({"train_on_all": True}, "--hp_search needs validation data to select on and test data to report on"),
        (
            {"validation_file": None, "test_file": None},
            "--hp_search needs validation data to select on and test data to report on",
        ),
        ({"num_groups": 3, "fusion": "last_mean"}, "--hp_space: fusion: 'share': .* 3 groups for 4 layers"),
        (
            {"metric_for_best_model": "bleu"},
            "--metric_for_best_model must be one of loss, main, accuracy, .* found 'bleu'",
        ),
        (
            {"metric_for_best_model": "pearsonr"},
            "--metric_for_best_model of a single label .* must be one of .*, found 'pearsonr'",
        ),
    ],
)
def test_one_line_for_every_mistake(call, tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as error:
        call(tmp_path / "run", **changes)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_search_goes_the_way_of_its_metric(call, tmp_path, monkeypatch):
    """The recipe's metric is the loss, of which less is better; only the metric is set here."""
    values = itertools.cycle([0.5, 0.7, 0.6])
    monkeypatch.setattr("hf_layerfusion.evaluation.metrics.accuracy_score", lambda *_: next(values))
    call(tmp_path / "run", metric_for_best_model="accuracy", hp_trials=3)
    best = json.loads((tmp_path / "run" / "run" / "search" / "best.json").read_text())
    assert [float(trial["validation accuracy"]) for trial in trials_in(tmp_path / "run")] == [0.5, 0.7, 0.6]
    assert (best["objective"], best["trial"]) == (0.7, "1")


def test_optuna_is_missing(call, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.hyperparameter_search.is_optuna_available", lambda: False)
    with pytest.raises(
        UserError, match=r'package optuna, found none; run `pip install "hf_layerfusion\[search\]"`'
    ):
        call(tmp_path / "run")


def test_the_space_may_not_change_on_the_way(call, tmp_path):
    folder = tmp_path / "run"
    call(folder, hp_trials=1)
    (tmp_path / "space.json").write_text('{"learning_rate": [1e-3]}')
    with pytest.raises(UserError, match="holds a search with another space"):
        call(folder, hp_trials=1, resume_from_checkpoint=True)
    (folder / "run" / "search" / "best.json").unlink()
    with pytest.raises(UserError, match="holds a search with another space"):
        call(folder, hp_trials=1, resume_from_checkpoint=True)


def test_a_sweep_of_wandb(call, tmp_path, monkeypatch):
    """A stand-in for W&B's agent calls the Trainer as transformers' does."""
    seen = {}

    def agent(trainer, n_trials, direction, metric):
        seen.update(metric=metric, direction=direction, sweep=trainer.hp_space(None))
        values = {"learning_rate": 2e-3, "per_device_train_batch_size": 8, "fusion": "cat"}
        trainer.objective = None
        trainer.train(resume_from_checkpoint=None, trial={**values, "metric": metric, "assignments": {}})
        return BestRun("run", trainer.objective, {**values, "metric": metric}, "sweep")

    monkeypatch.setattr("transformers.hyperparameter_search.is_wandb_available", lambda: True)
    monkeypatch.setattr("transformers.hyperparameter_search.run_hp_search_wandb", agent)
    wandb = ModuleType("wandb")
    wandb.__spec__, wandb.run = ModuleSpec("wandb", None), SimpleNamespace(id="run")
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    folder = tmp_path / "run"
    results = call(folder, hp_search="wandb", hp_trials=1)
    assert (seen["metric"], seen["direction"], seen["sweep"]["method"]) == ("eval/loss", "minimize", "bayes")
    assert json.loads((folder / "config.json").read_text())["fusion"] == "cat"
    assert (
        results["validation_loss"]
        == json.loads((folder / "run" / "search" / "best.json").read_text())["objective"]
    )


def test_the_command_searches_for_several_tasks(tiny_encoder_dir, tmp_path):
    for name, size in {"train": 16, "validation": 8, "test": 8}.items():
        write_csv(tmp_path / f"{name}.csv", tiny_texts(size, size))
    files = {f"{name}_file": f"{name}.csv" for name in ("train", "validation", "test")}
    (tmp_path / "tasks.json").write_text(json.dumps({"first": files, "second": files}))
    (tmp_path / "space.json").write_text('{"num_task_layers": [0, 1], "learning_rate": [0.001, 0.01]}')
    folder = tmp_path / "run"
    options = {
        "model_name_or_path": tiny_encoder_dir,
        "tasks_file": tmp_path / "tasks.json",
        "output_dir": folder,
    }
    options |= {"use_cpu": True, "disable_tqdm": True, "num_train_epochs": 1}
    options |= {"hp_space": tmp_path / "space.json", "hp_trials": 2}
    main(
        ["search-multitask", *(part for name, value in options.items() for part in (f"--{name}", str(value)))]
    )
    results = json.loads((folder / "run" / "all_results.json").read_text())
    trials = trials_in(folder)
    best = max(trials, key=lambda trial: float(trial["validation mean"]))
    assert results["validation_mean"] == float(best["validation mean"])
    assert json.loads((folder / "config.json").read_text())["num_task_layers"] == int(best["num_task_layers"])
