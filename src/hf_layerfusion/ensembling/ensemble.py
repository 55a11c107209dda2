"""`Ensemble`: several models that predict as one, saved in a folder with `ensemble.json`."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hf_layerfusion.ensembling.batched_metrics import score_of
from hf_layerfusion.ensembling.combiners import Combiner
from hf_layerfusion.ensembling.ensemble_manifest import (
    FILE_NAME,
    CombinerFit,
    EnsembleManifest,
    MemberEntry,
    read_manifest,
)
from hf_layerfusion.ensembling.ensemble_member import (
    EnsembleMember,
    Predictor,
    common_tasks,
    parse_member,
    seen_by,
)
from hf_layerfusion.ensembling.member_models import MemberModel, Runtime, TaskSchema, local_folder, snapshot
from hf_layerfusion.ensembling.pipeline_output import run_pipeline
from hf_layerfusion.ensembling.prediction_files import Array, Rows, rows_hash
from hf_layerfusion.ensembling.registry import make_combiner, must_learn
from hf_layerfusion.ensembling.trained_texts import (
    Hashes,
    check_held_out,
    read_trained_texts,
    text_hashes,
    write_trained_texts,
)
from hf_layerfusion.errors import UserError, nearest
from hf_layerfusion.hub.card_facts import CardFacts
from hf_layerfusion.hub.ensemble_card import ensemble_card
from hf_layerfusion.hub.manifest import write_model_manifest
from hf_layerfusion.hub.paths import inside
from hf_layerfusion.hub.publish import CARD
from hf_layerfusion.storage import new_folder


class Ensemble:
    """Several models, or ensembles of them, that predict one task or several as a single model.

    Members may differ in architecture, class and tokenizer; they must agree on the names of a task's labels.

    Args:
        members: the members.
        runtime: how to run them.
        max_length: number of tokens that a text or pair is truncated to; None for as many as each member takes.
        folder: the folder it was loaded from; None for a new ensemble.

    Attributes:
        tasks: schema of each task by name; labels are in the first member's order.
        combiners: combiner of each task; the mean of probabilities until another is set.
        fits: records of the fitted combiners, by task.
        unverified: names of members whose training texts were unknown when a combiner was fitted.

    Raises:
        UserError: There are no members, or they disagree about a task or its labels.

    Example:
        ```python
        ensemble = Ensemble.of(["outputs/first", "outputs/second"], "majority_vote")
        ensemble("what a day!")  # [{"label": "positive", "score": 0.93}]
        ensemble.save_pretrained("outputs/both")
        Ensemble.from_pretrained("outputs/both")
        ```
    """

    def __init__(
        self,
        members: Sequence[EnsembleMember],
        runtime: Runtime,
        max_length: int | None = None,
        folder: Path | None = None,
    ):
        if max_length is not None and max_length < 1:
            raise UserError(f"max_length must be 1 or more, found {max_length}; raise it or leave it out.")
        self.members, self.runtime, self.max_length, self.folder = list(members), runtime, max_length, folder
        self.tasks: dict[str, TaskSchema] = common_tasks(self.members)
        self.combiners: dict[str, Combiner] = {
            task: make_combiner("average_probabilities") for task in self.tasks
        }
        self.fits: dict[str, CombinerFit] = {}
        self.unverified: list[str] = []
        self._fitted_on: Hashes | None = np.empty(0, np.uint64)

    @classmethod
    def of(
        cls,
        members: Sequence[str],
        combiner: str = "average_probabilities",
        *,
        weights: Sequence[float] | None = None,
        runtime: Runtime | None = None,
        max_length: int | None = None,
    ) -> "Ensemble":
        """Create an ensemble from its members' names.

        Args:
            members: folders or Hub ids of models or ensembles; `ID@REVISION` for a branch, tag or commit;
                `TASK=MEMBER` to use a member for one task only.
            combiner: a key of `COMBINERS`. Combiners that learn are fitted by `fit`, except `task_based` where each
                task has one member.
            weights: one weight for each member, for votes and averages.
            runtime: how to run the members.
            max_length: number of tokens that a text or pair is truncated to.

        Raises:
            UserError: A member is missing or is not a trained model; as `Ensemble` and `set_combiner`.
        """
        runtime = runtime or Runtime()
        made = make_combiner(combiner, **({} if weights is None else {"weights": tuple(weights)}))
        ensemble = cls([open_member(member, runtime) for member in members], runtime, max_length)
        for task in ensemble.tasks:
            ensemble.set_combiner(task, made)
        return ensemble

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, revision: str | None = None, **options: Any
    ) -> "Ensemble":
        """Load an ensemble from its folder or Hub id. Members are checked now, their weights loaded when needed.

        Args:
            name_or_path: the folder or Hub id.
            revision: branch, tag or commit on the Hub.
            options: fields of `Runtime`, such as `max_loaded_members=1`.

        Raises:
            UserError: This is not an ensemble; or a member is missing, has changed, has other tasks or labels, or
                contains the ensemble itself.
        """
        found = open_source(str(name_or_path), revision, Runtime(**options))
        if not isinstance(found, cls):
            raise UserError(
                f"{name_or_path}: must be an ensemble, found a model; name a folder with {FILE_NAME}."
            )
        return found

    @property
    def name(self) -> str:
        """Last part of the folder's path."""
        return "ensemble" if self.folder is None else self.folder.name

    @property
    def sha256(self) -> str:
        """Hash of everything that predictions depend on, which is the members' hashes and how they are combined."""
        return self.manifest().sha256

    def manifest(self) -> EnsembleManifest:
        """Return the content of `ensemble.json`, without the members' folders."""
        return EnsembleManifest(
            [member.entry for member in self.members],
            {name: list(task.labels) for name, task in self.tasks.items()},
            self.combiners,
            self.fits,
            self.max_length,
            self.unverified,
        )

    def members_of(self, task: str) -> list[EnsembleMember]:
        """Return the members that have a task, in the order of their predictions.

        Raises:
            UserError: There is no such task.
        """
        if task not in self.tasks:
            raise UserError(
                f"task must be one of {', '.join(self.tasks)}, found {task!r}; {nearest(task, self.tasks)}"
            )
        return [member for member in self.members if task in member.tasks]

    def set_combiner(self, task: str, combiner: Combiner) -> None:
        """Set the combiner of a task.

        Raises:
            UserError: The combiner does not fit the task's members, or must be fitted first.
        """
        members, kind = len(self.members_of(task)), self.tasks[task]
        combiner(np.zeros((members, 1) if kind.is_regression else (members, 1, len(kind.labels))))
        self.combiners[task] = combiner
        self.fits.pop(task, None)

    def member_predictions(
        self, task: str, rows: Rows, max_length: int | None = None, raw: bool = False
    ) -> Array:
        """Return each member's predictions, with classes in the ensemble's order: `[M, N, C]`, for a regression `[M,
        N]`. The arguments are those of `predict`."""
        labels = self.tasks[task].labels
        predictions = []
        for member in self.members_of(task):
            own = member.tasks[task]
            found = member.predictor.predict(own, rows, self.max_length or max_length, raw)
            if not self.tasks[task].is_regression:
                theirs = member.predictor.tasks[own].labels
                found = found[:, [theirs.index(label) for label in labels]]
            predictions.append(found)
        return np.stack(predictions)

    def predict(self, task: str, rows: Rows, max_length: int | None = None, raw: bool = False) -> Array:
        """Return logits `[N, C]` whose softmax gives the ensemble's probabilities, for a regression values `[N]`.

        Args:
            task: a key of `tasks`.
            rows: a text each, or the two texts of a pair.
            max_length: number of tokens to truncate to, if the ensemble sets none itself.
            raw: whether each member prepares the texts as its training texts were, by what is saved with its tokenizer.
        """
        return self.combiners[task](self.member_predictions(task, rows, max_length, raw))

    def __call__(self, inputs: Any, *, task: str | None = None, top_k: int | str | None = "") -> Any:
        """Predict in the form of transformers' text-classification pipeline.

        Each member prepares the texts as its training texts were, by what is saved with its tokenizer.

        Args:
            inputs: a text, a pair `{"text": …, "text_pair": …}`, or a list of them.
            task: name of the task; None for the first.
            top_k: number of classes to return, None for all; by default the most likely class.

        Returns:
            `{"label", "score"}` for each input, in a list even for a single text. With `top_k`, a list of classes in
            place of each. The score of a regression is its value.

        Raises:
            UserError: The task is unknown, or an input is neither a text nor a pair.
        """
        name = next(iter(self.tasks)) if task is None else task
        self.members_of(name)
        return run_pipeline(lambda rows: self.predict(name, rows, raw=True), self.tasks[name], inputs, top_k)

    def fit(
        self,
        task: str,
        combiner: str,
        rows: Rows,
        labels: Array,
        *,
        metric: str | None = None,
        predictions: Array | None = None,
        out_of_fold: bool = False,
        unverified_members: bool = False,
    ) -> None:
        """Fit a combiner on texts that no member was trained on, and use it for the task.

        Args:
            task: a key of `tasks`.
            combiner: a key of `COMBINERS`.
            rows: held-out texts or pairs, `[N]`.
            labels: indices into the task's labels, or values, `[N]`.
            metric: the metric to maximize: accuracy (default), f1_macro or recall_macro; pearsonr for a regression.
            predictions: the members' predictions of these rows, `[M, N, C]`, if they were computed before.
            out_of_fold: whether `predictions` come from models trained on other folds, so that the members themselves
                may have been trained on the rows.
            unverified_members: whether to accept members whose training texts are unknown.

        Raises:
            UserError: A member was trained or selected on one of the rows, or its training texts are unknown; or
                `out_of_fold` is set without predictions.
        """
        if out_of_fold and predictions is None:
            raise UserError("predictions must be given with out_of_fold, found none; pass them.")
        made, members = make_combiner(combiner), self.members_of(task)
        metric, score = score_of(self.tasks[task].problem_type, metric)
        if not must_learn(made, len(members)):
            self.set_combiner(task, made)
            return
        if not out_of_fold:
            unknown = check_held_out(seen_by(members), rows, unverified_members)
            self.unverified = sorted({*self.unverified, *unknown})
        predicted = self.member_predictions(task, rows, raw=True) if predictions is None else predictions
        fitted = made.fit(predicted, np.asarray(labels), score)
        reached = float(score(fitted(predicted)[None], np.asarray(labels))[0])
        self.set_combiner(task, fitted)
        self.fits[task] = CombinerFit(metric, reached, len(rows), rows_hash(rows), out_of_fold)
        if self._fitted_on is not None:
            self._fitted_on = np.union1d(self._fitted_on, text_hashes(rows))

    def seen_texts(self) -> list[tuple[str, dict[str, Hashes] | None]]:
        """Return each member's name, nested ones included, with the hashes of its training and selection texts, and
        the ensemble's own with the texts that its combiners were fitted on; None where these are unknown."""
        own = None if self._fitted_on is None else {"selection": self._fitted_on}
        return [(self.name, own), *seen_by(self.members)]

    def save_pretrained(
        self, folder: str | Path, *, carry_members: bool = False, facts: CardFacts | None = None
    ) -> None:
        """Save `ensemble.json` and a model card into a new folder.

        Args:
            folder: must be new or empty.
            carry_members: whether to copy the members into the folder, nested ones included; otherwise the ensemble
                refers to them.
            facts: what a run measured, for the card; its name and encoder are not used.

        Raises:
            UserError: The folder is not empty, or a member has no folder to refer to.
        """
        with new_folder(folder) as partial:
            self.write(partial, Path(folder), carry_members, facts)

    def write(self, partial: Path, folder: Path, carry_members: bool, facts: CardFacts | None) -> None:
        """Write the files of `save_pretrained` into `partial`, a folder beside `folder` that will take its place."""
        self._write(partial.resolve(), carry_members)
        card = ensemble_card(
            folder, self.manifest().to_json(), [member.predictor.folder for member in self.members], facts
        )
        card.save(partial / CARD)

    def copy_to(self, folder: Path) -> None:
        """Copy the ensemble with all its members, nested ones included, into a new folder."""
        folder.mkdir(parents=True)
        self._write(folder, carry_members=True)
        if self.folder and (self.folder / CARD).is_file():
            shutil.copyfile(self.folder / CARD, folder / CARD)

    def _write(self, folder: Path, carry_members: bool) -> None:
        entries = []
        for number, member in enumerate(self.members, start=1):
            entry = member.entry
            if carry_members:
                place = f"members/{number:02}-{member.predictor.name}"
                member.predictor.copy_to(folder / place)
                entry = replace(entry, folder=place, hub_id=None, revision=None)
            elif member.hub_id is None:
                if member.predictor.folder is None:
                    raise UserError(
                        f"member {member.predictor.name}: must have a folder, found none; save it first."
                    )
                entry = replace(
                    entry, folder=Path(os.path.relpath(member.predictor.folder, folder)).as_posix()
                )
            entries.append(entry)
        if self._fitted_on is not None and len(self._fitted_on):
            write_trained_texts(folder, [], self._fitted_on)
        replace(self.manifest(), members=entries).write(folder)
        write_model_manifest(folder)


