"""Scripts' arguments as their users give them."""

import sys

import pytest

from hf_layerfusion.cli.script import parse_arguments

QUICK_TRAINING = {
    "use_cpu": True,
    "learning_rate": 3e-3,
    "num_train_epochs": 2,
    "per_device_train_batch_size": 16,
}
"""What a random tiny encoder learns something with."""


def parse(classes, options, *extra):
    """The dataclasses of a script as if it was called with `--NAME VALUE` for each of `options` that is not None, and
    with the arguments `extra` behind them."""
    given = [
        part for name, value in options.items() if value is not None for part in (f"--{name}", str(value))
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["script.py", *given, *map(str, extra)])
        return parse_arguments(*classes)
