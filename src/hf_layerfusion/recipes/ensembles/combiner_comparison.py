"""Comparison of combiners: each member predicts once, then each combiner is fitted and measured."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hf_layerfusion.ensembling.batched_metrics import score_of
from hf_layerfusion.ensembling.combiners import Weighted
from hf_layerfusion.ensembling.ensemble import Ensemble
from hf_layerfusion.ensembling.ensemble_member import seen_by
from hf_layerfusion.ensembling.member_models import MemberModel, Runtime
from hf_layerfusion.ensembling.prediction_files import read_logits
from hf_layerfusion.ensembling.registry import COMBINERS, make_combiner, must_learn, used_members
from hf_layerfusion.ensembling.soup import check_soup, make_soup
from hf_layerfusion.ensembling.trained_texts import check_held_out, seen_rows, text_hashes
from hf_layerfusion.errors import UserError
from hf_layerfusion.recipes.data_preparation import cleaning_steps
from hf_layerfusion.recipes.ensembles.ensemble_arguments import EnsembleArguments, EnsembleDataArguments
from hf_layerfusion.recipes.ensembles.ensemble_data import SplitTexts
from hf_layerfusion.recipes.ensembles.ensemble_rows import (
    SOUP,
    CombinerComparison,
    ComparisonRow,
    Predictions,
    add_gains,
    main_mean,
    measure,
)


def open_ensemble(
    arguments: EnsembleArguments, data_arguments: EnsembleDataArguments, cache: Path
) -> Ensemble:
    """Return an ensemble of the members that the arguments name. Where the run does not clean the texts, each member
    prepares them as in its training.

    Raises:
        UserError: No members are named; or as `Ensemble.of`.
    """
    if not arguments.members:
        raise UserError("--members must name one model or more, found none; name folders or Hub ids.")
    runtime = Runtime(
        max_loaded_members=arguments.max_loaded_members,
        device=arguments.device,
        batch_size=arguments.batch_size,
        cache_dir=cache,
        trust_remote_code=arguments.trust_remote_code,
        prepares_texts=not (data_arguments.tasks_file or cleaning_steps(data_arguments)),
    )
    return Ensemble.of(arguments.members, runtime=runtime, max_length=arguments.max_seq_length)


def combiners_to_try(arguments: EnsembleArguments, ensemble: Ensemble, has_validation: bool) -> list[str]:
    """Return the names of the combiners to compare: those named, or all that tasks and data allow.

    Raises:
        UserError: A name is unknown, or a combiner must be fitted and there are no validation data.
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


def leave_out_seen(ensemble: Ensemble, texts: dict[str, dict[str, SplitTexts]]) -> list[str]:
    """Remove validation texts that a member was trained or selected on, and return a note for each task.

    Raises:
        UserError: No texts are left.
    """
    notes = []
    for task, splits in texts.items():
        if "validation" not in splits:
            continue
        rows = splits["validation"].rows
        hashes = text_hashes(rows)
        seen = np.zeros(len(rows), bool)
        for member in ensemble.members_of(task):
            for _, known in member.predictor.seen_texts():
                seen |= seen_rows(hashes, known or {})
        if seen.all():
            raise UserError(
                f"task '{task}': some validation texts must be unseen by all members, found none of {len(rows)}; "
                "provide others."
            )
        splits["validation"] = splits["validation"].select(~seen)
        notes.append(
            f"{task}: {seen.sum():,} of {len(rows):,} validation texts left out, which a member has seen"
        )
    return notes


