"""Tests of the files at the top of the repository: versions agree, and what they call or name exists."""

import json
import os
import re
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from packaging.version import Version

import hf_layerfusion
from hf_layerfusion.__main__ import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
YAML_FILES = sorted(
    path
    for pattern in (".github/**/*.yml", "*.yaml", ".*.yaml", "CITATION.cff")
    for path in ROOT.glob(pattern)
)
SECTION = re.compile(r"^## \[(?P<version>[^\]]+)\](?: - (?P<date>\d{4}-\d\d-\d\d))?$", re.MULTILINE)
KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def load(name: str) -> Any:
    return yaml.safe_load(text(name))


def setup() -> ConfigParser:
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def make_targets() -> set[str]:
    return set(re.findall(r"^([\w-]+):", text("Makefile"), re.MULTILINE))


def run_lines(value: Any) -> Iterator[str]:
    """The commands of a workflow: every `run` at any depth."""
    if isinstance(value, dict):
        for key, part in value.items():
            if key == "run" and isinstance(part, str):
                yield from part.splitlines()
            else:
                yield from run_lines(part)
    elif isinstance(value, list):
        for part in value:
            yield from run_lines(part)


def assert_command_exists(command: str) -> None:
    """Check that the make targets, scripts and files that a command names are there."""
    # `make .venv/.installed` names a file that a rule of the Makefile makes.
    assert set(re.findall(r"\bmake ([a-z][\w-]*)", command)) <= make_targets(), command
    for script in re.findall(r"(?<![\w/])(?:\.ci|tests|examples|benchmarks)/[\w./-]+", command):
        assert (ROOT / script).exists(), command
        if command.split()[0] == script:
            assert os.access(ROOT / script, os.X_OK), command


def classified_pythons() -> list[str]:
    classifiers = setup()["metadata"]["classifiers"]
    return re.findall(r"^Programming Language :: Python :: (3\.\d+)$", classifiers, re.MULTILINE)


def test_the_version_is_that_of_the_changelog_and_the_citation() -> None:
    released = [match for match in SECTION.finditer(text("CHANGELOG.md")) if match["version"] != "Unreleased"]
    citation = load("CITATION.cff")
    assert hf_layerfusion.__version__ == released[0]["version"] == citation["version"]
    assert str(citation["date-released"]) == released[0]["date"]


def test_the_changelog_keeps_its_format() -> None:
    changelog = text("CHANGELOG.md")
    assert len(SECTION.findall(changelog)) == len(re.findall("^## ", changelog, re.MULTILINE))
    sections = [match for match in SECTION.finditer(changelog) if match["version"] != "Unreleased"]
    assert all(match["date"] for match in sections)
    keys = [(match["date"], Version(match["version"])) for match in sections]
    assert keys == sorted(keys, reverse=True)
    for section in re.split("^## ", changelog, flags=re.MULTILINE)[1:]:
        kinds = re.findall("^### (.+)$", section, re.MULTILINE)
        assert set(kinds) <= KINDS
        assert len(kinds) == len(set(kinds)), section.splitlines()[0]


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_yaml_files_call_what_exists(path: Path) -> None:
    content = load(str(path))
    assert content
    for command in run_lines(content):
        assert_command_exists(command)
    for pins in re.findall(r"cache-dependency-path: (\S+)", path.read_text(encoding="utf-8")):
        assert (ROOT / pins).is_file()


def test_ci_runs_its_script_on_every_python_that_the_package_names() -> None:
    job = load(".github/workflows/ci.yml")["jobs"]["ci"]
    assert job["strategy"]["matrix"]["python-version"] == classified_pythons()
    assert ".ci/run" in run_lines(job)
    allowed = SpecifierSet(setup()["options"]["python_requires"])
    assert all(python in allowed for python in classified_pythons())
    for command in text(".ci/run").splitlines():
        assert_command_exists(command)


def test_the_release_checks_the_wheel_before_it_publishes() -> None:
    jobs = load(".github/workflows/release.yml")["jobs"]
    assert jobs["publish"]["needs"] == "build"
    assert "make test-wheel" in run_lines(jobs["build"])


def test_hooks_before_a_commit_run_pinned_tools() -> None:
    pins = set(re.findall(r"^([\w-]+)==", text("requirements/dev.txt"), re.MULTILINE))
    (repository,) = load(".pre-commit-config.yaml")["repos"]
    tools = {Path(hook["entry"].split()[0]) for hook in repository["hooks"]}
    assert {tool.name for tool in tools} == {"ruff", "mypy"} <= pins
    assert {tool.parent for tool in tools} == {Path(".venv/bin")}


def test_the_container_runs_the_demo_on_a_python_that_is_supported() -> None:
    dockerfile = text(".devcontainer/Dockerfile")
    (base,) = re.findall(r"^FROM python:(3\.\d+)-slim$", dockerfile, re.MULTILINE)
    assert base in classified_pythons()
    (command,) = re.findall(r"^CMD (.+)$", dockerfile, re.MULTILINE)
    assert json.loads(command) == ["make", "demo"]
    build = json.loads(text(".devcontainer/devcontainer.json"))["build"]
    assert (ROOT / ".devcontainer" / build["dockerfile"]).is_file()
    assert (ROOT / ".devcontainer" / build["context"] / "Makefile").is_file()


def test_reports_of_bugs_ask_for_what_a_command_prints() -> None:
    commands = re.findall(r"`hf-layerfusion (\S+)`", text(".github/ISSUE_TEMPLATE/bug_report.yml"))
    assert commands
    assert set(commands) <= COMMANDS.keys()


@pytest.mark.parametrize("page", ["AGENTS.md", "CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md"])
def test_pages_name_files_and_tables_that_exist(page: str) -> None:
    package = ROOT / "src" / "hf_layerfusion"
    code = "\n".join(path.read_text(encoding="utf-8") for path in package.rglob("*.py"))
    for name in re.findall(r"`([^`\n]+)`", text(page)):
        if re.fullmatch(r"\.?[\w./-]*(/|\.py|\.md|\.txt|\.cfg|\.yml)", name) and "NAME" not in name:
            # Also by the names that a page about the package uses inside of it.
            assert (ROOT / name).exists() or (package / name).exists(), name
        elif re.fullmatch("[A-Z][A-Z_]+[A-Z]", name):
            assert name in ("CHANGELOG",) or re.search(rf"^{name}\b", code, re.MULTILINE), name
        elif re.fullmatch("[A-Z][a-z]+[A-Z][A-Za-z]+", name):
            assert re.search(rf"^class {name}\b", code, re.MULTILINE) or name == "FutureWarning", name


def test_addresses_of_the_project_are_one_repository() -> None:
    urls = [line.split(" = ")[1] for line in setup()["metadata"]["project_urls"].strip().splitlines()]
    assert all(url.startswith(urls[0]) for url in urls)
    assert urls[0].startswith("https://")
