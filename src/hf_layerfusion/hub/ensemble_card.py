"""Model cards of ensembles: their members, how these are combined, and what was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from hf_layerfusion.hub.card import build_card, purpose
from hf_layerfusion.hub.card_facts import CardFacts, Snippet
from hf_layerfusion.hub.encoder import encoder_license, is_hub_id
from hf_layerfusion.hub.markdown import escape_markdown, markdown_table
from hf_layerfusion.hub.usage import ONE_TEXT, TWO_TEXTS, code_string


def ensemble_card(
    folder: Path, manifest: Mapping[str, Any], members: Sequence[Path | None], measured: CardFacts | None
) -> ModelCard:
    """Return the card of an ensemble. Its license is that of the members if they all have the same.

    Args:
        folder: the ensemble's folder.
        manifest: content of `ensemble.json`.
        members: the members' folders; None for a member without one.
        measured: what a run measured; name and path are taken from `folder`.
    """
    name = folder.resolve().name
    licenses = {None if place is None else encoder_license(str(place)) for place in members}
    license_id = licenses.pop() if len(licenses) == 1 else None
    facts = replace(
        measured or CardFacts(name), model_name=name, model_path=str(folder), base_model_license=license_id
    )
    return build_card(ensemble_facts(facts, manifest))


def ensemble_facts(measured: CardFacts, manifest: Mapping[str, Any]) -> CardFacts:
    """Return the facts of an ensemble's card.

    Args:
        measured: what a run measured.
        manifest: content of `ensemble.json`.
    """
    bases = [
        entry["hub_id"] for entry in manifest["members"] if entry["hub_id"] and is_hub_id(entry["hub_id"])
    ]
    return replace(
        measured,
        base_model=list(dict.fromkeys(bases)),
        opening=f"An ensemble of {len(manifest['members'])} members {_purpose(measured, manifest['tasks'])}. It "
        "predicts as one model, and was made with the Python package hf_layerfusion.",
        parts=[("Members", _members(manifest)), ("How they are combined", _combiners(manifest))],
        usage=[_usage(measured, list(manifest["tasks"]))],
        library_name="hf_layerfusion",
        tags=["ensemble"],
        methods=[],
    )


def _purpose(measured: CardFacts, tasks: Mapping[str, Any]) -> str:
    first = next(iter(tasks.values()))["labels"]
    return purpose(
        replace(
            measured,
            tasks=dict.fromkeys(tasks, 1) if len(tasks) > 1 else {},
            labels=first,
            # Where the only label is the name of a value.
            problem_type="single_label_classification" if len(first) > 1 else "regression",
        )
    )


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
    table = str(markdown_table(["Member", "Name", "Task", "Revision", "sha256"], rows))
    if not manifest["unverified_members"]:
        return table
    names = ", ".join(map(escape_markdown, manifest["unverified_members"]))
    return (
        "> **Warning.** The training texts of these members are unknown: they may include the texts "
        f"that the combiner was fitted on: {names}.\n\n{table}"
    )


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


def _usage(measured: CardFacts, tasks: list[str]) -> Snippet:
    path = code_string(measured.model_path)
    lines = [
        "from hf_layerfusion import Ensemble",
        "",
        f"ensemble = Ensemble.from_pretrained({path})  # max_loaded_members=1 where memory is short",
    ]
    for number, task in enumerate(tasks):
        text = TWO_TEXTS if measured.tasks.get(task, 1 + measured.text_pair) == 2 else ONE_TEXT
        lines.append(f"print(ensemble({text}{f', task={code_string(task)}' if number else ''}))")
    return Snippet("", "\n".join(lines))
