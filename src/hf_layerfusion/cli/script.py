"""The frame of every script and command: arguments in, one line out when they are wrong.

It imports no library that takes seconds, so that help and refusals come at once.
"""

import argparse
import json
import logging
import os
import re
import select
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

from hf_layerfusion.cli.options import DEFAULT, FROZEN, PAPER, RECIPES, TUNED, Option, read_arguments
from hf_layerfusion.errors import UserError, nearest
from hf_layerfusion.run_layout import RUN
from hf_layerfusion.storage import finite_or_none, is_ours, refusal
from hf_layerfusion.training.probe_recipes import ALL_LAYERS, FROZEN_TRAINING, TUNED_TRAINING

_FROM_PROBE: dict[str, Any] = {
    "architecture": "layer_pooling",
    **ALL_LAYERS,
    "num_task_layers": 0,
    "fusion_learning_rate": None,
    "epoch_decay": 1.0,
    "early_stopping_patience": None,
}
PROBE_RECIPES: dict[str, dict[str, Any]] = {
    FROZEN: _FROM_PROBE | FROZEN_TRAINING,
    TUNED: _FROM_PROBE | TUNED_TRAINING,
}
"""Options that `--recipe frozen` and `--recipe tuned` set: a linear head on all layers that starts from the probe."""


def _as_declared(part: str, flags: Sequence[str]) -> str:
    """Return an option as it is declared, for instance `--train_file` for `--train-file`; other arguments unchanged."""
    name, equals, value = part.partition("=")
    underscored = f"--{name[2:].replace('-', '_')}"
    known = name.startswith("--") and name not in flags and underscored in flags
    return f"{underscored}{equals}{value}" if known else part


class CommandParser(argparse.ArgumentParser):
    """A parser that takes options with underscores or hyphens and refuses an unknown one in one line, with the nearest
    option."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as `ArgumentParser` does.

        Raises:
            UserError: an unknown option, with the nearest one, or a value that belongs to none.
        """
        flags = [flag for action in self._actions for flag in action.option_strings]
        spelled = [_as_declared(part, flags) for part in (sys.argv[1:] if args is None else args)]
        found, unknown = self.parse_known_args(spelled, namespace)
        if unknown:
            if unknown[0] in ("True", "False"):
                raise UserError(
                    f"{unknown[0]} stands behind an option of {self.prog} that takes no value; name the option "
                    "alone for True, and leave it out for False"
                )
            if not unknown[0].startswith("-"):
                raise UserError(
                    f"{unknown[0]} is one argument too many for {self.prog}; leave it out, or name the option that "
                    "it belongs to before it (see --help)"
                )
            raise UserError(
                f"{unknown[0]} is no option of {self.prog}; {nearest(unknown[0], flags, 'see --help')}"
            )
        return found

    def error(self, message: str) -> Any:
        """Raise what is wrong as a `UserError`."""
        raise UserError(f"{message}; see {self.prog} --help")


def parse_arguments(*dataclasses: Any) -> tuple[Any, ...]:
    """Parse the process's command line into dataclasses; `--config` names a file of options, flags win over it.

    Raises:
        UserError: an unknown option or value, or one that breaks a rule of its dataclass.
    """
    options: list[Option] = import_module("hf_layerfusion.cli.write_option_table").options_of(dataclasses)
    given = read_arguments(Path(sys.argv[0]).stem, options, sys.argv[1:])
    return construct(dataclasses, given.values)


