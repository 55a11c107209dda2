"""A trained model as a member of an ensemble: its tasks, its hash, and its logits on raw texts."""

import hashlib
import itertools
import shutil
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import snapshot_download
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from hf_layerfusion.data.text_preparation import cleaner_of, saved_preparation
from hf_layerfusion.data.truncation import encode
from hf_layerfusion.ensembling.prediction_files import Array, Rows, cached, rows_hash
from hf_layerfusion.ensembling.trained_texts import Hashes, read_trained_texts
from hf_layerfusion.errors import LOADING_ERRORS, UserError, check_characters, one_line
from hf_layerfusion.hub.encoder import is_hub_id
from hf_layerfusion.hub.manifest import MODEL_MANIFEST, file_sha256, model_files
from hf_layerfusion.hub.publish import CARD
from hf_layerfusion.run_layout import TRAINED_TEXTS_FILE, find

ONLY_TASK = "default"
"""Name of the task of a model that names none."""

_NO_LIMIT = 100_000  # transformers' tokenizers report 1e30 if they do not know their model's limit


@dataclass(frozen=True)
class TaskSchema:
    """Schema of a task: its problem type, labels and pair encoding.

    Attributes:
        problem_type: `"single_label_classification"` or `"regression"`.
        labels: names of the classes in the order of the logits; for a regression the name of its value.
        is_siamese: whether the texts of a pair are encoded separately.
        values: raw labels of the classes in the training data; empty where they equal the names.
    """

    problem_type: str
    labels: tuple[str, ...]
    is_siamese: bool = False
    values: tuple[str, ...] = field(default=(), compare=False)

    @property
    def is_regression(self) -> bool:
        """True if the task predicts a number."""
        return self.problem_type == "regression"


