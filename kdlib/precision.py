"""Which precision a device trains fastest in."""

import json
import platform
import time

import torch
from torch import nn

from kdlib.data.cache import cache_root
from kdlib.files import write_json

GAIN = 1.1
REPEATS = 5


def resolve_precision(precision: str, device: torch.device) -> str:
    """``auto`` becomes ``bfloat16`` where it is at least a tenth faster, else ``float32``.

    Measured once on a machine and kept beside the caches: a busy moment must not give the runs
    of one comparison different precisions.
    """
    if precision != "auto":
        return precision
    path = cache_root() / f"precision-{_describe(device)}.json"
    if not path.exists():
        gain = bfloat16_gain(device)
        chosen = "bfloat16" if gain >= GAIN else "float32"
        write_json(path, {"precision": chosen, "bfloat16_gain": round(gain, 2)})
    return json.loads(path.read_text())["precision"]


def _describe(device: torch.device) -> str:
    """A file name for the device and the PyTorch that drives it."""
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return f"{device.type}-{kind}-{torch.__version__}".replace(" ", "_").replace("/", "_")


def bfloat16_gain(device: torch.device) -> float:
    """Speed of a convolution, forward and backward, in bfloat16 over that in float32."""
    layer = nn.Conv2d(32, 32, 3, padding=1).to(device).to(memory_format=torch.channels_last)
    images = torch.randn(32, 32, 32, 32, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    return _seconds(layer, images, False) / _seconds(layer, images, True)


def _seconds(layer: nn.Module, images: torch.Tensor, enabled: bool) -> float:
    best = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        with torch.autocast(images.device.type, torch.bfloat16, enabled):
            layer(images).float().square().mean().backward()
        if images.is_cuda:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best
