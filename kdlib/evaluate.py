"""Evaluation: accuracies or IoU, likeness of attention to the teacher's, relevance of attention."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache, cached_property, lru_cache, partial, reduce
from itertools import accumulate, starmap
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdlib.data.batches import Batch, Batches
from kdlib.data.image_data import ImageData
from kdlib.distill import FrozenTeacher
from kdlib.errors import KdlibError, check_known
from kdlib.files import load_weights
from kdlib.losses import attention
from kdlib.models import create_model
from kdlib.models.output import Output, evaluating
from kdlib.process_group import ALONE, ProcessGroup
from kdlib.runs import RunConfig, finished_record, is_finished, run_directory
from kdlib.tasks import TASKS

BATCH_SIZE = 250
WINDOW, SIGMA, C1, C2 = 11, 1.5, 0.01**2, 0.03**2  # of structural similarity
MOST_CONFUSED = 200  # classes for all confusions in a record; ADE20K's would be a million numbers


# What a network answers.
@torch.no_grad()
def answers(
    models: Sequence[nn.Module],
    data: ImageData,
    batch_size: int = BATCH_SIZE,
    *,
    device: torch.device | str = "cpu",
    precision: str = "float32",
    world: ProcessGroup = ALONE,  # of several processes each takes some of the batches
) -> Iterator[tuple[Batch, list[Any]]]:
    """Batch by batch the output of each model, in eval mode."""
    check_known("precision", precision, ("float32", "bfloat16"))
    batches, mixed = Batches(data, batch_size, device=device, world=world), precision == "bfloat16"
    with evaluating(*models):
        for batch in map(channels_last, batches.in_order()):
            with torch.autocast(batch.images.device.type, torch.bfloat16, mixed):
                outputs = [
                    model.teach(batch) if isinstance(model, FrozenTeacher) else model(batch.images)
                    for model in models
                ]
            yield batch, outputs


def channels_last(batch: Any) -> Any:
    """A batch with its images in the order of memory in which convolutions are fastest."""
    if not isinstance(batch, Batch):  # a detector's images are a list
        return batch
    return batch._replace(images=batch.images.contiguous(memory_format=torch.channels_last))


def predict(model: nn.Module, data: ImageData, batch_size: int = BATCH_SIZE, **how: Any) -> Tensor:
    """Logits (N, K) of all images in order, float32, on the CPU, whichever process made them.

    ``how`` may be ``device``, ``precision`` (``float32`` or ``bfloat16``) and ``world``.
    """
    outputs = answers([model], data, batch_size, **how)
    logits = [output.logits.float().cpu() for _, (output,) in outputs]
    return torch.cat(how.get("world", ALONE).in_order(logits))


def trained_network(config: RunConfig, root: Path, classes: int, **options: Any) -> nn.Module:
    """The network that a finished run left, on the CPU and in eval mode; else a ``KdlibError``.

    ``options`` of :func:`kdlib.models.create_model`: those of detectors are no weights.
    """
    directory = run_directory(config, root)
    if not is_finished(config, root):
        raise KdlibError(f"{directory} holds no finished run; train it first with fit.")
    network = create_model(config.student, classes, **options)
    source = finished_record(config, root)["provenance"]["data_fingerprint"]
    own = {"run": config.run_id, "data": source}
    load_weights(network, directory / "weights.safetensors", classes, own)
    return network.eval()


@torch.no_grad()
def attention_on(network: nn.Module, data: ImageData) -> tuple[Tensor, ...]:
    """Attention maps (N, h, w) of each stage, fine to coarse, for all images of ``data``."""
    batch = next(Batches(data, len(data)).in_order())
    return attention.attention_maps(network.eval()(batch.images).stages)


# How many answers are right.
def classification_metrics(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Accuracies as fractions, from logits (N, K) and labels (N,).

    ``top5`` is the best K where K < 5; ``mca`` the mean over the classes that occur; ``mca_all``
    counts the others as 0 (as the paper's release does, which caps ADE20K at 63.7 %); ``per_class``
    is ``None`` for them; ``confusion`` counts (K, K), rows: true class, if K <= ``MOST_CONFUSED``.
    """
    classes = logits.shape[1]
    if len(labels) == 0 or int(labels.max()) >= classes:
        says = f"{len(labels)} labels do not fit logits of {classes} classes"
        raise KdlibError(f"{says}; evaluate one image or more, of the network's classes.")
    ranked = logits.topk(min(5, classes)).indices
    hits = ranked == labels[:, None]
    pairs = torch.bincount(labels * classes + ranked[:, 0], minlength=classes**2)
    confusion = pairs.view(classes, classes).tolist()
    counts = labels.bincount(minlength=classes).tolist()
    per_class = [confusion[c][c] / counts[c] if counts[c] else None for c in range(classes)]
    present = [accuracy for accuracy in per_class if accuracy is not None]
    *_, total = accumulate(present)  # sum() rounds otherwise from Python 3.12 on
    return {
        "top1": hits[:, 0].float().mean(dtype=torch.float64).item(),
        "top5": hits.any(1).float().mean(dtype=torch.float64).item(),
        "mca": total / len(present),
        "mca_all": total / classes,
        "per_class": per_class,
        "confusion": confusion if classes <= MOST_CONFUSED else None,
    }


