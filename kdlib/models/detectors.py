"""torchvision's detectors as students: their losses, and their positives beside them.

The networks are torchvision's, neither changed nor copied: its matching of anchors to objects, its
sampling, its losses, its box coder and its selection of detections are used as they are. What they
hand from one of their methods to the next is watched for the length of one step.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.ssd import SSD

from kdlib.errors import KdlibError
from kdlib.models.detections import Detections
from kdlib.models.positives import Positives, dense_positives, sampled_positives
from kdlib.models.watching import Call, watched

Images: TypeAlias = Sequence[Tensor] | Tensor
Targets: TypeAlias = Sequence[dict[str, Tensor]]
Network: TypeAlias = SSD | RetinaNet | FasterRCNN


class Answer(NamedTuple):
    """What a detector returns in training.

    Attributes:
        losses: torchvision's own, by its own names; their sum is what is minimised.
        positives: what the detector says at its anchors or proposals that have an object.
    """

    losses: dict[str, Tensor]
    positives: Positives


class Detector(nn.Module):
    """One of torchvision's detectors that also tells what it says at its positives.

    A batch without any object has no positives, and trains as torchvision lets it: as background
    in RetinaNet and Faster R-CNN; SSD takes three negatives a positive, thus none.

    Heads and anchors are float32 whatever autocast says: anchors in bfloat16 would be pixels off.

    Args:
        network: torchvision's, with C + 1 classes, 0 the background.
        classes: C.
    """

    def __init__(self, network: Network, classes: int) -> None:
        super().__init__()
        self.network, self.classes = network, classes
        self.scores: Literal["softmax", "sigmoid"] = (
            "sigmoid" if isinstance(network, RetinaNet) else "softmax"
        )
        for head in _heads(network):
            head.register_forward_hook(_answer_in_float32)
        _anchor_generator(network).register_forward_pre_hook(_ask_in_float32)

    def forward(self, images: Images, targets: Targets | None = None) -> Answer | list[Detections]:
        """The losses of a batch in training, its detections in evaluation.

        Args:
            images: B of (3, h, w), 0 to 1, not normalised; their sizes may differ.
            targets: in training, of each image ``boxes`` (n, 4), pixels, and ``labels`` (n,)
                int64, 1 to C; n may be 0. Ignored in evaluation.

        Raises:
            KdlibError: no targets in training.
        """
        if not self.training:
            return [_detections(found) for found in self.network(list(images))]
        if targets is None:
            raise KdlibError("A detector in training mode needs targets: give them, or call eval.")
        answer = _answer_of_proposals if isinstance(self.network, FasterRCNN) else _answer_of_grid
        return answer(self.network, list(images), list(targets))


def _answer_of_grid(network: SSD | RetinaNet, images: list[Tensor], targets: Any) -> Answer:
    owner = network.head if isinstance(network, RetinaNet) else network
    with watched(network.transform, "forward") as prepared, watched(owner, "compute_loss") as calls:
        losses = network(images, targets)
    return Answer(losses, dense_positives(calls[0], network.box_coder, _sizes(prepared[0])))


def _answer_of_proposals(network: FasterRCNN, images: list[Tensor], targets: Any) -> Answer:
    heads = network.roi_heads
    with (
        watched(network.transform, "forward") as prepared,
        watched(heads, "select_training_samples") as samplings,
        watched(heads.box_predictor, "forward") as predictions,
    ):
        losses = network(images, targets)
    prediction = predictions[0]._replace(result=_float32(predictions[0].result))
    sizes = _sizes(prepared[0])
    return Answer(losses, sampled_positives(samplings[0], prediction, heads.box_coder, sizes))


def _sizes(prepared: Call) -> list[tuple[int, int]]:
    """(height, width) of each image, resized and not yet padded."""
    return cast("list[tuple[int, int]]", prepared.result[0].image_sizes)


def _detections(found: dict[str, Tensor]) -> Detections:
    """Labels begin at 1, kinds at 0; RetinaNet has an output 0, too, which is no class."""
    real = found["labels"] > 0
    return Detections(found["boxes"][real], found["labels"][real] - 1, found["scores"][real])


def _heads(network: Network) -> list[nn.Module]:
    if isinstance(network, FasterRCNN):
        return [network.rpn.head, network.roi_heads.box_predictor]
    return [network.head]


def _anchor_generator(network: Network) -> nn.Module:
    owner = network.rpn if isinstance(network, FasterRCNN) else network
    return cast("nn.Module", owner.anchor_generator)


def _answer_in_float32(_head: nn.Module, _given: Any, output: Any) -> Any:
    return _float32(output)


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
