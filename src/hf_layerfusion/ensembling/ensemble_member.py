"""A member in its ensemble: which task it answers there, and whether its labels are the others'."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hf_layerfusion.ensembling.batched_metrics import score_of
from hf_layerfusion.ensembling.ensemble_manifest import MemberEntry
from hf_layerfusion.ensembling.member_models import ONLY_TASK, TaskSchema
from hf_layerfusion.ensembling.prediction_files import Array, Rows
from hf_layerfusion.ensembling.trained_texts import Hashes
from hf_layerfusion.errors import UserError
from hf_layerfusion.hub.paths import is_plain_name


class Predictor(Protocol):
    """What a model and an ensemble have in common."""

    tasks: dict[str, TaskSchema]

    @property
    def name(self) -> str:
        """To be read by people."""

    @property
    def folder(self) -> Path | None:
        """Where it is kept, if it is."""

    @property
    def sha256(self) -> str:
        """Of all that its answers depend on."""

    def predict(self, task: str, rows: Rows, max_length: int | None = None) -> Array:
        """Logits `[N, C]`, of a regression values `[N]`."""

    def seen_texts(self) -> list[tuple[str, dict[str, Hashes] | None]]:
        """Names, and hashes of the texts that they were trained and chosen on; None where that is not known."""

    def copy_to(self, folder: Path) -> None:
        """Copies it into a new folder."""


@dataclass(frozen=True)
class EnsembleMember:
    """A member in its ensemble.

    Attributes:
        predictor: a model, or an ensemble.
        task: the one task that it answers here; None: all that it names.
        hub_id: where it comes from; None for a folder.
        revision: its commit there.

    Raises:
        UserError: a task that the member does not answer, or whose name is none.
    """

    predictor: Predictor
    task: str | None = None
    hub_id: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        own = self.predictor.tasks
        if self.task is not None and not is_plain_name(self.task):
            raise UserError(
                f"member {self.predictor.name}: its task must be named by letters, digits, '_' and '-', found "
                f"{self.task!r}; name it otherwise."
            )
        if self.task is not None and self.task not in own and set(own) != {ONLY_TASK}:
            raise UserError(
                f"member {self.predictor.name}: must answer the task {self.task!r}, found only {', '.join(own)}; "
                "name one of them."
            )

    @property
    def tasks(self) -> dict[str, str]:
        """What it answers here, each with the member's own name of it."""
        own = self.predictor.tasks
        if self.task is None:
            return {name: name for name in own}
        return {self.task: self.task if self.task in own else ONLY_TASK}

    @property
    def entry(self) -> MemberEntry:
        """As a line of `ensemble.json`, but for its folder."""
        predictor = self.predictor
        return MemberEntry(predictor.name, predictor.sha256, None, self.hub_id, self.revision, self.task)


def parse_member(name: str) -> tuple[str | None, str, str | None]:
    """Task, folder or Hub id, and revision of a member that is given as `[TASK=]MEMBER[@REVISION]`. What is a folder as
    it stands is taken so."""
    if Path(name).is_dir():
        return None, name, None
    task, separator, rest = name.partition("=")
    source = rest if separator else name
    if Path(source).is_dir():
        return task, source, None
    source, _, revision = source.partition("@")
    return task if separator else None, source, revision or None


def seen_by(members: Sequence[EnsembleMember]) -> list[tuple[str, dict[str, Hashes] | None]]:
    """`Predictor.seen_texts` of all of them."""
    return [entry for member in members for entry in member.predictor.seen_texts()]


def common_tasks(members: Sequence[EnsembleMember]) -> dict[str, TaskSchema]:
    """What the members together answer.

    Raises:
        UserError: no members, or members that do not fit each other.
    """
    if not members:
        raise UserError("an ensemble needs one member or more, found none; name members.")
    tasks: dict[str, TaskSchema] = {}
    for member in members:
        for name, own in member.tasks.items():
            task = member.predictor.tasks[own]
            score_of(task.problem_type)
            _check_same(member.predictor.name, name, tasks.setdefault(name, task), task)
    if ONLY_TASK in tasks and len(tasks) > 1:
        other = next(name for name in tasks if name != ONLY_TASK)
        nameless = next(member.predictor.name for member in members if ONLY_TASK in member.tasks)
        raise UserError(
            f"member {nameless}: must say which task it answers where others answer {other!r}, found no name; give "
            f"it as {other}={nameless}."
        )
    return tasks


def _check_same(member: str, name: str, expected: TaskSchema, found: TaskSchema) -> None:
    what = "" if name == ONLY_TASK else f" of task {name!r}"
    if expected.problem_type != found.problem_type:
        raise UserError(
            f"member {member}: the problem type{what} must be {expected.problem_type} as the first member's, found "
            f"{found.problem_type}; leave it out."
        )
    if not expected.is_regression and sorted(expected.labels) != sorted(found.labels):
        raise UserError(
            f"member {member}: the labels{what} must be {', '.join(expected.labels)} as the first member's, found "
            f"{', '.join(found.labels)}; rename them in its config or leave it out."
        )
