"""Configuration of the documentation site: `make docs` builds it, offline and with warnings as errors."""

import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS / "_ext"), str(DOCS.parent / "src")]

import hf_layerfusion  # noqa: E402  (found on the path above)

project = "hf_layerfusion"
author = "The hf_layerfusion team"
copyright = f"2026, {author}"  # noqa: A001 (Sphinx's name)
version = release = hf_layerfusion.__version__
repository = "https://github.com/hf-layerfusion/hf_layerfusion"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "docstrings",  # the extensions of docs/_ext
    "generated_pages",
    "repository_links",
]
shown_files = {"contributing": "CONTRIBUTING.md", "changelog": "CHANGELOG.md"}
templates_path = ["_templates"]
exclude_patterns = ["_build", "results", "**.ipynb_checkpoints"]
nitpicky = True
smartquotes = False

# Pages: Markdown, with the anchors that GitHub gives to headings. Notebooks are shown as they were saved.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "deflist"]
nb_execution_mode = "off"
nb_merge_streams = True
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_exclude = ".linenos, .gp, .go"

# The API: from docstrings.
autosummary_generate = True
autosummary_imported_members = True
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"hf_layerfusion {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "source_repository": repository,
    "source_branch": "main",
    "source_directory": "docs/",
    "top_of_page_buttons": ["view"],
}
html_show_sphinx = False
