"""Members of an ensemble: the task each is used for, and checks that their labels agree."""

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
    """Interface that a model and an ensemble share, so that either can be a member."""

    tasks: dict[str, TaskSchema]

    @property
    def name(self) -> str:
        """Name for messages and cards."""

    @property
    def folder(self) -> Path | None:
        """Folder it was loaded from; None if it was not saved."""

    @property
    def sha256(self) -> str:
        """Hash of everything that its predictions depend on."""

    def predict(self, task: str, rows: Rows, max_length: int | None = None, raw: bool = False) -> Array:
        """Return logits `[N, C]`, for a regression values `[N]`; `raw` texts are prepared as each model's were."""

    def seen_texts(self) -> list[tuple[str, dict[str, Hashes] | None]]:
        """Return names with the hashes of the texts that they were trained and selected on; None where these are
        unknown."""

    def copy_to(self, folder: Path) -> None:
        """Copy it into a new folder."""


@dataclass(frozen=True)
class EnsembleMember:
    """A member of an ensemble.

    Attributes:
        predictor: a model, or an ensemble.
        task: the one task that it is used for; None for all that it has.
        hub_id: the Hub id it was loaded from; None for a folder.
        revision: its commit on the Hub.

    Raises:
        UserError: The predictor does not have this task, or the task's name is not valid.
    """

    predictor: Predictor
    task: str | None = None
    hub_id: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        own = self.predictor.tasks
        if self.task is not None and not is_plain_name(self.task):
            raise UserError(
                f"member {self.predictor.name}: its task's name must consist of letters, digits, '_' and '-', found "
                f"{self.task!r}; rename it."
            )
        if self.task is not None and self.task not in own and set(own) != {ONLY_TASK}:
            raise UserError(
                f"member {self.predictor.name}: must have the task {self.task!r}, found only {', '.join(own)}; "
                "name one of them."
            )

    @property
    def tasks(self) -> dict[str, str]:
        """The tasks that it is used for, mapped to the predictor's own names for them."""
        own = self.predictor.tasks
        if self.task is None:
            return {name: name for name in own}
        return {self.task: self.task if self.task in own else ONLY_TASK}

    @property
    def entry(self) -> MemberEntry:
        """Its entry in `ensemble.json`, without the folder."""
        predictor = self.predictor
        return MemberEntry(predictor.name, predictor.sha256, None, self.hub_id, self.revision, self.task)


def parse_member(name: str) -> tuple[str | None, str, str | None]:
    """Split `[TASK=]MEMBER[@REVISION]` into task, folder or Hub id, and revision.

    The name of an existing folder is taken as it is.
    """
    if Path(name).is_dir():
        return None, name, None
    task, separator, rest = name.partition("=")
    source = rest if separator else name
    if Path(source).is_dir():
        return task, source, None
    source, _, revision = source.partition("@")
    return task if separator else None, source, revision or None


def seen_by(members: Sequence[EnsembleMember]) -> list[tuple[str, dict[str, Hashes] | None]]:
    """Return `Predictor.seen_texts` of all members in one list."""
    return [entry for member in members for entry in member.predictor.seen_texts()]


def common_tasks(members: Sequence[EnsembleMember]) -> dict[str, TaskSchema]:
    """Return the tasks that the members have between them, by name.

    Raises:
        UserError: There are no members, or they disagree about a task.
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
            f"member {nameless}: must be given the name of its task, because others have {other!r}, found none; give "
            f"it as {other}={nameless}."
        )
    return tasks


def _check_same(member: str, name: str, expected: TaskSchema, found: TaskSchema) -> None:
    what = "" if name == ONLY_TASK else f" of task {name!r}"
    if expected.problem_type != found.problem_type:
        raise UserError(
            f"member {member}: the problem type{what} must be the first member's, {expected.problem_type}, found "
            f"{found.problem_type}; leave it out."
        )
    if not expected.is_regression and sorted(expected.labels) != sorted(found.labels):
        raise UserError(
            f"member {member}: the labels{what} must be the first member's, {', '.join(expected.labels)}, found "
            f"{', '.join(found.labels)}; rename them in its config or leave it out."
        )
