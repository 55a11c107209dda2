"""The options of the commands that are recipes: their table, what is given of them, and their help.

The options are fields of dataclasses, some of which are transformers' own, and whose import takes seconds. So that help
and refusals come at once, they are read from `option_table.json`, which `write_option_table` makes of the dataclasses.
"""

import argparse
import json
import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from hf_layerfusion.errors import UserError, nearest, one_line

TABLE = "option_table.json"
CONFIG = "config"
COMMAND = "command"
"""Key of a configuration file that names the command it is for."""

DEFAULT, PAPER, FROZEN, TUNED = RECIPES = ("default", "paper", "frozen", "tuned")
"""Names that `--recipe` takes."""

_TRUE, _FALSE = ("yes", "true", "t", "y", "1"), ("no", "false", "f", "n", "0")
_KINDS = {
    "bool": "True or False",
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "json": "text or json",
}


class Option(NamedTuple):
    """An option of a command.

    Attributes:
        name: without the dashes, as in a configuration file.
        kind: `str`, `int`, `float`, `bool`, or `json`, which is text or a mapping.
        many: whether it takes a list.
        default: its value where it is not given.
        optional: whether it may be None.
        help: one paragraph.
        group: the heading that `--help` lists it under.
        known: the values it may have; None where they are no list.
        first: whether `--help` shows it, and not `--help all` alone.
        secret: whether it is never written to a file.
    """

    name: str
    kind: str
    many: bool
    default: Any
    optional: bool
    help: str
    group: str
    known: list[str] | None = None
    first: bool = False
    secret: bool = False

    @property
    def flags(self) -> list[str]:
        """The ways to write it, with underscores and with dashes."""
        return list(dict.fromkeys((f"--{self.name}", f"--{self.name.replace('_', '-')}")))

    @property
    def negations(self) -> list[str]:
        """The ways to switch off what is on by default."""
        if self.kind != "bool" or self.default is not True:
            return []
        return list(dict.fromkeys((f"--no_{self.name}", f"--no-{self.name.replace('_', '-')}")))


class Given(NamedTuple):
    """Options given on a command line and in its configuration file.

    Attributes:
        values: of the options that are given, by name.
        launch: flags of `accelerate launch` that are given, by name; True for those without a value.
    """

    values: dict[str, Any]
    launch: dict[str, Any]


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(Path(__file__).with_name(TABLE).read_text(encoding="utf-8"))
    return table


def is_current() -> bool:
    """Return whether the table was made of the installed transformers, whose options change from version to version."""
    return bool(_table()["transformers"] == version("transformers"))


def table_options(command: str) -> list[Option]:
    """Return the options of a command from the table."""
    table = _table()
    return [Option(**table["options"][place]) for place in table["commands"][command]]


def launch_flags() -> dict[str, bool]:
    """Return the flags of `accelerate launch` by name, and whether each takes a value."""
    return dict(_table()["launch"])


def commands_with(name: str) -> list[str]:
    """Return the commands that have an option of this name."""
    table = _table()
    return [
        command
        for command, places in table["commands"].items()
        if any(table["options"][place]["name"] == name for place in places)
    ]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise UserError(f"{message}; see --help")


