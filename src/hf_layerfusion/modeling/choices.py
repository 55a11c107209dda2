"""Error for a name that is in no registry.

It repeats the wording of `errors.nearest`, which this folder must not import.
"""

from collections.abc import Iterable
from difflib import get_close_matches


def unknown_name(field: str, name: object, known: Iterable[str]) -> ValueError:
    """Return the error for a value of `field` that is not in `known`, with the closest match as a suggestion."""
    names = sorted(known)
    nearest = get_close_matches(str(name), names, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else "; choose one of them."
    return ValueError(f"`{field}` must be one of {names}, found {name!r}{hint}")
