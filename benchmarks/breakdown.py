"""Where a step's time goes: shares of convolutions, batch norms, the loss, the optimiser ..."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.steps import Bench

SPANS = {"kdlib::loader": "loader", "kdlib::loss": "loss", "Optimizer.step": "optimiser"}
"""Beginnings of names of spans: all that happens in one is of its kind."""
KINDS = {
    "convolution": ("conv", "thnn_conv"),
    "batch norm": ("batch_norm", "batchnorm", "batch_norm_backward"),
    "ReLU": ("relu", "threshold", "clamp_min"),
    "compiled code": ("compiledfunction", "torch-compiled", "inductor", "triton"),
}
OTHER = "other"
STEPS = 3


def breakdown(bench: Bench, method: str) -> dict[str, float]:
    """Share of each kind of work in a step with its loader, 0 to 1; largest first.

    A loss's backward is the loss's, found by the sequence number of its forward.
    """
    with _spans(bench.trainees[method].distiller), _profiler(bench.device) as found:
        for _ in range(STEPS):
            with record_function("kdlib::loader"):
                batch = bench.batch()
            bench.step(batch, method)
    spent: dict[str, float] = defaultdict(float)
    events = found.events()
    in_loss = {one.sequence_nr for one in events if _kind(one) == "loss" and one.sequence_nr >= 0}
    for one in events:
        spent[_kind(one, in_loss)] += _own_time(one, bench.device)
    whole = sum(spent.values())
    return {name: round(part / whole, 4) for name, part in sorted(spent.items(), key=_largest)}


@contextmanager
def _profiler(device: torch.device) -> Iterator[Any]:
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as found:
        yield found


@contextmanager
def _spans(distiller: nn.Module) -> Iterator[None]:
    """Mark what a distiller does, while it lasts."""
    plain = distiller.forward

    def marked(*args: Any, **kwargs: Any) -> Any:
        with record_function("kdlib::loss"):
            return plain(*args, **kwargs)

    distiller.forward = marked
    try:
        yield
    finally:
        del distiller.forward


def _kind(event: FunctionEvent, in_loss: frozenset[int] | set[int] = frozenset()) -> str:
    """What an event is part of: its own name's kind, or that of the nearest event around it."""
    around: FunctionEvent | None = event
    found = OTHER
    while around is not None:
        span = next((kind for start, kind in SPANS.items() if around.name.startswith(start)), None)
        if span is not None:
            return span
        if around.name.startswith("autograd::") and around.sequence_nr in in_loss:
            return "loss"
        if found == OTHER:
            found = _kind_of_name(around.name.lower())
        around = around.cpu_parent
    return found


def _kind_of_name(name: str) -> str:
    return next((kind for kind, marks in KINDS.items() if any(m in name for m in marks)), OTHER)


def _own_time(event: FunctionEvent, device: torch.device) -> float:
    return event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total


def _largest(item: tuple[str, float]) -> float:
    return -item[1]
