"""Peak memory of a run: tensors on a GPU, the whole process on a CPU."""

import os
import re
from pathlib import Path

import torch

_PROCESS = Path("/proc/self")


def reset_peak_memory() -> None:
    """Reset the peak to the memory in use now."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    if _keeps_a_peak():
        (_PROCESS / "clear_refs").write_text("5", encoding="ascii")  # resets VmHWM: proc_pid_clear_refs(5)


def peak_memory() -> int | None:
    """Return the peak since the last reset in MiB, None where it cannot be measured.

    On a GPU it is the memory that torch allocated; on a CPU the resident memory of the process, including libraries
    and data, which needs write access to Linux's `/proc`.
    """
    if torch.cuda.is_available() and (allocated := torch.cuda.max_memory_allocated()):
        return round(allocated / 2**20)
    if not _keeps_a_peak():
        return None
    (kibibytes,) = re.findall(r"VmHWM:\s*(\d+) kB", (_PROCESS / "status").read_text(encoding="ascii"))
    return round(int(kibibytes) / 2**10)


def _keeps_a_peak() -> bool:
    return os.access(_PROCESS / "clear_refs", os.W_OK)
