"""What README, docs and docstrings show does run, and what they point to does exist.

The python blocks of a page run one after the other in one namespace, in a folder where `outputs/demo` is a model,
`bert-base-uncased` an encoder, `glove.6B.300d.txt` word vectors (all tiny) and `examples` the project's. A block that
cannot run so stands below a line `<!-- not run: REASON -->`.
"""

import doctest
import re
import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from hf_layerfusion import BertForGRUFusionClassification
from tests.tiny_words import write_glove

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"
DOCS = ROOT / "docs"
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md", "model_cards/**/*.md")
    for path in ROOT.glob(pattern)
)
MODULES_WITH_EXAMPLES = [
    path for path in sorted(SOURCE.rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")
]

FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^(?P=indent)```", re.M | re.S)
NOT_RUN = re.compile(r"<!-- not run: .+ -->\s*$")
LINK = re.compile(r"\[[^\]]*\]\((?!\w+:)(?P<path>[^)#\s]*)(?:#(?P<anchor>[^)\s]*))?\)")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(text: str, language: str) -> list[tuple[int, str]]:
    """Line number and code of each block of `language`, but for those that are said not to run."""
    return [
        (text[: match.start("code")].count("\n") + 1, match["code"])
        for match in FENCE.finditer(text)
        if match["language"] == language and not NOT_RUN.search(text[: match.start()])
    ]


def anchors(text: str) -> set[str]:
    """What `#…` may follow a page's name: its headings, lower case, signs gone, spaces as hyphens."""
    headings = re.findall(r"^#+ +(.+)$", FENCE.sub("", text), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


PAGES_WITH_CODE = [page for page in PAGES if blocks(page.read_text(encoding="utf-8"), "python")]


@pytest.fixture(scope="module")
def files_of_readers(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: str) -> Path:
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(tiny_encoder_dir, folder / "bert-base-uncased")
    (folder / "examples").symlink_to(ROOT / "examples")
    write_glove(folder / "glove.6B.300d.txt")
    model = BertForGRUFusionClassification.from_pretrained(
        tiny_encoder_dir, num_groups=2, id2label={0: "negative", 1: "positive"}
    )
    model.save_pretrained(folder / "outputs" / "demo")
    AutoTokenizer.from_pretrained(tiny_encoder_dir).save_pretrained(folder / "outputs" / "demo")
    return folder


@pytest.fixture
def reader_folder(files_of_readers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = shutil.copytree(files_of_readers, tmp_path / "reader", symlinks=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("page", PAGES_WITH_CODE, ids=name)
def test_python_blocks_run(page: Path, reader_folder: Path) -> None:
    namespace: dict[str, object] = {"__name__": "__main__"}
    for line, code in blocks(page.read_text(encoding="utf-8"), "python"):
        # Blank lines in front make a traceback show the page's own line numbers.
        exec(compile("\n" * (line - 1) + code, str(page), "exec"), namespace)


@pytest.mark.parametrize("path", MODULES_WITH_EXAMPLES, ids=name)
def test_examples_in_docstrings_give_what_they_show(path: Path, reader_folder: Path) -> None:
    module = import_module(".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"))
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.attempted
    assert not result.failed


def dead_links(page: Path) -> Iterator[str]:
    text = page.read_text(encoding="utf-8")
    for link in LINK.finditer(FENCE.sub("", text)):
        target = page.parent / link["path"] if link["path"] else page
        if not target.exists():
            yield f"{name(page)} links to {link['path']}, which does not exist"
        elif (
            link["anchor"]
            and target.suffix == ".md"
            and link["anchor"] not in anchors(target.read_text(encoding="utf-8"))
        ):
            yield f"{name(page)}: {link[0]}: no such heading"


def test_links_lead_somewhere() -> None:
    assert not [fault for page in PAGES for fault in dead_links(page)]


def test_make_targets_and_files_of_commands_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    missing = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        shown = [*re.findall(r"`(make [^`\n]+)`", text), *(code for _, code in blocks(text, "bash"))]
        for command in shown:
            named = set(re.findall(r"\bmake ([a-z][\w-]*)", command)) - targets
            scripts = re.findall(r"\b(?:examples|benchmarks|tests)/[\w/]+\.\w+", command)
            named |= {script for script in scripts if not (ROOT / script).exists()}
            missing |= {f"{name(page)} shows {each}, which does not exist" for each in named}
    assert not missing


def test_the_checks_above_see_faults() -> None:
    page = (
        "# A  title!\n\n```python\n1 / 0\n```\n\n<!-- not run: too long -->\n```python\nx\n```\n[a](b.md#c)\n"
    )
    assert blocks(page, "python") == [(4, "1 / 0\n")]
    assert anchors(page) == {"a--title"}
    assert [(link["path"], link["anchor"]) for link in LINK.finditer(page)] == [("b.md", "c")]
