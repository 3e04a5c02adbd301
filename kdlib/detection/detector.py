"""torchvision's detectors as students: their losses, and what they say of each object beside them.

The networks are torchvision's, neither changed nor copied: its matching of anchors to objects, its
sampling, its losses, its box coder and its selection of detections are used as they are. What they
hand from one of their methods to the next is watched for the length of one step.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, Literal, NamedTuple, TypeAlias
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.ssd import SSD

from kdlib.errors import KdlibError

Network: TypeAlias = SSD | RetinaNet | FasterRCNN


class Detections(NamedTuple):
    """The n objects that a detector finds in one image, in pixels of it as it was given."""

    boxes: Tensor  # (n, 4) float: x1, y1, x2, y2, the latter two exclusive
    kinds: Tensor  # (n,) int64, the class, 0 to C - 1; the background has none
    scores: Tensor  # (n,) float, how sure the detector is, 0 to 1


class Positives(NamedTuple):
    """The P anchors (or proposals) of a batch that torchvision matches to an object."""

    logits: Tensor  # (P, C + 1), 0 the background; with their graph, as the boxes
    boxes: Tensor  # (P, 4) x1, y1, x2, y2, fractions of the image's width and height, not clamped
    images: Tensor  # (P,) int64, index of the image in the batch
    objects: Tensor  # (P,) int64, index of the object among this image's targets


class Answer(NamedTuple):
    """What a detector returns in training."""

    losses: dict[str, Tensor]  # torchvision's own, by its own names; their sum is minimised
    positives: Positives
    scores: Literal["softmax", "sigmoid"]  # what makes scores of the logits


class Detector(nn.Module):
    """One of torchvision's detectors, of C + 1 classes, that also tells what it says at positives.

    A batch without any object has no positives, and trains as torchvision lets it: as background
    in RetinaNet and Faster R-CNN; SSD takes three negatives per positive, thus none.

    Heads and anchors are float32 whatever autocast says: anchors in bfloat16 would be pixels off.
    """

    def __init__(self, network: Network, classes: int) -> None:
        super().__init__()
        self.network, self.classes = network, classes
        owner = network.rpn if isinstance(network, FasterRCNN) else network
        further = [network.roi_heads.box_predictor] if isinstance(network, FasterRCNN) else []
        for head in (owner.head, *further):
            head.register_forward_hook(lambda _head, _given, output: _float32(output))
        owner.anchor_generator.register_forward_pre_hook(_ask_in_float32)

    def forward(
        self, images: Sequence[Tensor] | Tensor, targets: Sequence[dict[str, Tensor]] | None = None
    ) -> Answer | list[Detections]:
        """The losses of a batch in training, its detections in evaluation.

        Images are (3, h, w) of any size, 0 to 1, not normalised. Targets, in training alone, are of
        each image ``boxes`` (n, 4), pixels, and ``labels`` (n,) int64, 1 to C; n may be 0.
        """
        if not self.training:
            return [_detections(found) for found in self.network(list(images))]
        if targets is None:
            raise KdlibError("A detector in training mode needs targets: give them, or call eval.")
        answer = _answer_of_proposals if isinstance(self.network, FasterRCNN) else _answer_of_grid
        return answer(self.network, list(images), list(targets))


def _answer_of_grid(network: SSD | RetinaNet, images: list[Tensor], targets: Any) -> Answer:
    """Of a detector that has its anchors on a grid: each that is matched to an object counts."""
    owner = network.head if isinstance(network, RetinaNet) else network
    with watched(network.transform, "forward") as prepared, watched(owner, "compute_loss") as calls:
        losses = network(images, targets)
    given = calls[0].given
    matches, anchors = torch.stack(given["matched_idxs"]), torch.stack(given["anchors"])
    rows = torch.where(matches >= 0)  # image and anchor; below 0 there is no object
    codes = given["head_outputs"]["bbox_regression"][rows]
    boxes = _decoded(network.box_coder, codes, anchors[rows], rows[0], prepared[0])
    logits = given["head_outputs"]["cls_logits"][rows]
    positives = Positives(logits, boxes, rows[0], matches[rows])
    return Answer(losses, positives, "sigmoid" if isinstance(network, RetinaNet) else "softmax")


def _answer_of_proposals(network: FasterRCNN, images: list[Tensor], targets: Any) -> Answer:
    """Of Faster R-CNN: the sampled proposals of an object, each with the box of its own class."""
    heads = network.roi_heads
    with (
        watched(network.transform, "forward") as prepared,
        watched(heads, "select_training_samples") as samplings,
        watched(heads.box_predictor, "forward") as predictions,
    ):
        losses = network(images, targets)
    proposals, objects, labels, _ = samplings[0].result
    logits, codes = _float32(predictions[0].result)
    label = torch.cat(labels)
    (chosen,) = torch.where(label > 0)
    counts = torch.tensor([len(boxes) for boxes in proposals], device=label.device)
    owners = torch.arange(len(counts), device=label.device).repeat_interleave(counts)[chosen]
    own = codes.reshape(len(codes), -1, 4)[chosen, label[chosen]]
    boxes = _decoded(heads.box_coder, own, torch.cat(proposals)[chosen], owners, prepared[0])
    positives = Positives(logits[chosen], boxes, owners, torch.cat(objects)[chosen])
    return Answer(losses, positives, "softmax")


def _decoded(
    coder: BoxCoder, codes: Tensor, anchors: Tensor, images: Tensor, prepared: "Call"
) -> Tensor:
    """Predicted boxes (P, 4), as fractions of the sides of their own images, before padding."""
    sizes = prepared.result[0].image_sizes
    boxes = coder.decode_single(codes, anchors)
    sides = boxes.new_tensor([(width, height, width, height) for height, width in sizes])
    return boxes / sides[images]


def _detections(found: dict[str, Tensor]) -> Detections:
    """Labels begin at 1, kinds at 0; RetinaNet has an output 0, too, which is no class."""
    real = found["labels"] > 0
    return Detections(found["boxes"][real], found["labels"][real] - 1, found["scores"][real])


def _ask_in_float32(_generator: nn.Module, given: tuple[Any, list[Tensor]]) -> Any:
    """Only the shapes and the type of the features are read: they need not be copied."""
    images, features = given
    return images, [f.new_zeros((), dtype=torch.float32).expand(f.shape) for f in features]


def _float32(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.float()
    if isinstance(output, dict):
        return {name: _float32(value) for name, value in output.items()}
    return type(output)(_float32(value) for value in output)


class Call(NamedTuple):
    """One call of a watched method: its arguments by name, and what it returned."""

    given: dict[str, Any]
    result: Any


@contextmanager
def watched(owner: object, method: str) -> Iterator[list[Call]]:
    """Note every call of a method as long as the context is open.

    Nothing stays on the object, so that no graph of a step outlives it.
    """
    calls: list[Call] = []
    original = getattr(owner, method)
    signature = inspect.signature(original)

    @wraps(original)
    def noting(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        calls.append(Call(dict(signature.bind(*args, **kwargs).arguments), result))
        return result

    with patch.object(owner, method, noting):  # on the object: it hides the class's method
        yield calls
