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
from itertools import product
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import functional

from benchmarks.steps import LEARNING_RATE, Bench
from benchmarks.timing import Scope, Work, median_ratio, own_cache, progress, rounds_of
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
KEPT = f"{OURS}, bfloat16, kept answers"
LOCKSTEP = f"{KEPT}, {len(TOGETHER)} in lock-step"
STAGES = ("stages.0", "stages.1", "stages.2")
LOGITS = "classifier"
LOSS_TOLERANCE = 1e-4  # relative


def torchdistill_version() -> str | None:
    """The installed version, or ``None``."""
    try:
        return version("torchdistill")
    except PackageNotFoundError:
        return None


def torchdistill_step(
    bench: Bench, method: str, layout: torch.memory_format = torch.channels_last
) -> Callable[[Batch], Tensor]:
    """A step of torchdistill's own loop for ``at`` or ``kd``; returns the loss.

    It trains copies of the bench's networks; ``layout`` is that of their weights and of batches.
    """
    logging.getLogger("torchdistill").setLevel(logging.WARNING)
    from torchdistill.core.distillation import get_distillation_box

    networks = bench.teacher.network, bench.states[method].student
    teacher, student = (copy.deepcopy(one).to(memory_format=layout) for one in networks)
    stage = _stage(bench, method)
    box = get_distillation_box(teacher, student, {}, stage, bench.device, None, False, 1)
    box.teacher_model.eval()
    box.student_model.train()

    def step(batch: Batch) -> Tensor:
        with torch.autocast(bench.device.type, torch.bfloat16, bench.precision == "bfloat16"):
            loss = box.forward_process(batch.images, batch.labels)
        box.post_forward_process(loss=loss)
        return loss.detach()

    return step


def _stage(bench: Bench, method: str) -> dict[str, Any]:
    """torchdistill's configuration of a training stage, with the weights of our method."""
    run, ours = bench.states[method].config, bench.states[method].distiller
    hooks = {"input": [], "output": [*STAGES, LOGITS] if method == "at" else [LOGITS]}
    seen = {"forward_proc": "forward_batch_only", "forward_hook": hooks}
    sgd = {"lr": LEARNING_RATE, "momentum": run.momentum, "weight_decay": run.weight_decay}
    terms = {"sub_terms": _at(ours) if method == "at" else _kd(ours)}
    return {
        "num_epochs": 1, "teacher": {**seen, "requires_grad": False}, "student": seen,
        "criterion": {"key": "WeightedSumLoss", "kwargs": terms},
        "optimizer": {"key": "SGD", "kwargs": sgd},
    }  # fmt: skip


def _kd(ours: Any) -> dict[str, Any]:
    weights = {"temperature": ours.temperature, "alpha": ours.ce_weight, "beta": ours.kd_weight}
    for one in ("student", "teacher"):
        weights |= {f"{one}_module_path": LOGITS, f"{one}_module_io": "output"}
    return {"kd": {"criterion": {"key": "KDLoss", "kwargs": weights}, "weight": 1.0}}


def _at(ours: Any) -> dict[str, Any]:
    ends = {path: {"io": "output", "path": path} for path in STAGES}
    pairs = {path: {"teacher": end, "student": end} for path, end in ends.items()}
    maps = {"key": "ATLoss", "kwargs": {"at_pairs": pairs, "mode": "code"}}
    answer = {"is_from_teacher": False, "module_path": LOGITS, "io": "output"}
    inputs = {"input": answer, "target": {"uses_label": True}}
    wrapper = {"key": "SimpleLossWrapper", "kwargs": inputs}
    entropy = {"key": "CrossEntropyLoss", "kwargs": {}}
    return {
        "ce": {"criterion": entropy, "criterion_wrapper": wrapper, "weight": ours.ce_weight},
        "at": {"criterion": maps, "weight": ours.weight},
    }


def check_same_loss(bench: Bench, method: str, theirs: Callable[[Batch], Tensor]) -> None:
    """Compare the losses of a first float32 step, which both take from the same weights."""
    batch = bench.batch()
    own, other = bench.step(batch, method)[method], theirs(batch)
    same = torch.isclose(own, other, rtol=LOSS_TOLERANCE)
    if bench.precision == "float32" and not same:  # in bfloat16 the two round at other places
        raise KdlibError(f"'{method}': torchdistill's loss is {other}, ours {own}; not the same.")


