"""How good and how fast networks are, as files and in PyTorch, on this processor."""

from collections.abc import Callable, Mapping
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import torch
from tqdm.auto import tqdm

from kdlib.data.image_data import ImageData
from kdlib.export.checks import check_score, score
from kdlib.export.deployed import first_images
from kdlib.export.formats import format_of
from kdlib.export.networks import Exported
from kdlib.export.plan import Plan
from kdlib.machine import Clock, processor_clock

PYTORCH = "PyTorch"
ENOUGH_S = 10.0
"""After so many seconds a latency is not measured again."""
Work = Callable[[], object]


class Timed(NamedTuple):
    """What a latency is of: a network's name, what runs it, images a batch."""

    network: str
    runtime: str
    size: int


def measured(
    networks: Mapping[str, Exported], data: ImageData, plan: Plan, progress: bool
) -> dict[str, dict[str, Any]]:
    """Size, score on all of ``data`` and speed of each network, by its name.

    Raises:
        ExportError: a file's score is not that of its run's record.
    """
    found = {}
    for name, network in networks.items():
        bar = partial(tqdm, desc=f"{name}'s score", unit="image", disable=not progress)
        good, recorded = score(network.answer, data, bar), network.trained.score
        if recorded is not None:
            check_score(name, good, recorded, len(data))
        found[name] = {**network.size(), "score": good, "recorded": recorded, "latency_ms": {}}
    for timed, latency in _latencies(networks, data, plan, progress).items():
        of_runtime = found[timed.network]["latency_ms"].setdefault(timed.runtime, {})
        of_runtime[str(timed.size)] = latency
    return found


def _latencies(
    networks: Mapping[str, Exported], data: ImageData, plan: Plan, progress: bool
) -> dict[Timed, float]:
    images = first_images(data, max(plan.batch_sizes))
    runtime, (_, clock) = format_of(plan.format).runtime, processor_clock(plan.threads)
    works: dict[Timed, Work] = {}
    for name, network in networks.items():
        for size in plan.batch_sizes:
            batch = images[:size]
            works[Timed(name, PYTORCH, size)] = partial(network.deployed, batch)
            works[Timed(name, runtime, size)] = partial(network.answer, batch)
    with tqdm(total=plan.rounds, desc="speed", unit="round", disable=not progress) as bar:
        return median_ms(works, plan.rounds, clock, bar.update)


@torch.inference_mode()
def median_ms(
    works: Mapping[Timed, Work], rounds: int, clock: Clock, tick: Work
) -> dict[Timed, float]:
    """Median milliseconds of each, measured in turn: a machine whose speed drifts favours none.

    Before each measurement the work is done once unmeasured, for what was done before it leaves
    caches, and perhaps threads, as it likes.
    """
    seconds: dict[Timed, list[float]] = {timed: [] for timed in works}
    for _ in range(rounds):
        for timed, work in works.items():
            if len(seconds[timed]) < 2 or sum(seconds[timed]) < ENOUGH_S:
                work()
                start = clock()
                work()
                seconds[timed].append(clock() - start)
        tick()
    return {timed: round(1000 * median(values), 4) for timed, values in seconds.items()}
