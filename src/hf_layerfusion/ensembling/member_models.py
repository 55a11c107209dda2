"""A model as a member: what it answers, its hash, and its logits on raw texts."""

import hashlib
import itertools
import shutil
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import snapshot_download
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from hf_layerfusion.ensembling.prediction_files import Array, Rows, cached, rows_hash
from hf_layerfusion.ensembling.trained_texts import FILE_NAME as TRAINED_TEXTS
from hf_layerfusion.ensembling.trained_texts import Hashes, read_trained_texts
from hf_layerfusion.errors import LOADING_ERRORS, UserError, check_characters, one_line
from hf_layerfusion.hub.encoder import is_hub_id
from hf_layerfusion.hub.manifest import MODEL_MANIFEST, file_sha256, model_files
from hf_layerfusion.hub.publish import CARD

ONLY_TASK = "default"
"""What the task of a model that names none is called."""

_NO_LIMIT = 100_000  # transformers' tokenizers say 1e30 where they do not know their model's length


@dataclass(frozen=True)
class TaskSchema:
    """What is answered.

    Attributes:
        problem_type: `"single_label_classification"` or `"regression"`.
        labels: names of the classes in the order of the logits; of a regression the name of its value.
        is_siamese: the texts of a pair are encoded each by itself.
        values: the raw labels of the classes in the data that the model was trained on; empty where they are the names.
    """

    problem_type: str
    labels: tuple[str, ...]
    is_siamese: bool = False
    values: tuple[str, ...] = field(default=(), compare=False)

    @property
    def is_regression(self) -> bool:
        """Whether the answer is a number."""
        return self.problem_type == "regression"


