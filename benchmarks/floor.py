"""A step's time beside what its arithmetic alone would take at the device's matrix rate."""

from statistics import median
from typing import Any

import torch

from benchmarks.pairs import METHOD, noise, pair_config
from benchmarks.steps import Bench
from benchmarks.timing import Clock, Work, rounds_of
from kdlib.models.cost import flops

BACKWARD = 2
"""A backward takes two matrix products for each of the forward: of weights, and of features."""
BIGGEST = {"cpu": 1024, "cuda": 8192}
MULTIPLICATIONS = 10


def matrix_rate(device: torch.device, dtype: torch.dtype, clock: Clock) -> float:
    """Floating-point operations a second of a large matrix product; the best of several."""
    size = BIGGEST.get(device.type, BIGGEST["cpu"])
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    (spent,) = rounds_of({"": lambda: left @ right}, MULTIPLICATIONS, clock, int).values()
    return 2 * size**3 / min(spent)


def share_of_floor(
    teacher: str, student: str, side: int, batch: int, device: torch.device, rounds: int,
    clock: Clock, tick: Work, compiled: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """What share of a bfloat16 step's time its convolutions and products would take at full rate.

    Counted are those of a teacher's forward and of a student's forward and backward.
    """
    data, config = noise(batch, side), pair_config(teacher, student, batch, side)
    bench = Bench(
        config, [METHOD], data, device=device, precision="bfloat16", fold=True, compiled=compiled
    )
    step = bench.batch()
    (spent,) = rounds_of({"": lambda: bench.step(step, METHOD)}, rounds, clock, tick).values()
    work = batch * (
        flops(bench.teacher.network, side)
        + (1 + BACKWARD) * flops(bench.trainees[METHOD].student, side)
    )
    rate = matrix_rate(device, torch.bfloat16, clock)
    return {
        "teacher": teacher, "student": student, "image_size": side, "batch_size": batch,
        "gigaflops_a_step": round(work / 1e9, 1), "matrix_gigaflops_a_second": round(rate / 1e9, 1),
        "seconds": round(median(spent), 4), "share": round(work / rate / median(spent), 4),
    }  # fmt: skip