def agreement(logits: Tensor, teacher: Tensor, labels: Tensor) -> dict[str, Any]:
    """How alike a student (N, K) and its teacher (N, K) answer images with labels (N,).

    ``top1``, the share of equal answers, and ``kl``, nats of KL(teacher || student), of all images
    and where the teacher is ``right`` and ``wrong``: is it knowledge or error that was taken over?
    (Stanton et al. 2021, arXiv 2106.05945.) ``None`` where there is no such image.
    """
    right, same = teacher.argmax(1) == labels, (teacher.argmax(1) == logits.argmax(1)).double()
    mine, theirs = (one.double().log_softmax(1) for one in (logits, teacher))
    kl = functional.kl_div(mine, theirs, reduction="none", log_target=True).sum(1)

    def of(chosen: Tensor) -> dict[str, Any]:
        means = {"top1": same[chosen].mean().item(), "kl": kl[chosen].mean().item()}
        return means if chosen.any() else dict.fromkeys(means)

    return {**of(right | ~right), "right": of(right), "wrong": of(~right)}


def calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Expected calibration error, 0 to 1, of logits (N, K): by how much confidence is off.

    The mean gap of confidence and accuracy over bins of equal width, weighted by their images
    (Guo et al. 2017, arXiv 1706.04599).
    """
    confidence, predicted = logits.double().softmax(1).max(1)
    gaps = torch.zeros(bins, dtype=torch.float64)
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gaps.index_add_(0, place, (predicted == labels).double() - confidence)
    return (gaps.abs().sum() / len(labels)).item()


class ClassificationMarks:
    """The answers to all images, of which several processes each add a part."""

    def __init__(self, classes: int, world: ProcessGroup = ALONE) -> None:
        self.world, self.answers = world, list[tuple[Tensor, Tensor]]()

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Keep a batch: logits (B, K), labels (B,)."""
        self.answers.append((logits.float().cpu(), labels.cpu()))

    def results(self) -> dict[str, Any]:
        """See :func:`classification_metrics`; ``ece`` is the :func:`calibration_error`."""
        logits, labels = self.whole
        ece = calibration_error(logits, labels)
        return {**classification_metrics(logits, labels), "ece": ece}

    @cached_property
    def whole(self) -> tuple[Tensor, Tensor]:
        """Logits (N, K) and labels (N,) of all images in order."""
        logits, labels = zip(*self.world.in_order(self.answers), strict=True)
        return torch.cat(logits), torch.cat(labels)


