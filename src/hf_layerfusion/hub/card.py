"""Model cards: metadata for the Hub and a readable page, rendered from measured facts."""

import functools
from collections.abc import Sequence
from importlib import resources
from urllib.parse import quote

import jinja2
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from hf_layerfusion.hub.card_facts import CardFacts
from hf_layerfusion.hub.citations import CITATIONS
from hf_layerfusion.hub.encoder import LICENSE_ID
from hf_layerfusion.hub.markdown import Markdown, escape_markdown, markdown_table, render_value, single_line
from hf_layerfusion.hub.usage import EXAMPLES, model_usage
from hf_layerfusion.metric_registry import METRICS, inline_name

__all__ = ["build_card"]

# Of more labels or tasks than this the first half is named.
_MOST_LABELS = 8


def build_card(facts: CardFacts) -> ModelCard:
    """Return the model card for the given facts.

    The same facts give the same text. Nothing is downloaded; `ModelCard.push_to_hub` has the Hub validate the
    metadata.

    The page is rendered by an environment that escapes every expression for Markdown. `ModelCard.from_template` takes
    no environment, so foreign text could add headings or links to a card that it made.
    """
    body = _template().render(
        facts=facts,
        opening=facts.opening or _opening(facts),
        headline=_headline(facts),
        usage=facts.usage or model_usage(facts),
        image=_image,
        table=markdown_table,
        markdown=Markdown,
        count=_count,
        results=_results_table(facts),
        epochs=_epochs_table(facts),
        duration=format_duration,
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
            dataset_name=single_line(facts.task_dataset_ids.get(task) or task or facts.dataset_name)
            or "local files",
            # The Hub's client identifies entries by their configuration, not by their name.
            dataset_config=single_line(task) or None,
            dataset_split=single_line(split),
            metric_type=(METRICS[name].hub_id if name in METRICS else None) or single_line(name),
            metric_name=metric_name(name),
            metric_value=float(f"{value:.5g}"),
        )
        for split, task, name, value, _ in facts.measured()
        if name not in METRICS or METRICS[name].hub_id is not None
    ]
    known = {metric.hub_id for metric in METRICS.values()}
    license_id = facts.base_model_license
    datasets = [facts.dataset_id, *facts.task_dataset_ids.values()]
    return ModelCardData(
        language=[single_line(code) for code in facts.language] or None,
        license=license_id if license_id and LICENSE_ID.fullmatch(license_id) else None,
        library_name=facts.library_name,
        pipeline_tag=single_line(facts.task),
        base_model=facts.base_model or None,
        datasets=list(dict.fromkeys(filter(None, datasets))) or None,
        metrics=list(dict.fromkeys(result.metric_type for result in results if result.metric_type in known))
        or None,
        tags=["hf_layerfusion", *facts.tags, *facts.methods],
        model_name=single_line(facts.model_name) if results else None,
        eval_results=results or None,
        widget=_widget(facts),
    )


def _widget(facts: CardFacts) -> list[dict[str, str]] | None:
    """Return the examples that the Hub's page offers, which takes one English text."""
    takes_one = 1 in facts.tasks.values() if facts.tasks else not facts.text_pair
    if not takes_one or "en" not in facts.language:
        return None
    return [{"text": text} for text in EXAMPLES]


def purpose(facts: CardFacts) -> str:
    """Return what the model does, as the end of a sentence such as "a model that classifies texts"; empty if that is
    not known."""
    texts = "pairs of texts" if facts.text_pair else "texts"
    labels = _listed(facts.labels, "and" if facts.problem_type.startswith("multi") else "or")
    if facts.tasks:
        return f"that answers {len(facts.tasks)} tasks in one pass: {_listed(list(facts.tasks), 'and')}"
    if facts.problem_type == "regression":
        return f"that predicts a number for {texts}"
    if facts.problem_type == "multi_label_classification" and labels:
        return f"that finds which of the labels {labels} apply to {texts}"
    return f"that classifies {texts} as {labels}" if labels else ""


def _opening(facts: CardFacts) -> str:
    on = f" on the encoder {facts.encoder}" if facts.encoder else ""
    by = "with the Python package hf_layerfusion."
    if what := purpose(facts):
        return f"A model {what}. It was trained{on} {by}"
    return f"A model for {facts.task}{on}, trained {by}"


def _listed(names: Sequence[str], word: str) -> str:
    """Return names as in a sentence; of many only the first."""
    if len(names) > _MOST_LABELS:
        return f"{', '.join(names[: _MOST_LABELS // 2])} and so on, {len(names)} in all"
    return f" {word} ".join([*[", ".join(names[:-1])][: len(names) > 1], *names[-1:]])


def _headline(facts: CardFacts) -> Markdown | None:
    """Return the main figures of the model in one sentence."""
    measured = [
        (split, task, name, value)
        for split, task, name, value, _ in facts.measured()
        if name not in METRICS or (METRICS[name].hub_id is not None and METRICS[name].greater_is_better)
    ]
    if not measured:
        return None
    split = measured[0][0]
    chosen = [row for row in measured if row[0] == split]
    if facts.tasks:
        of_task = {task: row for row in reversed(chosen) if (task := row[1])}  # the first of each task
        chosen = [of_task[task] for task in facts.tasks if task in of_task] or chosen
    else:
        chosen = chosen[:2]
    number = facts.num_examples.get(split) if not facts.tasks else None
    parts = [
        (f"{escape_markdown(task)}: " if task else "")
        + f"{escape_markdown(inline_name(name))} {_figure(value)}"
        for _, task, name, value in chosen
    ]
    where = (
        f"the {escape_markdown(split)} texts"
        if number is None
        else f"{number:,} {escape_markdown(split)} texts"
    )
    several = f", mean over {len(facts.seeds)} seeds" if facts.deviations else ""
    return Markdown(f"**On {where}: {', '.join(parts)}{several}.**")


def _results_table(facts: CardFacts) -> Markdown | None:
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for split, task, name, value, deviation in facts.measured():
        spread = "" if deviation is None else f" ({deviation:.4f})"
        lines.setdefault((split, task), {})[name] = _figure(value) + spread
    names = list(dict.fromkeys(name for cells in lines.values() for name in cells))
    if not names:
        return None
    names.sort(key=lambda name: name == "loss")  # last
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
    if facts.tasks:
        names = [name for name in names if _is_main(name.removeprefix("validation "), facts)]
    if not names:
        return None
    return markdown_table(
        list(map(_column_title, names)),
        [[_figure(row.get(name)) for name in names] for row in facts.epochs],
    )


def _is_main(name: str, facts: CardFacts) -> bool:
    """Return whether a column of the epochs is about all tasks or one task's first metric."""
    task = max((task for task in facts.tasks if name.startswith(f"{task}_")), key=len, default="")
    return not task or name.removeprefix(f"{task}_") in ("accuracy", "f1_micro", "pearsonr")


def _column_title(name: str) -> str:
    split, space, metric = name.partition(" ")
    title = f"{split} {inline_name(metric)}" if space and metric in METRICS else name.replace("_", " ")
    return title[:1].upper() + title[1:]


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


def _image(number: int, path: str) -> Markdown:
    return Markdown(f"![Figure {number}]({quote(path)})")


def format_duration(seconds: float) -> str:
    """Return a time as `"1 h 5 min"`, `"3 min 20 s"` or `"4.2 s"`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
