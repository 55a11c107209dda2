"""Facts that a model card is rendered from: measured, validated and in plain types."""

import dataclasses
import json
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from hf_layerfusion.hub.citations import CITATIONS
from hf_layerfusion.hub.encoder import is_hub_id
from hf_layerfusion.hub.markdown import single_line
from hf_layerfusion.hub.portable import without_folders

__all__ = ["CardFacts", "Snippet"]


class Snippet(NamedTuple):
    """A code example on a card.

    Attributes:
        text: what it does, as Markdown; may be empty.
        code: the code of the fenced block. Strings that a user wrote must be written by `code_string`.
        language: language of the block.
    """

    text: str
    code: str
    language: str = "python"


@dataclass
class CardFacts:
    """Facts about a trained model or ensemble. The card has no line for a fact that is empty or None.

    Strings are plain text and are escaped when the card is rendered. The exceptions are `usage`, `preparation_code`
    and the bodies of `parts`, `sections` and `data_sections`: build these with `markdown_table`, `escape_markdown`
    and `code_string`, never from raw user input. Values from numpy become Python's, metrics that are not finite are
    dropped because the Hub cannot read them, and absolute paths in `recipe` and `model_path` are reduced to their
    last part so that no card shows a machine's folders.

    Attributes:
        model_name: the model's name, which is the card's title.
        encoder: display name of the encoder; see `hub.encoder`.
        base_model: Hub id of the encoder, or those of an ensemble's members, for the metadata; None if unknown.
        base_model_license: license id of the encoder; see `hub.encoder`.
        opening: first sentence, in place of the default one that names labels or tasks, and the encoder.
        parts: sections that describe the model, `(title, Markdown)`, in place of the default one, which lists
            `encoder`, `architecture`, `parameters` and `language`.
        usage: code examples, in place of those of `hub.usage.model_usage`.
        model_path: Hub id or folder that the examples load; defaults to `model_name`.
        task: pipeline tag on the Hub.
        library_name: library that loads it, for the metadata.
        tags: tags besides `hf_layerfusion` and `methods`.
        warning: one sentence at the top, for example that the figures measure nothing.
        architecture: one line for each part of the model, such as encoder, fuser and head.
        methods: keys of `CITATIONS`.
        parameters: number of parameters.
        needs_package: whether loading needs this package or remote code.
        language: ISO 639 codes of the training data.
        dataset_name: display name of the data.
        dataset_id: Hub id of the data, None for local files.
        task_dataset_ids: for several tasks, the Hub ids of their data, by task, where there are any.
        dataset_description: a paragraph on the data.
        dataset_defects: known defects of the data, one entry each.
        num_examples: number of examples by split.
        text_pair: whether an input is a pair of texts.
        problem_type: problem type as in `PreTrainedConfig`; empty if unknown, and for several tasks.
        labels: names of the classes.
        tasks: for several tasks, the number of texts in an input, by task.
        separate_pairs: of these, the tasks that read the texts of a pair apart, which transformers' pipeline cannot.
        preparation: steps that cleaned the texts before tokenization, one entry each.
        preparation_code: Python code that defines `prepare`, which applies these steps to a text. Strings that a user
            wrote must be written by `code_string`.
        pipeline_prepares: whether the package's pipeline applies these steps by itself.
        metrics: by split, then by name as in `metric_registry.METRICS`, as fractions (0.8966, not 89.66); with several
            tasks, names are `TASK_NAME`.
        deviations: standard deviations of `metrics` over `seeds`, in the same shape.
        recipe: training settings by name.
        seeds: seeds of the runs.
        epochs: figures of each epoch, such as `{"epoch": 1, "loss": 0.61, "accuracy": 0.70}`.
        training_seconds: training time, averaged over the seeds.
        energy_kwh: energy that training used, if a meter measured it; estimates do not belong here.
        hardware: hardware of the run.
        environment: versions of the libraries; see `library_environment`.
        figures: `(caption, path relative to the card)`.
        limits: known limits, one entry each.
        sections: further sections, `(title, Markdown)`.
        data_sections: further sections on the data.

    Raises:
        ValueError: The model's name is empty, a Hub id or method is invalid, a metric is not a number, or a figure lies
            outside the card's folder.
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
    problem_type: str = ""
    labels: list[str] = field(default_factory=list)
    tasks: dict[str, int] = field(default_factory=dict)
    separate_pairs: list[str] = field(default_factory=list)
    preparation: list[str] = field(default_factory=list)
    preparation_code: str = ""
    pipeline_prepares: bool = False
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
    data_sections: list[tuple[str, str]] = field(default_factory=list)

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
        path = self.model_path or self.model_name
        self.model_path = without_folders(path) or path
        self.recipe = {
            name: (without_folders(value) or value) if isinstance(value, str) else value
            for name, value in self.recipe.items()
        }
        for name in ("metrics", "deviations"):
            found = getattr(self, name)
            setattr(self, name, {split: _finite(split, values) for split, values in found.items()})
        self.epochs = [_finite("epochs", row) for row in self.epochs]
        self.figures = [(caption, _inside(path)) for caption, path in self.figures]
        self.sections = [(title, body) for title, body in self.sections]
        self.data_sections = [(title, body) for title, body in self.data_sections]
        self.parts = [(title, body) for title, body in self.parts]
        self.usage = [Snippet(*entry) for entry in self.usage]

    @property
    def base_models(self) -> list[str]:
        """Hub ids in `base_model`, as a list."""
        if self.base_model is None:
            return []
        return [self.base_model] if isinstance(self.base_model, str) else self.base_model

    def measured(self) -> list[tuple[str, str, str, float, float | None]]:
        """Return each metric as split, task, name, value and standard deviation, those of test first.

        The task is empty for a model of one task, and for figures over all tasks.
        """
        rows = []
        for split in sorted(self.metrics, key=lambda split: split != "test"):
            for key, value in self.metrics[split].items():
                # The longest match, because there may be tasks `a` and `a_b`.
                task = max((task for task in self.tasks if key.startswith(f"{task}_")), key=len, default="")
                name = key.removeprefix(f"{task}_") if task else key
                rows.append((split, task, name, value, self.deviations.get(split, {}).get(key)))
        return rows

    def to_json(self) -> str:
        """Return the facts as JSON; `from_json` is the inverse."""
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
    """Return the value in JSON's types: enums by value, numpy values as Python's, unknown types by `str`."""
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


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or parts[0] == "/" or ".." in parts or "\\" in path or not path.isprintable():
        raise ValueError(
            f"a figure's path must be relative to the card, printable and hold no '..'; found {path!r}"
        )
    return path
