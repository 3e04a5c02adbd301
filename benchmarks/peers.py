"""torchdistill (Matsubara 2021, arXiv 2011.12913) on our networks, batch and losses."""

import copy
import logging
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from benchmarks.steps import LEARNING_RATE, Bench
from kdlib.data.batches import Batch

STAGES = ("stages.0", "stages.1", "stages.2")
LOGITS = "classifier"


def torchdistill_version() -> str | None:
    """The installed version, or ``None``."""
    try:
        return version("torchdistill")
    except PackageNotFoundError:
        return None


def torchdistill_step(
    bench: Bench, method: str, layout: torch.memory_format = torch.channels_last
) -> Callable[[Batch], torch.Tensor]:
    """A step of torchdistill's own loop: forward, loss, backward, optimiser; returns the loss.

    Its box gets copies of the bench's networks, so that both begin at the same weights.

    Args:
        bench: whose networks, device and precision it takes.
        method: ``at`` or ``kd``, with the weights that ours has.
        layout: of the copies' weights; batches must come in it too.
    """
    logging.getLogger("torchdistill").setLevel(logging.WARNING)
    from torchdistill.core.distillation import get_distillation_box

    trainee = bench.trainees[method]
    copies = (copy.deepcopy(one) for one in (bench.teacher.network, trainee.student))
    teacher, student = (one.to(memory_format=layout) for one in copies)
    box = get_distillation_box(
        teacher, student, {}, _config(bench, method), bench.device, None, False, 1
    )
    box.teacher_model.eval()
    box.student_model.train()

    def step(batch: Batch) -> torch.Tensor:
        with torch.autocast(bench.device.type, torch.bfloat16, bench.precision == "bfloat16"):
            loss = box.forward_process(batch.images, batch.labels)
        box.post_forward_process(loss=loss)
        return loss.detach()

    return step


def _config(bench: Bench, method: str) -> dict[str, Any]:
    """torchdistill's configuration of a training stage."""
    run = bench.trainees[method].config
    outputs = [*STAGES, LOGITS] if method == "at" else [LOGITS]
    seen = {
        "forward_proc": "forward_batch_only",
        "forward_hook": {"input": [], "output": outputs},
    }
    sgd = {"lr": LEARNING_RATE, "momentum": run.momentum, "weight_decay": run.weight_decay}
    return {
        "num_epochs": 1,
        "teacher": {**seen, "requires_grad": False},
        "student": seen,
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": _terms(bench, method)}},
        "optimizer": {"key": "SGD", "kwargs": sgd},
    }


def _terms(bench: Bench, method: str) -> dict[str, Any]:
    """Loss terms with the weights of our method."""
    ours = bench.trainees[method].distiller
    if method == "kd":
        paths = {f"{who}_module_path": LOGITS for who in ("student", "teacher")}
        kinds = {f"{who}_module_io": "output" for who in ("student", "teacher")}
        shares = {"temperature": ours.temperature, "alpha": ours.ce_weight, "beta": ours.kd_weight}
        criterion = {"key": "KDLoss", "kwargs": {**paths, **kinds, **shares}}
        return {"kd": {"criterion": criterion, "weight": 1.0}}
    ends = {path: {"io": "output", "path": path} for path in STAGES}
    pairs = {path: {"teacher": end, "student": end} for path, end in ends.items()}
    entropy = {
        "criterion": {"key": "CrossEntropyLoss", "kwargs": {}},
        "criterion_wrapper": {
            "key": "SimpleLossWrapper",
            "kwargs": {
                "input": {"is_from_teacher": False, "module_path": LOGITS, "io": "output"},
                "target": {"uses_label": True},
            },
        },
        "weight": ours.ce_weight,
    }
    transfer = {"key": "ATLoss", "kwargs": {"at_pairs": pairs, "mode": "code"}}
    return {"ce": entropy, "at": {"criterion": transfer, "weight": ours.weight}}
