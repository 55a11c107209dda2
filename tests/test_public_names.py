"""Tests that the docs use public names only: those in `__all__` of the package and its modules."""

import ast
import pkgutil
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import hf_layerfusion

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    path for pattern in ("*.md", "docs/**/*.md", "model_cards/*.md") for path in ROOT.glob(pattern)
)
BLOCK = re.compile(r"^ *```python\n(?P<code>.*?)^ *```", re.MULTILINE | re.DOTALL)


def used_names(code: str) -> Iterator[tuple[str, str]]:
    """Pairs of a module of the package and a name that a piece of code takes from it."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == hf_layerfusion.__name__:
            yield from ((str(node.module), alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            # `import hf_layerfusion.hub` names a module, whose names the code can reach in any way.
            yield from (
                tuple(alias.name.rsplit(".", 1))
                for alias in node.names
                if alias.name.startswith(f"{hf_layerfusion.__name__}.")
            )
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == hf_layerfusion.__name__:
            yield hf_layerfusion.__name__, node.attr


def public_modules() -> Iterator[ModuleType]:
    """The package and each of its modules that declares `__all__`."""
    yield hf_layerfusion
    folder = Path(hf_layerfusion.__file__).parent
    for info in pkgutil.walk_packages([str(folder)], f"{hf_layerfusion.__name__}."):
        source = folder.parent.joinpath(*info.name.split("."))
        file = source / "__init__.py" if info.ispkg else source.with_suffix(".py")
        if re.search("^__all__ = ", file.read_text(encoding="utf-8"), re.MULTILINE):
            yield import_module(info.name)


def examples_in_docstrings() -> Iterator[str]:
    for path in sorted(Path(hf_layerfusion.__file__).parent.rglob("*.py")):
        lines = path.read_text(encoding="utf-8").splitlines()
        code = [line.strip()[4:] for line in lines if line.strip().startswith(">>> ")]
        yield "\n".join(line for line in code if line.startswith(("from ", "import ")))


def test_code_of_the_docs_uses_public_names() -> None:
    codes = {page.name: BLOCK.findall(page.read_text(encoding="utf-8")) for page in PAGES}
    codes["docstrings"] = list(examples_in_docstrings())
    used = {(page, *names) for page, blocks in codes.items() for code in blocks for names in used_names(code)}
    assert len(used) > 20
    private = [use for use in used if use[2] not in getattr(import_module(use[1]), "__all__", ())]
    assert not private, "export these in __all__ of their module, or show another way"


def test_public_names_exist_and_are_documented() -> None:
    modules = list(public_modules())
    assert len(modules) > 5
    for module in modules:
        assert len(module.__all__) == len(set(module.__all__))
        for name in module.__all__:
            member = getattr(module, name)
            assert not callable(member) or (member.__doc__ or "").strip(), f"{module.__name__}.{name}"


def test_experimental_parts_say_so() -> None:
    section = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("Experimental parts")[1]
    pages = re.findall(r"\]\((docs/\w+\.md)\)", section.split("\n\n")[1])
    assert pages
    for page in pages:
        assert "experimental" in (ROOT / page).read_text(encoding="utf-8"), page


def test_the_check_of_names_sees_every_way_to_use_one() -> None:
    code = (
        "import hf_layerfusion.hub.card\nfrom hf_layerfusion.data import tweets\nhf_layerfusion.relabel(1)\n"
    )
    assert set(used_names(code)) == {
        ("hf_layerfusion.hub", "card"),
        ("hf_layerfusion.data", "tweets"),
        ("hf_layerfusion", "relabel"),
    }
