"""Publishing on the Hub: selection of the files to push, and errors in one line that say what to do."""

import glob
import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path

from huggingface_hub import CommitInfo, HfApi
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from hf_layerfusion.errors import UserError
from hf_layerfusion.hub.markdown import single_line
from hf_layerfusion.hub.portable import portable
from hf_layerfusion.storage import write_text

__all__ = ["NEVER_PUSHED", "PushError", "files_to_push", "publish"]

logger = logging.getLogger(__name__)

CARD = "README.md"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt")
NEVER_PUSHED = (
    *PICKLES,
    # Checkpoints, and files that the Trainer's own pushes leave out.
    "checkpoint-*", "_*",
    # Hidden files, which may be incomplete or hold secrets.
    ".*",
    # Files that contain texts of the data.
    "predictions*", "logits*.csv", "mistakes",
    # The trials of a search: their checkpoints, and the study with every setting of the run.
    "search",
    # The settings of a run, which name files of this machine.
    "run.yaml",
)  # fmt: skip
"""Patterns of files and folders of a run that are never pushed; case is ignored, and they match at any depth."""

_XET_STATUS = re.compile(
    r"HTTP status \w+ error \((\d{3})"
)  # hf_xet's errors carry the status in their text only

_REASONS = {
    401: "the token is missing or unknown to the Hub; log in with `hf auth login` or set HF_TOKEN",
    403: "the token has no write access; use another token, or name another repository",
    404: "there is no such repository or branch, or the token has no access; check their names",
    409: "another change is in progress there; try again",
    412: "the repository has changed in the meantime; try again",
    429: "the Hub accepts no more requests for now; try again later",
}


class PushError(UserError):
    """A push to the Hub failed. The local folder is intact; repeating the call pushes what is missing."""


def open_repository(
    repo_id: str, *, token: str | None = None, private: bool | None = None, revision: str | None = None
) -> str:
    """Create a model repository and branch if necessary, and check that the token may write to it.

    Args:
        repo_id: `owner/name`; without an owner, the token's user.
        token: None for the token of `hf auth login` or HF_TOKEN.
        private: visibility of a new repository; None for the owner's default.
        revision: branch; None for main.

    Returns:
        `owner/name`.

    Raises:
        PushError: The repository cannot be opened or created.
    """
    api = _api(token)
    with _as_push_errors(f"repository {repo_id}: cannot be opened for pushing"):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        try:
            # Creates the branch, and fails for a repository that may only be read, which create_repo accepts.
            api.create_branch(repo_id, branch=revision or "main")
        except HfHubHTTPError as error:
            if error.response.status_code != 409:
                raise
    return repo_id


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    token: str | None = None,
    revision: str | None = None,
    message: str = "Upload model",
    path_in_repo: str = "",
    leave_out: Sequence[str] = NEVER_PUSHED,
) -> CommitInfo:
    """Push a folder as one commit. Files that the repository has already are not uploaded again.

    Records of the run name no folder of this machine; see `hub.portable`.

    Args:
        folder: the folder; it is not changed.
        repo_id: an existing repository; see `open_repository`.
        token: None for the token of `hf auth login` or HF_TOKEN.
        revision: branch; None for main.
        message: commit message.
        path_in_repo: target folder in the repository; its root by default.
        leave_out: patterns of files and folders to skip, as for `files_to_push`.

    Returns:
        The new commit, or the latest one if nothing has changed.

    Raises:
        PushError: The push failed, there is nothing to push, or weights are stored as pickle.
        UserError: As `portable`.
    """
    folder = Path(folder)
    for weights in (*folder.glob("pytorch_model*.bin"), *folder.glob("members/**/pytorch_model*.bin")):
        raise PushError(
            f"push of {folder}: weights must be safetensors, found the pickle {weights.relative_to(folder)}; load the "
            "model and save it by save_pretrained."
        )
    files = files_to_push(folder, leave_out)
    if not files:
        raise PushError(
            f"push of {folder}: must contain files to push, found only files that are never pushed; check it."
        )
    links = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink())
    if links:
        logger.warning(
            f"push of {folder}: symbolic links are not followed, so these are not pushed: {', '.join(links)}"
        )
    api = _api(token)
    with portable(folder, files) as place, _as_push_errors(f"push of {folder} to {repo_id} failed"):
        return api.upload_folder(
            repo_id=repo_id,
            folder_path=place,
            path_in_repo=path_in_repo,
            commit_message=message,
            revision=revision,
            allow_patterns=[glob.escape(name) for name in files],
        )


