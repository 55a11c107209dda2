"""The peak of the memory that a run takes: of tensors on a GPU, of the whole process on a CPU."""

import os
import re
from pathlib import Path

import torch

_PROCESS = Path("/proc/self")


def reset_peak_memory() -> None:
    """Lets the peak begin at what is in use now."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    if _keeps_a_peak():
        (_PROCESS / "clear_refs").write_text("5", encoding="ascii")  # resets VmHWM: proc_pid_clear_refs(5)


def peak_memory() -> int | None:
    """The peak since it was reset, in MiB: what torch allocated on the GPU, or the process's resident memory, libraries
    and data with it; `None` on a CPU where that peak cannot be reset: without Linux's `/proc`, or with it closed."""
    if torch.cuda.is_available() and (allocated := torch.cuda.max_memory_allocated()):
        return round(allocated / 2**20)
    if not _keeps_a_peak():
        return None
    (kibibytes,) = re.findall(r"VmHWM:\s*(\d+) kB", (_PROCESS / "status").read_text(encoding="ascii"))
    return round(int(kibibytes) / 2**10)


def _keeps_a_peak() -> bool:
    return os.access(_PROCESS / "clear_refs", os.W_OK)
