"""What a run rested on: versions of libraries, and hardware."""

import importlib.metadata
import platform

import torch

__all__ = ["hardware_name", "library_environment"]

_LIBRARIES = (
    "hf_layerfusion", "torch", "transformers", "tokenizers", "datasets", "accelerate", "peft",
    "huggingface_hub", "safetensors", "numpy", "scikit-learn",
)  # fmt: skip


def library_environment() -> dict[str, str]:
    """Return the versions of Python and of the libraries that a run rests on, those installed."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def hardware_name(device: torch.device, processes: int = 1) -> str:
    """Return what a run of so many processes runs on: its GPUs by name, or the CPU with its threads."""
    threads = torch.get_num_threads()
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{device.type.upper()}, {threads} {'thread' if threads == 1 else 'threads'}"
    )
    return name if processes == 1 else f"{processes} × {name}"
