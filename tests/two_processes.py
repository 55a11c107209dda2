"""Starts a script on two processes of this machine's CPU."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def start(script: Path, *arguments: str, port: int | None = None, **flags: Any) -> subprocess.Popen[str]:
    """Launch a script by accelerate, as the readme does; `flags` are further ones of `accelerate launch`."""
    flags = {"num_processes": 2, "num_machines": 1, "main_process_port": port or free_port()} | flags
    launch = "-m accelerate.commands.launch --multi_gpu --mixed_precision no --dynamo_backend no"
    for name, value in flags.items():
        launch += f" --{name} {value}"
    return subprocess.Popen(
        [sys.executable, *launch.split(), str(script), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "src")))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str], seconds: int = 600) -> None:
    """Wait for a launch, which must end well."""
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.terminate()  # the launcher then ends the two
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output[-4000:]
