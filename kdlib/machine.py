"""The machine that something is measured on: its name, its threads, its clocks."""

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

Clock = Callable[[], float]


def machine_name(device: torch.device) -> str:
    """The GPU's name, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    processors = Path("/proc/cpuinfo")
    lines = processors.read_text().splitlines() if processors.exists() else []
    models = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


@contextmanager
def limited_threads(count: int) -> Iterator[None]:
    """Limit PyTorch to so many threads of the processor, for as long as it lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def processor_clock(threads: int) -> tuple[str, Clock]:
    """A clock in seconds, and its name: the processor's time with one thread, else the wall's.

    The time of a single thread leaves out when other programs had the core.
    """
    if threads == 1:
        return "processor time", time.process_time
    return "wall time", time.perf_counter
