"""Style rules of docstrings: first lines that stand alone, and a docstring for every public definition."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "hf_layerfusion"

# Parts of the package, and folders beside it, that follow the rules. Add one as soon as it does.
CHECKED = (
    PACKAGE / "__init__.py",
    PACKAGE / "__main__.py",
    PACKAGE / "data",
    PACKAGE / "ensembling",
    PACKAGE / "errors.py",
    PACKAGE / "evaluation",
    PACKAGE / "export",
    PACKAGE / "gradient_surgery",
    PACKAGE / "hub",
    PACKAGE / "metric_registry.py",
    PACKAGE / "modeling",
    PACKAGE / "probing",
    PACKAGE / "regularizers",
    PACKAGE / "storage.py",
    PACKAGE / "recipes",
    ROOT / "benchmarks",
    PACKAGE / "training",
    ROOT / "reproduction",
    ROOT / "examples",
)
CEILING = 0.02
"""Largest share of first lines that may open with a question word or "As", in each part."""

OPENERS = re.compile(r"(What|Which|How|Whether|As|Of)\b")

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def definitions(node: ast.AST, is_public: bool = True) -> Iterator[tuple[Definition, bool]]:
    """Yield the definitions in a module or class, at any depth, and whether each is public."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Definition):
            public = is_public and not child.name.startswith("_")
            yield child, public
            # Functions inside functions are nobody else's.
            yield from definitions(child, public and isinstance(child, ast.ClassDef))
        elif isinstance(child, ast.If | ast.Try | ast.With | ast.ExceptHandler):
            yield from definitions(child, is_public)


def sources(part: Path) -> list[Path]:
    return [part] if part.is_file() else sorted(part.rglob("*.py"))


def documented(tree: ast.Module) -> list[ast.Module | Definition]:
    """Return the module and its definitions that have a docstring."""
    nodes = [tree, *(node for node, _ in definitions(tree))]
    return [node for node in nodes if ast.get_docstring(node)]


@pytest.mark.parametrize("part", CHECKED, ids=lambda part: part.name)
def test_first_lines_stand_alone(part: Path) -> None:
    first_lines = {
        f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}": (ast.get_docstring(node) or "").split("\n")[
            0
        ]
        for path in sources(part)
        for node in documented(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert first_lines
    openers = {where: line for where, line in first_lines.items() if OPENERS.match(line)}
    assert len(openers) <= CEILING * len(first_lines), openers


@pytest.mark.parametrize("part", CHECKED, ids=lambda part: part.name)
def test_public_definitions_have_docstrings(part: Path) -> None:
    missing = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}"
        for path in sources(part)
        for node, is_public in definitions(ast.parse(path.read_text(encoding="utf-8")))
        if is_public and not ast.get_docstring(node)
    ]
    assert not missing


def test_the_rules_find_what_breaks_them() -> None:
    tree = ast.parse('def told():\n    """What is told."""\n\n\nclass Teller:\n    def tell(self): ...\n')
    assert [OPENERS.match(ast.get_docstring(node) or "") is not None for node in documented(tree)] == [True]
    assert [node.name for node, is_public in definitions(tree) if is_public] == ["told", "Teller", "tell"]
