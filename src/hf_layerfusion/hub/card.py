"""Model cards: metadata for the Hub and a readable page, rendered from measured facts."""

import functools
from importlib import resources
from urllib.parse import quote

import jinja2
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from hf_layerfusion.hub.card_facts import CardFacts
from hf_layerfusion.hub.citations import CITATIONS
from hf_layerfusion.hub.encoder import LICENSE_ID
from hf_layerfusion.hub.markdown import Markdown, escape_markdown, markdown_table, render_value, single_line
from hf_layerfusion.hub.usage import model_usage
from hf_layerfusion.metric_registry import METRICS

__all__ = ["build_card"]


def build_card(facts: CardFacts) -> ModelCard:
    """Return the model card for the given facts.

    The same facts give the same text. Nothing is downloaded; `ModelCard.push_to_hub` has the Hub validate the
    metadata.

    The page is rendered by an environment that escapes every expression for Markdown. `ModelCard.from_template` takes
    no environment, so foreign text could add headings or links to a card that it made.
    """
    body = _template().render(
        facts=facts,
        usage=facts.usage or model_usage(facts),
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


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        finalize=render_value,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # `finalize` escapes, for Markdown
    )
    return environment.from_string(
        resources.files(__package__).joinpath("card_template.md").read_text(encoding="utf-8")
    )


def _metadata(facts: CardFacts) -> ModelCardData:
    results = [
        EvalResult(
            task_type=single_line(facts.task),
            dataset_type=facts.task_dataset_ids.get(task, facts.dataset_id) or "local",
            dataset_name=single_line(task or facts.dataset_name) or "local files",
            # The Hub's client identifies entries by their configuration, not by their name.
            dataset_config=single_line(task) or None,
            dataset_split=single_line(split),
            metric_type=METRICS[name].hub_id if name in METRICS else single_line(name),
            metric_name=metric_name(name),
            metric_value=float(f"{value:.5g}"),
        )
        for split, task, name, value, _ in facts.measured()
    ]
    license_id = facts.base_model_license
    datasets = [facts.dataset_id, *facts.task_dataset_ids.values()]
    return ModelCardData(
        language=[single_line(code) for code in facts.language] or None,
        license=license_id if license_id and LICENSE_ID.fullmatch(license_id) else None,
        library_name=facts.library_name,
        pipeline_tag=single_line(facts.task),
        base_model=facts.base_model or None,
        datasets=list(dict.fromkeys(filter(None, datasets))) or None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        tags=["hf_layerfusion", *facts.tags, *facts.methods],
        model_name=single_line(facts.model_name) if results else None,
        eval_results=results or None,
    )


def _results_table(facts: CardFacts) -> Markdown | None:
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for split, task, name, value, deviation in facts.measured():
        spread = "" if deviation is None else f" ({_figure(deviation)})"
        lines.setdefault((split, task), {})[name] = _figure(value) + spread
    names = list(dict.fromkeys(name for cells in lines.values() for name in cells))
    if not names:
        return None
    counted = bool(facts.num_examples) and not facts.tasks
    header = ["Split", *(["Task"] if facts.tasks else []), *(["Examples"] if counted else [])]
    rows = [
        [
            split,
            *([task or "all"] if facts.tasks else []),
            *([_count(facts.num_examples.get(split))] if counted else []),
            *(cells.get(name, "") for name in names),
        ]
        for (split, task), cells in lines.items()
    ]
    return markdown_table([*header, *map(metric_name, names)], rows)


def _epochs_table(facts: CardFacts) -> Markdown | None:
    names = list(dict.fromkeys(name for row in facts.epochs for name in row))
    if not names:
        return None
    return markdown_table(
        [name.replace("_", " ").capitalize() for name in names],
        [[_figure(row.get(name)) for name in names] for row in facts.epochs],
    )


def metric_name(name: str) -> str:
    """Return the display name of a metric, which is its own for metrics of other libraries."""
    return METRICS[name].title if name in METRICS else single_line(name)


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _figure(value: float | None) -> str:
    """Format a number with four decimals for a column, except whole, very small and very large numbers."""
    if value is None:
        return ""
    whole = float(value).is_integer()
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 and not whole else f"{value:.5g}"


def _image(caption: str, path: str) -> Markdown:
    return Markdown(f"![{escape_markdown(caption)}]({quote(path)})")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
