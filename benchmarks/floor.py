"""Where a step's time goes: beside what its arithmetic alone would take, and by kind of work."""

from collections import defaultdict
from collections.abc import Container, Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.pairs import METHOD, noise, pair_config
from benchmarks.steps import Bench
from benchmarks.timing import Clock, Scope, Work, rounds_of
from kdlib.models.output import flops

BACKWARD = 2
"""A backward takes two matrix products for each of the forward: of weights, and of features."""
BIGGEST = {"cpu": 1024, "cuda": 8192}
MULTIPLICATIONS = 10
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


def matrix_rate(device: torch.device, dtype: torch.dtype, clock: Clock) -> float:
    """Floating-point operations per second of a large matrix product; the best of several."""
    size = BIGGEST.get(device.type, BIGGEST["cpu"])
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    (spent,) = rounds_of({"": lambda: left @ right}, MULTIPLICATIONS, clock, int).values()
    return 2 * size**3 / min(spent)


def share_of_floor(
    teacher: str, student: str, side: int, batch: int, scope: Scope, tick: Work
) -> dict[str, Any]:
    """What share of a bfloat16 step's time its convolutions and products would take at full rate.

    Counted are those of a teacher's forward and of a student's forward and backward.
    """
    device, compiled = scope.device, scope.compiled and scope.device.type == "cuda"
    data, config = noise(batch, side), pair_config(teacher, student, batch, side)
    how = {"device": device, "precision": "bfloat16", "fold": True, "compiled": compiled}
    bench = Bench(config, [METHOD], data, **how)
    works = {"": partial(bench.step, bench.batch(), METHOD)}
    (spent,) = rounds_of(works, scope.rounds, scope.clock, tick).values()
    own = (1 + BACKWARD) * flops(bench.trainees[METHOD].student, side)
    work = batch * (flops(bench.teacher.network, side) + own)
    rate = matrix_rate(device, torch.bfloat16, scope.clock)
    return {
        "teacher": teacher, "student": student, "image_size": side, "batch_size": batch,
        "gigaflops_a_step": round(work / 1e9, 1), "matrix_gigaflops_a_second": round(rate / 1e9, 1),
        "seconds": round(median(spent), 4), "share": round(work / rate / median(spent), 4),
    }  # fmt: skip


def breakdown(bench: Bench, method: str) -> dict[str, float]:
    """Share of each kind of work in a step with its loader, 0 to 1; largest first.

    A loss's backward is the loss's, found by the sequence number of its forward.
    """
    on_gpu = bench.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with _marked(bench.trainees[method].distiller), profile(activities=activities) as found:
        for _ in range(STEPS):
            with record_function("kdlib::loader"):
                batch = bench.batch()
            bench.step(batch, method)
    spent: dict[str, float] = defaultdict(float)
    events, own = found.events(), f"self_{'device' if on_gpu else 'cpu'}_time_total"
    in_loss = {one.sequence_nr for one in events if _kind(one) == "loss" and one.sequence_nr >= 0}
    for one in events:
        spent[_kind(one, in_loss)] += getattr(one, own)
    whole = sum(spent.values())
    ordered = sorted(spent.items(), key=lambda item: -item[1])
    return {name: round(part / whole, 4) for name, part in ordered}


@contextmanager
def _marked(distiller: nn.Module) -> Iterator[None]:
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


def _kind(event: FunctionEvent, in_loss: Container[int] = ()) -> str:
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
            name = around.name.lower()
            named = (kind for kind, marks in KINDS.items() if any(m in name for m in marks))
            found = next(named, OTHER)
        around = around.cpu_parent
    return found
