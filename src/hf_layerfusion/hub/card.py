"""The model card of a run: facts that were measured, in; metadata for the Hub and a readable page, out."""

import dataclasses
import importlib.metadata
import json
import math
import numbers
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from importlib import resources
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import quote

import jinja2
import numpy as np
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from hf_layerfusion.hub.citations import CITATIONS
from hf_layerfusion.hub.encoder import LICENSE_ID, is_hub_id
from hf_layerfusion.hub.markdown import Markdown, escape_markdown, markdown_table, one_line, printed

METRIC_IDS = {
    "accuracy": ("accuracy", "Accuracy"),
    "f1_macro": ("f1", "Macro F1"),
    "f1_micro": ("f1", "Micro F1"),
    "recall_macro": ("recall", "Macro recall"),
    "subset_accuracy": ("accuracy", "Subset accuracy"),
    "mse": ("mse", "Mean squared error"),
    "mae": ("mae", "Mean absolute error"),
    "pearsonr": ("pearsonr", "Pearson correlation"),
    "spearmanr": ("spearmanr", "Spearman correlation"),
    "loss": ("loss", "Loss"),
}
"""The Hub's id and the name in print of each metric of ours; other metrics keep their own name for both."""

_ENVIRONMENT = (
    "hf_layerfusion", "torch", "transformers", "tokenizers", "datasets", "accelerate", "peft",
    "huggingface_hub", "safetensors", "numpy", "scikit-learn",
)  # fmt: skip


@dataclass
class CardFacts:
    """What is known of a trained model. What is empty or None gets no line in the card.

    Strings are plain text, escaped where they are printed; only the bodies of `sections` are Markdown, so
    build those from code (`markdown_table`, `escape_markdown`), not from user input. Values from numpy become
    Python's own, metrics that are not finite are dropped (the Hub cannot read them), absolute paths in
    `recipe` and `model_path` are cut to their last name, so that no card shows a machine's folders.

    Attributes:
        model_name: name of the model, the card's title.
        encoder: name of the encoder to print; see `hub.encoder`.
        base_model: the encoder's Hub id, for the metadata; see `hub.encoder`. None where it is not known.
        base_model_license: the encoder's license id; see `hub.encoder`.
        model_path: Hub id or folder that the usage examples load; default: `model_name`.
        task: the Hub's pipeline tag.
        warning: one sentence above everything else, such as that the numbers measure nothing.
        architecture: a line for each part of the model, such as encoder, fuser and head.
        methods: keys of `CITATIONS`.
        parameters: number of weights.
        needs_package: whether the architecture is ours, so that loading takes the package or remote code.
        language: ISO 639 codes of the training data.
        dataset_name: name of the data in print.
        dataset_id: its id on the Hub, None for local files.
        dataset_description: one paragraph.
        dataset_defects: known defects, one entry each.
        num_examples: number of examples by split.
        text_pair: whether an input is a pair of texts.
        tasks: of a model of several tasks, how many texts an input of each has.
        preparation: what was done to the texts before the tokenizer, one entry a step.
        metrics: by split, then by name as in `METRIC_IDS`, each as a fraction (0.8966, not 89.66); of several tasks
            `TASK_NAME`.
        recipe: training settings by name.
        seeds: seeds of the runs.
        epochs: one row of figures for each epoch, such as `{"epoch": 1, "loss": 0.61, "accuracy": 0.70}`.
        training_seconds: time that training took.
        environment: versions; see `library_environment`.
        figures: `(caption, path relative to the card)`.
        limits: known limits, one entry each.
        sections: further sections, `(title, Markdown)`.

    Raises:
        ValueError: a name that the card needs is empty, a Hub id that is none, a metric that is no number, a
            figure outside the card's folder, an unknown method.
    """

    model_name: str
    encoder: str
    base_model: str | None = None
    base_model_license: str | None = None
    model_path: str = ""
    task: str = "text-classification"
    warning: str = ""
    architecture: list[str] = field(default_factory=list)
    methods: list[str] = field(default_factory=lambda: ["grubert"])
    parameters: int | None = None
    needs_package: bool = True
    language: list[str] = field(default_factory=list)
    dataset_name: str = ""
    dataset_id: str | None = None
    dataset_description: str = ""
    dataset_defects: list[str] = field(default_factory=list)
    num_examples: dict[str, int] = field(default_factory=dict)
    text_pair: bool = False
    tasks: dict[str, int] = field(default_factory=dict)
    preparation: list[str] = field(default_factory=list)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=list)
    epochs: list[dict[str, float]] = field(default_factory=list)
    training_seconds: float | None = None
    environment: dict[str, str] = field(default_factory=dict)
    figures: list[tuple[str, str]] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)
    sections: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for entry in dataclasses.fields(self):
            setattr(self, entry.name, _plain(getattr(self, entry.name)))
        for name in ("model_name", "encoder"):
            if not one_line(getattr(self, name)):
                raise ValueError(f"{name} of a model card must not be empty")
        for name in ("base_model", "dataset_id"):
            value = getattr(self, name)
            if value is not None and not is_hub_id(value):
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
        self.metrics = {split: _finite(split, values) for split, values in self.metrics.items()}
        self.epochs = [_finite("epochs", row) for row in self.epochs]
        self.figures = [(caption, _inside(path)) for caption, path in self.figures]
        self.sections = [(title, body) for title, body in self.sections]

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
        if missing := sorted({"model_name", "encoder"} - set(facts)):
            raise ValueError(f"facts of a card lack the field {missing[0]!r}")
        return cls(**facts)


