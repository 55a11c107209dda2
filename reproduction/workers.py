"""Worker processes for a table's runs, each on a GPU of its own if there are several."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.queues import SimpleQueue

import torch

DEVICES = "CUDA_VISIBLE_DEVICES"


def visible_devices() -> list[str]:
    """Return the GPUs that this process sees, by their names in `CUDA_VISIBLE_DEVICES`."""
    named = os.environ.get(DEVICES)
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    return [str(number) for number in range(torch.cuda.device_count())]


def worker_pool(jobs: int, devices: list[str]) -> ProcessPoolExecutor:
    """Return a pool of processes that divide the CPU's threads and take turns on `devices`.

    Args:
        jobs: number of processes.
        devices: names of GPUs; may be empty.
    """
    # New interpreters, because torch's thread pools do not survive a fork.
    context = multiprocessing.get_context("spawn")
    places: SimpleQueue[str] = context.SimpleQueue()
    for job in range(jobs if devices else 0):
        places.put(devices[job % len(devices)])
    # A process's devices are fixed once it initializes CUDA, which imports do by checking for a GPU. The NVML-based
    # check does not initialize it.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    threads = max(1, (os.cpu_count() or 1) // jobs)
    return ProcessPoolExecutor(jobs, context, _start, (threads, places if devices else None))


def _start(threads: int, places: "SimpleQueue[str] | None") -> None:
    if places is not None:
        os.environ[DEVICES] = places.get()
    torch.set_num_threads(threads)
