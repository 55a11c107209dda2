"""That a deprecation which our own code causes fails the test that meets it, by warning or by log."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from transformers.utils import logging as transformers_logging


def called_in(module: str, function: Callable[[], Any]) -> None:
    """Calls `function` from a frame of `module`."""
    exec("function()", {"__name__": module, "function": function})


@pytest.mark.parametrize("category", [DeprecationWarning, PendingDeprecationWarning, FutureWarning])
def test_a_library_s_warning_of_our_call_is_an_error(category: type[Warning]) -> None:
    def old() -> None:
        warnings.warn("old is deprecated", category, stacklevel=2)

    with pytest.raises(category):
        called_in("hf_layerfusion.training.trainer", old)
    with pytest.warns(category):
        called_in("somebody.else", old)


@pytest.mark.parametrize("library", ["transformers", "huggingface_hub"])
@pytest.mark.parametrize("time", [1, 2])  # `warning_once` too is heard by every test
def test_a_library_s_log_of_our_call_fails_the_test(library: str, time: int, deprecations: list[str]) -> None:
    logger = transformers_logging.get_logger(f"{library}.some.module")
    called_in("tests.somewhere", partial(logger.warning_once, "`old` is deprecated, says a test"))
    called_in("hf_layerfusion.training.trainer", partial(logger.warning, "`new` is better"))
    assert deprecations == []
    called_in("hf_layerfusion.training.trainer", partial(logger.warning_once, "`old` is Deprecated"))
    assert deprecations == [f"{library}.some.module: `old` is Deprecated"]
    deprecations.clear()
