"""The one error class for mistakes that the person at the command line can mend, and what other libraries raise for
such."""

import re
import zlib
from collections.abc import Iterable
from difflib import get_close_matches
from tokenize import TokenError
from zipfile import BadZipFile

from huggingface_hub.errors import HfHubHTTPError, StrictDataclassError
from safetensors import SafetensorError

# What the Hub's client lets through of its HTTP library, which is another from version to version: connections that are
# cut, time out or break the protocol. The library's base class is that of the client's own error.
NETWORK_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]

# What `from_pretrained` raises where a checkpoint or a setting is wrong, or the Hub cannot be reached.
LOADING_ERRORS = (OSError, ValueError, RuntimeError, SafetensorError, StrictDataclassError, NETWORK_ERROR)

# What numpy raises for a damaged .npz file, whose archive has checksums. RuntimeError: a flag says it is encrypted.
NPZ_ERRORS = (
    OSError, ValueError, KeyError, EOFError, RuntimeError, SyntaxError, TokenError, BadZipFile, zlib.error,
)  # fmt: skip

_STRICT_CHOICE = re.compile(r"Field '(\w+)' expected (one of \([^)]*\)), got ([^;\n]*)")


class UserError(ValueError):
    """Bad input from the user: names the argument, file or row, the rule, what was found and the way out.

    The message is one line. Scripts print it and exit with code 2; library callers catch it as `ValueError`.
    """


class StorageError(UserError):
    """The disk or a folder refused a file: no fault of the settings, so the same command works once there is room."""


def nearest(name: object, known: Iterable[str], otherwise: str = "name one of them") -> str:
    """Return the way out for a name that is none of `known`: the nearest of them, or `otherwise` where none is near."""
    found = get_close_matches(str(name), list(known), n=1)
    return f"did you mean {found[0]!r}?" if found else otherwise


def one_line(error: BaseException) -> str:
    """An error's message on one line, of 500 characters at most: some parsers print the whole row. What a strict
    configuration says of a field's type becomes what the field must be."""
    if isinstance(error, StrictDataclassError) and (found := _STRICT_CHOICE.search(str(error))):
        name, choices, value = found.groups()
        return f"`{name}` must be {choices}, found {value!r}; name one of them."
    return " ".join(str(error).split())[:500]


def check_characters(text: str, where: str) -> None:
    """Check that a text holds no half of a surrogate pair: no tokenizer takes one, and it fails its whole batch.

    Args:
        text: the text.
        where: the row and column, for the message.

    Raises:
        UserError: names the place.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where} holds {text[error.start]!r}, half a surrogate pair and no character; write the whole pair, or "
            "the character itself"
        ) from error
