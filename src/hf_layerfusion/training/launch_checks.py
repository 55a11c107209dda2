"""Checks of how a run was launched: the processes it was asked for, and a parallelism that is supported."""

from __future__ import annotations

import os
from collections.abc import Mapping

from transformers import TrainingArguments

from hf_layerfusion.errors import UserError

# Variables by which launchers tell each of several processes its number; accelerate reads the same.
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


def check_parallelism(args: TrainingArguments) -> None:
    """Check that several processes train by DDP; call it before they are set up.

    Raises:
        UserError: FSDP or DeepSpeed, with which nothing here is tested.
    """
    asked = {
        "FSDP": bool(args.fsdp) or _is_set("ACCELERATE_USE_FSDP"),
        "DeepSpeed": bool(args.deepspeed) or _is_set("ACCELERATE_USE_DEEPSPEED"),
    }
    for name, is_asked_for in asked.items():
        if is_asked_for:
            raise UserError(
                f"several processes must train by DDP, found {name}, which is not supported; leave it out of the "
                "options and of accelerate's configuration"
            )


def check_processes(args: TrainingArguments) -> None:
    """Check that the processes that were started know of each other, and train in a way that is supported.

    Raises:
        UserError: One of several processes would train alone, and write into the folder of the others; or
            several GPUs in one process, with which nothing here is tested.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started > 1 and args.world_size == 1:
        raise UserError(
            f"{started} processes were started, and each would train alone on the {args.device.type} into the same "
            "folder; on the CPU set use_cpu=True"
        )
    if args.n_gpu > 1:
        raise UserError(
            f"several GPUs must have a process each, found {args.n_gpu} in one, which would train by DataParallel; "
            f"start it by accelerate launch --multi_gpu --num_processes {args.n_gpu}, or set CUDA_VISIBLE_DEVICES=0"
        )


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("true", "1")
