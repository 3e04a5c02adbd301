"""How fast networks answer on this processor."""

from collections.abc import Callable, Mapping
from statistics import median
from typing import TypeVar

from kdlib.machine import Clock

Key = TypeVar("Key")
Work = Callable[[], object]
ENOUGH_S = 10.0
"""After so many seconds one piece of work is not measured again."""


def median_ms(works: Mapping[Key, Work], rounds: int, clock: Clock, tick: Work) -> dict[Key, float]:
    """Median milliseconds of each, measured in turn: a machine whose speed drifts favours none.

    Before each measurement the work is done once unmeasured, for what was done before it leaves
    caches, and perhaps threads, as it likes.
    """
    seconds: dict[Key, list[float]] = {key: [] for key in works}
    for _ in range(rounds):
        for key, work in works.items():
            if len(seconds[key]) < 2 or sum(seconds[key]) < ENOUGH_S:
                work()
                start = clock()
                work()
                seconds[key].append(clock() - start)
        tick()
    return {key: round(1000 * median(values), 4) for key, values in seconds.items()}
