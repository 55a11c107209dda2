"""The card of an ensemble: who its members are, how they are combined, and what was measured."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from hf_layerfusion.hub.card import METRIC_IDS, library_environment
from hf_layerfusion.hub.encoder import is_hub_id
from hf_layerfusion.hub.markdown import escape_markdown, markdown_table, one_line


@dataclass
class EnsembleFacts:
    """What a run measured of an ensemble.

    Attributes:
        metrics: by task, then by split, then by name.
        sections: further sections, `(title, Markdown)`.
        figures: `(caption, path relative to the card)`.
        preparation: what was done to the texts, one entry a step.
        warning: a sentence above everything else.
        language: ISO 639 code.
    """

    metrics: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    sections: list[tuple[str, str]] = field(default_factory=list)
    figures: list[tuple[str, str]] = field(default_factory=list)
    preparation: list[str] = field(default_factory=list)
    warning: str = ""
    language: str | None = None


def build_ensemble_card(name: str, manifest: Mapping[str, Any], facts: EnsembleFacts) -> ModelCard:
    """Makes the card.

    Args:
        name: the ensemble's.
        manifest: the content of `ensemble.json`.
        facts: what was measured.
    """
    parts = [f"# {escape_markdown(name)}"]
    if facts.warning:
        parts.append(f"> **Warning.** {escape_markdown(facts.warning)}")
    if manifest["unverified_members"]:
        names = ", ".join(map(escape_markdown, manifest["unverified_members"]))
        parts.append(
            "> **Warning.** It is not known what these members were trained on, so that they may have seen the texts "
            f"that the combination was fitted on: {names}."
        )
    parts += [
        f"An ensemble of {len(manifest['members'])} members that answers as one model, made with the Python package "
        "hf_layerfusion.",
        "## Members",
        _members(manifest),
        "## How they are combined",
        _combiners(manifest),
        "## How to use",
    ]
    if facts.preparation:
        steps = "\n".join(f"- {escape_markdown(step)}" for step in facts.preparation)
        parts.append(f"The texts were prepared so; prepare new ones alike:\n\n{steps}")
    parts.append(_usage(name, manifest))
    if facts.metrics:
        parts += ["## Results", _results(facts)]
    parts += [
        f"![{escape_markdown(caption)}]({path})\n\n{escape_markdown(caption)}"
        for caption, path in facts.figures
    ]
    for title, body in facts.sections:
        parts += [f"## {escape_markdown(title)}", body]
    versions = ", ".join(f"{library} {version}" for library, version in library_environment().items())
    parts += ["## Versions", f"{versions}."]
    bases = [
        entry["hub_id"] for entry in manifest["members"] if entry["hub_id"] and is_hub_id(entry["hub_id"])
    ]
    data = ModelCardData(
        language=[facts.language] if facts.language else None,
        pipeline_tag="text-classification",
        base_model=list(dict.fromkeys(bases)) or None,
        tags=["hf_layerfusion", "ensemble"],
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(map(str, parts)) + "\n")


def _members(manifest: Mapping[str, Any]) -> str:
    rows = [
        [
            number,
            entry["hub_id"] or entry["name"],
            entry["task"] or "all it has",
            entry["revision"] or "",
            entry["sha256"][:16],
        ]
        for number, entry in enumerate(manifest["members"], start=1)
    ]
    return str(markdown_table(["Member", "Name", "Task", "Revision", "sha256"], rows))


def _combiners(manifest: Mapping[str, Any]) -> str:
    rows = []
    for task, entry in manifest["tasks"].items():
        settings = dict(entry["combiner"])
        name, fitted = settings.pop("name"), entry["fitted"]
        how = ""
        if fitted:
            source = "out-of-fold predictions" if fitted["out_of_fold"] else "held-out texts"
            how = f"{fitted['rows']:,} {source}: {fitted['metric']} {fitted['score']:.4f}"
        rows.append([task, name, _settings(settings), how, ", ".join(entry["labels"])])
    return str(markdown_table(["Task", "Combiner", "Members and weights", "Fitted on", "Labels"], rows))


def _settings(settings: Mapping[str, Any]) -> str:
    shown = []
    for name, value in settings.items():
        if name == "order":
            shown.append("members " + " ".join(str(member + 1) for member in value))
        elif name == "member" and value is not None:
            shown.append(f"member {value + 1}")
        elif name == "weights" and value and not isinstance(value[0], (list, tuple)):
            shown.append("weights " + " ".join(f"{weight:g}" for weight in value))
    return "; ".join(shown)


def _usage(name: str, manifest: Mapping[str, Any]) -> str:
    tasks = list(manifest["tasks"])
    lines = [
        "from hf_layerfusion import Ensemble",
        "",
        f'ensemble = Ensemble.from_pretrained("{one_line(name)}")  # max_loaded_members=1 where memory is short',
        'print(ensemble("What a lovely morning!"))',
    ]
    if len(tasks) > 1:
        lines.append(f'print(ensemble("What a lovely morning!", task="{one_line(tasks[-1])}"))')
    return "```python\n" + "\n".join(lines) + "\n```"


def _results(facts: EnsembleFacts) -> str:
    names = list(
        dict.fromkeys(
            metric for splits in facts.metrics.values() for values in splits.values() for metric in values
        )
    )
    rows = [
        [task, split, *(f"{values[name]:.4f}" if name in values else "" for name in names)]
        for task, splits in facts.metrics.items()
        for split, values in splits.items()
    ]
    return str(
        markdown_table(["Task", "Split", *(METRIC_IDS.get(name, (name, name))[1] for name in names)], rows)
    )
