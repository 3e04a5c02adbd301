"""How time and memory are measured: what is compared runs in turn, so that no drift favours one."""

import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from math import inf, isnan
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from scipy import stats
from torch import nn
from torch.profiler import ProfilerActivity, profile
from tqdm.auto import tqdm

from study.export import Clock, machine_name, processor_clock

Work = Callable[[], object]
CPU = torch.device("cpu")
DEVICES = {"cpu": CPU, "cuda": torch.device("cuda")}


@dataclass(frozen=True)
class Scope:
    """How much is measured, and where: on which device, by how many threads, how often each step.

    ``quick``: the least of each section; ``compiled``: compiled steps too, minutes on a processor.
    """

    device: torch.device = CPU
    threads: int = 1
    rounds: int = 6
    quick: bool = False
    compiled: bool = False
    until: float = inf  # of the monotonic clock: no method is measured later

    @property
    def named_clock(self) -> tuple[str, Clock]:
        """What reads the seconds, by its name; a GPU's is the wall's, once its work is done."""
        if self.device.type == "cpu":
            return processor_clock(self.threads)

        def drained() -> float:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            return time.perf_counter()

        return "wall time", drained

    @property
    def clock(self) -> Clock:
        """What reads the seconds."""
        return self.named_clock[1]

    @property
    def machine(self) -> str:
        """Machine, device and threads as a file's name, such as ``amd-epyc-cpu-1``."""
        facts = f"{machine_name(self.device)} {self.device.type} {self.threads}"
        return re.sub(r"[^a-z0-9]+", "-", facts.lower())


@contextmanager
def own_cache() -> Iterator[Path]:
    """A cache that is empty at first, and gone afterwards."""
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, KDLIB_CACHE=folder):
        yield Path(folder)


def progress(name: str, ticks: int) -> tqdm:
    """A progress bar, on terminals."""
    return tqdm(total=ticks, desc=name, disable=None)


class Ratio(NamedTuple):
    """Median of paired ratios of times, with its 95 % interval (NaN with fewer than six pairs)."""

    median: float
    low: float
    high: float

    def inverse(self) -> "Ratio":
        """The same with numerator and denominator exchanged: a speed-up of a time."""
        return Ratio(1 / self.median, 1 / self.high, 1 / self.low)

    def as_json(self, shift: float = 0) -> dict[str, float | None]:
        """Four digits; a bound that too few rounds leave open as None."""
        values = {name: value + shift for name, value in self._asdict().items()}
        return {name: None if isnan(value) else round(value, 4) for name, value in values.items()}


def median_ratio(slower: list[float], faster: list[float]) -> Ratio:
    """How many times the seconds of one are those of the other, round by round.

    The interval is distribution-free: two of the sorted ratios, by the sign test.
    """
    values = [one / other for one, other in zip(slower, faster, strict=True)]
    interval = stats.quantile_test(values, q=0, p=0.5).confidence_interval(0.95)
    return Ratio(median(values), float(interval.low), float(interval.high))


def seconds(work: Work, clock: Clock) -> float:
    """Seconds of one call."""
    start = clock()
    work()
    return clock() - start


def rounds_of(works: dict[Any, Work], rounds: int, clock: Clock, tick: Work) -> dict[Any, list]:
    """Seconds of each piece of work in each round, after a first call that does not count."""
    for work in works.values():
        work()  # the first call builds caches that the later ones find
    found: dict[Any, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            found[name].append(seconds(work, clock))
        tick()
    return found


def ratios(
    baseline: Work, others: dict[str, Work], rounds: int, clock: Clock, tick: Work
) -> dict[str, Ratio]:
    """Each one's time over the baseline's, which is timed before and after each of the others."""
    turns: dict[Any, Work] = {0: baseline}
    for place, (name, work) in enumerate(others.items(), 1):
        turns |= {name: work, place: baseline}
    times = rounds_of(turns, rounds, clock, tick)
    around = [zip(times[place], times[place + 1], strict=True) for place in range(len(others))]
    return {
        name: median_ratio(times[name], [(before + after) / 2 for before, after in pairs])
        for name, pairs in zip(others, around, strict=True)
    }


def peak_bytes(work: Work, device: torch.device = CPU) -> int:
    """The most bytes of tensors on the device that ``work`` holds beyond those there before it.

    By PyTorch's events of allocations, which are exact; the system also counts what is kept idle.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        work()
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
    changes = (event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    return max(accumulate(changes, initial=0))


def state_bytes(module: nn.Module) -> int:
    """What a module holds for good: its parameters, and its buffers, such as a memory bank."""
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
