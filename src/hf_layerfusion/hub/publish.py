"""Publishing on the Hub: what of a folder goes there, and failures as one line that says what to do."""

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
from hf_layerfusion.storage import write_text

__all__ = ["NEVER_PUSHED", "PushError", "files_to_push", "publish"]

logger = logging.getLogger(__name__)

CARD = "README.md"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt")
NEVER_PUSHED = (
    *PICKLES,
    # Checkpoints, and what the Trainer's own pushes leave out by its name.
    "checkpoint-*", "_*",
    # Hidden files: what was being written, what holds secrets.
    ".*",
    # The texts of the data stand in these.
    "predictions*", "logits*.csv", "mistakes",
    # A search's trials: their checkpoints, and their study with every setting of the run.
    "search",
)  # fmt: skip
"""Patterns of what stays at home of a run's folder, files and folders, whatever their case and at any depth."""

_XET_STATUS = re.compile(r"HTTP status \w+ error \((\d{3})")  # hf_xet's errors hold no answer, only words

_REASONS = {
    401: "the token is missing or the Hub does not know it; log in by `hf auth login` or set HF_TOKEN",
    403: "the token must not write there; take one that may, or name another repository",
    404: "there is no such repository or branch, or the token must not see it; check their names",
    409: "another change is under way there; try again",
    412: "the repository has changed meanwhile; try again",
    429: "the Hub takes no more requests for now; try again later",
}


class PushError(UserError):
    """Something did not get to the Hub. It is whole where it was, and the same call pushes what is missing."""


def open_repository(
    repo_id: str, *, token: str | None = None, private: bool | None = None, revision: str | None = None
) -> str:
    """Makes sure that there is a model repository, and in it the branch, that the token may write to.

    Args:
        repo_id: `owner/name`; without an owner it is the token's user.
        token: None for the one of `hf auth login` or HF_TOKEN.
        private: of a repository that is made; None for the owner's default.
        revision: the branch, None for main.

    Returns:
        `owner/name`.

    Raises:
        PushError: if there is none and none can be made.
    """
    api = _api(token)
    with _as_push_errors(f"repository {repo_id}: cannot be opened for pushing"):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        try:
            # create_repo is content with a repository that may only be read. This is not, and makes the branch.
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
    """Pushes a folder as one commit; files that the repository has already are not sent again.

    Args:
        folder: nothing in it is changed.
        repo_id: a repository that exists; see `open_repository`.
        token: None for the one of `hf auth login` or HF_TOKEN.
        revision: the branch, None for main.
        message: of the commit.
        path_in_repo: a folder there, by default its root.
        leave_out: patterns of names of files and folders that are not pushed, as for `files_to_push`.

    Returns:
        The commit, or the one before where nothing has changed.

    Raises:
        PushError: whatever kept it from being pushed; nothing to push; weights that are stored as pickle.
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
            f"push of {folder}: must hold files to push, found none but what is never pushed; check it."
        )
    links = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink())
    if links:
        logger.warning(
            f"push of {folder}: links are not followed, so that these stay at home: {', '.join(links)}"
        )
    with _as_push_errors(f"push of {folder} to {repo_id} failed"):
        return _api(token).upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            path_in_repo=path_in_repo,
            commit_message=message,
            revision=revision,
            allow_patterns=[glob.escape(name) for name in files],
        )


def files_to_push(folder: str | Path, leave_out: Sequence[str] = NEVER_PUSHED) -> list[str]:
    """Return which files of a folder are pushed, in their order, without asking the Hub.

    Links are not followed: what a symbolic link points to, be it a file or a folder, is not pushed.

    Args:
        folder: nothing in it is changed.
        leave_out: patterns as in a shell. What has such a name is left out, with all that is in it, at any depth;
            upper and lower case are the same.
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
    """Pushes the folder of a finished run, or of an ensemble that carries its members: model with its code, tokenizer,
    card, plots and settings, without what `NEVER_PUSHED` names. The card then names the repository where it named
    the folder.

    Args:
        folder: the run's, as `--output_dir` named it.
        repo_id, token, private, revision: as `open_repository`.

    Returns:
        The commit, or the one before where nothing has changed.

    Raises:
        PushError: as `open_repository` and `push_folder`; the folder stays as it is but for its card.
    """
    folder = Path(folder)
    repo_id = open_repository(repo_id, token=token, private=private, revision=revision)
    _address_card(folder, repo_id)
    return push_folder(folder, repo_id, token=token, revision=revision)


def _address_card(folder: Path, repo_id: str) -> None:
    """Has the card's code load the model from the Hub: there its folder is named, or the folder's last name."""
    path = folder / CARD
    if not path.is_file() or path.is_symlink():
        return
    card = written = path.read_text(encoding="utf-8")
    for name in (str(folder), folder.name):
        card = card.replace(json.dumps(name, ensure_ascii=False), json.dumps(repo_id))
    if card != written:
        write_text(path, card)


def _api(token: str | None) -> HfApi:
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        # The client's own message shows it.
        raise PushError("the Hub's token must be one word of ASCII letters, found other signs; copy it anew.")
    return HfApi(
        token=token or None, library_name="hf_layerfusion", library_version=version("hf_layerfusion")
    )


@contextmanager
def _as_push_errors(what: str) -> Iterator[None]:
    """Turns whatever the client raises, its own errors, those of connections and of hf_xet, into a `PushError`."""
    try:
        yield
    except Exception as error:
        raise PushError(f"{what}: {_reason(error)}.") from error


def _reason(error: BaseException) -> str:
    if isinstance(error, OfflineModeIsEnabled):
        return "the Hub's client is told to stay offline; unset HF_HUB_OFFLINE"
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
