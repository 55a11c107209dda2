"""Checks of how a run was launched: its processes, a supported parallelism, and a precision that suits the CPU."""

from __future__ import annotations

import functools
import os
import platform
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import TrainingArguments
from transformers.utils import logging

from hf_layerfusion.errors import UserError

logger = logging.get_logger(__name__)

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
    """Check that several processes train by DDP or FSDP2; call it before they are set up.

    Raises:
        UserError: DeepSpeed, which averages gradients and steps by itself; or FSDP on the CPU, where accelerate shards
            nothing and trains by DDP instead.
    """
    if args.deepspeed or _is_set("ACCELERATE_USE_DEEPSPEED"):
        raise UserError(
            "several processes must train by DDP or FSDP2, found DeepSpeed, whose engine replaces the backward pass "
            "and the step that this Trainer guards; use examples/accelerate/fsdp2.yaml, which shards as ZeRO-3 does, "
            "or leave deepspeed out"
        )
    if asks_for_fsdp(args) and is_on_the_cpu(args):
        raise UserError(
            "FSDP needs an accelerator in each process, found the CPU, on which accelerate does not shard and would "
            "train by DDP; leave fsdp out of the options and of accelerate's configuration"
        )


def asks_for_fsdp(args: TrainingArguments) -> bool:
    """Return whether the options, or the configuration of accelerate, ask for FSDP."""
    return bool(args.fsdp) or _is_set("ACCELERATE_USE_FSDP")


def is_on_the_cpu(args: TrainingArguments) -> bool:
    """Return whether the run is asked to train on the CPU."""
    return args.use_cpu or _is_set("ACCELERATE_USE_CPU")


def warn_of_slow_bf16(args: TrainingArguments) -> None:
    """Warn of bf16 on a CPU that emulates it: without AVX-512, a step takes about nine times as long as in fp32."""
    emulates = platform.machine().lower() in ("x86_64", "amd64") and (
        torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "NO AVX", "AVX2")
    )
    if args.bf16 and args.device.type == "cpu" and emulates:
        logger.warning_once(
            "bf16=True on a CPU without instructions for bf16 is several times slower than fp32; leave it out."
        )


def check_lstm_precision(model: nn.Module, args: TrainingArguments) -> None:
    """Check that the CPU can run the LSTMs of a model with bf16; on x86, oneDNN needs AVX-512 for that.

    Raises:
        UserError: The model has LSTMs, the run is on the CPU with bf16, and this CPU cannot run them.
    """
    if not args.bf16 or args.device.type != "cpu" or runs_lstms_in_bf16():
        return
    if any(isinstance(module, nn.LSTM) for module in model.modules()):
        raise UserError(
            "bf16=True on a model with LSTMs needs a CPU that runs them in bf16 (on x86, one with AVX-512), found one "
            "that does not; leave bf16 out, or choose a fuser without LSTMs"
        )


@functools.cache
def runs_lstms_in_bf16() -> bool:
    """Return whether this CPU runs an LSTM in mixed precision with bf16."""
    try:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            nn.LSTM(1, 1)(torch.zeros(1, 1, 1))
    except RuntimeError:
        return False
    return True


class _NotSharded(NamedTuple):
    """An option that FSDP2 excludes.

    Attributes:
        option: Its name.
        reason: What it does that sharded weights do not allow.
        is_given: Whether a value of `option` asks for that.
    """

    option: str
    reason: str
    is_given: Callable[[Any], Any] = bool


_NOT_SHARDED = (
    _NotSharded(
        "regularizers",
        "bregman puts other weights into the model for a pass",
        lambda value: value and "bregman" in value,
    ),
    _NotSharded("cache_frozen_states", "reads the encoder by itself, and leaves nothing large to train"),
    _NotSharded("head_first_epochs", "reads the encoder by itself before it is sharded"),
    _NotSharded("auto_find_batch_size", "starts over from the weights before the first step"),
    _NotSharded("optim", "keeps no state, so that torch could not resume", lambda value: value == "sgd"),
)


def check_sharding(args: TrainingArguments) -> None:
    """Check the options of a run that shards its model by FSDP; without FSDP, any pass.

    Raises:
        UserError: FSDP1; a kind of checkpoint from which no model can be loaded; weights that only the first process
            loads; or an option that needs the weights whole.
    """
    if not asks_for_fsdp(args):
        return
    given, variables = args.fsdp_config or {}, os.environ
    if args.fsdp:
        version = str(given.get("version", 2))
        kind = str(given.get("state_dict_type", "FULL_STATE_DICT"))
        is_loaded_once = str(given.get("cpu_ram_efficient_loading", False))
    else:
        version = variables.get("FSDP_VERSION", "1")
        kind = variables.get("FSDP_STATE_DICT_TYPE", "SHARDED_STATE_DICT")
        is_loaded_once = variables.get("FSDP_CPU_RAM_EFFICIENT_LOADING", "false")
    rules = {
        "fsdp_version must be 2": (version, version == "2", "2"),
        "fsdp_state_dict_type must be FULL_STATE_DICT, so that a checkpoint holds a model to load": (
            kind,
            kind.upper() in ("FULL_STATE_DICT", "1"),
            "FULL_STATE_DICT",
        ),
        "fsdp_cpu_ram_efficient_loading must be false, as every process makes the fuser and the heads": (
            is_loaded_once,
            is_loaded_once.lower() not in ("true", "1"),
            "false",
        ),
    }
    for rule, (found, holds, value) in rules.items():
        if not holds:
            raise UserError(f"{rule}, found {found}; set {value}, as examples/accelerate/fsdp2.yaml does")
    for option, reason, is_given in _NOT_SHARDED:
        given_value: Any = getattr(args, option, None)
        if is_given(given_value):
            shown = getattr(given_value, "value", given_value)
            raise UserError(
                f"FSDP excludes {option}={shown}, which {reason}; leave {option} out or train by DDP"
            )


def check_whole_model(args: TrainingArguments) -> None:
    """Check that the model is whole on the main process, which reads it alone after training.

    Raises:
        UserError: FSDP.
    """
    if asks_for_fsdp(args):
        raise UserError(
            "the commands and the scripts of examples/ read the trained model on one process and train by DDP, found "
            "FSDP; leave fsdp out, or train by a script of your own on LayerFusionTrainer (docs/scaling.md)"
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
            f"start it by accelerate launch --multi_gpu --num_processes {args.n_gpu}, in a notebook by "
            f"accelerate.notebook_launcher(train, num_processes={args.n_gpu}), or set CUDA_VISIBLE_DEVICES=0"
        )


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("true", "1")
