"""Distillation of an image classifier into a detector (Guo 2021, arXiv 2106.05209).

``KD_cls`` teaches what the objects are, ``KD_loc`` where they end; ``loc`` is ``KD_loc`` of the
pixels themselves, for which no teacher is needed.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdlib.detection.batches import DetectionBatch
from kdlib.detection.models import Detector, EarlyStages, Positives
from kdlib.errors import KdlibError
from kdlib.losses.attention import divide, working_precision


# KD_loc: what a predicted box cuts out of an image, beside what the object's own box does.
def sampled_crops(images: Sequence[Tensor], boxes: Tensor, owners: Tensor, size: int) -> Tensor:
    """The inside of each box, stretched to a square; differentiable to the boxes.

    Bilinear, without antialiasing. Boxes are clamped to their image: an edge beyond it gets no
    gradient, and what has no area there is a crop of one repeated row or column.

    Args:
        images: B of them, (3, h, w) each, of any size.
        boxes: (P, 4) x1, y1, x2, y2 as fractions of their image's width and height.
        owners: (P,) int64, the image of each box.
        size: pixels S a side of a crop.

    Returns:
        (P, 3, S, S), in the images' own range.
    """
    if len(boxes) == 0:
        return images[0].new_zeros(0, 3, size, size)
    stacked, extents = _stacked(images)
    inside = working_precision(boxes).clamp(0, 1) * extents[owners].repeat(1, 2)
    places, rank, most = _places(owners, len(images))
    maps = inside.new_zeros(len(images), most, 2, 3).index_put(places, _placement(inside))
    grid = functional.affine_grid(
        maps.flatten(0, 1), [maps[..., 0, 0].numel(), 3, size, size], False
    )
    found = functional.grid_sample(
        stacked.to(grid.dtype),
        grid.view(len(images), most * size, size, 2),
        padding_mode="border",
        align_corners=False,
    )
    return found.unflatten(2, (most, size))[owners, :, rank]


def _stacked(images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Images on one canvas (B, 3, H, W), and the share (B, 2) of its width and height of each."""
    sides = [max(image.shape[axis] for image in images) for axis in (-2, -1)]
    canvas = [
        functional.pad(image, (0, sides[1] - image.shape[-1], 0, sides[0] - image.shape[-2]))
        for image in images
    ]
    shares = [[image.shape[-1] / sides[1], image.shape[-2] / sides[0]] for image in images]
    return torch.stack(canvas), torch.tensor(shares, device=images[0].device)


def _placement(boxes: Tensor) -> Tensor:
    """Boxes (P, 4) as fractions -> the affine maps (P, 2, 3) of the square -1..1 onto them."""
    left, top, right, bottom = boxes.unbind(-1)
    none = torch.zeros_like(left)
    across = torch.stack([right - left, none, left + right - 1], dim=-1)
    down = torch.stack([none, bottom - top, top + bottom - 1], dim=-1)
    return torch.stack([across, down], dim=-2)


def _places(owners: Tensor, images: int) -> tuple[tuple[Tensor, Tensor], Tensor, int]:
    """Where each crop stands: (image, rank among that image's), and the most that any image has."""
    counts = torch.bincount(owners, minlength=images)
    order = owners.argsort(stable=True)
    starts = counts.cumsum(0) - counts
    ranked = torch.arange(len(owners), device=owners.device) - starts[owners[order]]
    rank = torch.empty_like(ranked).index_put((order,), ranked)
    return (owners, rank), rank, int(counts.max())


def pooled(features: Tensor, cells: int) -> Tensor:
    """Means of ``cells`` by ``cells`` parts: (P, C, h, w) -> (P, C, cells, cells), in float32.

    Maps that have fewer cells stay as they are.
    """
    return functional.adaptive_avg_pool2d(
        working_precision(features), min(cells, features.shape[-1])
    )


def crop_distance(predicted: Tensor, target: Tensor) -> Tensor:
    """L1 distance of pooled feature maps: (P, C, c, c) twice -> (P,), a mean over their elements.

    No gradient reaches the target. Equation 5.
    """
    return (predicted - target.detach()).abs().flatten(1).mean(1)


# The teacher of a detector: a classifier that is shown objects, cut out by their boxes.
Colour = tuple[float, float, float]


