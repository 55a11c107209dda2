# Copyright 2026 The hf_layerfusion team
"""One commit for all files that are loaded from a repository, though its branch may move between two of them."""

from typing import Any

try:
    from transformers.utils.hub import resolve_revision
except ImportError:

    def resolve_revision(path_or_repo_id: Any, revision: str | None = None, **options: Any) -> str | None:
        """The revision as it is: transformers before 5.23 resolves none."""
        return revision


__all__ = ["REVISION_OPTIONS", "resolve_revision"]

REVISION_OPTIONS = ("token", "local_files_only", "cache_dir")
"""Options of `from_pretrained` that `resolve_revision` takes."""
