"""Starts a script on two processes of this machine's CPU."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def start(script: Path, *arguments: str) -> subprocess.Popen[str]:
    """Launch a script by accelerate, as the readme does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = (
        "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no "
        f"--dynamo_backend no --main_process_port {port}"
    )
    return subprocess.Popen(
        [sys.executable, *launch.split(), str(script), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "src")))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str], seconds: int = 300) -> None:
    """Wait for a launch, which must end well."""
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.terminate()  # the launcher then ends the two
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output[-4000:]