class CropLesson(NamedTuple):
    """What is known of the G objects of a batch, image after image; nothing has a gradient.

    Attributes:
        crops: (G, 3, S, S), 0 to 1, cut out by their own boxes.
        starts: (B,) int64, the row of each image's first object.
        logits: (G, C) of the classifier; ``None`` without one.
        stages: its feature maps (G, C, h, w), fine to coarse; empty without one.
    """

    crops: Tensor
    starts: Tensor
    logits: Tensor | None
    stages: tuple[Tensor, ...]


class CropTeacher(nn.Module):
    """Cuts objects out and asks a frozen classifier about them, once for all students of a step.

    It is frozen as a :class:`~kdlib.distill.FrozenTeacher` is; of its gradients only those
    with respect to crops exist, which go on to the boxes that cut them.

    Args:
        network: the classifier; ``None`` where crops are compared as they are.
        size: pixels a side of a crop, those that the classifier was trained with.
        mean: of each channel, 0 to 1, as in the classifier's training.
        std: standard deviation of each channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module | None, size: int, mean: Colour, std: Colour) -> None:
        super().__init__()
        self.network = None if network is None else network.eval().requires_grad_(False)
        self.size = size
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        self._early: dict[int, nn.Module] = {}

    def train(self, mode: bool = True) -> "CropTeacher":
        """Stay in eval mode, whatever ``mode`` says."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, batch: DetectionBatch) -> CropLesson:
        """What is known of a batch's objects; images without any have no rows."""
        counts = [len(target["boxes"]) for target in batch.targets]
        rows = torch.tensor(counts, device=batch.images[0].device)
        owners = torch.arange(len(counts), device=rows.device).repeat_interleave(rows)
        crops = self.cut(batch.images, _fractions(batch), owners)
        starts = rows.cumsum(0) - rows
        if self.network is None or len(crops) == 0:
            return CropLesson(crops, starts, None, ())
        answer = self.network(self._normalised(crops))
        return CropLesson(crops, starts, answer.logits, tuple(answer.stages))

    def teach(self, batch: DetectionBatch) -> "tuple[CropTeacher, CropLesson]":
        """What is known of a batch's objects, and who can be asked about other crops."""
        return self, self(batch)

    def cut(self, images: Sequence[Tensor], boxes: Tensor, owners: Tensor) -> Tensor:
        """Crops (P, 3, S, S) of boxes (P, 4), fractions, out of their images; differentiable."""
        return sampled_crops(images, boxes, owners, self.size)

    def stages_of(self, crops: Tensor, count: int) -> tuple[Tensor, ...]:
        """The first ``count`` stages of crops (P, 3, S, S), with the gradient to the crops.

        Raises:
            KdlibError: there is no classifier, or it has fewer stages.
        """
        if count == 0:
            return ()
        if self.network is None:
            raise KdlibError("Features are compared, but there is no teacher: name one.")
        if count not in self._early:
            self._early[count] = EarlyStages(self.network, count).eval()
        stages = self._early[count](self._normalised(crops))
        if len(stages) < count:
            raise KdlibError(
                f"The teacher has {len(stages)} stages, so layers may be -1 (pixels) to "
                f"{len(stages) - 1}; one is {count - 1}."
            )
        return stages

    def _normalised(self, crops: Tensor) -> Tensor:
        return (crops - self.mean) / self.std


def _fractions(batch: DetectionBatch) -> Tensor:
    """All objects' boxes (G, 4), in the width and height of their images."""
    parts = [
        target["boxes"] / image.new_tensor([image.shape[-1], image.shape[-2]] * 2)
        for image, target in zip(batch.images, batch.targets, strict=True)
    ]
    return torch.cat(parts)


