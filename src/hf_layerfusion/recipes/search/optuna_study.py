"""Optuna study of a search, in an SQLite file from which an interrupted search resumes.

Optuna is optional, so import this module only for a search with it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import StorageInternalError
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from hf_layerfusion.errors import UserError, one_line
from hf_layerfusion.evaluation.plots.search_plots import SearchTrial
from hf_layerfusion.training.hp_search import FOLDER

STUDY_NAME = "search"
SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: TPESampler(seed=seed),
    "random": lambda seed: RandomSampler(seed=seed),
}
_STATES = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


def trial_state(trial: FrozenTrial) -> str:
    """Return a trial's state: `finished`, `pruned`, `failed` with an error, or `interrupted`."""
    if trial.state == TrialState.FAIL and "error" not in trial.user_attrs:
        return "interrupted"
    return _STATES.get(trial.state, "interrupted")


def count_ended_trials(study: optuna.Study) -> int:
    """Return the number of trials that were not interrupted."""
    return sum(trial_state(trial) != "interrupted" for trial in study.get_trials(deepcopy=False))


class EachTrialSeeded(BaseSampler):
    """Sampler that seeds each trial with the run's seed and the number of trials that have ended before.

    Samples then depend on these and on the results so far, not on how often the search was interrupted: an
    interrupted trial is repeated with the same values. Optuna's samplers keep one generator, which a new process
    would seed again and so repeat the first trials.

    Args:
        make: function from a seed to a sampler.
        seed: the run's seed.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self._make = make
        self._seed = seed
        self._sampler = make(seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Seed the sampler for this trial."""
        words = np.random.SeedSequence([self._seed, count_ended_trials(study)]).generate_state(1)
        self._sampler = self._make(int(words[0]))
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        """Return the search space of the trial's sampler."""
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, Any]
    ) -> dict[str, Any]:
        """Sample with the trial's sampler."""
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        """Sample one value with the trial's sampler."""
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        """Finish the trial's sampler."""
        self._sampler.after_trial(study, trial, state, values)


@contextmanager
def study_errors(path: Path) -> Iterator[None]:
    """Raise a `UserError` in one line for what SQLite and Optuna raise about a damaged or unwritable file."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        reason = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
        raise UserError(
            f"{path}: cannot be used as a study of Optuna ({one_line(reason)[:80]}); free some space if the disk "
            "is full, or "
            "delete it to search again."
        ) from error


def study_options(path: Path, *, sampler: str, seed: int, prune: bool, maximize: bool) -> dict[str, Any]:
    """Return the arguments of `optuna.create_study`, which opens an existing study.

    Raises:
        UserError: The file is not an SQLite file of Optuna.
    """
    url = URL.create("sqlite", database=str(path)).render_as_string()
    try:
        storage = optuna.storages.RDBStorage(url)
    except (SQLAlchemyError, RuntimeError) as error:
        raise UserError(
            f"{path}: is not a study of Optuna ({one_line(error)[:80]}); delete it to search again."
        ) from error
    return {
        "storage": storage,
        "study_name": STUDY_NAME,
        "direction": "maximize" if maximize else "minimize",
        "load_if_exists": True,
        "sampler": EachTrialSeeded(SAMPLERS[sampler], seed),
        # Optuna prunes by default.
        "pruner": optuna.pruners.MedianPruner() if prune else optuna.pruners.NopPruner(),
    }


def open_study(path: Path, options: dict[str, Any], identity: dict[str, Any]) -> optuna.Study:
    """Open the study, and mark trials that were running when the search was interrupted as failed.

    Args:
        path: the study's file, for messages.
        options: the result of `study_options`.
        identity: what results depend on, as JSON.

    Raises:
        UserError: The file holds another study.
    """
    study = optuna.create_study(**options)
    stored = study.user_attrs.get("identity")
    if stored is None and study.get_trials(deepcopy=False):
        raise UserError(f"{path}: holds a study of another program; name another output folder.")
    if stored is None:
        study.set_user_attr("identity", identity)
    else:
        changed = [name for name in identity.keys() | stored.keys() if identity.get(name) != stored.get(name)]
        if changed:
            raise UserError(
                f"{path}: holds a search with another {', '.join(sorted(changed))}; name another output folder, or "
                "restore these settings."
            )
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)):
        study.tell(trial.number, state=TrialState.FAIL)
    return study


def reported_trials(study: optuna.Study) -> list[SearchTrial]:
    """Return the study's trials in the form of reports."""
    return [
        SearchTrial(
            number=trial.number,
            state=trial_state(trial),
            objective=trial.value,
            settings=dict(trial.params),
            seconds=None if trial.duration is None else trial.duration.total_seconds(),
            error=trial.user_attrs.get("error", ""),
            folder=trial.user_attrs.get(FOLDER, ""),
        )
        for trial in study.get_trials(deepcopy=False)
    ]
