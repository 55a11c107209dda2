"""Tests that an interrupted study resumes as if it had not been interrupted, with every sampler."""

import contextlib

import optuna
import pytest

from hf_layerfusion.errors import UserError
from hf_layerfusion.recipes.search.optuna_study import open_study, reported_trials, study_options

optuna.logging.set_verbosity(optuna.logging.ERROR)


class Killed(BaseException):
    """Exception that Optuna does not catch, so that the trial stays running as after SIGKILL."""


def objective(trial):
    rate = trial.suggest_float("rate", 1e-6, 1e-4, log=True)
    return (rate * 1e5 - 3) ** 2 + trial.suggest_categorical("batch", [4, 8, 12])


def run(path, sampler, number, seed=3, cut_off=None, identity=None):
    options = study_options(path, sampler=sampler, seed=seed, prune=False, maximize=False)
    study = open_study(path, options, identity or {"space": "a"})

    def stopping(trial):
        value = objective(trial)
        if cut_off is not None and trial.number == cut_off[0]:
            raise cut_off[1]
        return value

    with contextlib.suppress(Killed, KeyboardInterrupt):
        study.optimize(stopping, n_trials=number)
    return [(t.state, t.settings, t.objective) for t in reported_trials(study)]


# TPE draws its first ten at random.
NUMBER = 12


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return {sampler: run(folder / f"{sampler}.db", sampler, NUMBER) for sampler in ("tpe", "random")}


@pytest.mark.parametrize(("sampler", "end"), [("tpe", Killed), ("random", KeyboardInterrupt)])
def test_resumed_equals_uninterrupted(tmp_path, whole, sampler, end):
    first = run(tmp_path / "cut.db", sampler, NUMBER, cut_off=(10, end))
    assert len(first) == 11
    assert first[10][0] == "interrupted"
    resumed = run(tmp_path / "cut.db", sampler, 2)
    assert resumed[10] == ("interrupted", whole[sampler][10][1], None)
    assert [trial for trial in resumed if trial[0] == "finished"] == whole[sampler]


def test_what_is_drawn(tmp_path, whole):
    assert run(tmp_path / "same.db", "random", 2) == whole["random"][:2]
    assert run(tmp_path / "other.db", "random", 2, seed=4) != whole["random"][:2]
    assert len({trial[1]["rate"] for trial in whole["random"]}) == NUMBER
    assert whole["tpe"][:10] == whole["random"][:10]
    assert whole["tpe"][10:] != whole["random"][10:]


def test_a_study_of_something_else(tmp_path):
    path = tmp_path / "study.db"
    run(path, "random", 1, identity={"space": "a", "learning_rate": 1})
    with pytest.raises(UserError, match="holds a search with another learning_rate, space; name another"):
        run(path, "random", 1, identity={"space": "b", "learning_rate": 2})


def test_a_study_of_another_program(tmp_path):
    path = tmp_path / "study.db"
    options = study_options(path, sampler="random", seed=0, prune=False, maximize=False)
    optuna.create_study(**options).optimize(objective, n_trials=1)
    with pytest.raises(UserError, match="holds a study of another program"):
        run(path, "random", 1)


def test_a_file_that_is_no_study(tmp_path):
    path = tmp_path / "study.db"
    path.write_text("no database, but long enough to be taken for the header of one " * 9)
    with pytest.raises(
        UserError, match=r"study\.db: is not a study of Optuna .*; delete it to search again\.$"
    ) as error:
        run(path, "random", 1)
    assert "\n" not in str(error.value)
