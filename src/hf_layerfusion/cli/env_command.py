"""The command `env`, which prints what a report of a fault needs."""

import os
import platform
from argparse import ArgumentParser, Namespace

import hf_layerfusion


def add_arguments(parser: ArgumentParser) -> None:
    """Declare nothing: the command takes no arguments."""


def run(arguments: Namespace) -> None:
    """Print the versions of the libraries, the hardware and what of the environment changes how runs go."""
    import torch

    from hf_layerfusion.hub.environment import library_environment

    rows = {"hf_layerfusion": hf_layerfusion.__version__, **library_environment()}
    rows["system"] = platform.platform()
    if torch.cuda.is_available():
        rows["GPU"] = ", ".join(
            torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())
        )
        rows["CUDA"] = str(torch.version.cuda)
    else:
        rows["GPU"] = "MPS" if torch.backends.mps.is_available() else "none"
    rows["threads"] = str(torch.get_num_threads())
    names = ("HF_HUB_OFFLINE", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "ACCELERATE_USE_CPU", "WORLD_SIZE")
    rows |= {name: os.environ[name] for name in names if name in os.environ}
    print("\n".join(f"{name:24}{value}" for name, value in rows.items()))
