"""The code that is saved with a model: one file, with all modules of this folder that the model's module imports."""

import ast
import functools
import json
import os
from pathlib import Path
from typing import Any

_PACKAGE = __name__.rpartition(".")[0]


def save_code(model: Any, folder: str | os.PathLike[str]) -> None:
    """Put one file in place of the modules that transformers has copied into the folder of a saved model.

    Nothing is done for a model whose code is no module of the installed package: the code of a checkpoint, which is one
    file already, or a user's own class.

    Args:
        model: Model of this package, saved with its configuration.
        folder: Folder that it was saved to.
    """
    package, _, module = type(model).__module__.rpartition(".")
    config = Path(folder) / "config.json"
    if not _PACKAGE.startswith("hf_layerfusion") or package != _PACKAGE or not config.is_file():
        return
    code, names = bundled(module)
    target = Path(folder) / f"{module}.py"
    if not target.is_file():  # no code was asked for
        return
    replace_text(target, code)
    kept: tuple[str, ...] = ()
    tokenizer = Path(folder) / "tokenizer_config.json"
    if tokenizer.is_file() and "tokenization_words." in tokenizer.read_text(encoding="utf-8"):
        kept = bundled("tokenization_words")[1]  # saved before, with modules of its own
    for name in names:
        copy = Path(folder) / f"{name}.py"
        if name != module and name not in kept and copy.is_file():
            copy.unlink()
    content = json.loads(config.read_text(encoding="utf-8"))
    mapped = _with_module(content, module, frozenset(names))
    if mapped != content:
        replace_text(config, json.dumps(mapped, indent=2, sort_keys=True) + "\n")


@functools.cache
def bundled(module: str) -> tuple[str, tuple[str, ...]]:
    """Return the code of a module of this folder below that of the siblings that it imports, and the names of all.

    Imports of siblings are left out, as their names are in the same file. So no two modules may define one name, which
    a test checks.
    """
    order: list[str] = []
    _visit(module, order, [])
    head = (
        "# Made from these modules of the Python package hf_layerfusion, in this order:\n"
        + "".join(f"#   {name}\n" for name in order)
        + "# ruff: noqa\n"
    )
    parts = [f"# ----- {name} -----\n\n{_without_siblings(name)}" for name in order]
    return head + "\n\n" + "\n\n".join(parts), tuple(order)


def _source(name: str) -> str:
    return Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")


def _siblings(tree: ast.AST) -> list[ast.ImportFrom]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 1]


def _visit(name: str, order: list[str], path: list[str]) -> None:
    """Append a module to `order`, after what it imports while it is imported itself."""
    if name in order:
        return
    if name in path:
        raise ImportError(f"modules must not import each other, found {' -> '.join([*path, name])}")
    tree = ast.parse(_source(name))
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            _visit(str(node.module), order, [*path, name])
    order.append(name)


def _without_siblings(name: str) -> str:
    """Return the code of a module with `pass` in place of its imports of siblings."""
    source = _source(name)
    lines = source.splitlines()
    for node in _siblings(ast.parse(source)):
        first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
        lines[first : last + 1] = [f"{' ' * node.col_offset}pass"] + [""] * (last - first)
    return "\n".join(line for line in lines if line != "pass") + "\n"


def _with_module(content: Any, module: str, names: frozenset[str]) -> Any:
    """Return a configuration that looks for classes of bundled modules in the module of the bundle."""
    if isinstance(content, dict):
        return {key: _with_module(value, module, names) for key, value in content.items()}
    if isinstance(content, list):
        return [_with_module(value, module, names) for value in content]
    if isinstance(content, str):
        place, dot, name = content.rpartition(".")
        return f"{module}.{name}" if dot and place in names else content
    return content


def replace_text(path: Path, text: str) -> None:
    """Write a text file, which appears at once."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
