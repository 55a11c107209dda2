"""The refusal of a name that is in no table, as `errors.nearest` words it; this folder imports nothing from there."""

from collections.abc import Iterable
from difflib import get_close_matches


def unknown_name(field: str, name: object, known: Iterable[str]) -> ValueError:
    """Return the error that says that `field` names none of `known`, and which of them is nearest."""
    names = sorted(known)
    nearest = get_close_matches(str(name), names, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else "; choose one of them."
    return ValueError(f"`{field}` must be one of {names}, found {name!r}{hint}")
