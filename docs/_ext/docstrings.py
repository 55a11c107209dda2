"""Docstrings as the site shows them: single backticks are code, and link where they name a public object."""

import re
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

import hf_layerfusion

CODE = re.compile(r"(?<![`:\w])`(?P<code>[^`]+)`(?!`)(?P<letter>\w)?")


def _as_restructured_text(match: re.Match[str]) -> str:
    code = match["code"]
    name = code.removesuffix("()")
    is_public = name in hf_layerfusion.__all__
    text = f":py:obj:`{code} <hf_layerfusion.{name}>`" if is_public else f"``{code}``"
    return f"{text}\\ {match['letter']}" if match["letter"] else text


def convert(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Convert a docstring's backticks before napoleon reads it."""
    parts: list[list[str]] = [[]]
    for line in lines:  # lines of examples stay as they are
        if line.lstrip().startswith((">>> ", "... ")):
            parts += [[line], []]
        else:
            parts[-1].append(line)
    converted = [
        part if part[:1] and part[0].lstrip().startswith((">>> ", "... ")) else
        CODE.sub(_as_restructured_text, "\n".join(part)).split("\n") if part else []
        for part in parts
    ]  # fmt: skip
    lines[:] = [line for part in converted for line in part]


@cache
def own_classes() -> frozenset[str]:
    """Return the names of the package's classes, which docstrings use without their modules."""
    files = Path(hf_layerfusion.__file__).parent.rglob("*.py")
    return frozenset(
        name for file in files for name in re.findall(r"^class (\w+)", file.read_text(encoding="utf-8"), re.M)
    )


@cache
def exists(target: str) -> bool:
    """Return whether a dotted name is that of a Python object."""
    parts = target.split(".")
    for place in range(len(parts), 0, -1):
        try:
            found: Any = import_module(".".join(parts[:place]))
        except ImportError:
            continue
        for part in parts[place:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return target in dir(import_module("builtins"))


def accept_existing(app: Sphinx, env: Any, node: Any, contnode: Any) -> nodes.Node | None:
    """Leave a reference to an object that has no page as text; one to an object that does not exist is a fault."""
    if node.get("refdomain") != "py":
        return None
    target = node.get("reftarget", "").partition("[")[0]  # a type with arguments is split at its commas
    module = node.get("py:module")
    names = [target, *([f"{module}.{target}"] if module else []), f"typing.{target}"]
    return contnode if target in own_classes() or any(exists(name) for name in names) else None


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the extension."""
    app.connect("autodoc-process-docstring", convert, priority=400)
    app.connect("missing-reference", accept_existing, priority=900)
    return {"parallel_read_safe": True}