@dataclass
class Runtime:
    """Settings and loaded models that all members of an ensemble share, nested ones included.

    Attributes:
        max_loaded_members: number of models kept in memory; the least recently used is unloaded first. None keeps
            all.
        device: device that members run on; None for a GPU if there is one.
        batch_size: texts in a batch.
        cache_dir: folder that caches each member's predictions; None for no cache.
        trust_remote_code: whether to run code that comes with a member.
        prepares_texts: whether members are given raw texts, which each prepares as in its training, by what is saved
            with its tokenizer.
        progress: whether to show a progress bar for each member.
        encoding: lock that a thread holds while it uses a tokenizer.
    """

    max_loaded_members: int | None = None
    device: str | None = None
    batch_size: int = 32
    cache_dir: str | Path | None = None
    trust_remote_code: bool = False
    prepares_texts: bool = False
    progress: bool = False
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
        """Yield a member's model, ready for inference, and its tokenizer.

        Threads share a loaded member. One that needs room waits until some loaded member is idle.
        """
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
    """A trained model with one task or several in a local folder. Its weights are loaded when needed.

    Args:
        folder: the model's folder.
        runtime: how to run it.

    Attributes:
        name: last part of the folder's path.
        sha256: hash of everything that its predictions depend on.
        tasks: schema of each task by name; the task of a model that names none is `ONLY_TASK`.

    Raises:
        UserError: The folder holds no configuration.
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
        self._cleaners: dict[str, Callable[[str], str] | None] = {}
        self.most_tokens: int | None = None  # where long texts are read in windows
        if getattr(config, "window_size", None) is None:
            encoder = config.get_text_config()
            positions = getattr(encoder, "max_position_embeddings", None)
            # Some models number their positions from 2.
            self.most_tokens = getattr(encoder, "max_words", None if positions is None else positions - 2)

    def seen_texts(self) -> list[tuple[str, dict[str, Hashes] | None]]:
        """Return its name with the hashes of the texts that it was trained and selected on; None where these are
        unknown."""
        return [(self.name, read_trained_texts(self.folder))]

    def copy_to(self, folder: Path) -> None:
        """Copy the files that its predictions depend on, its text hashes, card and manifest into a new folder."""
        folder.mkdir(parents=True)
        others = [self.folder / name for name in (CARD, MODEL_MANIFEST)]
        for path in [*model_files(self.folder), *others, find(self.folder, TRAINED_TEXTS_FILE)]:
            if path.is_file():
                copy = folder / path.relative_to(self.folder)
                copy.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, copy)

    def load(self) -> tuple[Any, Any]:
        """Load the model and its tokenizer.

        Raises:
            UserError: They cannot be loaded, or weights are missing, such as those of a head that was never trained.
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

    def predict(self, task: str, rows: Rows, max_length: int | None = None, raw: bool = False) -> Array:
        """Return logits `[N, C]`, for a regression values `[N]`, in float32.

        Args:
            task: a key of `tasks`.
            rows: a text each, or the two texts of a pair.
            max_length: number of tokens to truncate to; None for as many as the model takes.
            raw: whether to prepare the texts as the model's training texts were, by what is saved with its tokenizer.

        Raises:
            UserError: A prediction is not finite, or a text holds half of a surrogate pair.
        """
        for number, row in enumerate(rows, start=1):
            for text in row:
                check_characters(text, f"row {number}: the text")
        raw = raw or self.runtime.prepares_texts
        if raw:
            rows = self._prepared(task, rows)
        found = cached(
            self.runtime.cache_dir,
            (
                self.sha256,
                task,
                rows_hash(rows),
                max_length,
                *(["raw"] if raw else []),
            ),
            lambda: self._predict(task, rows, max_length, raw),
            (len(rows), len(self.tasks[task].labels)),
        )
        return found[:, 0] if self.tasks[task].is_regression else found

    def _prepared(self, task: str, rows: Rows) -> Rows:
        """Return the texts as the model's training texts were prepared."""
        if task not in self._cleaners:
            try:
                tokenizer = AutoTokenizer.from_pretrained(
                    self.folder, trust_remote_code=self.runtime.trust_remote_code
                )
            except LOADING_ERRORS as error:
                raise UserError(f"member {self.name}: cannot be loaded: {one_line(error)}") from error
            self._cleaners[task] = cleaner_of(tokenizer, task)
        clean = self._cleaners[task]
        return rows if clean is None else [tuple(map(clean, row)) for row in rows]

    def _own_limit(self, tokenizer: Any) -> list[int]:
        """Return the maximum number of tokens in a list, which is empty if it is unknown."""
        if tokenizer.model_max_length < _NO_LIMIT:
            return [tokenizer.model_max_length]
        return [] if self.most_tokens is None else [self.most_tokens]

    @torch.inference_mode()
    def _predict(self, task: str, rows: Rows, max_length: int | None, raw: bool) -> Array:
        with self.runtime.loaded(self) as (model, tokenizer):
            found = self._logits(model, tokenizer, task, rows, max_length, raw)
        finite = np.isfinite(found).all(1)
        if not finite.all():
            raise UserError(
                f"member {self.name}: its predictions must be finite, found NaN or infinity for "
                f"{int((~finite).sum())} of {len(rows)} texts, the first at row {int(finite.argmin()) + 1}; leave "
                "the member out."
            )
        return found

    def _refuse_long(self, tokenizer: Any, rows: Rows, options: dict[str, Any]) -> None:
        """Name the first pair that cannot be cut as `options` say."""
        for number, row in enumerate(rows, start=1):
            try:
                tokenizer(*row, **options)
            except Exception as error:
                raise UserError(
                    f"member {self.name}: row {number}: the text of the pair that is not cut "
                    f"({options['truncation']}) leaves no room for the other one within {options['max_length']} "
                    "tokens; shorten it."
                ) from error

    def _logits(
        self, model: Any, tokenizer: Any, task: str, rows: Rows, max_length: int | None, raw: bool
    ) -> Array:
        limits = [max_length, *self._own_limit(tokenizer)]
        limit = min((length for length in limits if length is not None), default=None)
        options: dict[str, Any] = {"truncation": limit is not None, "max_length": limit}
        saved = (saved_preparation(tokenizer) or {}) if raw else {}
        cut = saved.get("cut", "tail")
        if limit is not None and raw and not self.tasks[task].is_siamese:
            is_pair = len(rows) > 0 and len(rows[0]) == 2
            options["truncation"] = not is_pair or saved.get("truncation", True)
        chosen = {"task": task} if self.has_named_tasks else {}
        found = np.empty((len(rows), len(self.tasks[task].labels)), np.float32)
        hidden = not self.runtime.progress or len(rows) <= self.runtime.batch_size
        bar = tqdm(total=len(rows), desc=f"predictions of {self.name}", unit="text", disable=hidden)
        for batch in batches(rows, self.runtime.batch_size):
            texts = [rows[row] for row in batch]
            with self.runtime.encoding:  # truncation and padding are state of a tokenizer
                try:
                    inputs = encode_rows(tokenizer, texts, self.tasks[task].is_siamese, cut, **options)
                except Exception as error:  # tokenizers has no class of its own for it
                    if "Truncation error" not in str(error):
                        raise
                    self._refuse_long(tokenizer, rows, options)
                    raise
            inputs = inputs.to(model.device)
            found[batch] = model(**inputs, **chosen).logits.float().cpu().numpy()
            bar.update(len(batch))
        bar.close()
        return found