@dataclass
class Runtime:
    """How members are run; shared by all that belong together, to any depth.

    Attributes:
        max_loaded_members: models in memory at a time; the one used longest ago leaves first. None: all of them.
        device: where they run; None: a GPU if there is one.
        batch_size: texts a step.
        cache_dir: keeps each member's predictions; None keeps none.
        trust_remote_code: runs code that lies beside a member.
        encoding: held by a thread while it uses a tokenizer.
    """

    max_loaded_members: int | None = None
    device: str | None = None
    batch_size: int = 32
    cache_dir: str | Path | None = None
    trust_remote_code: bool = False
    _loaded: "OrderedDict[str, tuple[Any, Any]]" = field(default_factory=OrderedDict, repr=False)
    encoding: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)
    _users: "Counter[str]" = field(default_factory=Counter, init=False, repr=False)
    _changed: threading.Condition = field(
        default_factory=threading.Condition, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        for name in ("max_loaded_members", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} must be 1 or more, found {value}; raise it or leave it out.")

    @contextmanager
    def loaded(self, member: "MemberModel") -> Iterator[tuple[Any, Any]]:
        """Context in which a member is in memory: its model, ready for inference, and its tokenizer. Threads share a
        member; one that needs room waits until a member is in nobody's use."""
        key = member.sha256
        with self._changed:
            while key not in self._loaded and len(self._loaded) == self.max_loaded_members:
                idle = next((name for name in self._loaded if not self._users[name]), None)
                if idle is None:
                    self._changed.wait()
                else:
                    del self._loaded[idle]
            if key not in self._loaded:
                self._loaded[key] = member.load()
            self._loaded.move_to_end(key)
            self._users[key] += 1
            found = self._loaded[key]
        try:
            yield found
        finally:
            with self._changed:
                self._users[key] -= 1
                self._changed.notify_all()


class MemberModel:
    """A trained model of one task or several in a local folder. Weights are loaded when they are needed.

    Args:
        folder: the model's.
        runtime: how it is run.

    Attributes:
        name: the folder's last name.
        sha256: of all that its answers depend on.
        tasks: what it answers, by name; a model that names no task answers `ONLY_TASK`.

    Raises:
        UserError: if the folder holds no configuration, or a task that is not combined.
    """

    def __init__(self, folder: Path, runtime: Runtime):
        self.folder, self.runtime, self.name = folder, runtime, folder.name
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=runtime.trust_remote_code)
        except LOADING_ERRORS as error:
            raise UserError(f"member {folder}: must be a trained model, found {one_line(error)}") from error
        self.tasks = tasks_of(config)
        self.has_named_tasks = ONLY_TASK not in self.tasks
        self.sha256 = files_hash(folder)
        self.max_positions = getattr(config.get_text_config(), "max_position_embeddings", None)

    def seen_texts(self) -> list[tuple[str, dict[str, Hashes] | None]]:
        """Its name, and hashes of the texts that it was trained and chosen on; None where that is not known."""
        return [(self.name, read_trained_texts(self.folder))]

    def copy_to(self, folder: Path) -> None:
        """Copies all that its answers depend on, its seen texts, its card and its manifest into a new folder."""
        folder.mkdir(parents=True)
        others = (TRAINED_TEXTS, CARD, MODEL_MANIFEST)
        for path in [*model_files(self.folder), *(self.folder / name for name in others)]:
            if path.is_file():
                copy = folder / path.relative_to(self.folder)
                copy.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, copy)

    def load(self) -> tuple[Any, Any]:
        """Model and tokenizer.

        Raises:
            UserError: if they cannot be loaded, or weights are missing, as those of a head that was never trained.
        """
        options = {"trust_remote_code": self.runtime.trust_remote_code}
        try:
            model, info = AutoModelForSequenceClassification.from_pretrained(
                self.folder, output_loading_info=True, **options
            )
            tokenizer = AutoTokenizer.from_pretrained(self.folder, **options)
        except LOADING_ERRORS as error:
            raise UserError(f"member {self.name}: cannot be loaded: {one_line(error)}") from error
        if info["missing_keys"]:
            raise UserError(
                f"member {self.name}: must be a trained classifier, found no weights of "
                f"{sorted(info['missing_keys'])[0]}; train it first."
            )
        device = self.runtime.device or ("cuda" if torch.cuda.is_available() else "cpu")
        return model.to(device).eval(), tokenizer

    def predict(self, task: str, rows: Rows, max_length: int | None = None) -> Array:
        """Logits `[N, C]`, of a regression values `[N]`, in float32.

        Args:
            task: one of `tasks`.
            rows: one text each, or the two of a pair.
            max_length: tokens that a row is cut to; None: as many as the model takes.

        Raises:
            UserError: if an answer is not finite, or a text holds half a surrogate pair.
        """
        for number, row in enumerate(rows, start=1):
            for text in row:
                check_characters(text, f"row {number}: the text")
        found = cached(
            self.runtime.cache_dir,
            (self.sha256, task, rows_hash(rows), max_length),
            lambda: self._predict(task, rows, max_length),
            (len(rows), len(self.tasks[task].labels)),
        )
        return found[:, 0] if self.tasks[task].is_regression else found

    def _own_limit(self, tokenizer: Any) -> list[int]:
        """The tokens that it takes at most, where that is known."""
        if tokenizer.model_max_length < _NO_LIMIT:
            return [tokenizer.model_max_length]
        # Some count their positions from 2 on.
        return [] if self.max_positions is None else [self.max_positions - 2]

    @torch.inference_mode()
    def _predict(self, task: str, rows: Rows, max_length: int | None) -> Array:
        with self.runtime.loaded(self) as (model, tokenizer):
            found = self._logits(model, tokenizer, task, rows, max_length)
        finite = np.isfinite(found).all(1)
        if not finite.all():
            raise UserError(
                f"member {self.name}: must answer with finite numbers, found others for {int((~finite).sum())} of "
                f"{len(rows)} texts, the first at row {int(finite.argmin()) + 1}; leave the member out."
            )
        return found

    def _logits(self, model: Any, tokenizer: Any, task: str, rows: Rows, max_length: int | None) -> Array:
        limits = [max_length, *self._own_limit(tokenizer)]
        limit = min((length for length in limits if length is not None), default=None)
        options = {"truncation": limit is not None, "max_length": limit}
        chosen = {"task": task} if self.has_named_tasks else {}
        found = np.empty((len(rows), len(self.tasks[task].labels)), np.float32)
        for batch in batches(rows, self.runtime.batch_size):
            texts = [rows[row] for row in batch]
            with self.runtime.encoding:  # a tokenizer keeps truncation and padding as its state
                inputs = encode_rows(tokenizer, texts, self.tasks[task].is_siamese, **options).to(
                    model.device
                )
            found[batch] = model(**inputs, **chosen).logits.float().cpu().numpy()
        return found


