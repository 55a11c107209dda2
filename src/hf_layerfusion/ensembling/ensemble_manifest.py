"""`ensemble.json`: members with revision and hash, how each task is combined, and what that was fitted on."""

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
    """A member.

    Attributes:
        name: to be read by people.
        sha256: of all that its answers depend on.
        folder: where it is, seen from the ensemble's folder; None for one on the Hub.
        hub_id: where it is on the Hub.
        revision: its commit there.
        task: the one task that it answers; None: all that it names.
    """

    name: str
    sha256: str
    folder: str | None = None
    hub_id: str | None = None
    revision: str | None = None
    task: str | None = None


@dataclass(frozen=True)
class CombinerFit:
    """What a task's combiner was fitted on.

    Attributes:
        metric: what was to be high.
        score: what it reached.
        rows: number of texts.
        texts_sha256: of them, in their order.
        out_of_fold: on given predictions instead of the members' own.
    """

    metric: str
    score: float
    rows: int
    texts_sha256: str
    out_of_fold: bool


@dataclass(frozen=True)
class EnsembleManifest:
    """The content of `ensemble.json`.

    Attributes:
        members: in their order.
        labels: of each task; of a regression the name of its value.
        combiners: of each task.
        fits: of the tasks whose combiner was fitted.
        max_length: tokens that a text or pair is cut to.
        unverified: members of which it was not known, when a combiner was fitted, what they were trained on.
    """

    members: list[MemberEntry]
    labels: dict[str, list[str]]
    combiners: dict[str, Combiner]
    fits: dict[str, CombinerFit] = field(default_factory=dict)
    max_length: int | None = None
    unverified: list[str] = field(default_factory=list)

    @property
    def sha256(self) -> str:
        """Of all that the answers depend on; not of the places where members are, which differ after a copy."""
        answers = {
            "members": [(entry.sha256, entry.task) for entry in self.members],
            "labels": self.labels,
            "combiners": {task: combiner_to_json(combiner) for task, combiner in self.combiners.items()},
            "max_length": self.max_length,
        }
        return hashlib.sha256(json.dumps(answers, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """As JSON, from which `from_json` makes an equal object."""
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
        """Reads what `to_json` wrote.

        Raises:
            KeyError, TypeError: what is missing or unknown.
            UserError: an unknown combiner.
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
        """Writes `ensemble.json`, whole or not at all."""
        write_json(folder / FILE_NAME, self.to_json())


def read_manifest(folder: Path) -> EnsembleManifest:
    """Reads `ensemble.json`.

    Raises:
        UserError: if it is none, or of another version.
    """
    path = folder / FILE_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise UserError(
                f"{path}: must have the format {FORMAT}, found {content['format']!r}; save it anew."
            )
        return EnsembleManifest.from_json(content)
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path}: must be an ensemble as `save_pretrained` writes it, found {type(error).__name__} ({error}); save "
            "it anew."
        ) from error
