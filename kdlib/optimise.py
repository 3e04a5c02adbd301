"""How a run learns: its optimiser, its learning-rate schedule, its precision."""

import json
import math
import platform
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn, optim

from kdlib.data.cache import cache_root
from kdlib.files import write_json

if TYPE_CHECKING:
    from kdlib.runs import RunConfig

ADAM_SECOND_BETA = 0.999
"""Decay of Adam's second moment, as nearly everybody has it; ``momentum`` is the first one's."""


def create_optimiser(config: "RunConfig", network: nn.Module) -> optim.Optimizer:
    """The optimiser of a run, over all parameters of ``network`` that are not frozen."""
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    shared: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.optimiser == "sgd":
        return optim.SGD(learned, momentum=config.momentum, **shared)
    # Weight decay is added to the gradient, as in the papers that use Adam.
    return optim.Adam(learned, betas=(config.momentum, ADAM_SECOND_BETA), **shared)


def optimiser_state(optimiser: optim.Optimizer) -> dict[str, Tensor]:
    """What the optimiser remembers of each parameter, by its position and the memory's name."""
    return {
        f"{position}.{name}": value
        for position, state in optimiser.state_dict()["state"].items()
        for name, value in state.items()
        if isinstance(value, Tensor)
    }


def restore_optimiser(optimiser: optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what ``optimiser_state`` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        position, _, name = key.partition(".")
        state.setdefault(int(position), {})[name] = tensor
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})


# Schedules are functions of the step, so that a resumed run needs no state.
WARM_UP = 0.2
STEP_FACTOR = 0.1


def learning_rate(config: "RunConfig", done: int, epochs: int, steps_per_epoch: int) -> float:
    """Learning rate of the step after ``done`` steps of ``epochs`` epochs."""
    progress = (done + 0.5) / (epochs * steps_per_epoch)
    return config.learning_rate * _factor(config, progress, epochs)


def _factor(config: "RunConfig", progress: float, epochs: int) -> float:
    if config.schedule == "one_cycle":
        # Linear rise over the first fifth of the run, then a cosine to zero (Smith, 1708.07120).
        if progress < WARM_UP:
            return progress / WARM_UP
        return (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP))) / 2
    if config.schedule == "step":  # a tenth at each milestone, as both published protocols have it
        epoch = progress * epochs
        return STEP_FACTOR ** sum(epoch >= milestone for milestone in config.milestones)
    return 1.0


GAIN = 1.1
REPEATS = 5


def resolve_precision(precision: str, device: torch.device) -> str:
    """``auto`` becomes ``bfloat16`` where it is at least a tenth faster, else ``float32``.

    Measured once on a machine and kept beside the caches: a busy moment must not give the runs
    of one comparison different precisions.
    """
    if precision != "auto":
        return precision
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    name = f"{device.type}-{kind}-{torch.__version__}".replace(" ", "_").replace("/", "_")
    path = cache_root() / f"precision-{name}.json"
    if not path.exists():
        gain = bfloat16_gain(device)
        chosen = "bfloat16" if gain >= GAIN else "float32"
        write_json(path, {"precision": chosen, "bfloat16_gain": round(gain, 2)})
    return json.loads(path.read_text())["precision"]


def bfloat16_gain(device: torch.device) -> float:
    """Speed of a convolution, forward and backward, in bfloat16 over that in float32."""
    layer = nn.Conv2d(32, 32, 3, padding=1).to(device).to(memory_format=torch.channels_last)
    images = torch.randn(32, 32, 32, 32, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    return _seconds(layer, images, False) / _seconds(layer, images, True)


def _seconds(layer: nn.Module, images: Tensor, enabled: bool) -> float:
    best = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        with torch.autocast(images.device.type, torch.bfloat16, enabled):
            layer(images).float().square().mean().backward()
        if images.is_cuda:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best