def tasks_of(config: Any) -> dict[str, TaskSchema]:
    """What a model answers, by its configuration: the tasks that it names, else `ONLY_TASK`."""
    # Asked of the class: the file of any configuration may hold attributes of these names.
    if getattr(config, "tasks", None) and hasattr(type(config), "task_configs"):
        return {
            name: TaskSchema(task.problem_type, tuple(task.labels) or (name,), task.is_siamese)
            for name, task in config.task_configs.items()
        }
    labels = tuple(config.id2label[index] for index in range(config.num_labels))
    guessed = "regression" if len(labels) == 1 else "single_label_classification"
    is_siamese = isinstance(getattr(type(config), "is_siamese", None), property) and config.is_siamese
    return {ONLY_TASK: TaskSchema(config.problem_type or guessed, labels, is_siamese, label_values(config))}


def label_values(config: Any) -> tuple[str, ...]:
    """Return the raw labels of a model's classes, which the scripts store as `label_values` where they are not the
    names; empty where there are none."""
    values: Any = getattr(config, "label_values", None)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        return ()
    return tuple(values) if len(set(values)) == len(values) == config.num_labels else ()


def batches(rows: Rows, size: int) -> Iterator[list[int]]:
    """Which rows go through the model together: single texts or pairs of like length, the longest first."""
    order = sorted(range(len(rows)), key=lambda row: (len(rows[row]), -sum(map(len, rows[row]))))
    for _, alike in itertools.groupby(order, key=lambda row: len(rows[row])):
        places = list(alike)
        for start in range(0, len(places), size):
            yield places[start : start + size]


def encode_rows(tokenizer: Any, rows: Rows, is_siamese: bool, **options: Any) -> Any:
    """Rows as a batch `[B, T]`, pairs in one sequence; siamese ones `[B, 2, T]`."""
    if not is_siamese:
        columns = [list(column) for column in zip(*rows, strict=True)]
        return tokenizer(*columns, padding=True, return_tensors="pt", **options)
    texts = [text for row in rows for text in row]
    batch = tokenizer(texts, padding=True, return_tensors="pt", **options)
    for name, values in batch.items():
        batch[name] = values.unflatten(0, (-1, 2))
    return batch


def local_folder(source: str, revision: str | None = None) -> Path:
    """The local folder of a member: itself, or the snapshot of a Hub id, which is downloaded where it is not yet.

    Raises:
        UserError: if there is neither.
    """
    if Path(source).is_dir():
        return Path(source).resolve()
    return snapshot(source, revision)


def snapshot(source: str, revision: str | None = None) -> Path:
    """The snapshot of a Hub id, which is downloaded where it is not yet.

    Raises:
        UserError: if it is none, or cannot be had.
    """
    if not is_hub_id(source):
        raise UserError(f"member {source}: must be a folder or a Hub id, found neither; check the path.")
    try:
        return Path(snapshot_download(source, revision=revision))
    except LOADING_ERRORS as error:
        raise UserError(
            f"member {source}: is no folder, and cannot be had from the Hub: {type(error).__name__}: {one_line(error)}"
        ) from error


def files_hash(folder: Path) -> str:
    """sha256 of names and contents of `model_files`."""
    digest = hashlib.sha256()
    for path in model_files(folder):
        digest.update(f"{path.relative_to(folder).as_posix()} {file_sha256(path)}\n".encode())
    return digest.hexdigest()
