"""Learning-rate schedules as pure functions of the step, so that a resumed run needs no state."""

import math
from collections.abc import Callable

from kdlib.runs import RunConfig

WARM_UP = 0.2
STEP_FACTOR = 0.1


def one_cycle(config: RunConfig, progress: float) -> float:
    """Linear rise over the first fifth of the run, then a cosine to zero (Smith, 1708.07120)."""
    if progress < WARM_UP:
        return progress / WARM_UP
    return (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP))) / 2


def step(config: RunConfig, progress: float) -> float:
    """A tenth at each milestone (in epochs), as both published protocols have it."""
    epoch = progress * config.epochs
    return STEP_FACTOR ** sum(epoch >= milestone for milestone in config.milestones)


def constant(config: RunConfig, progress: float) -> float:
    """The same learning rate throughout."""
    return 1.0


SCHEDULES: dict[str, Callable[[RunConfig, float], float]] = {
    "one_cycle": one_cycle,
    "step": step,
    "constant": constant,
}


def learning_rate(config: RunConfig, done: int, total: int) -> float:
    """Learning rate of the step after ``done`` of ``total`` steps."""
    factor = SCHEDULES[config.schedule](config, (done + 0.5) / total)
    return config.learning_rate * factor
