"""What a model card is made of: facts that were measured, checked and in plain types."""

import dataclasses
import json
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np

from hf_layerfusion.hub.citations import CITATIONS
from hf_layerfusion.hub.encoder import is_hub_id
from hf_layerfusion.hub.markdown import single_line

__all__ = ["CardFacts", "Snippet"]


class Snippet(NamedTuple):
    """Something to run, as the card shows it.

    Attributes:
        text: what it does, as Markdown; may be empty.
        code: in a fenced block; strings of a user's stand in it as `code_string` writes them.
        language: of the block.
    """

    text: str
    code: str
    language: str = "python"


@dataclass
class CardFacts:
    """What is known of a trained model or ensemble. What is empty or None gets no line in the card.

    Strings are plain text, escaped where they are printed; only `usage`, `preparation_code` and the bodies of `parts`
    and `sections` are not, so build those from code (`markdown_table`, `escape_markdown`, `code_string`), not from user
    input. Values from numpy become Python's own, metrics that are not finite are dropped (the Hub cannot read them),
    absolute paths in `recipe` and `model_path` are cut to their last name, so that no card shows a machine's folders.

    Attributes:
        model_name: name of the model, the card's title.
        encoder: name of the encoder to print; see `hub.encoder`.
        base_model: the Hub id of the encoder, or those of an ensemble's members, for the metadata; see `hub.encoder`.
            None where it is not known.
        base_model_license: the encoder's license id; see `hub.encoder`.
        opening: the first sentence, in place of one that names task and encoder.
        parts: sections that say what it is made of, `(title, Markdown)`, in place of the one made of `encoder`,
            `architecture`, `parameters` and `language`.
        usage: how to use it, in place of `hub.usage.model_usage`.
        model_path: Hub id or folder that the usage examples load; default: `model_name`.
        task: the Hub's pipeline tag.
        library_name: which library the Hub says opens it.
        tags: the Hub's, beside `hf_layerfusion` and `methods`.
        warning: one sentence above everything else, such as that the numbers measure nothing.
        architecture: a line for each part of the model, such as encoder, fuser and head.
        methods: keys of `CITATIONS`.
        parameters: number of weights.
        needs_package: whether the architecture is ours, so that loading takes the package or remote code.
        language: ISO 639 codes of the training data.
        dataset_name: name of the data in print.
        dataset_id: its id on the Hub, None for local files.
        task_dataset_ids: of a model of several tasks, the Hub ids of those whose data have one.
        dataset_description: one paragraph.
        dataset_defects: known defects, one entry each.
        num_examples: number of examples by split.
        text_pair: whether an input is a pair of texts.
        tasks: of a model of several tasks, how many texts an input of each has.
        preparation: what was done to the texts before the tokenizer, one entry a step.
        preparation_code: Python that defines `prepare`, which does that to a text; strings of a user's stand in it as
            `code_string` writes them.
        metrics: by split, then by name as in `metric_table.METRICS`, each as a fraction (0.8966, not 89.66); of several
            tasks `TASK_NAME`.
        deviations: standard deviations of `metrics` over `seeds`, in the same shape.
        recipe: training settings by name.
        seeds: seeds of the runs.
        epochs: one row of figures for each epoch, such as `{"epoch": 1, "loss": 0.61, "accuracy": 0.70}`.
        training_seconds: time that training took, of several seeds the mean.
        energy_kwh: what training took, where a meter measured it; estimates do not belong here.
        hardware: what it ran on.
        environment: versions; see `library_environment`.
        figures: `(caption, path relative to the card)`.
        limits: known limits, one entry each.
        sections: further sections, `(title, Markdown)`.

    Raises:
        ValueError: a name that the card needs is empty, a Hub id that is none, a metric that is no number, a
            figure outside the card's folder, an unknown method.
    """

    model_name: str
    encoder: str = ""
    base_model: str | list[str] | None = None
    base_model_license: str | None = None
    opening: str = ""
    parts: list[tuple[str, str]] = field(default_factory=list)
    usage: list[Snippet] = field(default_factory=list)
    model_path: str = ""
    task: str = "text-classification"
    library_name: str = "transformers"
    tags: list[str] = field(default_factory=lambda: ["layer-fusion"])
    warning: str = ""
    architecture: list[str] = field(default_factory=list)
    methods: list[str] = field(default_factory=lambda: ["grubert"])
    parameters: int | None = None
    needs_package: bool = True
    language: list[str] = field(default_factory=list)
    dataset_name: str = ""
    dataset_id: str | None = None
    task_dataset_ids: dict[str, str] = field(default_factory=dict)
    dataset_description: str = ""
    dataset_defects: list[str] = field(default_factory=list)
    num_examples: dict[str, int] = field(default_factory=dict)
    text_pair: bool = False
    tasks: dict[str, int] = field(default_factory=dict)
    preparation: list[str] = field(default_factory=list)
    preparation_code: str = ""
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    deviations: dict[str, dict[str, float]] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=list)
    epochs: list[dict[str, float]] = field(default_factory=list)
    training_seconds: float | None = None
    energy_kwh: float | None = None
    hardware: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    figures: list[tuple[str, str]] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)
    sections: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for entry in dataclasses.fields(self):
            setattr(self, entry.name, _plain(getattr(self, entry.name)))
        if not single_line(self.model_name):
            raise ValueError("model_name of a model card must not be empty")
        for name, ids in {
            "base_model": self.base_models,
            "dataset_id": [self.dataset_id] if self.dataset_id is not None else [],
            "task_dataset_ids": self.task_dataset_ids.values(),
        }.items():
            for value in ids:
                if not is_hub_id(value):
                    raise ValueError(
                        f"{name} must be a Hub id such as 'org/name'; found {value!r}: None for local files"
                    )
        unknown = sorted(set(self.methods) - set(CITATIONS))
        if unknown:
            raise ValueError(f"methods must be among {', '.join(CITATIONS)}; found {unknown[0]!r}")
        self.model_path = _without_folders(self.model_path or self.model_name)
        self.recipe = {
            name: _without_folders(value) if isinstance(value, str) else value
            for name, value in self.recipe.items()
        }
        for name in ("metrics", "deviations"):
            found = getattr(self, name)
            setattr(self, name, {split: _finite(split, values) for split, values in found.items()})
        self.epochs = [_finite("epochs", row) for row in self.epochs]
        self.figures = [(caption, _inside(path)) for caption, path in self.figures]
        self.sections = [(title, body) for title, body in self.sections]
        self.parts = [(title, body) for title, body in self.parts]
        self.usage = [Snippet(*entry) for entry in self.usage]

    @property
    def base_models(self) -> list[str]:
        """The Hub ids of `base_model`, as a list."""
        if self.base_model is None:
            return []
        return [self.base_model] if isinstance(self.base_model, str) else self.base_model

    def measured(self) -> list[tuple[str, str, str, float, float | None]]:
        """Each metric: split, task, name, value and deviation. The task is empty where there is one alone, and for
        figures of all tasks together."""
        rows = []
        for split, values in self.metrics.items():
            for key, value in values.items():
                # The longest, as the tasks `a` and `a_b` may stand side by side.
                task = max((task for task in self.tasks if key.startswith(f"{task}_")), key=len, default="")
                name = key.removeprefix(f"{task}_") if task else key
                rows.append((split, task, name, value, self.deviations.get(split, {}).get(key)))
        return rows

    def to_json(self) -> str:
        """Return the facts as JSON, from which `from_json` makes an equal object."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "CardFacts":
        """Read what `to_json` wrote.

        Raises:
            ValueError: text that is no JSON object, or fields that a card does not have or that it lacks.
        """
        facts = json.loads(text)
        if not isinstance(facts, dict):
            raise ValueError(f"facts of a card must be a JSON object; found {type(facts).__name__}")
        known = {entry.name for entry in dataclasses.fields(cls)}
        if unknown := sorted(set(facts) - known):
            raise ValueError(f"facts of a card hold the unknown field {unknown[0]!r}; known: {sorted(known)}")
        if "model_name" not in facts:
            raise ValueError("facts of a card lack the field 'model_name'")
        return cls(**facts)


def _plain(value: Any) -> Any:
    """The value in JSON's types: Enums by value, numpy by Python's own, what is unknown by `str`."""
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, (np.generic, np.ndarray)):
        return _plain(value.tolist())
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(entry) for entry in value]
    return str(value)


def _finite(where: str, values: dict[str, Any]) -> dict[str, float]:
    for name, value in values.items():
        if not _is_number(value):
            raise ValueError(f"metric {name!r} of {where!r} must be a number; found {value!r}")
    return {name: value for name, value in values.items() if math.isfinite(value)}


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _without_folders(path: str) -> str:
    """An absolute path's last name; anything else as it is."""
    for kind in (PurePosixPath, PureWindowsPath):
        if kind(path).is_absolute():
            return kind(path).name
    return path


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or parts[0] == "/" or ".." in parts or "\\" in path or not path.isprintable():
        raise ValueError(
            f"a figure's path must be relative to the card, printable and hold no '..'; found {path!r}"
        )
    return path