class Pictures(Dataset):
    """Images as PIL files would give them, augmented one by one, as torchdistill's configs do."""

    def __init__(self, data: ImageData) -> None:
        self.images = [functional.to_pil_image(image) for image in data.images]
        self.labels = data.labels.tolist()
        self.transform = transforms.Compose([
            transforms.RandomHorizontalFlip(), transforms.ToTensor(),
            transforms.Normalize(data.mean, data.std),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


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
    return replace(RunConfig(), **own)


def measure_pairs(scope: Scope) -> dict[str, Any]:
    """Images per second on the literature's pairs, ours and torchdistill's."""
    batches, rows = BATCHES[:1] if scope.quick else BATCHES, []
    with progress("pairs", len(batches) * len(PAIRS) * scope.rounds) as bar:
        for batch, pair in product(batches, PAIRS):
            rows.append(measure_pair(pair, batch, scope, bar.update))
            torch.compiler.reset()
    return {"pairs": rows, "torchdistill": torchdistill_version()}


def measure_pair(pair: tuple[str, str], batch: int, scope: Scope, tick: Work) -> dict[str, Any]:
    """Images per second of every way of training a pair, their loaders included, and ratios."""
    data, config = noise(max(512, 2 * batch)), pair_config(*pair, batch)
    create = partial(Bench, config, data=data, device=scope.device)
    works = {}
    for precision in PRECISIONS:
        works |= _ways(partial(create, precision=precision), data)
    create = partial(create, precision="bfloat16")
    works[KEPT] = step_of(create([METHOD]), METHOD, kept=True)
    if scope.compiled and (batch == BATCHES[0] or scope.device.type == "cuda"):
        works[f"{KEPT}, compiled"] = step_of(create([METHOD], compiled=True), METHOD, kept=True)
    works[LOCKSTEP] = step_of(create(TOGETHER), *TOGETHER, kept=True)
    with own_cache():
        times = rounds_of(works, scope.rounds, scope.clock, tick)
    times[LOCKSTEP] = [spent / len(TOGETHER) for spent in times[LOCKSTEP]]
    speeds = {name: round(batch / median(spent), 1) for name, spent in times.items()}
    head = {"teacher": pair[0], "student": pair[1], "batch_size": batch, "method": METHOD}
    return {**head, "images_per_second": speeds, "ratios": _ratios(times)}


def _ways(create: partial, data: ImageData) -> dict[str, Work]:
    """Our step and torchdistill's in one precision: in its own layout and loader, and in ours."""
    ours, precision = create([METHOD]), create.keywords["precision"]
    works = {f"{OURS}, {precision}": step_of(ours, METHOD)}
    if torchdistill_version() is None:
        return works
    first = create([METHOD])
    check_same_loss(first, METHOD, torchdistill_step(first, METHOD))
    plain = torchdistill_step(create([METHOD]), METHOD, torch.contiguous_format)
    same = torchdistill_step(ours, METHOD)
    batches = their_batches(data, ours.states[METHOD].config.batch_size, ours.device)
    works[f"{THEIRS}, {precision}"] = lambda: plain(next(batches))
    works[f"{IN_OUR_LAYOUT}, {precision}"] = lambda: same(ours.batch())
    return works


def step_of(bench: Bench, *methods: str, kept: bool = False) -> Work:
    """A step of these methods' students, with its batch."""
    return lambda: bench.step(bench.batch(), *methods, kept=kept)


def _ratios(times: dict[str, list[float]]) -> dict[str, Any]:
    """How many times faster ours is: the same step, each at its best, students in lock-step."""
    theirs = [f"{THEIRS}, {one}" for one in PRECISIONS if f"{THEIRS}, {one}" in times]
    if not theirs:
        return {}
    ours = [name for name in times if name.startswith(OURS) and name != LOCKSTEP]
    best, mine = (min(some, key=lambda name: median(times[name])) for some in (theirs, ours))
    compared = {
        **{f"same step, {p}": (f"{IN_OUR_LAYOUT}, {p}", f"{OURS}, {p}") for p in PRECISIONS},
        "each at its best": (best, mine),
        "at their usual float32": (f"{THEIRS}, float32", mine),
        "students in lock-step": (best, LOCKSTEP),
    }
    return {
        name: {"theirs": their, "ours": our, **median_ratio(times[their], times[our]).as_json()}
        for name, (their, our) in compared.items()
    }
