"""Hyperparameter search before a run: `Trainer.hyperparameter_search` over a space in a JSON file."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from transformers import PreTrainedModel
from transformers.hyperparameter_search import ALL_HYPERPARAMETER_SEARCH_BACKENDS
from transformers.trainer_utils import BestRun, HPSearchBackend, IntervalStrategy

from hf_layerfusion.errors import UserError, nearest
from hf_layerfusion.evaluation.plots.search_plots import SearchTrial
from hf_layerfusion.recipes.recipe_arguments import RunTrainingArguments
from hf_layerfusion.recipes.run_folder import Experiment, write_settings
from hf_layerfusion.recipes.search.search_report import (
    format_settings,
    search_section,
    searched_metric,
    write_trials,
)
from hf_layerfusion.recipes.search.search_space import (
    TRAINING_SETTINGS,
    Range,
    SearchSpace,
    check_space,
    draw,
    ray_space,
    read_space,
    wandb_sweep,
)
from hf_layerfusion.run_layout import SEARCH, find
from hf_layerfusion.storage import read_object, writable, write_json
from hf_layerfusion.training.hp_search import SearchStopped
from hf_layerfusion.training.own_folders import remove_own
from hf_layerfusion.training.trainer import LayerFusionTrainer

logger = logging.getLogger(__name__)

STUDY_FILE = "study.db"
BEST_FILE = "best.json"
SAMPLERS = ("tpe", "random")


class SearchableExperiment(Experiment, Protocol):
    """Interface of an experiment whose settings can be searched.

    Attributes:
        model_arguments: the model's arguments.
        sections: further sections of the model card, `(title, Markdown)`.
    """

    model_arguments: Any
    sections: list[tuple[str, str]]

    @property
    def has_held_out(self) -> bool:
        """True if there are validation data to select on and test data to report on."""

    def load_model(self, model_arguments: Any) -> PreTrainedModel:
        """Return the model for other model arguments on the same data."""


AnyExperiment = TypeVar("AnyExperiment", bound=SearchableExperiment)


def check_search(arguments: RunTrainingArguments) -> None:
    """Check the options of a search, also if none is asked for.

    Raises:
        UserError: An option is out of range or given without `--hp_search`, a package is missing, or the run
            evaluates nothing to select by.
    """
    backends = [backend.value for backend in HPSearchBackend]
    if arguments.hp_search is None:
        if arguments.hp_space is not None:
            raise UserError(
                f"--hp_space is for a search, found no --hp_search; name one of {', '.join(backends)}."
            )
        return
    if arguments.hp_search not in backends:
        raise UserError(
            f"--hp_search must be one of {', '.join(backends)}, found {arguments.hp_search!r}; "
            f"{nearest(arguments.hp_search, backends)}"
        )
    backend = ALL_HYPERPARAMETER_SEARCH_BACKENDS[HPSearchBackend(arguments.hp_search)]()
    if not backend.is_available():
        # Optuna comes with what its studies are stored in.
        optuna = arguments.hp_search == HPSearchBackend.OPTUNA.value
        install = '`pip install "hf_layerfusion[search]"`' if optuna else backend.pip_install()
        raise UserError(
            f"--hp_search {arguments.hp_search} needs the package {arguments.hp_search}, found none; run {install}."
        )
    read_space(arguments.hp_space)
    if arguments.hp_trials < 1:
        raise UserError(f"--hp_trials must be 1 or more, found {arguments.hp_trials}.")
    if arguments.hp_sampler not in SAMPLERS:
        raise UserError(
            f"--hp_sampler must be one of {', '.join(SAMPLERS)}, found {arguments.hp_sampler!r}; "
            f"{nearest(arguments.hp_sampler, SAMPLERS)}"
        )
    if arguments.hp_search != "optuna" and arguments.hp_prune:
        raise UserError(f"--hp_prune needs Optuna, found --hp_search {arguments.hp_search}; leave it out.")
    if arguments.world_size > 1:
        raise UserError(
            f"--hp_search runs in one process, found {arguments.world_size}; search in one, then run with the "
            "settings it found."
        )
    if arguments.eval_strategy == IntervalStrategy.NO:
        raise UserError("--hp_search needs evaluations to select by, found --eval_strategy no; set epoch.")


def varies_model(arguments: RunTrainingArguments) -> bool:
    """Return whether a search varies settings of the model, in which case those of the run need not fit the encoder."""
    if arguments.hp_search is None:
        return False
    return any(name not in TRAINING_SETTINGS for name in read_space(arguments.hp_space))


def run_with_best(
    experiment: AnyExperiment, arguments: RunTrainingArguments
) -> tuple[AnyExperiment, RunTrainingArguments]:
    """Search in `run/search/` of `--output_dir` if `--hp_search` is set, and return experiment and arguments with the
    best settings.

    The study is stored in an SQLite file. An interrupted search resumes: ended trials are not repeated, and one that
    was running is marked as failed and repeated with the same values.

    Raises:
        UserError: No trial succeeded, or there are no validation data beside test data; or as `read_space`,
            `check_space` and `open_study`.
    """
    if arguments.hp_search is None:
        return experiment, arguments
    if not experiment.has_held_out:
        raise UserError(
            "--hp_search needs validation data to select on and test data to report on, found one of them at most; "
            "give --test_file; or --validation_file, which then serves as test data while others are split from "
            "training."
        )
    space = read_space(arguments.hp_space)
    entries = {name: dataclasses.asdict(entry) for name, entry in space.items()}
    top = Path(str(arguments.output_dir))
    folder = find(top, SEARCH)
    stored = read_best(folder / BEST_FILE)
    if stored is None:
        check_space(space, experiment.model_arguments, arguments, experiment.load_model)
        with writable(f"--output_dir {top}"):
            folder.mkdir(parents=True, exist_ok=True)
            write_settings(top, experiment.settings)
        best = _search(experiment, arguments, space, entries, folder)
        values = {name: best.hyperparameters[name] for name in space}
        stored = {"space": entries, "settings": values, "objective": best.objective, "trial": best.run_id}
        with writable(f"--output_dir {top}"):
            write_json(folder / BEST_FILE, stored)
    elif stored["space"] != entries:
        raise UserError(
            f"{folder}: holds a search with another space; name another output folder, or restore it."
        )
    values = stored["settings"]
    logger.info("best of the search, trial %s: %s", stored["trial"], format_settings(values))
    of_model = {name: value for name, value in values.items() if name not in TRAINING_SETTINGS}
    of_training = {name: value for name, value in values.items() if name in TRAINING_SETTINGS}
    section = search_section(arguments, values, stored["objective"])
    changed: Any = experiment  # a dataclass, which a Protocol cannot express
    changed = dataclasses.replace(
        changed,
        model_arguments=dataclasses.replace(changed.model_arguments, **of_model),
        sections=[*changed.sections, section],
    )
    return changed, dataclasses.replace(arguments, **of_training)


def read_best(path: Path) -> dict[str, Any] | None:
    """Return the result of a search that has ended, None if none has.

    Raises:
        UserError: The file is damaged.
    """
    if not path.exists():
        return None
    way_out = "delete it: the search keeps its trials and writes the file again"
    stored = read_object(path, way_out)
    if not {"space", "settings", "objective", "trial"} <= stored.keys():
        raise UserError(f"{path}: must hold the best settings of a search, found something else; {way_out}.")
    return stored


def _search(
    experiment: SearchableExperiment,
    arguments: RunTrainingArguments,
    space: SearchSpace,
    entries: dict[str, Any],
    folder: Path,
) -> BestRun:
    changes: dict[str, Any] = {
        "output_dir": str(folder),
        "seed": (arguments.seeds or [arguments.seed])[0],
        "resume_from_checkpoint": None,
        "push_to_hub": False,
        "best_of_each_task": False,
        "plot_layers": None,
        "plot_layers_beside": None,
    }
    arguments = dataclasses.replace(arguments, **changes)
    trainer = experiment.make_trainer(arguments)

    def model_of(trial: Any) -> Any:
        values = draw(space, trial)
        of_model = {name: value for name, value in values.items() if name not in TRAINING_SETTINGS}
        return experiment.load_model(dataclasses.replace(experiment.model_arguments, **of_model))

    trainer.model_init = model_of
    options: dict[str, Any] = {
        "compute_objective": lambda metrics: _objective(metrics, arguments),
        "direction": "maximize" if arguments.greater_is_better else "minimize",
        "backend": arguments.hp_search,
        "n_trials": arguments.hp_trials,
    }
    if arguments.hp_search == "optuna":
        return _search_with_optuna(
            trainer, arguments, space, {"space": entries, **experiment.settings}, options
        )
    if arguments.hp_search == "ray":
        return trainer.hyperparameter_search(hp_space=lambda _: ray_space(space), **options)
    sweep = wandb_sweep(space, arguments.hp_sampler)
    return trainer.hyperparameter_search(
        hp_space=lambda _: sweep, metric=f"eval/{searched_metric(arguments)}", **options
    )


def _search_with_optuna(
    trainer: LayerFusionTrainer,
    arguments: RunTrainingArguments,
    space: SearchSpace,
    identity: dict[str, Any],
    options: dict[str, Any],
) -> BestRun:
    from hf_layerfusion.recipes.search import optuna_study as search_study

    with search_study.study_errors(Path(str(arguments.output_dir)) / STUDY_FILE):
        return _search_in_study(trainer, arguments, space, identity, options)


def _search_in_study(
    trainer: LayerFusionTrainer,
    arguments: RunTrainingArguments,
    space: SearchSpace,
    identity: dict[str, Any],
    options: dict[str, Any],
) -> BestRun:
    import optuna

    from hf_layerfusion.recipes.search import optuna_study as search_study

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # the Trainer reports each trial
    folder = Path(str(arguments.output_dir))
    maximize = options["direction"] == "maximize"
    study_options = search_study.study_options(
        folder / STUDY_FILE,
        sampler=arguments.hp_sampler,
        seed=arguments.seed,
        prune=arguments.hp_prune,
        maximize=maximize,
    )
    study = search_study.open_study(folder / STUDY_FILE, study_options, identity)
    for trial in search_study.reported_trials(study):
        if trial.state == "interrupted" and trial.folder:
            remove_own(folder / trial.folder)
    left = arguments.hp_trials - search_study.count_ended_trials(study)
    if left > 0:
        of_training = {name: entry for name, entry in space.items() if name in TRAINING_SETTINGS}
        try:
            trainer.hyperparameter_search(
                hp_space=lambda trial: draw(of_training, trial),
                # A trial that cannot run, runs out of memory or diverges counts as failed, and the search
                # continues.
                catch=(UserError, torch.OutOfMemoryError),
                **{**options, "n_trials": left, **study_options},
            )
        except SearchStopped as stopped:
            # The trial counts as interrupted: the same command repeats it.
            raise UserError(str(stopped)) from stopped
        except ValueError:
            _check_ended(search_study.reported_trials(study))
            raise
    trials = search_study.reported_trials(study)
    _check_ended(trials)
    # Interrupted trials were repeated; leave them out, so that reports do not depend on interruptions.
    ended = [trial for trial in trials if trial.state != "interrupted"]
    trials = [dataclasses.replace(trial, number=number) for number, trial in enumerate(ended)]
    write_trials(folder, trials, arguments, [name for name, entry in space.items() if _is_log(entry)])
    best = study.best_trial
    number = [trial.number for trial in ended].index(best.number)
    return BestRun(str(number), best.value, best.params)


def _check_ended(trials: Sequence[SearchTrial]) -> None:
    failed = [trial.error for trial in trials if trial.error]
    if failed and not any(trial.state == "finished" for trial in trials):
        raise UserError(f"--hp_search: no trial succeeded; the last one: {failed[-1]}")


def _is_log(entry: Any) -> bool:
    return isinstance(entry, Range) and entry.log


def _objective(metrics: dict[str, float], arguments: RunTrainingArguments) -> float:
    name = f"eval_{searched_metric(arguments)}"
    if name not in metrics:
        known = [key.removeprefix("eval_") for key in metrics if key.startswith("eval_")]
        raise UserError(
            f"--metric_for_best_model must be one of {', '.join(sorted(known))}, found {searched_metric(arguments)!r}."
        )
    return float(metrics[name])
