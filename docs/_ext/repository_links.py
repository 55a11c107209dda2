"""Links of pages: to files outside the site, which are in the repository, and of the names of public objects.

Pages stay plain Markdown this way, which reads well on GitHub too.
"""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

LINK = re.compile(r"(?P<before>\]\()(?P<path>(?!\w+:|#|/)[^)#\s]+)(?P<anchor>#[^)\s]*)?(?=\))")
FENCE = re.compile(r"^( *)(```+|~~~+).*?^\1\2 *$", re.M | re.S)
CODE = re.compile(r"(?<![`\[\w])`(?P<name>[A-Za-z_]\w*)`(?![`\w\]])")
API = re.compile(r"^   ~?(hf_layerfusion[\w.]*)$", re.M)
PAGES = (".md", ".ipynb")


def outside_fences(text: str, change: Callable[[str], str]) -> str:
    """Return a page's text with everything but its code blocks changed."""
    parts, end = [], 0
    for fence in FENCE.finditer(text):
        parts += [change(text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, change(text[end:])])


@cache
def objects(api: Path) -> dict[str, str]:
    """Return the full names of the objects that the API reference lists, by the names that pages use for them."""
    listed = API.findall(api.read_text(encoding="utf-8"))
    short = {name.rpartition(".")[2]: name for name in listed}
    # A function's name in lower case may be that of an option or command, unless it is the package's own.
    return {
        name: full for name, full in short.items() if name[0].isupper() or full == f"hf_layerfusion.{name}"
    }


def link_objects(text: str, names: dict[str, str]) -> str:
    """Link names of objects in code to the API reference, except in headings."""

    def role(match: re.Match[str]) -> str:
        full = names.get(match["name"])
        return f"{{py:obj}}`{match['name']} <{full}>`" if full else match[0]

    lines = text.split("\n")
    return "\n".join(line if line.startswith("#") else CODE.sub(role, line) for line in lines)


def link_pages(app: Sphinx, docname: str, source: list[str]) -> None:
    """Show the file that a page stands for, and link to the repository what is no page of the site."""
    docs, root = Path(app.srcdir), Path(app.srcdir).parent
    page = Path(app.env.doc2path(docname))
    if page.suffix != ".md":
        return
    shown = app.config.shown_files.get(docname)
    if shown:
        page = root / shown
        source[0] = page.read_text(encoding="utf-8")
        app.env.note_dependency(str(page))
    shown_pages = {root / file: name for name, file in app.config.shown_files.items()}

    def replaced(link: re.Match[str]) -> str:
        target, anchor = (page.parent / link["path"]).resolve(), link["anchor"] or ""
        if target in shown_pages:
            return f"{link['before']}/{shown_pages[target]}.md{anchor}"
        if not target.exists() or target.suffix == ".png":
            return link[0]
        if target.is_relative_to(docs) and target.suffix in PAGES and "results" not in target.parts:
            return f"{link['before']}/{target.relative_to(docs)}{anchor}"
        kind = "tree" if target.is_dir() else "blob"
        return f"{link['before']}{app.config.repository}/{kind}/main/{target.relative_to(root)}{anchor}"

    names = objects(docs / "reference" / "api.md")
    source[0] = outside_fences(source[0], lambda text: link_objects(LINK.sub(replaced, text), names))


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the extension."""
    app.add_config_value("repository", "", "env")
    app.add_config_value("shown_files", {}, "env")
    app.connect("source-read", link_pages)
    return {"parallel_read_safe": True}
