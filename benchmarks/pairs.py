"""Images per second on the literature's pairs of networks, ours and torchdistill's.

torchdistill: Matsubara 2021, arXiv 2011.12913; here on our networks, batches and losses.
"""

import copy
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import functional

from benchmarks.steps import LEARNING_RATE, Bench
from benchmarks.timing import Scope, Work, paired, rounds_of
from kdlib.data.batches import Batch
from kdlib.data.image_data import ImageData
from kdlib.errors import KdlibError
from kdlib.runs import RunConfig

PAIRS = (("resnet32x4", "resnet8x4"), ("wrn_40_2", "wrn_16_2"))
BATCHES = (64, 128)
PRECISIONS = ("float32", "bfloat16")
METHOD = "kd"
TOGETHER = ("kd", "at", "dct", "dct+kd")
CLASSES, SIDE = 100, 32
OURS, THEIRS, IN_OUR_LAYOUT = "kdlib", "torchdistill", "torchdistill, our layout and batches"
STAGES = ("stages.0", "stages.1", "stages.2")
LOGITS = "classifier"
LOSS_TOLERANCE = 1e-2  # relative; bfloat16 has three digits


def torchdistill_version() -> str | None:
    """The installed version, or ``None``."""
    try:
        return version("torchdistill")
    except PackageNotFoundError:
        return None


def torchdistill_step(
    bench: Bench, method: str, layout: torch.memory_format = torch.channels_last
) -> Callable[[Batch], torch.Tensor]:
    """A step of torchdistill's own loop for ``at`` or ``kd``; returns the loss.

    It trains copies of the bench's networks; ``layout`` is that of their weights and of batches.
    """
    logging.getLogger("torchdistill").setLevel(logging.WARNING)
    from torchdistill.core.distillation import get_distillation_box

    networks = bench.teacher.network, bench.trainees[method].student
    teacher, student = (copy.deepcopy(one).to(memory_format=layout) for one in networks)
    stage = _stage(bench, method)
    box = get_distillation_box(teacher, student, {}, stage, bench.device, None, False, 1)
    box.teacher_model.eval()
    box.student_model.train()

    def step(batch: Batch) -> torch.Tensor:
        with torch.autocast(bench.device.type, torch.bfloat16, bench.precision == "bfloat16"):
            loss = box.forward_process(batch.images, batch.labels)
        box.post_forward_process(loss=loss)
        return loss.detach()

    return step


def _stage(bench: Bench, method: str) -> dict[str, Any]:
    """torchdistill's configuration of a training stage."""
    run = bench.trainees[method].config
    hooks = {"input": [], "output": [*STAGES, LOGITS] if method == "at" else [LOGITS]}
    seen = {"forward_proc": "forward_batch_only", "forward_hook": hooks}
    sgd = {"lr": LEARNING_RATE, "momentum": run.momentum, "weight_decay": run.weight_decay}
    terms = {"sub_terms": _terms(bench.trainees[method].distiller, method)}
    return {
        "num_epochs": 1, "teacher": {**seen, "requires_grad": False}, "student": seen,
        "criterion": {"key": "WeightedSumLoss", "kwargs": terms},
        "optimizer": {"key": "SGD", "kwargs": sgd},
    }  # fmt: skip


def _terms(ours: Any, method: str) -> dict[str, Any]:
    """Loss terms with the weights of our method."""
    if method == "kd":
        ends = ("student", "teacher")
        paths = {f"{who}_module_path": LOGITS for who in ends}
        kinds = {f"{who}_module_io": "output" for who in ends}
        shares = {"temperature": ours.temperature, "alpha": ours.ce_weight, "beta": ours.kd_weight}
        return {"kd": _term("KDLoss", 1.0, {**paths, **kinds, **shares})}
    ends = {path: {"io": "output", "path": path} for path in STAGES}
    pairs = {path: {"teacher": end, "student": end} for path, end in ends.items()}
    answer = {"is_from_teacher": False, "module_path": LOGITS, "io": "output"}
    ends = {"input": answer, "target": {"uses_label": True}}
    wrapper = {"criterion_wrapper": {"key": "SimpleLossWrapper", "kwargs": ends}}
    return {
        "ce": _term("CrossEntropyLoss", ours.ce_weight, {}) | wrapper,
        "at": _term("ATLoss", ours.weight, {"at_pairs": pairs, "mode": "code"}),
    }


def _term(key: str, weight: float, kwargs: dict[str, Any]) -> dict[str, Any]:
    return {"criterion": {"key": key, "kwargs": kwargs}, "weight": weight}


