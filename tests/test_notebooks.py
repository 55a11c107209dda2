"""The notebooks of docs/notebooks run, and are saved with outputs that name no machine (`make docs-examples`)."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.test_docs import DOCS, name

NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
MINUTES = 20  # a cell, on a machine with other work; two idle cores need less than ten for a notebook


def cells(notebook: Path, kind: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in found if cell["cell_type"] == kind]


def test_there_are_notebooks_and_the_tutorials_show_each() -> None:
    page = (DOCS / "tutorials.md").read_text(encoding="utf-8")
    assert len(NOTEBOOKS) >= 5
    for notebook in NOTEBOOKS:
        assert f"(notebooks/{notebook.name})" in page
        assert f"\nnotebooks/{notebook.stem}\n" in page


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name)
def test_notebooks_are_saved_as_they_ran(notebook: Path) -> None:
    text = notebook.read_text(encoding="utf-8")
    assert not re.findall(r"/(?:home|root|tmp|work|usr|opt|Users)/[^\s\"'\\]+", text)
    code = cells(notebook, "code")
    assert all(cell["execution_count"] for cell in code)
    kinds = [output["output_type"] for cell in code for output in cell["outputs"]]
    assert "error" not in kinds
    assert "image/png" in code[-1]["outputs"][-1]["data"], "a notebook ends in a plot"
    links = re.findall(
        r"\]\((?!\w+:)([^)#]+)", "\n".join("".join(c["source"]) for c in cells(notebook, "markdown"))
    )
    assert links
    assert all((notebook.parent / link).exists() for link in links)


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name)
def test_notebooks_run(notebook: Path) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    content = nbformat.read(notebook, as_version=4)
    place = {"metadata": {"path": str(notebook.parent)}}
    nbclient.NotebookClient(content, timeout=60 * MINUTES, resources=place).execute()
