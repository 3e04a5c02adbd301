"""Images a second on the literature's pairs of networks, ours and torchdistill's."""

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import functional

from benchmarks.measure import as_json, check_same_loss
from benchmarks.peers import torchdistill_step, torchdistill_version
from benchmarks.steps import Bench
from benchmarks.timing import Clock, Work, paired, rounds_of
from kdlib.data.batches import Batch
from kdlib.data.image_data import ImageData
from kdlib.runs import RunConfig

PAIRS = (("resnet32x4", "resnet8x4"), ("wrn_40_2", "wrn_16_2"))
BATCHES = (64, 128)
PRECISIONS = ("float32", "bfloat16")
METHOD = "kd"
TOGETHER = ("kd", "at", "dct", "dct+kd")
CLASSES, SIDE = 100, 32
AUGMENTATION = ("flip", "crop")
OURS, THEIRS, IN_OUR_LAYOUT = "kdlib", "torchdistill", "torchdistill, our layout and batches"


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
    return replace(
        RunConfig(), teacher=teacher, student=student, batch_size=batch, image_size=side,
        augmentation=AUGMENTATION,
    )  # fmt: skip


def measure_pair(
    pair: tuple[str, str], batch: int, device: torch.device, rounds: int, compiled: bool,
    clock: Clock, tick: Work,
) -> dict[str, Any]:  # fmt: skip
    """Images a second of every way of training a pair, their loaders included, and ratios.

    Args:
        pair: teacher and student.
        batch: images a step.
        device: where it is measured.
        rounds: how often each way is timed; all have their turn in each.
        compiled: measure our compiled step too.
        clock: reads seconds.
        tick: called after each round.

    Raises:
        KdlibError: torchdistill's loss is not ours.
    """
    data, config = noise(max(512, 2 * batch)), pair_config(*pair, batch)
    works = {}
    for precision in PRECISIONS:
        works |= _ways(partial(Bench, config, data=data, device=device, precision=precision), data)
    create = partial(Bench, config, data=data, device=device, precision="bfloat16", fold=True)
    works[f"{OURS}, bfloat16, folded teacher"] = _step(create([METHOD]))
    if compiled:
        works[f"{OURS}, bfloat16, folded, compiled"] = _step(create([METHOD], compiled=True))
    together = f"{OURS}, bfloat16, folded, {len(TOGETHER)} in lock-step"
    works[together] = _step(create(list(TOGETHER)), *TOGETHER)
    times = rounds_of(works, rounds, clock, tick)
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
        _check(create([METHOD]))
    plain = torchdistill_step(create([METHOD]), METHOD, torch.contiguous_format)
    same = torchdistill_step(ours, METHOD)
    batches = their_batches(data, len(ours.batch().labels), ours.device)
    works[f"{THEIRS}, {precision}"] = lambda: plain(next(batches))
    works[f"{IN_OUR_LAYOUT}, {precision}"] = lambda: same(ours.batch())
    return works


def _step(bench: Bench, *methods: str) -> Work:
    return lambda: bench.step(bench.batch(), *(methods or (METHOD,)))


def _check(bench: Bench) -> None:
    batch, theirs = bench.batch(), torchdistill_step(bench, METHOD)
    check_same_loss(METHOD, bench.step(batch, METHOD)[METHOD], theirs(batch))


def their_batches(data: ImageData, size: int, device: torch.device) -> Iterator[Batch]:
    """Batches without end from PyTorch's loader; for a GPU with a worker a core, pinned."""
    on_gpu = device.type == "cuda"
    workers = {"num_workers": os.cpu_count() or 1, "persistent_workers": True} if on_gpu else {}
    loader = DataLoader(
        Pictures(data), size, shuffle=True, drop_last=True, pin_memory=on_gpu, **workers
    )
    while True:
        for images, labels in loader:
            moved = (part.to(device, non_blocking=True) for part in (images, labels))
            yield Batch(*moved, torch.arange(size))


def _ratios(times: dict[str, list[float]], together: str) -> dict[str, Any]:
    """How many times faster ours is: the same step, each at its best, students in lock-step."""
    theirs = {name: spent for name, spent in times.items() if name.startswith(f"{THEIRS},")}
    theirs = {name: spent for name, spent in theirs.items() if not name.startswith(IN_OUR_LAYOUT)}
    if not theirs:
        return {}
    ours = {n: spent for n, spent in times.items() if n.startswith(OURS) and n != together}
    best, mine = (min(some, key=lambda name: median(some[name])) for some in (theirs, ours))
    same = {
        f"same step, {one}": (f"{IN_OUR_LAYOUT}, {one}", f"{OURS}, {one}") for one in PRECISIONS
    }
    compared = {
        **same,
        "each at its best": (best, mine),
        "at their usual float32": (f"{THEIRS}, float32", mine),
        "students in lock-step": (best, together),
    }
    return {
        name: {"theirs": their, "ours": our, **as_json(paired(times[their], times[our]))}
        for name, (their, our) in compared.items()
    }
