"""Distillation of an image classifier into a detector (Guo 2021, arXiv 2106.05209).

``KD_cls`` teaches what the objects are, ``KD_loc`` where they end; ``loc`` is ``KD_loc`` of the
pixels themselves, for which no teacher is needed.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional

from kdlib.errors import KdlibError
from kdlib.losses.attention import divide, working_precision

if TYPE_CHECKING:
    from kdlib.detection.batches import DetectionBatch
    from kdlib.detection.detector import Answer
    from kdlib.detection.teacher import CropTargets


# KD_cls: a classifier's answer to an object's crop, taught to a detector's class scores. No
# gradient reaches the teacher.
def softmax_recognition(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """``T^2 KL(softmax(z_t / T) || softmax(z_s / T))`` of (P, C + 1) and (P, C) -> (P,).

    For SSD and Faster R-CNN (equation 2); the teacher's probability of the background is 0.
    """
    target = functional.softmax(_softened(teacher.detach(), temperature), dim=-1)
    predicted = functional.log_softmax(_softened(student, temperature), dim=-1)
    divergence = functional.kl_div(predicted, functional.pad(target, (1, 0)), reduction="none")
    return temperature**2 * divergence.sum(-1)


def sigmoid_recognition(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """``kl-ce``: sigmoids over their sum, compared by ``T^2 KL``: (P, C + 1), (P, C) -> (P,).

    For RetinaNet, whose classes do not compete, so that the background has no score of its own.
    """
    target = _shares(_softened(teacher.detach(), temperature))
    predicted = _shares(_softened(student[:, 1:], temperature))
    divergence = functional.kl_div(predicted.log(), target, reduction="none")
    return temperature**2 * divergence.sum(-1)


def binary_recognition(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """``kl-bce``: mean over classes of ``T^2 KL`` of yes and no: (P, C + 1), (P, C) -> (P,).

    The paper swaps yes and no for the object's own class, which does not change their sum.
    """
    target = _softened(teacher.detach(), temperature)
    predicted = _softened(student[:, 1:], temperature)
    yes, no = target.sigmoid(), (-target).sigmoid()
    # Logarithms of sigmoids, not of probabilities: a sure answer is no infinity.
    divergence = yes * (functional.logsigmoid(target) - functional.logsigmoid(predicted))
    divergence = divergence + no * (
        functional.logsigmoid(-target) - functional.logsigmoid(-predicted)
    )
    return temperature**2 * divergence.mean(-1)


SIGMOID_FORMS = {"kl_ce": sigmoid_recognition, "kl_bce": binary_recognition}
RECOGNITION: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "softmax": softmax_recognition, **SIGMOID_FORMS,
}  # fmt: skip
"""Forms of KD_cls by name."""


def _softened(logits: Tensor, temperature: float) -> Tensor:
    return working_precision(logits) / temperature


def _shares(logits: Tensor) -> Tensor:
    """Sigmoids over their sum, each at least the smallest that has a finite logarithm."""
    scores = logits.sigmoid()
    return divide(scores, scores.sum(-1, keepdim=True)).clamp_min(1e-12)


# KD_loc: what a predicted box cuts out of an image, beside what the object's own box does.
PIXELS = -1  # among layers: the crops themselves, before the classifier's first stage (0)
POOLED = 4  # cells per side in which the first layer is compared; the next has twice as many, ...


def pooled(features: Tensor, cells: int) -> Tensor:
    """Means over a grid: (P, C, h, w) -> (P, C, cells, cells); cells of smaller maps repeat."""
    return functional.adaptive_avg_pool2d(working_precision(features), cells)


def crop_distance(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean L1 distance (equation 5) of maps (P, C, c, c) -> (P,); the target gets no gradient."""
    return (predicted - target.detach()).abs().flatten(1).mean(1)


class CropLoss(nn.Module):
    """What a detector learns from a classifier, in weighted terms by name.

    ``cls`` and ``loc`` weight KD_cls, of ``temperature`` T, and KD_loc; 0 leaves one out.
    ``sigmoid`` is the form of KD_cls for detectors with sigmoids, ``kl_bce`` or ``kl_ce``.
    ``layers`` are what KD_loc compares: -1 the pixels (``loc``), 0 the teacher's first stage, ...,
    in 4, 8, 16, ... cells by their order; it is the term of the pixels plus the mean of the stages.
    ``pixels`` is what the pixels' largest value is taken for: 255 as in the release, whose weight
    0.15 belongs to that; ``features`` is the factor of the stages beside it, 1 in the release.
    A ``KdlibError`` for a weight below 0, no layer, a layer below -1, an unknown form.
    """

    name, weight = "crops", 1.0  # of the method, and of all its terms: those of a run are its own

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
        self.needs_teacher = cls > 0 or loc > 0  # of crops, of a classifier or as they are
        self.needs_classifier = cls > 0 or (loc > 0 and max(layers) > PIXELS)

    def forward(
        self, answer: "Answer", targets: "CropTargets | None", batch: "DetectionBatch"
    ) -> dict[str, Tensor]:
        """``kd_cls``, ``loc`` and ``kd_loc``, as far as they are asked for and there are targets.

        Each is a mean over the batch's positives; without any, 0 with a graph.
        """
        terms = {} if targets is None else self._terms(answer, targets, batch)
        return {name: self.weight * term for name, term in terms.items()}

    def _terms(
        self, answer: "Answer", targets: "CropTargets", batch: "DetectionBatch"
    ) -> dict[str, Tensor]:
        positives, terms = answer.positives, {}
        if len(positives.images) == 0:
            nothing = positives.logits.float().sum() + positives.boxes.sum()
            names = ["kd_cls"] * bool(self.cls) + [*map(_term, self.layers)] * bool(self.loc)
            return dict.fromkeys(names, nothing)
        rows = targets.starts[positives.images] + positives.objects
        if self.cls:
            form = "softmax" if answer.scores == "softmax" else self.sigmoid
            if targets.logits is None:
                raise KdlibError("KD_cls has no classifier to learn from: name a teacher.")
            taught = targets.logits[rows]
            losses = RECOGNITION[form](positives.logits, taught, self.temperature)
            terms["kd_cls"] = self.cls * losses.mean()
        if self.loc:
            crops = targets.teacher.cut(batch.images, positives.boxes, positives.images)
            terms |= self._location(crops, targets, rows)
        return terms

    def _location(self, crops: Tensor, targets: "CropTargets", rows: Tensor) -> dict[str, Tensor]:
        # Layer -1, the pixels, is the last entry of each.
        seen = (*targets.teacher.stages_of(crops, max(self.layers) + 1), crops)
        meant = (*targets.stages[: len(seen) - 1], targets.crops)
        terms: dict[str, Tensor] = {}
        stages = sum(layer != PIXELS for layer in self.layers)
        for place, layer in enumerate(self.layers):
            cells = POOLED * 2**place
            target = pooled(meant[layer], cells)[rows]  # of the few objects, not of the many rows
            loss = crop_distance(pooled(seen[layer], cells), target).mean()
            factor = self.loc * (self.pixels if layer == PIXELS else self.features / stages)
            name = _term(layer)
            terms[name] = terms.get(name, 0) + factor * loss
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
