"""How far a batch is: a line now and then while it runs, with an estimate of the time left."""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from threading import Thread
from typing import Any

from kdlib.errors import KdlibError
from kdlib.runs import RunConfig, is_finished, read_record
from study.sealed import counted_entries

EVERY_S = 60.0
IMAGES = 24_000  # of a run that names no number
KIND = ("task", "image_size", "teacher", "student", "method")


def follow(jobs: Iterable[Mapping[str, Any]], root: Path, committed: Path) -> None:
    """Print how far the jobs of a plan are, from a thread that ends with the process."""
    given = [fields for job in jobs for fields in job["parameters"]["runs"]]
    runs = [RunConfig(**fields).canonical() for fields in given]
    costs = expected(runs, _records(root, committed))
    if sum(costs) > 0:
        print(f"{len(runs)} runs to make, about {spoken(sum(costs))} of a processor core.")
    Thread(target=_print, args=(runs, root, costs), daemon=True).start()


def _records(root: Path, committed: Path) -> Iterator[Mapping[str, Any]]:
    """Those that can be read: an estimate is not to stop a batch."""
    with suppress(KdlibError):
        yield from (entry["record"] for entry in counted_entries(committed).values())
    for path in root.glob("*/record.json"):
        with suppress(KdlibError):
            yield read_record(path)


def expected(runs: Iterable[RunConfig], records: Iterable[Mapping[str, Any]]) -> list[float]:
    """Seconds of each run, by its epochs and images, as in like runs, else in all that are known.

    Without any, what is proportional to them, below 0.
    """
    rates: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for record in records:
        run = RunConfig(**record["config"])
        for kind in (_kind(run), ()):
            rates[kind].append(record["cost"]["train_seconds"] / _views(run))
    usual = rates[()] or [-1.0]
    return [_views(run) * median(rates.get(_kind(run), usual)) for run in runs]


def _kind(run: RunConfig) -> tuple[str, ...]:
    return tuple(str(getattr(run, name)) for name in KIND)


def _views(run: RunConfig) -> int:
    return run.epochs * (run.train_size or IMAGES)


def _print(runs: Sequence[RunConfig], root: Path, costs: Sequence[float]) -> None:
    begun, told = time.monotonic(), 0
    while True:
        time.sleep(EVERY_S)
        done = [is_finished(run, root) for run in runs]
        if told < sum(done) < len(runs):
            told = sum(done)
            print(line(costs, done, time.monotonic() - begun), flush=True)


def line(costs: Sequence[float], done: Sequence[bool], elapsed_s: float) -> str:
    """How many runs are done, and how long the others take if all goes on at the same speed."""
    share = sum(cost for cost, over in zip(costs, done, strict=True) if over) / sum(costs)
    left = spoken(elapsed_s * (1 - share) / share)
    return f"{sum(done)} of {len(done)} runs are finished; about {left} left."


def spoken(seconds: float) -> str:
    """Minutes, or hours where there are many."""
    return f"{seconds / 3600:.1f} h" if seconds > 5400 else f"{max(1, round(seconds / 60))} min"