def open_member(name: str, runtime: Runtime) -> EnsembleMember:
    """Return the member that a string names, in the form that `Ensemble.of` takes."""
    task, source, revision = parse_member(name)
    if Path(source).is_dir():
        return EnsembleMember(open_source(source, revision, runtime), task)
    predictor = open_source(source, revision, runtime)
    return EnsembleMember(
        predictor, task, source, None if predictor.folder is None else predictor.folder.name
    )


def open_source(source: str, revision: str | None, runtime: Runtime) -> Predictor:
    """Return the model or ensemble in a folder or on the Hub. One on the Hub must contain its members or name their
    Hub ids."""
    folder = local_folder(source, revision).resolve()
    return open_predictor(folder, runtime, root=None if Path(source).is_dir() else folder)


def open_predictor(
    folder: Path, runtime: Runtime, trail: tuple[Path, ...] = (), root: Path | None = None
) -> Predictor:
    """Return the model or ensemble in a folder.

    Args:
        folder: its folder.
        runtime: how to run members.
        trail: folders of the ensembles that contain it, the outermost first.
        root: the Hub snapshot that must contain the members' folders; None for a user's own folder, which may refer
            to folders outside it.

    Raises:
        UserError: A member is missing, has changed, or has other tasks or labels; or an ensemble contains itself.
    """
    folder = folder.resolve()
    if folder in trail:
        circle = " → ".join(path.name for path in (*trail[trail.index(folder) :], folder))
        raise UserError(
            f"{folder}: an ensemble must not be a member of itself, found {circle}; leave it out."
        )
    if not (folder / FILE_NAME).is_file():
        return MemberModel(folder, runtime)
    manifest = read_manifest(folder)
    members = [
        _member_from_entry(entry, folder, runtime, (*trail, folder), root) for entry in manifest.members
    ]
    ensemble = Ensemble(members, runtime, manifest.max_length, folder)
    if ensemble.tasks.keys() != manifest.combiners.keys():
        raise UserError(
            f"{folder / FILE_NAME}: must combine the tasks {', '.join(ensemble.tasks)} of its members, found "
            f"{', '.join(manifest.combiners)}; save it again."
        )
    for name, answered in ensemble.tasks.items():
        if manifest.labels[name] != list(answered.labels):
            raise UserError(
                f"{folder / FILE_NAME}: the labels of task {name!r} must be its first member's, "
                f"{', '.join(answered.labels)}, found {', '.join(map(str, manifest.labels[name]))}; save it again."
            )
    for task, combiner in manifest.combiners.items():
        ensemble.set_combiner(task, combiner)
    ensemble.fits, ensemble.unverified = dict(manifest.fits), list(manifest.unverified)
    seen = read_trained_texts(folder)
    if seen is not None:
        ensemble._fitted_on = seen["selection"]
    elif ensemble.fits:
        ensemble._fitted_on = None
    return ensemble


def _member_from_entry(
    entry: MemberEntry, folder: Path, runtime: Runtime, trail: tuple[Path, ...], root: Path | None
) -> EnsembleMember:
    if entry.folder is not None and (root is not None or Path(entry.folder).is_absolute()):
        inside(
            root or folder, os.path.join(folder, entry.folder), f"{folder / FILE_NAME}: member {entry.name}"
        )
    if entry.hub_id is not None:
        place = root = snapshot(entry.hub_id, entry.revision).resolve()
    elif entry.folder is not None and (folder / entry.folder).is_dir():
        place = folder / entry.folder
    else:
        raise UserError(
            f"{folder / FILE_NAME}: the member {entry.name} must be in the folder {entry.folder}, found none; restore "
            "it."
        )
    predictor = open_predictor(place, runtime, trail, root)
    if predictor.sha256 != entry.sha256:
        raise UserError(
            f"{folder / FILE_NAME}: the member {entry.name} has changed since it was added (sha256 differs); restore "
            "it, or create the ensemble again."
        )
    return EnsembleMember(predictor, entry.task, entry.hub_id, entry.revision)