def files_to_push(folder: str | Path, leave_out: Sequence[str] = NEVER_PUSHED) -> list[str]:
    """Return the names of the files of a folder that would be pushed, sorted, without contacting the Hub.

    Symbolic links to files and folders are not followed.

    Args:
        folder: the folder; it is not changed.
        leave_out: shell patterns. A file or folder with a matching name is skipped at any depth; case is ignored.
    """
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _stays(Path(place, name), leave_out))
        names = [Path(place, name) for name in files if not _stays(Path(place, name), leave_out)]
        found += [path.relative_to(folder).as_posix() for path in names if path.is_file()]
    return sorted(found)


def _stays(path: Path, leave_out: Sequence[str]) -> bool:
    name = path.name.lower()
    return path.is_symlink() or any(fnmatchcase(name, pattern.lower()) for pattern in leave_out)


def publish(
    folder: str | Path,
    repo_id: str,
    *,
    token: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
) -> CommitInfo:
    """Push the folder of a finished run, or of an ensemble that contains its members.

    The model with its code, tokenizer, card, plots and settings is pushed, without the files of `NEVER_PUSHED`. Where
    the card names the folder, it then names the repository.

    Args:
        folder: the run's folder, as given by `--output_dir`.
        repo_id, token, private, revision: as for `open_repository`.

    Returns:
        The new commit, or the latest one if nothing has changed.

    Raises:
        PushError: As `open_repository` and `push_folder`; the folder is unchanged except for its card.
    """
    folder = Path(folder)
    repo_id = open_repository(repo_id, token=token, private=private, revision=revision)
    _address_card(folder, repo_id)
    return push_folder(folder, repo_id, token=token, revision=revision)


def _address_card(folder: Path, repo_id: str) -> None:
    """Make the card's code load the model from the Hub instead of from the folder, or its last part, that it names."""
    path = folder / CARD
    if not path.is_file() or path.is_symlink():
        return
    card = written = path.read_text(encoding="utf-8")
    for name in (str(folder), folder.resolve().name):
        quoted = re.escape(json.dumps(name, ensure_ascii=False))
        card = re.sub(rf"(\bmodel=|\bfrom_pretrained\(){quoted}", rf"\g<1>{json.dumps(repo_id)}", card)
    if card != written:
        write_text(path, card)


def _api(token: str | None) -> HfApi:
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        # The client's own error message would show the token.
        raise PushError("the Hub's token must be one word of ASCII characters, found others; copy it again.")
    return HfApi(
        token=token or None, library_name="hf_layerfusion", library_version=version("hf_layerfusion")
    )


@contextmanager
def _as_push_errors(what: str) -> Iterator[None]:
    """Raise a `PushError` in place of any error of the Hub's client, of the connection or of hf_xet."""
    try:
        yield
    except Exception as error:
        raise PushError(f"{what}: {_reason(error)}.") from error


def _reason(error: BaseException) -> str:
    if isinstance(error, OfflineModeIsEnabled):
        return "the Hub's client is in offline mode; unset HF_HUB_OFFLINE"
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, HfHubHTTPError):
        cause = cause.__cause__ or cause.__context__
    if cause is not None:
        status, said = cause.response.status_code, cause.server_message
        seconds = cause.response.headers.get("Retry-After")
    else:
        said, seconds = f"{type(error).__name__}: {error}", None
        found = _XET_STATUS.search(said)
        if found is None:
            return " ".join(said.split()).rstrip(".")
        status = int(found[1])
    reason = _REASONS.get(
        status, "the Hub failed; try again later" if status >= 500 else "the Hub refuses it"
    )
    if status == 429 and seconds:
        reason = reason.replace("later", f"in {seconds} s")
    return f"{status}{f' ({single_line(said)})' if said else ''}: {reason}"
