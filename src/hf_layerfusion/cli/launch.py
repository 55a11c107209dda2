"""Several processes: what is given of `accelerate launch`'s flags is handed on to it."""

from collections.abc import Mapping, Sequence
from typing import Any

from hf_layerfusion.cli.options import Given
from hf_layerfusion.errors import UserError

_LAUNCHED = ("LOCAL_RANK", "RANK", "ACCELERATE_MIXED_PRECISION")


def is_launched(environment: Mapping[str, str]) -> bool:
    """Return whether a launcher has started this process."""
    return any(name in environment for name in _LAUNCHED)


def launch_line(flags: Mapping[str, Any], on_cpu: bool) -> list[str]:
    """Return the flags for `accelerate launch`, with those that a run of several processes on CPUs needs.

    `accelerate launch --cpu --num_processes N` starts one process unless mpirun starts the others; with `--multi_gpu`
    it starts all of them, on CPUs too where the run has `use_cpu`.

    Args:
        flags: those that the user gave, by name.
        on_cpu: whether the run is to use CPUs.
    """
    flags = dict(flags)
    several = int(flags.get("num_processes", 1)) > 1
    if on_cpu and not flags.keys() & {"multi_gpu", "config_file", "mpirun_hostfile"}:
        flags["cpu"] = True  # else a process for each GPU
        if several:
            flags["multi_gpu"] = flags.pop("cpu")
            flags = {"num_machines": 1, "mixed_precision": "no", "dynamo_backend": "no"} | flags
    line: list[str] = []
    for name, value in flags.items():
        if value is not False:
            line += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return line


def launch(command: str, arguments: Sequence[str], given: Given) -> None:
    """Run a command by `accelerate launch`; the process ends with the launch's code where that fails.

    Args:
        command: its name.
        arguments: its command line without the launcher's flags.
        given: all that the command line and its file said.

    Raises:
        UserError: a number of processes that is none.
    """
    number = given.launch.get("num_processes", 1)
    if not str(number).isdigit() or int(number) < 1:
        raise UserError(f"--num_processes must be a whole number of 1 or more, found {number!r}; name one")
    import torch
    from accelerate.commands.launch import launch_command, launch_command_parser

    has_gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    use_cpu = bool(given.values.get("use_cpu"))
    on_cpu = use_cpu or bool(given.launch.get("cpu")) or not has_gpu
    line = launch_line(given.launch, on_cpu)
    if on_cpu and not use_cpu:
        # A file by itself holds all options; beside others it needs its name.
        alone = len(arguments) == 1 and not arguments[0].startswith("-")
        arguments = [*(["--config"] if alone else []), *arguments, "--use_cpu", "True"]
    parsed = launch_command_parser().parse_args([*line, "-m", "hf_layerfusion", command, *arguments])
    launch_command(parsed)
