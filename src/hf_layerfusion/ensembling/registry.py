"""Registry of combiners by name, and their JSON form."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from hf_layerfusion.ensembling.combiners import AverageLogits, AverageProbabilities, Combiner, MajorityVote
from hf_layerfusion.ensembling.fitted import Greedy, GreedyReplacement, Stacked, TaskBased
from hf_layerfusion.errors import UserError, nearest

COMBINERS: dict[str, type[Combiner]] = {
    "majority_vote": MajorityVote,
    "average_logits": AverageLogits,
    "average_probabilities": AverageProbabilities,
    "task_based": TaskBased,
    "greedy": Greedy,
    "greedy_replacement": GreedyReplacement,
    "stacked": Stacked,
}
_NAMES = {combiner: name for name, combiner in COMBINERS.items()}


def make_combiner(name: str, **fields: Any) -> Combiner:
    """Return a new combiner.

    Args:
        name: a key of `COMBINERS`.
        **fields: its arguments.

    Raises:
        UserError: There is no such combiner, or it has no such argument.
    """
    if name not in COMBINERS:
        raise UserError(
            f"a combiner must be one of {', '.join(COMBINERS)}, found {name!r}; {nearest(name, COMBINERS)}"
        )
    known = {field.name for field in dataclasses.fields(COMBINERS[name])}  # type: ignore[arg-type]
    unknown = sorted(fields.keys() - known)
    if unknown:
        raise UserError(f"the combiner {name} has no argument {unknown[0]!r}; leave it out.")
    return COMBINERS[name](**fields)


def must_learn(combiner: Combiner, count: int) -> bool:
    """Return whether a combiner must be fitted for `count` members: it learns, and there is more than one to choose
    from."""
    return combiner.learns and not (isinstance(combiner, TaskBased) and count == 1)


def used_members(combiner: Combiner, count: int) -> list[int]:
    """Return the indices of the members, out of `count`, that a combiner uses: those it selected, or all."""
    if isinstance(combiner, Greedy):
        return sorted(set(combiner.order))
    if isinstance(combiner, TaskBased):
        return [combiner.member or 0]
    return list(range(count))


def combiner_to_json(combiner: Combiner) -> dict[str, Any]:
    """Return a combiner with its fitted state as JSON; `combiner_from_json` is the inverse."""
    return {"name": _NAMES[type(combiner)], **dataclasses.asdict(combiner)}  # type: ignore[call-overload]


def combiner_from_json(entry: Mapping[str, Any]) -> Combiner:
    """Return the combiner that `combiner_to_json` wrote.

    Raises:
        UserError: As `make_combiner`.
    """
    fields = dict(entry)
    return make_combiner(str(fields.pop("name", None)), **fields)
