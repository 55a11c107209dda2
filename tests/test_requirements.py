"""That requirements/*.txt pin what setup.cfg allows, lowest.txt the lowest of it, and README's table the same."""

import ast
import re
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = ("demo", "search", "onnx")
"""Those that the tests use."""

ROW = re.compile(r"^\| (?P<package>\S+) \| (?P<lowest>\S+) \| (?P<newest>\S+) \|$", re.MULTILINE)


def requirements(text: str) -> Iterator[tuple[str, SpecifierSet]]:
    for line in text.splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            yield canonicalize_name(requirement.name), requirement.specifier


def allowed() -> dict[str, SpecifierSet]:
    """What setup.cfg allows of each package that it requires, itself or in an extra."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    parts = [setup["options"]["install_requires"], *map(setup["options.extras_require"].get, EXTRAS)]
    found: dict[str, SpecifierSet] = {}
    for name, specifiers in requirements("\n".join(parts)):
        found[name] = found.get(name, SpecifierSet()) & specifiers
    return found


def lowest(specifiers: SpecifierSet) -> Version:
    return max(Version(each.version) for each in specifiers if each.operator in (">=", "=="))


def pinned(file: str) -> dict[str, set[Version]]:
    """The versions that a file of requirements/ pins each package to, by the Pythons that it is for."""
    pins: dict[str, set[Version]] = {}
    for name, specifiers in requirements((ROOT / "requirements" / file).read_text(encoding="utf-8")):
        (exact,) = specifiers
        assert exact.operator == "==", f"{name}{exact}"
        pins.setdefault(name, set()).add(Version(exact.version))
    return pins


def test_lowest_pins_the_lowest_versions_that_setup_cfg_allows() -> None:
    pins = pinned("lowest.txt")
    floors = {name: {lowest(specifiers)} for name, specifiers in allowed().items() if name != "torch"}
    assert {name: pins.get(name) for name in floors} == floors


@pytest.mark.parametrize("file", ["lowest.txt", "dev.txt"])
def test_pins_are_versions_that_setup_cfg_allows(file: str) -> None:
    pins = pinned(file)
    for name, specifiers in allowed().items():
        assert all(version in specifiers for version in pins[name]), (name, specifiers, pins[name])


def test_the_table_of_tested_versions_is_that_of_the_pins() -> None:
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Versions that were tested")[1]
    rows = {canonicalize_name(row["package"]): row for row in ROW.finditer(section.split("\n## ")[0])}
    packages = rows.keys() & allowed().keys()
    assert {"torch", "transformers", "datasets", "accelerate", "peft"} <= packages
    for name in packages:
        for file, column in (("lowest.txt", "lowest"), ("dev.txt", "newest")):
            assert Version(rows[name][column]) in pinned(file)[name], (name, column)


def imported() -> set[str]:
    """The top packages that src/ imports, but for the standard library and its own."""
    found = set()
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
    return found - {*sys.stdlib_module_names, "hf_layerfusion"}


def test_what_is_imported_is_required() -> None:
    """Not what others happen to require: they may cease to."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    declared = {
        canonicalize_name(name) for name, _ in requirements(setup["options.extras_require"]["surgery"])
    }
    declared |= allowed().keys()
    distributions = packages_distributions()
    missing = {
        package
        for package in imported()
        if not {canonicalize_name(name) for name in distributions.get(package, [package])} & declared
    }
    assert not missing
