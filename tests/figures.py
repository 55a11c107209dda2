"""Figures of runs, left blank where no test looks at them: drawing took a third of a run's time."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from matplotlib.figure import Figure

BLANK = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mP4DwABAQEAGzJYtgAAAABJRU5ErkJggg=="
)
"""A PNG of one pixel."""

_DRAWN = Figure.savefig


def _save_blank(figure: Figure, path: str | os.PathLike[str], **options: Any) -> None:
    Path(path).write_bytes(BLANK)


@contextmanager
def blank() -> Iterator[None]:
    """Save every figure as one pixel, without drawing it."""
    with mock.patch.object(Figure, "savefig", _save_blank):
        yield


@contextmanager
def drawn() -> Iterator[None]:
    """Draw figures also within `blank`."""
    with mock.patch.object(Figure, "savefig", _DRAWN):
        yield
