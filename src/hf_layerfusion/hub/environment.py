"""Versions of the libraries, and the hardware, that a run used."""

import importlib.metadata
import platform

import torch

__all__ = ["hardware_name", "library_environment"]

_LIBRARIES = (
    "hf_layerfusion", "torch", "transformers", "tokenizers", "datasets", "accelerate", "peft",
    "huggingface_hub", "safetensors", "numpy", "scikit-learn",
)  # fmt: skip


def library_environment() -> dict[str, str]:
    """Return the versions of Python and of the installed libraries that results depend on."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def hardware_name(device: torch.device, processes: int = 1) -> str:
    """Return a description of the hardware: the names of the GPUs, or the CPU with its number of threads.

    Args:
        device: device of one process.
        processes: number of processes, each on a device of its own.
    """
    threads = torch.get_num_threads()
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{device.type.upper()}, {threads} {'thread' if threads == 1 else 'threads'}"
    )
    return name if processes == 1 else f"{processes} × {name}"
