"""Command-line arguments of the scripts, for tests."""

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
    """Return a script's dataclasses for `--NAME VALUE` of each option that is not None, followed by the arguments
    `extra`."""
    given = [
        part for name, value in options.items() if value is not None for part in (f"--{name}", str(value))
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["script.py", *given, *map(str, extra)])
        return parse_arguments(*classes)