# KD_cls: a classifier's answer to an object's crop, taught to a detector's class scores.
def softmax_recognition(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """``T^2 KL(softmax(z_t / T) || softmax(z_s / T))`` of (P, C + 1) and (P, C) -> (P,).

    The teacher knows no background, so its probability of that is 0. For SSD and Faster R-CNN
    (equation 2). No gradient reaches the teacher.
    """
    told = functional.softmax(_softened(teacher.detach(), temperature), dim=-1)
    answer = functional.log_softmax(_softened(student, temperature), dim=-1)
    divergence = functional.kl_div(answer, functional.pad(told, (1, 0)), reduction="none")
    return temperature**2 * divergence.sum(-1)


def sigmoid_recognition(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """``kl-ce``: the sigmoids of each network, divided by their sum, compared by ``T^2 KL``.

    (P, C + 1), (P, C) -> (P,). For RetinaNet, whose classes do not compete, so that the background
    has no score of its own. No gradient reaches the teacher.
    """
    told = _shares(_softened(teacher.detach(), temperature))
    answer = _shares(_softened(student[:, 1:], temperature))
    divergence = functional.kl_div(answer.log(), told, reduction="none")
    return temperature**2 * divergence.sum(-1)


def binary_recognition(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """``kl-bce``: ``T^2 KL`` of yes and no to each class, averaged over classes.

    (P, C + 1), (P, C) -> (P,). The paper swaps yes and no for the object's own class, which changes
    the terms' names and not their sum. No gradient reaches the teacher.
    """
    told = _softened(teacher.detach(), temperature)
    answer = _softened(student[:, 1:], temperature)
    yes, no = told.sigmoid(), (-told).sigmoid()
    # Logarithms of sigmoids, not of probabilities: a sure answer is no infinity.
    divergence = yes * (functional.logsigmoid(told) - functional.logsigmoid(answer))
    divergence = divergence + no * (functional.logsigmoid(-told) - functional.logsigmoid(-answer))
    return temperature**2 * divergence.mean(-1)


RECOGNITION: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "softmax": softmax_recognition,
    "kl_ce": sigmoid_recognition,
    "kl_bce": binary_recognition,
}
"""Forms of KD_cls by name; the first is for detectors with a softmax, the others with sigmoids."""


def _softened(logits: Tensor, temperature: float) -> Tensor:
    return working_precision(logits) / temperature


def _shares(logits: Tensor) -> Tensor:
    """Sigmoids over their sum, each at least the smallest that has a finite logarithm."""
    scores = logits.sigmoid()
    return divide(scores, scores.sum(-1, keepdim=True)).clamp_min(1e-12)


PIXELS = -1
"""Among ``layers``: the crops themselves, before the classifier's first stage (0)."""
POOLED = 4
"""Cells a side in which pixels are compared; each stage further has twice as many."""
SIGMOID_FORMS = tuple(form for form in RECOGNITION if form != "softmax")


class CropLoss(nn.Module):
    """What a detector learns from a classifier, in terms by name.

    Args:
        cls: weight of KD_cls; 0 leaves it out.
        loc: weight of KD_loc; 0 leaves it out.
        temperature: T of KD_cls.
        sigmoid: form of KD_cls for detectors with sigmoids, ``kl_bce`` or ``kl_ce``.
        layers: what KD_loc compares: -1 the pixels (``loc``), 0 the classifier's first stage, ...
        pixels: what the pixels' largest value is taken for: 255 as in the release, whose weight
            0.15 belongs to that; with 1 the term would be 255 times smaller.
        features: factor of the stages beside that, 1 in the release.

    Raises:
        KdlibError: a weight below 0, no layer, a layer below -1, an unknown form.
    """

    def __init__(
        self,
        *,
        cls: float = 0.4,
        loc: float = 0.15,
        temperature: float = 2.0,
        sigmoid: str = "kl_bce",
        layers: Sequence[int] = (PIXELS, 0),
        pixels: float = 255.0,
        features: float = 1.0,
    ) -> None:
        super().__init__()
        _check(cls, loc, temperature, sigmoid, layers)
        self.cls, self.loc, self.temperature, self.sigmoid = cls, loc, temperature, sigmoid
        self.layers, self.pixels, self.features = tuple(layers), pixels, features

    @property
    def needs_classifier(self) -> bool:
        """Whether pixels alone would not do."""
        return self.cls > 0 or (self.loc > 0 and max(self.layers) > PIXELS)

    def forward(
        self,
        positives: Positives,
        student: Detector,
        batch: DetectionBatch,
        teacher: CropTeacher,
        lesson: CropLesson,
    ) -> dict[str, Tensor]:
        """``kd_cls``, ``loc`` and ``kd_loc``, as far as they are asked for.

        Each is a mean over the batch's positives, and 0 if it has none.
        """
        if len(positives.images) == 0:
            return self._nothing(positives)
        rows = lesson.starts[positives.images] + positives.objects
        terms: dict[str, Tensor] = {}
        if self.cls:
            terms["kd_cls"] = self.cls * self._recognition(positives, student, lesson, rows)
        if self.loc:
            terms |= self._location(positives, rows, batch, teacher, lesson)
        return terms

    @property
    def names(self) -> tuple[str, ...]:
        """Of the terms."""
        kept = [("kd_cls", self.cls > 0)]
        kept += [(_term(layer), self.loc > 0) for layer in self.layers]
        return tuple(dict.fromkeys(name for name, asked in kept if asked))

    def _nothing(self, positives: Positives) -> dict[str, Tensor]:
        """Terms that are 0 and have a graph."""
        empty = positives.logits.float().sum() + positives.boxes.sum()
        return dict.fromkeys(self.names, empty)

    def _recognition(
        self, positives: Positives, student: Detector, lesson: CropLesson, rows: Tensor
    ) -> Tensor:
        if lesson.logits is None:
            raise KdlibError("KD_cls has no classifier to learn from: name a teacher.")
        form = "softmax" if student.scores == "softmax" else self.sigmoid
        return RECOGNITION[form](positives.logits, lesson.logits[rows], self.temperature).mean()

    def _location(
        self,
        positives: Positives,
        rows: Tensor,
        batch: DetectionBatch,
        teacher: CropTeacher,
        lesson: CropLesson,
    ) -> dict[str, Tensor]:
        crops = teacher.cut(batch.images, positives.boxes, positives.images)
        # Layer -1, the pixels, is the last entry of each.
        seen = (*teacher.stages_of(crops, max(self.layers) + 1), crops)
        meant = (*lesson.stages[: len(seen) - 1], lesson.crops)
        terms: dict[str, Tensor] = {}
        for layer in self.layers:
            cells = POOLED * 2 ** (layer + 1)
            target = pooled(meant[layer], cells)[rows]  # of the few objects, not of the many rows
            loss = crop_distance(pooled(seen[layer], cells), target).mean()
            factor = self.loc * (self.pixels if layer == PIXELS else self.features)
            name = _term(layer)
            terms[name] = terms.get(name, 0) + factor * loss / len(self.layers)
        return terms


def _term(layer: int) -> str:
    return "loc" if layer == PIXELS else "kd_loc"


def _check(cls: float, loc: float, temperature: float, sigmoid: str, layers: Sequence[int]) -> None:
    if min(cls, loc) < 0 or temperature <= 0:
        raise KdlibError(
            f"cls is {cls}, loc {loc}, temperature {temperature}; weights must not be negative, "
            "and a temperature must be greater than 0."
        )
    if not layers or not all(isinstance(layer, int) and layer >= PIXELS for layer in layers):
        raise KdlibError(
            f"layers is {list(layers)}; name at least one: -1 for the pixels, 0 for the first "
            "stage of the teacher, and so on."
        )
    if sigmoid not in SIGMOID_FORMS:
        raise KdlibError(f"sigmoid is '{sigmoid}'; valid: {', '.join(SIGMOID_FORMS)}.")


class BoxDistiller(nn.Module):
    """A method's terms for a detector, weighted; torchvision's own losses stand beside them.

    Args:
        name: the method's name.
        method_loss: what is learnt of crops; ``None`` for a detector alone.
        weight: of all its terms.
    """

    def __init__(self, name: str, method_loss: CropLoss | None, weight: float) -> None:
        super().__init__()
        self.name, self.method_loss, self.weight = name, method_loss, weight

    @property
    def needs_teacher(self) -> bool:
        """Whether crops are asked for, of a classifier or as they are."""
        return self.method_loss is not None

    def forward(
        self,
        positives: Positives,
        student: Detector,
        batch: DetectionBatch,
        taught: tuple[CropTeacher, CropLesson] | None,
    ) -> dict[str, Tensor]:
        """The method's terms (scalars) by name; none for a detector alone."""
        if self.method_loss is None or taught is None:
            return {}
        terms = self.method_loss(positives, student, batch, *taught)
        return {name: self.weight * term for name, term in terms.items()}