def build_card(facts: CardFacts) -> ModelCard:
    """Make the card: metadata that the Hub reads, and a page whose every figure comes from `facts`.

    The same facts give the same text. Nothing is fetched; `ModelCard.push_to_hub` has the Hub validate it.
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        finalize=printed,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # `finalize` escapes, for Markdown
    )
    template = environment.from_string(
        resources.files(__package__).joinpath("card_template.md").read_text(encoding="utf-8")
    )
    body = template.render(
        facts=facts,
        code=_python_string,
        image=_image,
        table=markdown_table,
        markdown=Markdown,
        count=_count,
        results=_results_table(facts),
        epochs=_epochs_table(facts),
        duration=_duration,
        citations=[Markdown(CITATIONS[method]) for method in facts.methods],
    )
    return ModelCard(f"---\n{_metadata(facts).to_yaml()}\n---\n\n{body}")


def library_environment() -> dict[str, str]:
    """Return the versions of Python and of the libraries that a run rests on, those installed."""
    versions = {"python": platform.python_version()}
    for name in _ENVIRONMENT:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _metadata(facts: CardFacts) -> ModelCardData:
    results = [
        EvalResult(
            task_type=one_line(facts.task),
            dataset_type=facts.dataset_id or "local",
            dataset_name=one_line(task or facts.dataset_name) or "local files",
            # The Hub's client tells entries apart by this, not by the name.
            dataset_config=one_line(task) or None,
            dataset_split=one_line(split),
            metric_type=METRIC_IDS.get(name, (one_line(name),))[0],
            metric_name=_metric_name(name),
            metric_value=float(f"{value:.5g}"),
        )
        for split, task, values in _measured(facts)
        for name, value in values.items()
    ]
    license_id = facts.base_model_license
    return ModelCardData(
        language=[one_line(code) for code in facts.language] or None,
        license=license_id if license_id and LICENSE_ID.fullmatch(license_id) else None,
        library_name="transformers",
        pipeline_tag=one_line(facts.task),
        base_model=facts.base_model,
        datasets=[facts.dataset_id] if facts.dataset_id else None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        tags=["hf_layerfusion", "layer-fusion", *facts.methods],
        model_name=one_line(facts.model_name) if results else None,
        eval_results=results or None,
    )


def _measured(facts: CardFacts) -> list[tuple[str, str, dict[str, float]]]:
    """Split, task and metrics; the task is empty where there is one, and for figures of all tasks together."""
    measured = []
    for split, values in facts.metrics.items():
        rest = dict(values)
        for task in facts.tasks:
            of_task = {name: rest.pop(name) for name in values if name.startswith(f"{task}_")}
            of_task = {name.removeprefix(f"{task}_"): value for name, value in of_task.items()}
            measured.append((split, task, of_task))
        measured.append((split, "", rest))
    return [entry for entry in measured if entry[2]]


def _results_table(facts: CardFacts) -> Markdown | None:
    measured = _measured(facts)
    names = list(dict.fromkeys(name for _, _, values in measured for name in values))
    if not names:
        return None
    counted = bool(facts.num_examples) and not facts.tasks
    header = ["Split", *(["Task"] if facts.tasks else []), *(["Examples"] if counted else [])]
    rows = [
        [
            split,
            *([task or "all"] if facts.tasks else []),
            *([_count(facts.num_examples.get(split))] if counted else []),
            *(_figure(values.get(name)) for name in names),
        ]
        for split, task, values in measured
    ]
    return markdown_table([*header, *map(_metric_name, names)], rows)


def _epochs_table(facts: CardFacts) -> Markdown | None:
    names = list(dict.fromkeys(name for row in facts.epochs for name in row))
    if not names:
        return None
    return markdown_table(
        [name.replace("_", " ").capitalize() for name in names],
        [[_figure(row.get(name)) for name in names] for row in facts.epochs],
    )


def _metric_name(name: str) -> str:
    return METRIC_IDS[name][1] if name in METRIC_IDS else one_line(name)


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _figure(value: float | None) -> str:
    """Four decimals in a table's column, except for whole, tiny and huge numbers."""
    if value is None:
        return ""
    whole = float(value).is_integer()
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 and not whole else f"{value:.5g}"


def _python_string(text: str) -> Markdown:
    """A Python string literal for a fenced code block, where Markdown escapes nothing."""
    return Markdown(json.dumps(one_line(text), ensure_ascii=False))


def _image(caption: str, path: str) -> Markdown:
    return Markdown(f"![{escape_markdown(caption)}]({quote(path)})")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


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
    if not path or PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or "\\" in path:
        raise ValueError(f"a figure's path must be relative to the card and hold no '..'; found {path!r}")
    return path