def marks_of(data: ImageData, world: ProcessGroup = ALONE) -> Any:
    """What counts the answers to a data set: ``add(logits, labels)``, then ``results()``."""
    return resolve_name(TASKS[data.task].marks)(len(data.classes), world)


# Does attention lie on the objects that define the class? Measured against ground truth.
def energy_share(maps: Tensor, relevance: Tensor) -> Tensor:
    """Share of attention energy on relevant pixels: maps (B, h, w), masks (B, H, W) -> (B,)."""
    # Equal to the share of the map enlarged block by block; a zero map counts as uniform.
    share, maps = attention.pool_to_common_size(relevance.float(), maps)
    total = maps.sum((1, 2), keepdim=True)
    weights = (maps / total.masked_fill(total == 0, 1)).where(total != 0, 1 / maps[0].numel())
    return (weights * share).sum((1, 2))


def pointing_hit(maps: Tensor, relevance: Tensor) -> Tensor:
    """Chance that a pixel of the map's strongest cell is relevant, 0 to 1; shapes as above.

    The pointing game (Zhang et al. 2018, doi 10.1007/s11263-017-1059-x) without its tolerance of 15
    pixels, a quarter of an image; cells that tie for the strongest count equally.
    """
    share, maps = attention.pool_to_common_size(relevance.float(), maps)
    peak = (maps == maps.amax((1, 2), keepdim=True)).float()
    return (peak * share).sum((1, 2)) / peak.sum((1, 2))


# Structural similarity of attention maps (Wang et al. 2004, doi 10.1109/TIP.2003.819861).
def ssim_per_image(first: Tensor, second: Tensor) -> Tensor:
    """SSIM of min-max-normalised maps (B, H, W) and (B, H', W') -> (B,), in -1..1.

    Maps of unequal size are average-pooled to the smaller. The window, 11 x 11 with sigma 1.5,
    shrinks (and sigma with it) to the largest odd width that fits. Borders are mirrored.
    """
    return _similarity(first, second, "reflect")


def ssim_released(student: Output, teacher: Output, labels: Tensor) -> list[Tensor]:
    """SSIM of the attention of each pair of stages as arXiv 2205.01997's release measures it.

    One (n,) for each pair, of the images that the teacher gets right. The window is 11 x 11 at
    every size and sees zeros beyond the border, so that unlike maps of 7 x 7 score 0.54, where
    :func:`ssim_per_image` gives 0.02: to be compared with the paper's numbers alone.
    """
    right = teacher.logits.argmax(1) == labels
    pairs = attention.paired_maps(student, teacher)
    return [_similarity(mine[right], theirs[right], "constant") for mine, theirs in pairs]


def _similarity(first: Tensor, second: Tensor, border: str) -> Tensor:
    blur, pair = partial(_blur, border=border), attention.pool_to_common_size(first, second)
    x, y = (_min_max(attention.working_precision(maps)) for maps in pair)
    mean_x, mean_y = blur(x), blur(y)
    # Rounding can leave a tiny negative variance where a map is flat.
    var_x = (blur(x * x) - mean_x**2).clamp_min(0)
    var_y = (blur(y * y) - mean_y**2).clamp_min(0)
    covariance = blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    structure = (2 * covariance + C2) / (var_x + var_y + C2)
    return (luminance * structure).mean((1, 2))


