"""Rows of a table of ensembles: members are combined as declared, and compared with the best of them."""

from dataclasses import dataclass, field, replace

import numpy as np

from hf_layerfusion.ensembling.batched_metrics import score_of
from hf_layerfusion.ensembling.fitted import worst_if_undefined
from hf_layerfusion.ensembling.registry import make_combiner, used_members
from hf_layerfusion.evaluation.diversity import disagreement, error_correlation, mean_of_pairs
from hf_layerfusion.evaluation.significance import Difference, holm
from hf_layerfusion.evaluation.task_significance import TaskPredictions, bootstrap_tasks
from reproduction.ensemble_table import BEST_OF_EACH_TASK, Combination, EnsembleTable
from reproduction.recorded_members import (
    TEST,
    VALIDATION,
    Predictions,
    RecordedMembers,
)

RESAMPLES = 2000


@dataclass
class EnsembleRow:
    """A row of the report on a table of ensembles.

    Attributes:
        name: name of the ensemble, or of the best single member.
        combiner: name of the combiner; empty for the best member.
        figure: the figure that the source reports.
        missing: number of members without predictions.
        metrics: metric by split and task; `mean` is the mean over several tasks.
        used: names of the members that count for each task, if combiner or table selected among them; else empty.
        counts: number of members that count for each task.
        gain: difference to the best single member, with a p-value corrected by Holm over the table.
        gain_over_mean: difference to the mean score of its members; only if no validation data selected the best
            member.
        disagreement: share of examples on which two members disagree, averaged over pairs and classification tasks.
        error_correlation: correlation of two members' errors, averaged over pairs and tasks.
    """

    name: str
    combiner: str
    figure: str
    missing: int
    metrics: dict[str, dict[str, float]]
    used: dict[str, list[str]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    gain: Difference | None = None
    gain_over_mean: Difference | None = None
    disagreement: float = float("nan")
    error_correlation: float = float("nan")


def combine_members(table: EnsembleTable, members: RecordedMembers) -> list[EnsembleRow]:
    """Combine the available members, and compare each ensemble with the best single member of the table.

    The best member has the best mean over tasks on the validation data or, if members have no predictions for these,
    on the test data, which makes its score optimistic. Gains have the interval and p-value of a paired bootstrap over
    test examples. Combiners are fitted on the validation data: no member was trained on them, but each one's epoch
    was selected on them.

    Returns:
        The best member, then the ensembles; empty without members.

    Raises:
        UserError: As the combiners.
    """
    if not members.runs:
        return []
    chosen_on = members.splits[0]
    runs = list(members.runs)
    best = runs[int(members.means(list(members.runs.values()), chosen_on).argmax())]
    rows = [
        EnsembleRow(f"best member on {chosen_on}: {best}", "", "", 0, _metrics(members, members.runs[best]))
    ]
    baseline = members.task_predictions([members.runs[best]])
    known = dict(members.runs)
    for name, combination in table.rows.items():
        given = {member: known[member] for member in combination.members if member in known}
        if not given:
            continue
        row, known[name] = _combined(name, combination, given, members)
        predicted = members.task_predictions([known[name]])
        row.gain = bootstrap_tasks(baseline, predicted, RESAMPLES)
        if chosen_on == TEST:
            row.gain_over_mean = bootstrap_tasks(
                members.task_predictions(list(given.values())), predicted, RESAMPLES
            )
        rows.append(row)
    tested = [(row, row.gain) for row in rows if row.gain is not None]
    adjusted = holm([gain.p_value for _, gain in tested])
    for (row, gain), p_value in zip(tested, adjusted, strict=True):
        row.gain = replace(gain, p_value=p_value)
    return rows


def _combined(
    name: str, combination: Combination, given: dict[str, Predictions], members: RecordedMembers
) -> tuple[EnsembleRow, Predictions]:
    """Return an ensemble's row and predictions."""
    parts = _best(given, combination.best, members)
    made: Predictions = {}
    used: dict[str, list[str]] = {}
    for task, labels in members.labels.items():
        stacked = {split: np.stack([part[task][split] for part in parts.values()]) for split in labels}
        combiner = make_combiner(combination.combiner)
        if combiner.learns:
            _, score = score_of(members.problem_type(task))
            combiner = combiner.fit(stacked[VALIDATION], labels[VALIDATION], score)
        made[task] = {split: combiner(each) for split, each in stacked.items()}
        used[task] = [list(parts)[place] for place in used_members(combiner, len(parts))]
    row = EnsembleRow(
        name,
        combination.combiner,
        combination.figure,
        sum(member not in given for member in combination.members),
        _metrics(members, made),
        used if any(len(each) < len(given) for each in used.values()) else {},
        {task: len(each) for task, each in used.items()},
    )
    row.disagreement, row.error_correlation = _diversity(members.task_predictions(list(parts.values())))
    return row, made


def _best(
    given: dict[str, Predictions], best: int | str | None, members: RecordedMembers
) -> dict[str, Predictions]:
    """Return the members that take part."""
    if best is None:
        return given
    each = list(given.values())
    if best == BEST_OF_EACH_TASK:
        scores = members.scores(each, VALIDATION).values()
        places = sorted({int(worst_if_undefined(found, required=False).argmax()) for found in scores})
    else:
        places = np.argsort(-members.means(each, VALIDATION), kind="stable")[: int(best)].tolist()
    names = list(given)
    return {names[place]: given[names[place]] for place in places}


def _metrics(members: RecordedMembers, predictions: Predictions) -> dict[str, dict[str, float]]:
    found = {}
    for split in members.splits:
        scores = {task: float(values[0]) for task, values in members.scores([predictions], split).items()}
        found[split] = ({"mean": float(np.mean(list(scores.values())))} if len(scores) > 1 else {}) | scores
    return found


def _diversity(predicted: dict[str, TaskPredictions]) -> tuple[float, float]:
    """Return disagreement and correlation of errors, averaged over pairs and tasks."""
    apart, alike = [], []
    for task in predicted.values():
        if task.is_correlation:
            alike.append(mean_of_pairs(error_correlation(task.predictions - task.labels)))
        else:
            apart.append(mean_of_pairs(disagreement(task.predictions)))
            alike.append(mean_of_pairs(error_correlation(task.predictions != task.labels)))
    return float(np.mean(apart or np.nan)), float(np.mean(alike))
