"""Members in, a table of their combinations out: each member predicts once, then combiners are tried."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hf_layerfusion.ensembling.batched_metrics import score_of
from hf_layerfusion.ensembling.combiners import Weighted
from hf_layerfusion.ensembling.ensemble import Ensemble
from hf_layerfusion.ensembling.ensemble_member import seen_by
from hf_layerfusion.ensembling.member_models import Model, Runtime
from hf_layerfusion.ensembling.prediction_files import read_logits
from hf_layerfusion.ensembling.registry import COMBINERS, make_combiner, must_learn, used_members
from hf_layerfusion.ensembling.soup import check_soup, make_soup
from hf_layerfusion.ensembling.trained_texts import check_held_out, seen_rows, text_hashes
from hf_layerfusion.errors import UserError
from hf_layerfusion.recipes.ensembles.ensemble_arguments import EnsembleArguments
from hf_layerfusion.recipes.ensembles.ensemble_data import Texts
from hf_layerfusion.recipes.ensembles.ensemble_rows import (
    SOUP,
    Predictions,
    Row,
    Trial,
    add_gains,
    main_mean,
    measure,
)


def open_ensemble(arguments: EnsembleArguments, cache: Path) -> Ensemble:
    """The members, checked.

    Raises:
        UserError: none, or as `Ensemble.of`.
    """
    if not arguments.members:
        raise UserError("--members must name one model or more, found none; name folders or Hub ids.")
    runtime = Runtime(
        max_loaded_members=arguments.max_loaded_members,
        device=arguments.device,
        batch_size=arguments.batch_size,
        cache_dir=cache,
        trust_remote_code=arguments.trust_remote_code,
    )
    return Ensemble.of(arguments.members, runtime=runtime, max_length=arguments.max_seq_length)


def combiners_to_try(arguments: EnsembleArguments, ensemble: Ensemble, has_validation: bool) -> list[str]:
    """The combiners named, or all that the tasks and data allow.

    Raises:
        UserError: an unknown name, or one that needs validation data where there are none.
    """
    named = list(
        dict.fromkeys([*(arguments.combiners or ()), *([arguments.combiner] if arguments.combiner else ())])
    )
    for name in named:
        if make_combiner(name).learns and not has_validation:
            raise UserError(f"--validation_file must hold what {name} is fitted on, found none; name it.")
    if arguments.combiners:
        return named
    regression = any(task.is_regression for task in ensemble.tasks.values())
    return [
        name
        for name, combiner in COMBINERS.items()
        if name in named
        or ((has_validation or not combiner.learns) and (combiner.for_regression or not regression))
    ]


def leave_out_seen(ensemble: Ensemble, texts: dict[str, dict[str, Texts]]) -> list[str]:
    """Leaves validation texts out that a member was trained or chosen on; a note for each task.

    Raises:
        UserError: if none are left.
    """
    notes = []
    for task, splits in texts.items():
        if "validation" not in splits:
            continue
        rows = splits["validation"].rows
        hashes = text_hashes(rows)
        seen = np.zeros(len(rows), bool)
        for seat in ensemble.members_of(task):
            for _, known in seat.member.seen_texts():
                seen |= seen_rows(hashes, known or {})
        if seen.all():
            raise UserError(
                f"task '{task}': validation texts must be left that no member has seen, found none of {len(rows)}; "
                "give others."
            )
        splits["validation"] = splits["validation"].take(~seen)
        notes.append(
            f"{task}: {seen.sum():,} of {len(rows):,} validation texts left out, which a member has seen"
        )
    return notes


def predict_members(
    ensemble: Ensemble, texts: Mapping[str, Mapping[str, Texts]], out_of_fold: list[str] | None
) -> Predictions:
    """What each member answers, from the cache where it has answered before; on the validation data out-of-fold
    predictions where they are given.

    Raises:
        UserError: files of predictions that are not one for each member, or of other rows.
    """
    found: Predictions = {}
    for task, splits in texts.items():
        found[task] = {}
        labels = () if ensemble.tasks[task].is_regression else ensemble.tasks[task].labels
        for split, rows in splits.items():
            if split == "validation" and out_of_fold is not None:
                members = len(ensemble.members_of(task))
                if len(ensemble.tasks) > 1 or len(out_of_fold) != members:
                    raise UserError(
                        f"--out_of_fold must name predictions of one task for each of {members} members, found "
                        f"{len(out_of_fold)} for {len(ensemble.tasks)} tasks; correct them."
                    )
                found[task][split] = np.stack(
                    [
                        read_logits(path, ids=rows.ids, texts=rows.columns, labels=labels)
                        for path in out_of_fold
                    ]
                )
            else:
                found[task][split] = ensemble.member_predictions(task, rows.rows)
    return found


def try_combiners(
    ensemble: Ensemble, texts: dict[str, dict[str, Texts]], arguments: EnsembleArguments, folder: Path
) -> Trial:
    """Measures each member, each combiner and, if asked for, the soup, which is made in `folder`; the ensemble ends
    with the combiner that was named or is best on the validation data.

    Raises:
        UserError: for whatever the user can mend.
    """
    has_validation = all("validation" in splits for splits in texts.values())
    names = combiners_to_try(arguments, ensemble, has_validation)
    if arguments.combiner is None and not has_validation and len(names) > 1:
        raise UserError(
            f"--combiner must be named where there is no validation data to choose one on, found {', '.join(names)}; "
            "name one of them."
        )
    mains = {
        name: score_of(task.problem_type, _metric_of(task.is_regression, arguments))[0]
        for name, task in ensemble.tasks.items()
    }
    if arguments.metric not in (None, *mains.values()):
        raise UserError(f"--metric must be one that a task has, found {arguments.metric!r}; see --help.")
    notes = leave_out_seen(ensemble, texts) if arguments.skip_seen_texts else []
    _check_before_predicting(ensemble, texts, arguments, names)
    predictions = predict_members(ensemble, texts, arguments.out_of_fold)
    trial = Trial(ensemble, texts, predictions, mains, [], "", notes)
    trial.rows += _member_rows(trial)
    for name in names:
        fit_all(trial, name, arguments)
        combined = {
            task: {split: ensemble.combiners[task](each) for split, each in splits.items()}
            for task, splits in predictions.items()
        }
        counts = {
            task: len(used_members(ensemble.combiners[task], len(ensemble.members_of(task))))
            for task in texts
        }
        trial.rows.append(Row(name, "combiner", counts, combined))
    if arguments.soup:
        trial.rows.append(_soup_row(trial, arguments, folder / SOUP))
    for row in trial.rows:
        measure(row, trial)
    tried = [row for row in trial.rows if row.kind == "combiner"]
    best = max(tried, key=lambda row: main_mean(row, trial, "validation")) if has_validation else tried[0]
    trial.chosen = arguments.combiner or best.name
    fit_all(trial, trial.chosen, arguments)
    add_gains(trial)
    return trial


def _metric_of(is_regression: bool, arguments: EnsembleArguments) -> str | None:
    # Of several tasks --metric is that of the classes, unless it is one of values.
    return arguments.metric if is_regression == (arguments.metric == "pearsonr") else None


def fit_all(trial: Trial, name: str, arguments: EnsembleArguments) -> None:
    """Sets the combiner `name` for every task, fitted on its validation data.

    Raises:
        UserError: as `Ensemble.fit`.
    """
    weights = None if arguments.weights is None else tuple(arguments.weights)
    for task, splits in trial.texts.items():
        if issubclass(COMBINERS[name], Weighted):
            trial.ensemble.set_combiner(task, make_combiner(name, weights=weights))
            continue
        validation = splits["validation"]
        trial.ensemble.fit(
            task,
            name,
            validation.rows,
            np.asarray(validation.labels),
            metric=trial.mains[task],
            predictions=trial.member_predictions[task]["validation"],
            out_of_fold=arguments.out_of_fold is not None,
            unverified_members=arguments.unverified_members,
        )


def _member_rows(trial: Trial) -> list[Row]:
    rows = []
    for number, seat in enumerate(trial.ensemble.seats, start=1):
        predictions: Predictions = {}
        for task, splits in trial.member_predictions.items():
            seats = trial.ensemble.members_of(task)
            places = [place for place, each in enumerate(seats) if each is seat]
            if places:
                predictions[task] = {split: each[places[0]] for split, each in splits.items()}
        rows.append(Row(f"{number} {seat.member.name}", "member", dict.fromkeys(predictions, 1), predictions))
    return rows


def _check_before_predicting(
    ensemble: Ensemble, texts: dict[str, dict[str, Texts]], arguments: EnsembleArguments, names: list[str]
) -> None:
    """Refuses what cannot be combined before members predict, which may take long."""
    if arguments.soup:
        check_soup(_soup_folders(ensemble))
    for task, splits in texts.items():
        seats = ensemble.members_of(task)
        learning = any(must_learn(make_combiner(name), len(seats)) for name in names)
        if learning and arguments.out_of_fold is None:
            check_held_out(seen_by(seats), splits["validation"].rows, arguments.unverified_members)


def _soup_folders(ensemble: Ensemble) -> list[Path]:
    folders = [
        seat.member.folder for seat in ensemble.seats if isinstance(seat.member, Model) and seat.task is None
    ]
    if len(folders) < len(ensemble.seats):
        raise UserError(
            "--soup needs models that all answer the same tasks as members, found others; leave it out."
        )
    return folders


def _soup_row(trial: Trial, arguments: EnsembleArguments, folder: Path) -> Row:
    make_soup(_soup_folders(trial.ensemble), folder, arguments.weights)
    soup = Ensemble.of(
        [str(folder)],
        "average_logits",
        runtime=trial.ensemble.runtime,
        max_length=arguments.max_seq_length,
    )
    predictions = {
        task: {split: soup.predict(task, rows.rows) for split, rows in splits.items()}
        for task, splits in trial.texts.items()
    }
    return Row(SOUP, SOUP, dict.fromkeys(predictions, len(trial.ensemble.seats)), predictions)
