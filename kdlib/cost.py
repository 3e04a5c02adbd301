"""What a network costs: parameters, operations, latency."""

import time
from statistics import median
from typing import Any

import torch
from torch import nn

from kdlib.models import count_parameters, flops

REPEATS = 10
ENOUGH_S = 10.0
"""After so many seconds a latency is not measured again: a processor takes minutes over ten times
64 photographs through ResNet-152."""


def measure_cost(network: nn.Module, image_size: int, device: torch.device) -> dict[str, Any]:
    """Parameters, FLOPs of one image, and median latency in milliseconds at batch 1 and 64."""
    network.eval()
    return {
        "parameters": count_parameters(network),
        "flops": flops(network, image_size),
        "latency_ms": {str(b): _latency(network, b, image_size, device) for b in (1, 64)},
    }


@torch.no_grad()
def _latency(network: nn.Module, batch: int, image_size: int, device: torch.device) -> float:
    images = torch.randn(batch, 3, image_size, image_size, device=device)
    seconds: list[float] = []
    while len(seconds) <= REPEATS and (len(seconds) < 2 or sum(seconds) < ENOUGH_S):
        start = time.perf_counter()
        network(images).logits.sum().item()
        seconds.append(time.perf_counter() - start)
    return round(1000 * median(seconds[1:]), 3)