def read_arguments(command: str, options: Sequence[Option], arguments: Sequence[str]) -> Given:
    """Read a command line, and the file that its `--config` names, whose keys are the options' names. Flags win.

    Args:
        command: its name, for messages.
        options: those that it has.
        arguments: its command line; one `.json` file alone is a configuration file too.

    Raises:
        UserError: an unknown option, key or value, with the nearest right one; a file that cannot be read; one of
            another command.
    """
    if len(arguments) == 1 and arguments[0].endswith(".json"):
        arguments = (f"--{CONFIG}", arguments[0])
    by_name = {option.name: option for option in options}
    launching = {name: takes for name, takes in launch_flags().items() if name not in by_name}
    parser = _Parser(prog=f"hf-layerfusion {command}", add_help=False, allow_abbrev=False)
    parser.add_argument(f"--{CONFIG}", default=None)
    for option in options:
        takes: dict[str, Any] = {"nargs": "+"} if option.many else {}
        if option.kind == "bool" and not option.many:
            takes = {"nargs": "?", "const": "true"}
        parser.add_argument(*option.flags, dest=option.name, default=argparse.SUPPRESS, **takes)
        if option.negations:
            parser.add_argument(
                *option.negations,
                dest=option.name,
                action="store_const",
                const="false",
                default=argparse.SUPPRESS,
            )
    for name, takes_value in launching.items():
        spellings = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
        action = "store" if takes_value else "store_true"
        parser.add_argument(*spellings, dest=f"launch {name}", action=action, default=argparse.SUPPRESS)
    found, unknown = parser.parse_known_args(list(arguments))
    flags = [flag for option in options for flag in (*option.flags, *option.negations)]
    flags += [f"--{name}" for name in (CONFIG, *launching)]
    for part in unknown:
        if part.startswith("--"):
            raise UserError(
                f"{part.partition('=')[0]} is no option of {command}; {_way_out(part.partition('=')[0], flags)}"
            )
    if unknown:
        raise UserError(f"{command} takes options alone, found {unknown[0]!r}; see --help")
    given = vars(found)
    file = given.pop(CONFIG)
    launch = {
        name.removeprefix("launch "): given.pop(name) for name in list(given) if name.startswith("launch ")
    }
    values = {name: value_of(by_name[name], value, f"--{name}") for name, value in given.items()}
    if file is None:
        return Given(values, launch)
    content = read_config(Path(file), command)
    for name in content:
        if name not in by_name and name not in launching:
            raise UserError(
                f"{file}: {name} is no option of {command}; {_way_out(name, [*by_name, *launching])}"
            )
    from_file = {
        name: value_of(by_name[name], value, f"{file}: {name}")
        for name, value in content.items()
        if name in by_name
    }
    launch_from_file = {name: value for name, value in content.items() if name in launching}
    return Given(from_file | values, launch_from_file | launch)


def _way_out(name: str, known: Iterable[str]) -> str:
    others = commands_with(name.lstrip("-").replace("-", "_"))
    otherwise = f"it is one of {', '.join(others)}" if others else "see --help all"
    return otherwise if others else nearest(name, known, otherwise)


def read_config(path: Path, command: str) -> dict[str, Any]:
    """Read a configuration file, `.yaml`, `.yml` or `.json`.

    Raises:
        UserError: a file that cannot be read or is no mapping, or that is another command's.
    """
    if path.suffix not in (".yaml", ".yml", ".json"):
        raise UserError(f"--{CONFIG} {path}: must be a .yaml or .json file; name one")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"--{CONFIG} {path}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--{CONFIG} {path}: is no UTF-8 text; name another file") from error
    import yaml  # here, as most calls have no such file

    try:
        if path.suffix == ".json":
            content = json.loads(text, object_pairs_hook=_once)
        else:
            content = yaml.safe_load(text)
            node: Any = yaml.compose(text, Loader=yaml.SafeLoader)
            if isinstance(content, dict):
                _once([(key.value, value) for key, value in node.value])
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"--{CONFIG} {path}: {one_line(error)}; mend it there") from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UserError(
            f"--{CONFIG} {path}: must hold options by name, `learning_rate: 3e-5`, found {type(content).__name__}"
        )
    of = content.pop(COMMAND, command)
    if of != command:
        raise UserError(
            f"--{CONFIG} {path}: is of the command {of}, found {command}; call hf-layerfusion {of} --config {path}"
        )
    return content


def _once(pairs: Sequence[tuple[Any, Any]]) -> dict[Any, Any]:
    """Return the entries of a mapping.

    Raises:
        ValueError: A key is repeated.
    """
    names = [name for name, _ in pairs]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{repeated[0]} is given {names.count(repeated[0])} times")
    return dict(pairs)


def value_of(option: Option, value: Any, where: str) -> Any:
    """Return the value of an option in its type.

    Args:
        option: the option.
        value: as the command line or a file has it.
        where: the option's place, for messages.

    Raises:
        UserError: a value of another type, or none of those that are known.
    """
    if value is None:
        if option.optional or option.default is None:
            return None
        raise UserError(f"{where} must be {_must(option)}, found null; leave it out for its default")
    if option.many:
        values = value if isinstance(value, list) else [value]
        return [_single(option, each, where) for each in values]
    return _single(option, value, where)


