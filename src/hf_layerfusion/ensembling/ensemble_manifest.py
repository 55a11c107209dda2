"""`ensemble.json`: the members with revisions and hashes, each task's combiner, and the record of its fit."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_layerfusion.ensembling.combiners import Combiner
from hf_layerfusion.ensembling.registry import combiner_from_json, combiner_to_json
from hf_layerfusion.errors import UserError
from hf_layerfusion.storage import write_json

FILE_NAME = "ensemble.json"
FORMAT = 1


@dataclass(frozen=True)
class MemberEntry:
    """A member's entry in `ensemble.json`.

    Attributes:
        name: name for messages and cards.
        sha256: hash of everything that its predictions depend on.
        folder: its folder, relative to the ensemble's; None if it is on the Hub.
        hub_id: its Hub id.
        revision: its commit on the Hub.
        task: the one task that it is used for; None for all that it has.
    """

    name: str
    sha256: str
    folder: str | None = None
    hub_id: str | None = None
    revision: str | None = None
    task: str | None = None


@dataclass(frozen=True)
class CombinerFit:
    """Record of fitting a task's combiner.

    Attributes:
        metric: the metric that was maximized.
        score: the score that was reached.
        rows: number of texts.
        texts_sha256: hash of the texts, in order.
        out_of_fold: whether given out-of-fold predictions were used instead of the members' own.
    """

    metric: str
    score: float
    rows: int
    texts_sha256: str
    out_of_fold: bool


@dataclass(frozen=True)
class EnsembleManifest:
    """Content of `ensemble.json`.

    Attributes:
        members: the members, in order.
        labels: label names by task; for a regression the name of its value.
        combiners: combiner by task.
        fits: record of the fit, for the tasks whose combiner was fitted.
        max_length: number of tokens that a text or pair is truncated to.
        unverified: names of members whose training texts were unknown when a combiner was fitted.
    """

    members: list[MemberEntry]
    labels: dict[str, list[str]]
    combiners: dict[str, Combiner]
    fits: dict[str, CombinerFit] = field(default_factory=dict)
    max_length: int | None = None
    unverified: list[str] = field(default_factory=list)

    @property
    def sha256(self) -> str:
        """Hash of everything that predictions depend on. Folders are left out, as a copy changes them."""
        hashed = {
            "members": [(entry.sha256, entry.task) for entry in self.members],
            "labels": self.labels,
            "combiners": {task: combiner_to_json(combiner) for task, combiner in self.combiners.items()},
            "max_length": self.max_length,
        }
        return hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as JSON; `from_json` is the inverse."""
        tasks = {
            task: {
                "labels": labels,
                "combiner": combiner_to_json(self.combiners[task]),
                "fitted": dataclasses.asdict(self.fits[task]) if task in self.fits else None,
            }
            for task, labels in self.labels.items()
        }
        return {
            "format": FORMAT,
            "members": [dataclasses.asdict(entry) for entry in self.members],
            "tasks": tasks,
            "max_length": self.max_length,
            "unverified_members": self.unverified,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "EnsembleManifest":
        """Return the manifest that `to_json` wrote.

        Raises:
            KeyError, TypeError: A field is missing or unknown.
            UserError: A combiner is unknown.
        """
        tasks = content["tasks"]
        return cls(
            [MemberEntry(**entry) for entry in content["members"]],
            {task: list(entry["labels"]) for task, entry in tasks.items()},
            {task: combiner_from_json(entry["combiner"]) for task, entry in tasks.items()},
            {task: CombinerFit(**entry["fitted"]) for task, entry in tasks.items() if entry["fitted"]},
            content["max_length"],
            list(content["unverified_members"]),
        )

    def write(self, folder: Path) -> None:
        """Write `ensemble.json` atomically."""
        write_json(folder / FILE_NAME, self.to_json())


def read_manifest(folder: Path) -> EnsembleManifest:
    """Read `ensemble.json` from a folder.

    Raises:
        UserError: The file is missing, damaged or of another format.
    """
    path = folder / FILE_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise UserError(
                f"{path}: must have the format {FORMAT}, found {content['format']!r}; save it again."
            )
        return EnsembleManifest.from_json(content)
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path}: must be an ensemble that `save_pretrained` wrote, found {type(error).__name__} ({error}); save "
            "it again."
        ) from error
