"""Reference pages of commands and options, filled from the commands' own tables when the site is built.

A line `<!-- generated: NAME -->` of a page is replaced by what the function of that name returns.
"""

import argparse
import re
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from hf_layerfusion.__main__ import COMMANDS
from hf_layerfusion.cli import options
from hf_layerfusion.cli.options import Option

MARKER = re.compile(r"^<!-- generated: (\w+) -->$", re.M)
PAGE = re.compile(r"\bdocs/(?P<name>[\w-]+)\.md\b")
KINDS = {"str": "text", "int": "integer", "float": "number", "bool": "true or false", "json": "text or JSON"}
GROUPS = {
    "data": "Data",
    "model": "Encoder and model",
    "ensemble": "Ensemble",
    "fusion": "Fusion",
    "training": "Training",
    "outputs": "Outputs",
}


def escaped(text: str) -> str:
    """Return text as Markdown that shows it, for a cell of a table; code in backticks stays code."""
    text = re.sub(r"(?<![\w`-])--[a-z]\w+", r"`\g<0>`", " ".join(text.split()))
    parts = re.split(r"(`[^`]*`)", text)
    plain = [re.sub(r"([\\*_<>\[\]#$~])", r"\\\1", part) for part in parts[::2]]
    parts[::2] = plain
    shown = "".join(parts).replace("|", "\\|")
    return PAGE.sub(lambda match: f"[{match['name']}](/{match['name']}.md)", shown)


def code(value: Any) -> str:
    """Return a value as code in a cell of a table."""
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"`{text}`".replace("|", "\\|") if text else ""


def kind_of(option: Option) -> str:
    """Return what an option takes: its values, or its type."""
    one = ", ".join(map(code, option.known)) if option.known else KINDS[option.kind]
    return f"several: {one}" if option.many else one


def default_of(option: Option) -> str:
    """Return the default of an option, empty for none."""
    return "" if option.default in (None, "", []) else code(option.default)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    head = list(head)
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""


def recipe_options(command: str) -> list[Option] | None:
    """Return the options of a command that is a recipe, None of another."""
    module: Any = import_module(COMMANDS[command].module)
    return options.table_options(command) if hasattr(module, "RECIPE") else None


def parser_of(command: str) -> argparse.ArgumentParser:
    """Return the parser of a command that is no recipe."""
    module: Any = import_module(COMMANDS[command].module)
    parser = argparse.ArgumentParser(prog=f"hf-layerfusion {command}", add_help=False)
    module.add_arguments(parser)
    return parser


def recipe_section(command: str, found: list[Option]) -> Iterator[str]:
    """Yield the options of a recipe that its `--help` shows first."""
    yield f"```text\nhf-layerfusion {command} [--config FILE] [--OPTION VALUE ...]\n```"
    yield ""
    shown = [option for option in found if option.first]
    for group in dict.fromkeys(option.group for option in shown):
        yield f"**{GROUPS[group]}**\n"
        rows = [
            (code(f"--{option.name}"), kind_of(option), default_of(option), escaped(option.help))
            for option in shown
            if option.group == group
        ]
        yield from table(("option", "takes", "default", "meaning"), rows)
    yield (
        f"{len(found) - len(shown)} more options, those of `TrainingArguments` among them, are in the "
        f"[configuration reference](/reference/configuration.md)."
    )
    yield ""


def parser_section(command: str) -> Iterator[str]:
    """Yield the arguments of a command that is no recipe."""
    parser = parser_of(command)
    usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
    yield f"```text\n{usage}\n```"
    yield ""
    rows = []
    for action in parser._actions:
        names = ", ".join(action.option_strings) or str(action.metavar or action.dest)
        known = ", ".join(code(choice) for choice in action.choices or ())
        plain = {int: "integer", float: "number"}.get(action.type, "text")  # type: ignore[call-overload]
        takes = known or ("" if action.nargs == 0 else plain)
        rows.append((code(names), takes, escaped((action.help or "").replace("%%", "%"))))
    if rows:
        yield from table(("argument", "takes", "meaning"), rows)


def commands() -> Iterator[str]:
    """Yield a section for each command."""
    for name, command in COMMANDS.items():
        found = recipe_options(name)
        yield f"## {name}"
        yield ""
        yield f"{command.summary[0].upper()}{command.summary[1:]}.".replace("|", "\\|")
        yield ""
        yield from recipe_section(name, found) if found is not None else parser_section(name)


def takers_of(names: list[str], recipes: list[str]) -> str:
    """Return the commands that take an option, in few words."""
    training = [name for name in recipes if name.startswith(("train", "search"))]
    if names == recipes:
        return "all"
    if set(training) <= set(names):
        others = [name for name in names if name not in training]
        return ", ".join(["all that train a classifier", *map(code, others)])
    return ", ".join(map(code, names))


def configuration() -> Iterator[str]:
    """Yield every option of every recipe by group and name, with the commands that take it."""
    rows: dict[str, dict[str, list[tuple[Option, list[str]]]]] = {group: {} for group in GROUPS}
    recipes = [name for name in COMMANDS if recipe_options(name) is not None]
    for command in recipes:
        for option in options.table_options(command):
            kinds = rows[option.group].setdefault(option.name, [])
            takers = next((takers for each, takers in kinds if _shown(each) == _shown(option)), None)
            if takers is None:
                kinds.append((option, [command]))
            else:
                takers.append(command)
    for group, names in rows.items():
        yield f"## {GROUPS[group]}"
        yield ""
        shown = []
        for name, kinds in sorted(names.items()):
            for option, takers in kinds:
                default = default_of(option)
                takes = f"{kind_of(option)}; default {default}" if default else kind_of(option)
                shown.append((code(name), takes, escaped(option.help), takers_of(takers, recipes)))
        yield from table(("key", "takes", "meaning", "commands"), shown)


def _shown(option: Option) -> tuple[str, str, str]:
    return kind_of(option), default_of(option), option.help


def launch() -> Iterator[str]:
    """Yield the flags of `accelerate launch` that a configuration file may hold."""
    yield ", ".join(code(name) for name in options.launch_flags())


GENERATED = {"commands": commands, "configuration": configuration, "launch": launch}


def fill(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replace the markers of a page."""
    if MARKER.search(source[0]):
        source[0] = MARKER.sub(lambda match: "\n".join(GENERATED[match[1]]()), source[0])
        app.env.note_dependency(__file__)
        app.env.note_dependency(str(Path(options.__file__).with_name(options.TABLE)))


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the extension."""
    app.connect("source-read", fill)
    return {"parallel_read_safe": True}