def check_same_loss(method: str, ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Compare the losses of a first step, which both take from the same weights."""
    if not torch.isclose(ours, theirs, rtol=LOSS_TOLERANCE):
        raise KdlibError(f"'{method}': torchdistill's loss is {theirs}, ours {ours}; not the same.")


class Pictures(Dataset):
    """Images as PIL files would give them, augmented one by one, as torchdistill's configs do."""

    def __init__(self, data: ImageData) -> None:
        self.images = [functional.to_pil_image(image) for image in data.images]
        self.labels = data.labels.tolist()
        self.transform = transforms.Compose([
            transforms.RandomCrop(SIDE, padding=4), transforms.RandomHorizontalFlip(),
            transforms.ToTensor(), transforms.Normalize(data.mean, data.std),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


def noise(count: int, side: int = SIDE, classes: int = CLASSES) -> ImageData:
    """Random pixels in the shape of CIFAR-100: how fast a step is does not depend on them."""
    stream = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, side, side), generator=stream, dtype=torch.uint8)
    labels = torch.randint(0, classes, (count,), generator=stream)
    names = tuple(map(str, range(classes)))
    return ImageData(pixels, labels, names, (0.5,) * 3, (0.25,) * 3, f"noise-{count}-{side}")


def pair_config(teacher: str, student: str, batch: int, side: int = SIDE) -> RunConfig:
    """A run of two networks on images of a size, all else as usual."""
    own = {"teacher": teacher, "student": student, "batch_size": batch, "image_size": side}
    return replace(RunConfig(), augmentation=("flip", "crop"), **own)


def measure_pair(pair: tuple[str, str], batch: int, scope: Scope, tick: Work) -> dict[str, Any]:
    """Images per second of every way of training a pair, their loaders included, and ratios."""
    data, config = noise(max(512, 2 * batch)), pair_config(*pair, batch)
    create = partial(Bench, config, data=data, device=scope.device)
    works = {}
    for precision in PRECISIONS:
        works |= _ways(partial(create, precision=precision), data)
    create = partial(create, precision="bfloat16", fold=True)
    works[f"{OURS}, bfloat16, folded teacher"] = _step(create([METHOD]))
    if scope.compiled and (batch == BATCHES[0] or scope.device.type == "cuda"):
        works[f"{OURS}, bfloat16, folded, compiled"] = _step(create([METHOD], compiled=True))
    together = f"{OURS}, bfloat16, folded, {len(TOGETHER)} in lock-step"
    works[together] = _step(create(list(TOGETHER)), *TOGETHER)
    times = rounds_of(works, scope.rounds, scope.clock, tick)
    times[together] = [spent / len(TOGETHER) for spent in times[together]]
    speeds = {name: round(batch / median(spent), 1) for name, spent in times.items()}
    head = {"teacher": pair[0], "student": pair[1], "batch_size": batch, "method": METHOD}
    return {**head, "images_per_second": speeds, "ratios": _ratios(times, together)}


def _ways(create: partial, data: ImageData) -> dict[str, Work]:
    """Our step and torchdistill's in one precision: in its own layout and loader, and in ours."""
    ours, precision = create([METHOD]), create.keywords["precision"]
    works = {f"{OURS}, {precision}": _step(ours)}
    if torchdistill_version() is None:
        return works
    if precision == "float32":  # in bfloat16 the two round at other places
        one = create([METHOD])
        batch, step = one.batch(), torchdistill_step(one, METHOD)
        check_same_loss(METHOD, one.step(batch, METHOD)[METHOD], step(batch))
    plain = torchdistill_step(create([METHOD]), METHOD, torch.contiguous_format)
    same = torchdistill_step(ours, METHOD)
    batches = their_batches(data, len(ours.batch().labels), ours.device)
    works[f"{THEIRS}, {precision}"] = lambda: plain(next(batches))
    works[f"{IN_OUR_LAYOUT}, {precision}"] = lambda: same(ours.batch())
    return works


def _step(bench: Bench, *methods: str) -> Work:
    return lambda: bench.step(bench.batch(), *(methods or (METHOD,)))


def their_batches(data: ImageData, size: int, device: torch.device) -> Iterator[Batch]:
    """Batches without end from PyTorch's loader; for a GPU with a worker a core, pinned."""
    on_gpu = device.type == "cuda"
    workers = {"num_workers": os.cpu_count() or 1, "persistent_workers": True} if on_gpu else {}
    how = {"shuffle": True, "drop_last": True, "pin_memory": on_gpu, **workers}
    loader = DataLoader(Pictures(data), size, **how)
    while True:
        for images, labels in loader:
            moved = (part.to(device, non_blocking=True) for part in (images, labels))
            yield Batch(*moved, torch.arange(size))


def _ratios(times: dict[str, list[float]], together: str) -> dict[str, Any]:
    """How many times faster ours is: the same step, each at its best, students in lock-step."""
    theirs = [f"{THEIRS}, {one}" for one in PRECISIONS if f"{THEIRS}, {one}" in times]
    if not theirs:
        return {}
    ours = [name for name in times if name.startswith(OURS) and name != together]
    best, mine = (min(some, key=lambda name: median(times[name])) for some in (theirs, ours))
    compared = {
        **{f"same step, {p}": (f"{IN_OUR_LAYOUT}, {p}", f"{OURS}, {p}") for p in PRECISIONS},
        "each at its best": (best, mine),
        "at their usual float32": (f"{THEIRS}, float32", mine),
        "students in lock-step": (best, together),
    }
    return {
        name: {"theirs": their, "ours": our, **paired(times[their], times[our]).as_json()}
        for name, (their, our) in compared.items()
    }
