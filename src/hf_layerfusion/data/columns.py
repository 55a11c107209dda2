"""Columns requested by the user, and their lookup in the header of a file."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import pyarrow as pa

from hf_layerfusion.errors import UserError

RESERVED_COLUMNS = ("label", "id", "row")

Columns: TypeAlias = dict[str, pa.Array | pa.ChunkedArray]


@dataclass(frozen=True)
class RequestedColumns:
    """Columns requested by the user.

    Attributes:
        text: Names of the text columns.
        label: Name of the label column, if any.
        id: Name of the id column, if any.
        label_required: Whether a file without the label column is refused.

    Raises:
        UserError: If no text column is given, a column is requested twice, or a text column has a reserved name.
    """

    text: tuple[str, ...]
    label: str | None = None
    id: str | None = None
    label_required: bool = True

    def __post_init__(self) -> None:
        named = [*self.text, *(name for name in (self.label, self.id) if name is not None)]
        repeated = [name for name in named if named.count(name) > 1]
        reserved = [name for name in self.text if name in RESERVED_COLUMNS]
        if not self.text:
            raise UserError("no text column is named; name at least one, for instance 'text'")
        if repeated:
            raise UserError(
                f"the column {repeated[0]!r} is asked for twice; texts, label and id need one column each"
            )
        if reserved:
            raise UserError(
                f"a text column must not be called {reserved[0]!r}, which names a column of the result; "
                "rename it"
            )

    def find(self, found: Sequence[str], where: str) -> dict[str, str]:
        """Map the column names of the result to those of the file.

        Args:
            found: Header of the file.
            where: Name of the file, for error messages.

        Raises:
            UserError: If a name occurs twice in the header, or a column is missing.
        """
        repeated = [name for name in found if found.count(name) > 1]
        if repeated:
            raise UserError(
                f"{where}: the column {excerpt(repeated[0])} occurs twice in the header; rename one"
            )
        columns = {name: name for name in self.text}
        if self.label is not None and (self.label_required or self.label in found):
            columns["label"] = self.label
        if self.id is not None:
            columns["id"] = self.id
        missing = [name for name in columns.values() if name not in found]
        if missing:
            raise missing_columns(missing, found, where)
        return columns


def missing_columns(missing: Sequence[str], found: Iterable[str], where: str) -> UserError:
    """Return the error for missing columns, which lists the existing ones."""
    names = ", ".join(map(excerpt, list(found)[:20])) or "none"
    return UserError(
        f"{where}: no column {', '.join(map(repr, missing))} (found: {names}); name the right "
        "column, or add it"
    )


def excerpt(value: Any) -> str:
    """Return the `repr` of a value, which contains no line break, truncated to 60 characters."""
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