def predict_members(
    ensemble: Ensemble, texts: Mapping[str, Mapping[str, SplitTexts]], out_of_fold: list[str] | None
) -> Predictions:
    """Return the predictions of each member, cached if possible; for the validation data those of `out_of_fold`, if
    given.

    Raises:
        UserError: The files of predictions do not match the members or the rows.
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
    ensemble: Ensemble, texts: dict[str, dict[str, SplitTexts]], arguments: EnsembleArguments, folder: Path
) -> CombinerComparison:
    """Measure each member, each combiner and, if asked for, a soup, which is saved in `folder`.

    The ensemble is left with the combiner that was named, or the best on the validation data.

    Raises:
        UserError: An argument or the data are invalid.
    """
    has_validation = all("validation" in splits for splits in texts.values())
    names = combiners_to_try(arguments, ensemble, has_validation)
    if arguments.combiner is None and not has_validation and len(names) > 1:
        raise UserError(
            f"--combiner must be named if there are no validation data to select one on, found {', '.join(names)}; "
            "name one of them."
        )
    main_metrics = {
        name: score_of(task.problem_type, _metric_of(task.is_regression, arguments))[0]
        for name, task in ensemble.tasks.items()
    }
    if arguments.metric not in (None, *main_metrics.values()):
        raise UserError(
            f"--metric must be a metric of one of the tasks, found {arguments.metric!r}; see --help."
        )
    notes = leave_out_seen(ensemble, texts) if arguments.skip_seen_texts else []
    _check_before_predicting(ensemble, texts, arguments, names)
    predictions = predict_members(ensemble, texts, arguments.out_of_fold)
    comparison = CombinerComparison(ensemble, texts, predictions, main_metrics, [], "", notes)
    comparison.rows += _member_rows(comparison)
    for name in names:
        fit_all(comparison, name, arguments)
        combined = {
            task: {split: ensemble.combiners[task](each) for split, each in splits.items()}
            for task, splits in predictions.items()
        }
        counts = {
            task: len(used_members(ensemble.combiners[task], len(ensemble.members_of(task))))
            for task in texts
        }
        comparison.rows.append(ComparisonRow(name, "combiner", counts, combined))
    if arguments.soup:
        comparison.rows.append(_soup_row(comparison, arguments, folder / SOUP))
    for row in comparison.rows:
        measure(row, comparison)
    tried = [row for row in comparison.rows if row.kind == "combiner"]
    best = (
        max(tried, key=lambda row: main_mean(row, comparison, "validation")) if has_validation else tried[0]
    )
    comparison.chosen = arguments.combiner or best.name
    fit_all(comparison, comparison.chosen, arguments)
    add_gains(comparison)
    return comparison


def _metric_of(is_regression: bool, arguments: EnsembleArguments) -> str | None:
    # With several tasks, --metric applies to classification, unless it is a regression metric.
    return arguments.metric if is_regression == (arguments.metric == "pearsonr") else None


def fit_all(comparison: CombinerComparison, name: str, arguments: EnsembleArguments) -> None:
    """Set a combiner for every task, fitted on its validation data.

    Raises:
        UserError: As `Ensemble.fit`.
    """
    weights = None if arguments.weights is None else tuple(arguments.weights)
    for task, splits in comparison.texts.items():
        if issubclass(COMBINERS[name], Weighted):
            comparison.ensemble.set_combiner(task, make_combiner(name, weights=weights))
            continue
        validation = splits["validation"]
        comparison.ensemble.fit(
            task,
            name,
            validation.rows,
            np.asarray(validation.labels),
            metric=comparison.main_metrics[task],
            predictions=comparison.member_predictions[task]["validation"],
            out_of_fold=arguments.out_of_fold is not None,
            unverified_members=arguments.unverified_members,
        )


def _member_rows(comparison: CombinerComparison) -> list[ComparisonRow]:
    rows = []
    for number, member in enumerate(comparison.ensemble.members, start=1):
        predictions: Predictions = {}
        for task, splits in comparison.member_predictions.items():
            members = comparison.ensemble.members_of(task)
            places = [place for place, each in enumerate(members) if each is member]
            if places:
                predictions[task] = {split: each[places[0]] for split, each in splits.items()}
        rows.append(
            ComparisonRow(
                f"{number} {member.predictor.name}", "member", dict.fromkeys(predictions, 1), predictions
            )
        )
    return rows


def _check_before_predicting(
    ensemble: Ensemble,
    texts: dict[str, dict[str, SplitTexts]],
    arguments: EnsembleArguments,
    names: list[str],
) -> None:
    """Refuse what cannot be combined before members predict, which may take long."""
    if arguments.soup:
        check_soup(_soup_folders(ensemble))
    for task, splits in texts.items():
        members = ensemble.members_of(task)
        learning = any(must_learn(make_combiner(name), len(members)) for name in names)
        if learning and arguments.out_of_fold is None:
            check_held_out(seen_by(members), splits["validation"].rows, arguments.unverified_members)


def _soup_folders(ensemble: Ensemble) -> list[Path]:
    folders = [
        member.predictor.folder
        for member in ensemble.members
        if isinstance(member.predictor, MemberModel) and member.task is None
    ]
    if len(folders) < len(ensemble.members):
        raise UserError("--soup needs members that are models of the same tasks, found others; leave it out.")
    return folders


def _soup_row(comparison: CombinerComparison, arguments: EnsembleArguments, folder: Path) -> ComparisonRow:
    make_soup(_soup_folders(comparison.ensemble), folder, arguments.weights)
    soup = Ensemble.of(
        [str(folder)],
        "average_logits",
        runtime=comparison.ensemble.runtime,
        max_length=arguments.max_seq_length,
    )
    predictions = {
        task: {split: soup.predict(task, rows.rows) for split, rows in splits.items()}
        for task, splits in comparison.texts.items()
    }
    return ComparisonRow(
        SOUP, SOUP, dict.fromkeys(predictions, len(comparison.ensemble.members)), predictions
    )