def _min_max(maps: Tensor) -> Tensor:
    """Each map scaled to 0..1; a constant map becomes zero."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low).masked_fill(high == low, 1)


def _blur(maps: Tensor, border: str) -> Tensor:
    side = min(maps.shape[1:])
    taps = WINDOW if border == "constant" else min(WINDOW, side - 1 + side % 2)
    # As two matrix products: twenty times faster on a CPU than the 11 x 11 convolution.
    rows, columns = (_gaussian_matrix(side, taps, border).to(maps) for side in maps.shape[1:])
    return rows @ maps @ columns.T


@lru_cache(maxsize=32)
def _gaussian_matrix(side: int, taps: int, border: str) -> Tensor:
    """(side, side): blurs a column of ``side`` pixels, which ``border`` says how to pad."""
    half = taps // 2
    offsets = torch.arange(taps, dtype=torch.float64) - half
    kernel = torch.exp(-0.5 * (offsets / (SIGMA * taps / WINDOW)) ** 2)
    identity = torch.eye(side, dtype=torch.float64)[:, None]
    padded = functional.pad(identity, (half, half), mode=border) if half else identity
    return functional.conv1d(padded, (kernel / kernel.sum())[None, None])[:, 0].T.contiguous()


def evaluate_student(
    student: nn.Module, teacher: nn.Module | None, data: ImageData, **how: Any
) -> dict[str, Any]:
    """All that a record says of a student's quality; ``how`` as for `predict`.

    ``results``, of :func:`classification_metrics` or what ``TASKS`` names; ``ssim`` of each stage
    and :func:`agreement`, ``None`` without a teacher; ``relevance``, ``None`` without a truth, else
    ``student`` (and ``teacher``) with ``energy_share`` and ``pointing`` of each stage, and
    ``chance``, the score of attention that knows nothing.
    """
    world, sums = how.get("world", ALONE), []
    networks = [student] if teacher is None else [student, teacher]
    marks, size = [marks_of(data, world) for _ in networks], how.pop("batch_size", BATCH_SIZE)
    for batch, outputs in answers(networks, data, images_at_once(data, size), **how):
        for own, output in zip(marks, outputs, strict=True):
            own.add(output.logits, batch.labels)
        mine, theirs = (*outputs, None)[:2]
        sums.append(_attention_sums(mine, theirs, batch, data))
    alike = None
    if teacher is not None and data.task == "classification":
        alike = agreement(marks[0].whole[0], *marks[1].whole)
    means = _means(world.in_order(sums), len(data))
    return {"results": marks[0].results(), "agreement": alike, **means}


def images_at_once(data: ImageData, batch_size: int) -> int:
    """``batch_size``, or fewer where pixels have answers: a batch's logits may take 256 MB."""
    if data.task == "classification":
        return batch_size
    side = getattr(data.images, "image_size", None) or cast("Tensor", data.images).shape[-1]
    return max(1, min(batch_size, (1 << 26) // (len(data.classes) * side**2)))


def _attention_sums(student: Any, teacher: Any, batch: Batch, data: ImageData) -> dict[str, Any]:
    """What :func:`evaluate_student` measures of attention, summed over the images of a batch."""

    def of_stages(measured: Iterable[Tensor]) -> Tensor:
        return torch.stack([*measured]).double().sum(-1).cpu()

    found: dict[str, Any] = {"ssim": None, "relevance": None}
    if teacher is not None:
        found["ssim"] = of_stages(starmap(ssim_per_image, attention.paired_maps(student, teacher)))
    if data.relevance is not None:
        truth = data.relevance(batch.indices.cpu()).to(batch.images.device)
        found["relevance"] = {"chance": truth.float().mean((1, 2)).double().sum(-1).cpu()}
        cells = cache(partial(functional.adaptive_avg_pool2d, truth.float()))
        for name, output in {"student": student, "teacher": teacher}.items():
            if output is not None:
                maps = attention.attention_maps(output)
                seen = [(one, cells((one.shape[1], one.shape[2]))) for one in maps]
                found["relevance"][name] = {
                    "energy_share": of_stages(starmap(energy_share, seen)),
                    "pointing": of_stages(starmap(pointing_hit, seen)),
                }
    return found


def _means(sums: Sequence[Any], count: int) -> Any:
    """Means over ``count`` images from the sums of batches, name by name."""
    if isinstance(sums[0], dict):
        return {name: _means([one[name] for one in sums], count) for name in sums[0]}
    return None if sums[0] is None else (reduce(torch.add, sums) / count).tolist()
