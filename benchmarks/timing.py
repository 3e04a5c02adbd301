"""How time and memory are measured: what is compared runs in turn, so that no drift favours one."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import isnan
from statistics import median
from typing import NamedTuple

import torch
from scipy import stats
from torch import nn
from torch.profiler import ProfilerActivity, profile
from tqdm.auto import tqdm

from study.export import Clock, machine_name, processor_clock

Work = Callable[[], object]
CPU = torch.device("cpu")


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
    progress: bool = True

    @property
    def clock(self) -> Clock:
        """What reads the seconds."""
        return clock_of(self.device, self.threads)[1]

    @property
    def machine(self) -> str:
        """Machine, device and threads as a file's name, such as ``amd-epyc-cpu-1``."""
        facts = f"{machine_name(self.device)} {self.device.type} {self.threads}"
        return re.sub(r"[^a-z0-9]+", "-", facts.lower())

    def bar(self, name: str, ticks: int) -> tqdm:
        """A progress bar."""
        return tqdm(total=ticks, desc=name, disable=not self.progress)


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


def median_ratio(values: list[float]) -> Ratio:
    """Median and its distribution-free interval: two of the sorted values, by the sign test."""
    middle = stats.quantile_test(values, q=0, p=0.5)
    low, high = middle.confidence_interval(0.95)
    return Ratio(median(values), float(low), float(high))


def clock_of(device: torch.device, threads: int) -> tuple[str, Clock]:
    """A clock in seconds, and its name; a GPU's is the wall's, once its work is done."""
    if device.type == "cpu":
        return processor_clock(threads)

    def drained() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return "wall time", drained


def ratios(
    baseline: Work, others: dict[str, Work], rounds: int, clock: Clock, tick: Work
) -> dict[str, Ratio]:
    """Each one's time over the baseline's, which is timed before and after each of the others."""
    found: dict[str, list[float]] = {name: [] for name in others}
    for work in (baseline, *others.values()):
        work()  # the first call of each builds caches that the later ones find
    for _ in range(rounds):
        before = seconds(baseline, clock)
        for name, work in others.items():
            middle, after = seconds(work, clock), seconds(baseline, clock)
            found[name].append(2 * middle / (before + after))
            before = after
        tick()
    return {name: median_ratio(values) for name, values in found.items()}


def seconds(work: Work, clock: Clock) -> float:
    """Seconds of one call."""
    start = clock()
    work()
    return clock() - start


def rounds_of(works: dict[str, Work], rounds: int, clock: Clock, tick: Work) -> dict[str, list]:
    """Seconds of each piece of work in each round, after a first call that does not count."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for _ in range(rounds):
        for name, work in works.items():
            found[name].append(seconds(work, clock))
        tick()
    return found


def paired(slower: list[float], faster: list[float]) -> Ratio:
    """How many times the seconds of one are those of the other, round by round."""
    return median_ratio([one / other for one, other in zip(slower, faster, strict=True)])


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
    events = found.profiler.kineto_results.events()
    held = peak = 0
    for _, change in sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"):
        held += change
        peak = max(peak, held)
    return peak


def state_bytes(module: nn.Module) -> int:
    """What a module holds for good: its parameters, and its buffers, such as a memory bank."""
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
