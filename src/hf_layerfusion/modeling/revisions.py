# Copyright 2026 The hf_layerfusion team
"""Resolution of a repository's branch to one commit, so that all files are loaded from the same version."""

from typing import Any

try:
    from transformers.utils.hub import resolve_revision
except ImportError:

    def resolve_revision(path_or_repo_id: Any, revision: str | None = None, **options: Any) -> str | None:
        """Return the revision unchanged, because transformers before 5.23 cannot resolve it."""
        return revision


__all__ = ["REVISION_OPTIONS", "resolve_revision"]

REVISION_OPTIONS = ("token", "local_files_only", "cache_dir")
"""Options of `from_pretrained` that `resolve_revision` accepts."""