def _single(option: Option, value: Any, where: str) -> Any:
    wrong = UserError(f"{where} must be {_must(option)}, found {value!r}; {_example(option, value)}")
    if option.kind == "json" and isinstance(value, dict):
        return value
    if not isinstance(value, str | int | float):
        raise wrong
    kind = option.kind
    if kind == "bool":
        word = str(value).lower()
        if word not in (*_TRUE, *_FALSE):
            raise wrong
        return word in _TRUE
    if isinstance(value, bool):
        raise wrong
    if kind in ("int", "float"):
        if kind == "int" and isinstance(value, float):
            raise wrong
        try:
            return int(value) if kind == "int" else float(value)
        except ValueError as error:
            raise wrong from error
    text = str(value)
    if "\0" in text:
        raise UserError(f"{where} must hold no NUL character, found {text!r}; remove it")
    if option.known is not None and text not in option.known:
        raise UserError(
            f"{where} must be one of {', '.join(option.known)}, found {text!r}; {nearest(text, option.known)}"
        )
    return text


def _must(option: Option) -> str:
    return f"{'a list, each ' if option.many else ''}{_KINDS[option.kind]}"


def _example(option: Option, value: Any) -> str:
    if isinstance(value, list) and len(value) == 1:
        return f"write {option.name}: {value[0]}"
    if isinstance(value, bool):
        return "put it into quotation marks"
    return "write one"


def written_config(
    path: Path,
    command: str,
    options: Iterable[Option],
    values: Mapping[str, Any],
    launch: Mapping[str, Any],
) -> None:
    """Write the settings of a run to a file that `--config` takes.

    Left out are those that are None, secrets, and whether the run was resumed.

    Args:
        path: the file.
        command: the command that ran.
        options: its options.
        values: those given and those that a recipe set, by name; all others have their defaults.
        launch: flags of `accelerate launch`, by name.
    """
    import yaml

    from hf_layerfusion.storage import write_text

    lines = [f"# The settings of this run: hf-layerfusion {command} --config {path.name} runs it again.\n"]
    settings: dict[str, Any] = {COMMAND: command, **launch}
    for option in options:
        value = values.get(option.name, option.default)
        # Of a run that was resumed the settings are those of one that was not.
        if option.name == "resume_from_checkpoint":
            continue
        if not option.secret and (
            value is not None or (option.name in values and option.default is not None)
        ):
            settings[option.name] = value
    lines.append(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    write_text(path, "".join(lines))


def help_text(command: str, summary: str, options: Sequence[Option], everything: bool) -> str:
    """Return the help of a command: the options that most runs need by group, or everything."""
    width = max(60, min(shutil.get_terminal_size().columns, 110))
    shown = [option for option in options if everything or option.first]
    lines = [f"usage: hf-layerfusion {command} [--config FILE] [--OPTION VALUE ...]", ""]
    lines += [*textwrap.wrap(f"{summary[0].upper()}{summary[1:]}.", width), ""]
    lines += _entry(
        f"--{CONFIG} FILE", "a .yaml or .json file of options by name; those on the command line win", width
    )
    lines += _entry(
        "--num_processes N", "train on N processes; every flag of accelerate launch is handed on to it", width
    )
    for group in dict.fromkeys(option.group for option in shown):
        lines += ["", f"{group}:"]
        for option in shown:
            if option.group == group:
                value = {"bool": "[True|False]", "int": "N", "float": "X", "json": "JSON"}.get(
                    option.kind, "TEXT"
                )
                value += " ..." if option.many else ""
                default = (
                    ""
                    if option.default in (None, "", [])
                    else f" (default: {_shown_default(option.default)})"
                )
                lines += _entry(f"--{option.name} {value}", f"{option.help}{default}", width)
    if not everything:
        lines += ["", f"{len(options) - len(shown)} more options: hf-layerfusion {command} --help all"]
    return "\n".join(lines)


def _shown_default(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _entry(head: str, text: str, width: int) -> list[str]:
    indent = 30
    wrapped = textwrap.wrap(" ".join(text.split()), width - indent) or [""]
    first = f"  {head}".ljust(indent)
    if len(head) > indent - 4:
        return [f"  {head}", *(" " * indent + line for line in wrapped)]
    return [first + wrapped[0], *(" " * indent + line for line in wrapped[1:])]
