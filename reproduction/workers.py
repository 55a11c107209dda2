"""Processes that run a table's runs, each on a GPU of its own where there are several."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.queues import SimpleQueue

import torch

DEVICES = "CUDA_VISIBLE_DEVICES"


def visible_devices() -> list[str]:
    """The GPUs that this process sees, as `CUDA_VISIBLE_DEVICES` names them."""
    named = os.environ.get(DEVICES)
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    return [str(number) for number in range(torch.cuda.device_count())]


def worker_pool(jobs: int, devices: list[str]) -> ProcessPoolExecutor:
    """Processes that share the processor's threads, and `devices` in turn.

    Args:
        jobs: how many processes.
        devices: names of GPUs; empty where there are none.
    """
    # A fresh interpreter a job: torch's thread pools do not survive a fork.
    context = multiprocessing.get_context("spawn")
    places: SimpleQueue[str] = context.SimpleQueue()
    for job in range(jobs if devices else 0):
        places.put(devices[job % len(devices)])
    # What a process sees is settled when CUDA starts there, and imports ask whether there is a GPU: by NVML they can
    # be answered without starting it.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    threads = max(1, (os.cpu_count() or 1) // jobs)
    return ProcessPoolExecutor(jobs, context, _start, (threads, places if devices else None))


def _start(threads: int, places: "SimpleQueue[str] | None") -> None:
    if places is not None:
        os.environ[DEVICES] = places.get()
    torch.set_num_threads(threads)
