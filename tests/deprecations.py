"""Deprecations that a library tells of in its log, where no filter of warnings sees them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from transformers.utils import logging as transformers_logging

PACKAGE, TESTS = "hf_layerfusion", "tests"
LIBRARIES = ("transformers", "huggingface_hub", "accelerate", "datasets", "evaluate", "peft")


class _Deprecations(logging.Handler):
    """Keeps the records that say "deprecated" and that our package caused, not a test."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if "deprecated" in message.lower() and _nearest() == PACKAGE:
            self.messages.append(f"{record.name}: {message}")


def _nearest() -> str | None:
    """Whose code is nearest on the stack, the package's or the tests'."""
    frame: FrameType | None = sys._getframe()
    while frame := frame.f_back:
        module = frame.f_globals.get("__name__", "").split(".")[0]
        if module in (PACKAGE, TESTS) and frame.f_code.co_filename != __file__:
            return str(module)
    return None


@contextmanager
def logged_deprecations() -> Iterator[list[str]]:
    """The deprecations that the libraries' loggers tell of from here on and that our package caused."""
    handler = _Deprecations()
    transformers_logging.warning_once.cache_clear()  # else only the first test of a process would hear of them
    for library in LIBRARIES:
        logging.getLogger(library).addHandler(handler)
    try:
        yield handler.messages
    finally:
        for library in LIBRARIES:
            logging.getLogger(library).removeHandler(handler)
