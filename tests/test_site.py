"""Tests of what the pages of the site name, and of the parts that are made when it is built."""

import json
import re
from pathlib import Path

import pytest

import hf_layerfusion
from hf_layerfusion.__main__ import COMMANDS
from hf_layerfusion.cli.options import table_options
from tests.test_docs import DOCS
from tests.test_public_names import public_modules

ROOT = Path(__file__).resolve().parent.parent

PACKAGE = ROOT / "src" / "hf_layerfusion"
CODE = "\n".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
TABLES = {path.stem for path in (ROOT / "reproduction").glob("*tables/*.json")}


def rows(page: str) -> list[list[str]]:
    """The rows of a page's tables without their heads: those with five cells."""
    lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
    found = [[cell.strip() for cell in line[1:].split("|")[:-1]] for line in lines if line.startswith("| ")]
    return [row for row in found if len(row) == 5 and row[0] not in ("section", "---")]


def options_of_all_commands() -> set[str]:
    recipes = json.loads((PACKAGE / "cli" / "option_table.json").read_text(encoding="utf-8"))
    return {option.name for command in recipes["commands"] for option in table_options(command)} | set(
        recipes["launch"]
    )


def test_the_paper_index_names_options_classes_files_and_tables_that_exist() -> None:
    found, options = rows("paper-index.md"), options_of_all_commands()
    assert len(found) > 50
    for section, option, code, file, results in found:
        assert set(re.findall(r"--(\w+)", option)) <= options, section
        for command in re.findall(r"command `([\w-]+)`|commands `([\w-]+)`", option):
            assert set(command) & COMMANDS.keys(), section
        for path in re.findall(r"`([\w/.]+)`", file):
            assert (PACKAGE / path).exists(), (section, path)
        for name in re.findall(r"`(?:~[\w.]+\.)?(\w+)`", code):
            assert re.search(rf"^(?:class|def) {name}\b", CODE, re.M), (section, name)
        for declared in re.findall(r"declared: (.+)", results):
            assert set(re.findall(r"`([\w-]+)`", declared)) <= TABLES, section


def test_every_public_name_has_a_page_in_the_api_reference() -> None:
    listed = set(re.findall(r"^   ~?(hf_layerfusion[\w.]*)$", (DOCS / "reference/api.md").read_text(), re.M))
    for module in public_modules():
        for name in module.__all__:
            shown = {f"{module.__name__}.{name}", module.__name__} - {"hf_layerfusion"}
            member = getattr(module, name)
            in_package = name in hf_layerfusion.__all__
            if (callable(member) and not in_package) or module is hf_layerfusion:
                assert shown & listed, f"add {module.__name__}.{name} to docs/reference/api.md"


@pytest.mark.parametrize("page", ["contributing", "changelog"])
def test_pages_that_show_a_file_of_the_repository_say_so(page: str) -> None:
    assert f"(../{page.upper()}.md)" in (DOCS / f"{page}.md").read_text(encoding="utf-8")