def construct(dataclasses: Sequence[Any], values: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return dataclasses with the values that are given and, beside them, those that the recipe sets.

    Args:
        dataclasses: the classes; no two have a field of the same name.
        values: of their fields, by name.

    Raises:
        UserError: a value that breaks a rule of its dataclass, or an unknown recipe.
    """
    chosen = with_recipe(dataclasses, values)
    try:
        return tuple(
            each(**{field.name: chosen[field.name] for field in fields(each) if field.name in chosen})
            for each in dataclasses
        )
    except (ValueError, OSError, RecursionError, TypeError, AttributeError) as error:
        message = " ".join(str(error).split())
        named = set(re.findall(r"\w+", message))
        of_recipe = [f"{name}={chosen[name]}" for name in chosen if name in named and name not in values]
        if of_recipe:
            message += f" (--recipe {values['recipe']} sets {', '.join(of_recipe)})"
        raise UserError(message) from error


def with_recipe(dataclasses: Sequence[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with those of the recipe that they name beside them.

    The layers' pooling is left out for another architecture than the recipe's.

    Raises:
        UserError: an unknown recipe.
    """
    name = values.get("recipe", DEFAULT)
    of_recipe = _recipe(name, dataclasses)
    if name in PROBE_RECIPES and values.get("architecture") not in (None, of_recipe.get("architecture")):
        of_recipe = {option: value for option, value in of_recipe.items() if option not in ALL_LAYERS}
    return of_recipe | dict(values)


def refuse_nul(options: Any) -> None:
    """Refuse a NUL character in any option: no file or name may hold one.

    Args:
        options: A dataclass or namespace of options, some of which may be lists.

    Raises:
        UserError: Names the option.
    """
    for name, value in vars(options).items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and "\0" in text:
                raise UserError(f"--{name} must hold no NUL character, found {text!r}; remove it.")


def _recipe(name: Any, dataclasses: Sequence[Any]) -> dict[str, Any]:
    """Return the values that a recipe sets in place of the defaults.

    Raises:
        UserError: an unknown recipe.
    """
    if name not in RECIPES:
        raise UserError(
            f"--recipe must be one of {', '.join(RECIPES)}, found {name!r}; {nearest(name, RECIPES)}"
        )
    if name in PROBE_RECIPES:
        known = {field.name for each in dataclasses for field in fields(each)}
        return {option: value for option, value in PROBE_RECIPES[name].items() if option in known}
    papers = [each.PAPER for each in dataclasses if hasattr(each, "PAPER")] if name == PAPER else []
    return {option: value for paper in papers for option, value in paper.items()}


def set_up_logging() -> None:
    """Show warnings and, in the main process of several, the package's own messages."""
    import datasets
    import transformers

    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    is_main = os.environ.get("RANK", "0") == "0"  # set by launchers; accelerate's state would come too early
    logging.getLogger("hf_layerfusion").setLevel(logging.INFO if is_main else logging.WARNING)
    transformers.utils.logging.set_verbosity_warning()
    datasets.utils.logging.set_verbosity_error()


def print_outputs(results: dict[str, Any], folder: Path) -> None:
    """Print what a run measured, and what its folder contains."""
    print(json.dumps(finite_or_none(results), indent=2))
    print(f"\nEverything is in {folder}:")
    for path in sorted(folder.iterdir()):
        if is_ours(path):
            continue
        print(f"  {path.name}")
        if path.name == RUN and path.is_dir():
            print(f"    {', '.join(sorted(record.name for record in path.iterdir()))}")


def print_dry_run(results: dict[str, Any]) -> None:
    """Print the parameter groups and, with `--push_to_hub`, the planned push, as `--dry_run` found them."""
    if rows := results.get("groups"):
        print(f"\n{'group':24}{'rate':>10}{'decay':>10}{'tensors':>9}{'parameters':>14}")
        for name, rate, decay, tensors, parameters in rows:
            print(f"{name:24}{rate:>10}{decay:>10}{tensors:>9}{parameters:>14}")
    files = results.get("pushed")
    if files:
        print(f"\n--push_to_hub would push {len(files)} files of --output_dir as it is now:")
        print("\n".join(f"  {name}" for name in files))
    elif files is not None:
        patterns = ", ".join(import_module("hf_layerfusion.hub.publish").NEVER_PUSHED)
        print(f"\n--push_to_hub would push what the run writes into --output_dir, without {patterns}")


def run_script(main: Callable[[], Any]) -> None:
    """Set logging up and call `main`, its errors in one line as `one_line_errors` has them."""
    with one_line_errors():
        set_up_logging()
        main()


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the process with one line on standard error and exit code 2 where the block raises a `UserError` or the
    operating system refuses something.

    If whoever reads standard output has gone, as `head` does after its last line, the process ends with code 1 and says
    nothing.

    Raises:
        OSError: A library's own error, or a lost connection: its traceback says more than one line could.
    """
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _output_is_closed():
            sys.exit(1)
        if error.errno is None or isinstance(error, ConnectionError):
            raise
        print(f"error: {refusal(error)}", file=sys.stderr)
        sys.exit(2)
    finally:
        _drop_unwritten()


def _output_is_closed() -> bool:
    """Return whether nobody reads standard output any more."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)  # of no events but errors and hang-ups, which are always told
        return bool(poll.poll(0))
    except (AttributeError, ValueError, OSError):  # Windows, or no output that the system knows of
        return False


def _drop_unwritten() -> None:
    """Drop what standard output cannot take, else Python reports it when the process ends."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
