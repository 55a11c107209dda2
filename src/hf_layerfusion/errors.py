"""Exceptions for errors that the user can fix, and the errors of other libraries that indicate such."""

import re
import zlib
from collections.abc import Iterable
from difflib import get_close_matches
from tokenize import TokenError
from zipfile import BadZipFile

from huggingface_hub.errors import HfHubHTTPError, StrictDataclassError
from safetensors import SafetensorError

# Base class of the HTTP library's errors (connections that are cut, time out or break the protocol), which the Hub's
# client passes on. The library differs between versions, so take the base class of the client's own error.
NETWORK_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]

# Errors of `from_pretrained` if a checkpoint or a setting is wrong, or the Hub cannot be reached.
LOADING_ERRORS = (OSError, ValueError, RuntimeError, SafetensorError, StrictDataclassError, NETWORK_ERROR)

# Errors of numpy for a damaged .npz file. RuntimeError: a damaged flag marks the archive as encrypted.
NPZ_ERRORS = (
    OSError, ValueError, KeyError, EOFError, RuntimeError, SyntaxError, TokenError, BadZipFile, zlib.error,
)  # fmt: skip

_STRICT_CHOICE = re.compile(r"Field '(\w+)' expected (one of \([^)]*\)), got ([^;\n]*)")


class UserError(ValueError):
    """Invalid input from the user. The message gives the argument, file or row, the rule, what was found and the way
    out.

    The message is one line. Scripts print it and exit with code 2; library callers can catch it as `ValueError`.
    """


class StorageError(UserError):
    """Refusal of a write by the operating system. The settings are valid, so the same command works once
    there is room.
    """


def nearest(name: object, known: Iterable[str], otherwise: str = "name one of them") -> str:
    """Return a suggestion for an unknown name: the closest match in `known`, or `otherwise` if none is close."""
    found = get_close_matches(str(name), list(known), n=1)
    return f"did you mean {found[0]!r}?" if found else otherwise


def one_line(error: BaseException) -> str:
    """Return an error's message on one line of at most 500 characters, because some parsers print the whole row.

    The message of a strict configuration about a field's type is rewritten to list the accepted values.
    """
    if isinstance(error, StrictDataclassError) and (found := _STRICT_CHOICE.search(str(error))):
        name, choices, value = found.groups()
        return f"`{name}` must be {choices}, found {value!r}; name one of them."
    return " ".join(str(error).split())[:500]


def shortened(text: object, most: int = 100) -> str:
    """Return the text of a value that a user gave, cut off with an ellipsis after `most` characters."""
    shown = str(text)
    return shown if len(shown) <= most else shown[:most] + "…"


def check_characters(text: str, where: str) -> None:
    """Check that a text contains no half of a surrogate pair, which tokenizers reject together with the whole batch.

    Args:
        text: The text.
        where: Row and column, for the error message.

    Raises:
        UserError: If it does; the message names the place.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where} holds {text[error.start]!r}, half a surrogate pair and no character; write the whole pair, or "
            "the character itself"
        ) from error
