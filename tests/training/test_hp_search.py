"""`hyperparameter_search`: each trial is the run that its values would be by themselves, judged by its best model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from transformers import EvalPrediction, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_layerfusion.errors import UserError
from hf_layerfusion.training.trainer import LayerFusionTrainer
from tests.training.small import small_model, small_trainer

EVALUATED = {"eval_strategy": "epoch", "logging_strategy": "epoch"}
# The loss falls from epoch to epoch: where more of it is better, the first epoch is best. It has a name of
# which nobody knows which way is better.
FIRST_IS_BEST = {
    "save_strategy": "epoch",
    "load_best_model_at_end": True,
    "metric_for_best_model": "surprise",
    "greater_is_better": True,
    "save_only_model": True,
}


class Histories(TrainerCallback):
    """Keeps the validation losses of each training."""

    def __init__(self) -> None:
        self.losses: list[list[float]] = []

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.losses.append([])

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float], **kwargs: Any
    ) -> None:
        self.losses[-1].append(metrics["eval_loss"])


def surprise(prediction: EvalPrediction) -> dict[str, float]:
    """The loss, computed anew."""
    logits, labels = torch.tensor(prediction.predictions), torch.tensor(prediction.label_ids)
    return {"surprise": torch.nn.functional.cross_entropy(logits, labels).item()}


def searching(folder: Path, **changes: Any) -> tuple[LayerFusionTrainer, Histories]:
    histories = Histories()
    trainer = small_trainer(folder, callbacks=[histories], **(EVALUATED | changes))
    trainer.model_init = lambda trial: small_model(dropout=0.1)
    trainer.compute_metrics = surprise
    return trainer, histories


def search(trainer: LayerFusionTrainer, trials: list[dict[str, Any]], **options: Any) -> optuna.Study:
    """Runs these trials; the study."""
    storage = optuna.storages.InMemoryStorage()
    options = {
        "pruner": optuna.pruners.NopPruner(),
        "compute_objective": lambda metrics: metrics["eval_loss"],
        **options,
    }
    trainer.hyperparameter_search(
        hp_space=lambda trial: trials[trial.number],
        n_trials=len(trials),
        backend="optuna",
        storage=storage,
        study_name="s",
        **options,
    )
    return optuna.load_study(study_name="s", storage=storage)


@pytest.mark.parametrize(
    ("fixed", "trials"),
    [
        (
            {"fusion_learning_rate": 1e-2},
            [{"frozen_layers": 1, "learning_rate": 1e-2}, {"frozen_layers": 0, "learning_rate": 3e-3}],
        ),
        ({"regularizers": "bregman"}, [{"learning_rate": 1e-3}, {"learning_rate": 1e-2}]),
        (
            {"train_sampling_strategy": "group_by_length", "epoch_decay": 0.5},
            [{"per_device_train_batch_size": 16}, {"per_device_train_batch_size": 4}],
        ),
        ({"learning_rate": 1e-2}, [{"weight_interpolation": 0.2}, {"weight_interpolation": 0.8}]),
    ],
    ids=["frozen", "bregman", "batch", "evaluated weights"],
)
def test_a_trial_is_the_run_that_its_values_would_be(
    tmp_path: Path, fixed: dict[str, Any], trials: list[dict[str, Any]]
) -> None:
    trainer, histories = searching(tmp_path / "search", num_train_epochs=2, **fixed)
    search(trainer, trials)
    for number, values in enumerate(trials):
        alone, history = searching(tmp_path / f"alone-{number}", num_train_epochs=2, **(fixed | values))
        alone.train()
        assert histories.losses[number] == history.losses[0]
    assert histories.losses[0] != histories.losses[1]


def test_a_trial_is_judged_by_the_checkpoint_that_it_keeps(tmp_path: Path) -> None:
    trainer, histories = searching(tmp_path, num_train_epochs=2, **FIRST_IS_BEST)
    study = search(trainer, [{"learning_rate": 1e-3}, {"learning_rate": 2e-3}], direction="maximize")
    assert [trial.value for trial in study.trials] == [losses[0] for losses in histories.losses]
    assert all(losses[0] > losses[-1] for losses in histories.losses)
    # Only the best one's checkpoints are there.
    best = tmp_path / f"run-{study.best_trial.number}"
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == [best]
    assert f"{PREFIX_CHECKPOINT_DIR}-4" in {path.name for path in best.iterdir()}


def test_patience_begins_anew_with_each_trial(tmp_path: Path) -> None:
    options = FIRST_IS_BEST | {"num_train_epochs": 3, "early_stopping_patience": 1}
    trainer, histories = searching(tmp_path, **options)
    search(trainer, [{"learning_rate": 1e-3}, {"learning_rate": 2e-3}], direction="maximize")
    assert [len(losses) for losses in histories.losses] == [2, 2]


def test_the_pruner_compares_trials_of_other_batch_sizes(tmp_path: Path) -> None:
    class Second(optuna.pruners.BasePruner):
        def prune(self, study: Any, trial: Any) -> bool:
            return bool(trial.number == 1 and trial.last_step == 2)

    trainer, _ = searching(tmp_path, num_train_epochs=3)
    study = search(
        trainer,
        [{"per_device_train_batch_size": 8}, {"per_device_train_batch_size": 4}],
        pruner=Second(),
    )
    assert list(study.trials[0].intermediate_values) == [1, 2, 3]
    assert list(study.trials[1].intermediate_values) == [1, 2]
    assert study.trials[1].state.name == "PRUNED"
    assert not (tmp_path / "run-1").exists()


def test_a_trial_that_fails_says_why(tmp_path: Path) -> None:
    trainer, _ = searching(tmp_path, num_train_epochs=1)
    study = search(
        trainer, [{"learning_rate": 1e-3}, {"learning_rate": 1e-3, "layer_decay": 2.0}], catch=(UserError,)
    )
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL"]
    assert "layer_decay must be above 0" in study.trials[1].user_attrs["error"]


def test_a_trial_without_memory_says_so(tmp_path: Path) -> None:
    def short_of_memory(trial: Any) -> Any:
        if trial.number == 0:
            raise torch.OutOfMemoryError("out of\nmemory")
        return small_model()

    trainer, _ = searching(tmp_path, num_train_epochs=1)
    trainer.model_init = short_of_memory
    values = [{"learning_rate": 1e-3}] * 2
    study = search(trainer, values, catch=(torch.OutOfMemoryError,))
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE"]
    assert "out of memory" in study.trials[0].user_attrs["error"]


def test_an_objective_that_is_not_a_number_takes_nothing_from_the_best(tmp_path: Path) -> None:
    """As a correlation with predictions that are all the same."""
    trainer, _ = searching(tmp_path, max_steps=1, num_train_epochs=1, **FIRST_IS_BEST)
    found = iter([0.5, float("nan"), 0.4])
    trainer.compute_metrics = lambda _: {"correlation": next(found)}
    trainer.args.metric_for_best_model = "correlation"
    values = [{"learning_rate": 1e-3}] * 3
    study = search(
        trainer, values, direction="maximize", compute_objective=lambda metrics: metrics["eval_correlation"]
    )
    assert [trial.value for trial in study.trials] == [0.5, None, 0.4]
    assert study.trials[1].user_attrs["error"] == "the objective is not a number"
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["run-0"]


def test_a_diverged_trial_does_not_spoil_the_next(tmp_path: Path) -> None:
    trainer, _ = searching(tmp_path, num_train_epochs=1)
    study = search(trainer, [{"learning_rate": 1e30}, {"learning_rate": 1e-3}], catch=(UserError,))
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE"]
    assert "not finite" in study.trials[0].user_attrs["error"]


@pytest.mark.parametrize(
    "name",
    ["same", "", ".", "../beside", "run"],
    ids=["constant", "empty", "the folder itself", "outside", "the default's"],
)
def test_names_of_trials_delete_nothing_of_others(tmp_path: Path, name: str) -> None:
    """They deleted the best trial's checkpoints (constant), or everything in `output_dir` (empty)."""
    top = tmp_path / "search"
    foreign = [top / "notes.txt", top / name / "mine.txt", tmp_path / "beside" / "mine.txt"]
    for file in foreign:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("mine")
    trainer, _ = searching(top, num_train_epochs=2, **FIRST_IS_BEST)
    study = search(
        trainer,
        [{"learning_rate": 1e-2}, {"learning_rate": 1e-3}, {"learning_rate": 2e-3}],
        direction="maximize",
        hp_name=lambda trial: name,
    )
    assert all(file.read_text() == "mine" for file in foreign)
    folders = {trial.user_attrs["folder"] for trial in study.trials}
    # The best one's checkpoints are there, and no other's.
    checkpoints = {path.parent for path in top.rglob(f"{PREFIX_CHECKPOINT_DIR}-*")}
    assert checkpoints == {top / study.best_trial.user_attrs["folder"]}
    assert sum((top / folder).exists() for folder in folders) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["beside", "search"]


