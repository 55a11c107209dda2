"""Checks that a run has the processes that its launcher was asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping

from transformers import TrainingArguments
from transformers.utils import logging

from hf_layerfusion.errors import UserError

logger = logging.get_logger(__name__)

# What launchers tell each of several processes of its place among them; accelerate reads the same.
_RANKS = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "PMI_RANK",
    "PMI_SIZE",
    "OMPI_COMM_WORLD_RANK",
    "MV2_COMM_WORLD_RANK",
)

_HOW = (
    "start them by accelerate launch --multi_gpu --num_processes N (or torchrun --nproc_per_node N) with "
    "use_cpu=True"
)


def check_launcher(environment: Mapping[str, str]) -> None:
    """Check that `accelerate launch` started the processes that it was asked for; call it before a device is chosen.

    `distributed_type: MULTI_CPU` and `--cpu --num_processes 2` start a single process unless mpirun starts the others.
    It then trains alone, or waits for them for ever.

    Args:
        environment: the process's environment variables.

    Raises:
        UserError: several processes on the CPU were asked for, and this one was started alone.
    """
    # accelerate names a meeting place only where there are several processes.
    is_asked_for = (
        environment.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1") and "MASTER_ADDR" in environment
    )
    if is_asked_for and not any(name in environment for name in _RANKS):
        raise UserError(
            "accelerate launch was asked for several processes on the CPU (MULTI_CPU or --cpu with --num_processes), "
            f"which only mpirun starts, found one; {_HOW}"
        )


def check_processes(args: TrainingArguments) -> None:
    """Check that the processes that were started know of each other, and say where FSDP is left out.

    Raises:
        UserError: one of several processes would train alone, and write into the folder of the others.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started > 1 and args.world_size == 1:
        raise UserError(
            f"{started} processes were started, and each would train alone on the {args.device.type} into the same "
            "folder; on the CPU set use_cpu=True"
        )
    has_fsdp = bool(args.fsdp) or os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("true", "1")
    if has_fsdp and args.device.type == "cpu" and args.process_index == 0:
        logger.warning_once(
            "FSDP does not run on the CPU: the processes train by DDP, each with the whole model and optimizer"
        )
