"""Distillation of an image classifier into a detector (Guo 2021, arXiv 2106.05209).

``KD_cls`` teaches what the objects are, ``KD_loc`` where they end; ``loc`` is ``KD_loc`` of the
pixels themselves, for which no teacher is needed.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from kdlib.data.detection_batches import DetectionBatch
from kdlib.distillers.crop_teacher import CropLesson, CropTeacher
from kdlib.errors import KdlibError
from kdlib.losses.crops import crop_distance, pooled
from kdlib.losses.recognition import RECOGNITION
from kdlib.models.detectors import Detector
from kdlib.models.positives import Positives

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