def tasks_of(config: Any) -> dict[str, TaskSchema]:
    """Return the schemas of a configuration's tasks by name; `ONLY_TASK` if it names none."""
    # The class is checked, because any configuration file may hold attributes of these names.
    if getattr(config, "tasks", None) and hasattr(type(config), "task_configs"):
        return {
            name: TaskSchema(
                task.problem_type,
                tuple(task.labels) or (name,),
                task.is_siamese,
                task_label_values(config, name),
            )
            for name, task in config.task_configs.items()
        }
    labels = tuple(config.id2label[index] for index in range(config.num_labels))
    guessed = "regression" if len(labels) == 1 else "single_label_classification"
    is_siamese = isinstance(getattr(type(config), "is_siamese", None), property) and config.is_siamese
    return {ONLY_TASK: TaskSchema(config.problem_type or guessed, labels, is_siamese, label_values(config))}


def label_values(config: Any) -> tuple[str, ...]:
    """Return the raw labels of a model's classes, which recipes store as `label_values` where they differ from the
    names; empty if there are none."""
    return _checked_values(getattr(config, "label_values", None), config.num_labels)


def task_label_values(config: Any, task: str) -> tuple[str, ...]:
    """Return the raw labels of the classes of a task, which recipes store in `task_label_values` where they differ from
    the names; empty if there are none."""
    values = getattr(config, "task_label_values", None)
    of_task = values.get(task) if isinstance(values, dict) else None
    return _checked_values(of_task, config.task_configs[task].num_labels)


def _checked_values(values: Any, num_labels: int) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        return ()
    return tuple(values) if len(set(values)) == len(values) == num_labels else ()


def batches(rows: Rows, size: int) -> Iterator[list[int]]:
    """Yield the indices of rows that form a batch: single texts or pairs of similar length, the longest first."""
    order = sorted(range(len(rows)), key=lambda row: (len(rows[row]), -sum(map(len, rows[row]))))
    for _, alike in itertools.groupby(order, key=lambda row: len(rows[row])):
        places = list(alike)
        for start in range(0, len(places), size):
            yield places[start : start + size]


def encode_rows(tokenizer: Any, rows: Rows, is_siamese: bool, cut: str = "tail", **options: Any) -> Any:
    """Return rows as a batch `[B, T]`, pairs joined into one sequence; siamese pairs as `[B, 2, T]`."""
    columns = [list(column) for column in zip(*rows, strict=True)]
    if is_siamese:
        columns = [[text for row in rows for text in row]]
    if cut != "tail" and options.get("max_length") is not None:
        encoded = encode(tokenizer, *columns, max_length=options["max_length"], cut=cut)
        batch = tokenizer.pad(encoded, return_tensors="pt")
    else:
        batch = tokenizer(*columns, padding=True, return_tensors="pt", **options)
    if not is_siamese:
        return batch
    for name, values in batch.items():
        batch[name] = values.unflatten(0, (-1, 2))
    return batch


def local_folder(source: str, revision: str | None = None) -> Path:
    """Return the folder of a member: the folder itself, or the snapshot of a Hub id, downloaded if necessary.

    Raises:
        UserError: There is neither.
    """
    if Path(source).is_dir():
        return Path(source).resolve()
    return snapshot(source, revision)


def snapshot(source: str, revision: str | None = None) -> Path:
    """Return the snapshot of a Hub id, downloaded if necessary.

    Raises:
        UserError: This is not a Hub id, or it cannot be downloaded.
    """
    if not is_hub_id(source):
        raise UserError(f"member {source}: must be a folder or a Hub id, found neither; check the path.")
    try:
        return Path(snapshot_download(source, revision=revision))
    except LOADING_ERRORS as error:
        raise UserError(
            f"member {source}: is not a folder, and cannot be downloaded from the Hub: "
            f"{type(error).__name__}: {one_line(error)}"
        ) from error


def files_hash(folder: Path) -> str:
    """Return the sha256 of the names and contents of `model_files`."""
    digest = hashlib.sha256()
    for path in model_files(folder):
        digest.update(f"{path.relative_to(folder).as_posix()} {file_sha256(path)}\n".encode())
    return digest.hexdigest()
