"""The frame of the commands that are recipes: their options are dataclasses, and a function runs them."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hf_layerfusion.cli.launch import is_launched, launch
from hf_layerfusion.cli.options import (
    Given,
    Option,
    help_text,
    is_current,
    read_arguments,
    table_options,
    written_config,
)
from hf_layerfusion.cli.script import construct, one_line_errors, set_up_logging, with_recipe
from hf_layerfusion.errors import UserError
from hf_layerfusion.run_layout import CONFIG_FILE, records

# Options that name something to read, with the values that `data` reads by other means.
_FILES = (
    "train_file", "validation_file", "test_file", "train_pos_file", "train_neg_file", "tasks_file", "hp_space",
    "peft_config", "spelling_dictionary", "unlabelled_file",
)  # fmt: skip
_FOLDERS = ("data_dir", "plot_layers_beside")


@dataclass(frozen=True)
class RecipeCommand:
    """A command whose options are those of dataclasses.

    Attributes:
        name: the command's.
        summary: what it does, for `--help`.
        arguments: its dataclasses, `MODULE:CLASS`, imported once the command line is found right.
        run: takes the dataclasses' objects, runs and prints; imports what it needs itself.
    """

    name: str
    summary: str
    arguments: tuple[str, ...]
    run: Callable[..., None]

    def dataclasses(self) -> tuple[Any, ...]:
        """Return the classes of the options."""
        found = (name.split(":") for name in self.arguments)
        return tuple(getattr(import_module(module), name) for module, name in found)

    def options(self) -> list[Option]:
        """Return the options: of the table, or where another transformers is installed of the classes themselves."""
        if is_current():
            return table_options(self.name)
        options: list[Option] = import_module("hf_layerfusion.cli.write_option_table").options_of(
            self.dataclasses()
        )
        return options

    def call(self, arguments: Sequence[str] | None = None) -> None:
        """Run the command as a process does: as `main`, with logging set up and errors in one line."""
        with one_line_errors():
            self.main(arguments, before=set_up_logging)

    def main(self, arguments: Sequence[str] | None = None, before: Callable[[], None] = lambda: None) -> None:
        """Run the command.

        Args:
            arguments: its command line, by default the process's.
            before: called once the command line is found right.

        Raises:
            UserError: for whatever the user can mend.
        """
        arguments = sys.argv[1:] if arguments is None else arguments
        asked = next((place for place, part in enumerate(arguments) if part in ("-h", "--help")), None)
        options = self.options()
        if asked is not None:
            print(help_text(self.name, self.summary, options, "all" in arguments[asked + 1 : asked + 2]))
            return
        given = read_arguments(self.name, options, arguments)
        check_paths(given.values)
        if given.launch and not is_launched(os.environ):
            launch(self.name, _without_launch_flags(arguments, given), given)
            return
        before()
        classes = self.dataclasses()
        made = construct(classes, given.values)
        values = with_recipe(classes, given.values)
        from hf_layerfusion.recipes.run_folder import configuration

        world = max(getattr(each, "world_size", 1) for each in made)
        launched = {"num_processes": world} if world > 1 else {}

        def write(path: Path) -> None:
            written_config(path, self.name, options, values, launched)

        with configuration(write):
            self.run(*made)
        _write_missing_config(write, made)


def check_paths(values: Mapping[str, Any], shown: Mapping[str, str] = MappingProxyType({})) -> None:
    """Check that files and folders that options name are there, before anything is imported.

    Args:
        values: of options, by name.
        shown: by name, how a message names an option, where that is not `--NAME`.

    Raises:
        UserError: names the option and the path.
    """
    for name in _FILES:
        files, option = values.get(name), shown.get(name, f"--{name}")
        for file in files if isinstance(files, list) else [files]:
            if file and Path(file).is_dir():
                raise UserError(f"{option} {file}: must be a file, found a folder; name a file in it")
            if file and not Path(file).exists():
                raise UserError(
                    f"{option} {file}: cannot be read (No such file or directory); check the path"
                )
    for name in _FOLDERS:
        if (folder := values.get(name)) and not Path(folder).is_dir():
            raise UserError(f"--{name} {folder}: no such folder; check the path")
    for name in ("model_name_or_path", "tokenizer_name"):
        if path := values.get(name):
            check_model_path(f"--{name}", path)
    for teacher in values.get("teacher") or ():
        if not Path(teacher).is_dir():
            check_model_path("--teacher", teacher.partition("=")[2] or teacher)


def check_model_path(option: str, path: str) -> None:
    """Check a name that is a path and no Hub id: it cannot be one, or its first part is a folder here.

    Raises:
        UserError: no such folder.
    """
    first, slash, _ = path.partition("/")
    is_path = path.startswith((".", "/", "~")) or path.count("/") > 1 or "\\" in path
    is_path = is_path or bool(slash and Path(first).is_dir())
    if not path.startswith("package:") and is_path and not Path(path).exists():
        raise UserError(f"{option} {path}: no such folder; check the path, or name a model of the Hub")


def _without_launch_flags(arguments: Sequence[str], given: Given) -> list[str]:
    """Return a command line without the flags of `accelerate launch`."""
    names = {f"--{name}": value is not True for name, value in given.launch.items()}
    kept: list[str] = []
    skip = False
    for part in arguments:
        if skip:
            skip = False
        elif part.partition("=")[0] in names:
            skip = names[part.partition("=")[0]] and "=" not in part
        else:
            kept.append(part)
    return kept


def _write_missing_config(write: Callable[[Path], None], made: Sequence[Any]) -> None:
    """Write the settings into the folder of a run that has not written them when it began, as one that only predicts,
    if this is its main process. What is no run, as an export, whose folder is written whole or not at all, has none."""
    if not any(hasattr(each, "do_predict") for each in made):
        return
    of_run = {name: value for each in made for name, value in vars(each).items()}
    folder = Path(str(of_run.get("output_dir") or ""))
    is_main = all(getattr(each, "process_index", 0) == 0 for each in made)
    path = records(folder) / CONFIG_FILE
    if of_run.get("output_dir") and is_main and not of_run.get("dry_run") and folder.is_dir():
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            write(path)
