"""Paired timing: what is compared runs in turn, so that a machine's drift favours neither."""

import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import torch
from scipy import stats

from study.export import Clock, processor_clock

Work = Callable[[], object]


class Ratio(NamedTuple):
    """Median of paired ratios of times, with its 95 % interval (NaN with fewer than six pairs)."""

    median: float
    low: float
    high: float

    def inverse(self) -> "Ratio":
        """The same with numerator and denominator exchanged: a speed-up of a time."""
        return Ratio(1 / self.median, 1 / self.high, 1 / self.low)


def median_ratio(values: list[float]) -> Ratio:
    """Median and its distribution-free interval: two of the sorted values, by the sign test."""
    middle = stats.quantile_test(values, q=0, p=0.5)
    low, high = middle.confidence_interval(0.95)
    return Ratio(median(values), float(low), float(high))


def clock_of(device: torch.device, threads: int) -> tuple[str, Clock]:
    """A clock in seconds, and its name; a GPU's is the wall's, once its work is done."""
    if device.type == "cpu":
        return processor_clock(threads)
    return "wall time", lambda: _drained(device)


def _drained(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def ratios(
    baseline: Work, others: dict[str, Work], rounds: int, clock: Clock, tick: Work
) -> dict[str, Ratio]:
    """Each one's time over the baseline's.

    In a round the baseline is timed before and after each of the others, so that a machine
    whose speed drifts does not favour either.

    Args:
        baseline: what the others are compared with.
        others: what is compared, by name.
        rounds: how often each is timed.
        clock: reads seconds.
        tick: called after each round.
    """
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
    """Seconds of each piece of work in each round, in which all have their turn.

    Args:
        works: what is timed, by name.
        rounds: how often each is timed, after a first call that does not count.
        clock: reads seconds.
        tick: called after each round.
    """
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
