"""A row of the table of figures: one campaign."""

import sys
from dataclasses import dataclass, field


@dataclass
class Row:
    """What a campaign has counted.

    Attributes:
        name: of the campaign.
        columns: what is counted; the last one is what must not be.
        counts: by column.
        notes: what was wrong, one by one.
        was_stopped: whether it was interrupted before it had tried all.
    """

    name: str
    columns: tuple[str, ...]
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    was_stopped: bool = False

    def count(self, column: str, number: int = 1) -> None:
        """Adds to a column."""
        self.counts[column] = self.counts.get(column, 0) + number

    def tell(self, note: str) -> None:
        """Notes what was wrong, and prints it at once."""
        self.notes.append(note)
        print(f"  {self.name}: {note}", file=sys.stderr, flush=True)

    @property
    def failed(self) -> bool:
        """Whether something was wrong."""
        return bool(self.notes) or self.counts.get(self.columns[-1], 0) > 0

    def figures(self) -> str:
        """The counts in words."""
        figures = ", ".join(f"{self.counts.get(column, 0):,} {column}" for column in self.columns)
        return figures + (" (stopped early)" if self.was_stopped else "")