def test_a_second_search_leaves_the_first_ones_checkpoints(tmp_path: Path) -> None:
    for learning_rate in (1e-2, 1e-3):
        trainer, _ = searching(tmp_path, num_train_epochs=1, **FIRST_IS_BEST)
        search(trainer, [{"learning_rate": learning_rate}], direction="maximize")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["run-0", "run-0-2"]


def test_a_trial_has_the_decay_that_it_sets(tmp_path: Path) -> None:
    trials = [{"epoch_decay": 0.25}, {"epoch_decay": 1.0}]
    trainer, histories = searching(tmp_path / "search", num_train_epochs=2)
    search(trainer, trials)
    for number, values in enumerate(trials):
        alone, history = searching(tmp_path / f"alone-{number}", num_train_epochs=2, **values)
        alone.train()
        assert history.losses == [histories.losses[number]]
    assert histories.losses[0] != histories.losses[1]


def test_what_the_trainer_reads_before_the_trials_is_refused(tmp_path: Path) -> None:
    trainer, _ = searching(tmp_path)
    with pytest.raises(UserError, match="regularizers cannot be searched"):
        search(trainer, [{"regularizers": "rdrop"}])


def test_patience_is_searched_among_numbers(tmp_path: Path) -> None:
    changes = {"save_strategy": "epoch", "load_best_model_at_end": True, "metric_for_best_model": "loss"}
    trainer, _ = searching(tmp_path / "set", early_stopping_patience=1, **changes)
    search(trainer, [{"early_stopping_patience": 2}])
    trainer, _ = searching(tmp_path / "none", **changes)
    with pytest.raises(UserError, match="early_stopping_patience can be searched among numbers alone"):
        search(trainer, [{"early_stopping_patience": 2}])
