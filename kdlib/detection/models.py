"""torchvision's detectors as students: their losses, and their positives beside them.

The networks are torchvision's, neither changed nor copied: its matching of anchors to objects, its
sampling, its losses, its box coder and its selection of detections are used as they are. What they
hand from one of their methods to the next is watched for the length of one step.
"""

import copy
import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from math import isfinite
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor, fx, nn
from torchvision import models as tv
from torchvision.models import detection
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection._utils import BoxCoder, retrieve_out_channels
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.ssd import SSD, SSDHead
from torchvision.ops import FeaturePyramidNetwork

from kdlib.errors import KdlibError
from kdlib.models.cifar import ThreeStageResNet
from kdlib.models.output import StagedBackbone, StagedNetwork
from kdlib.models.torchvision import TappedNetwork, fetching


# What every detector returns for one image.
class Detections(NamedTuple):
    """The n objects that a detector finds in one image.

    Attributes:
        boxes: (n, 4) float, x1, y1, x2, y2 in pixels of the image as it was given, x2 and y2
            exclusive.
        kinds: (n,) int64, the class of each object, 0 to C - 1; background has none.
        scores: (n,) float, how sure the detector is, 0 to 1.
    """

    boxes: Tensor
    kinds: Tensor
    scores: Tensor


# Refuse images that a detector cannot be made for, before torchvision fails on them.
SMALLEST = 32
"""Pixels of a side: the coarsest map of most backbones is a 32nd of the image."""


def check_input(
    image_size: int | None, mean: Sequence[float] | None, std: Sequence[float] | None
) -> None:
    """Check what a detector is told of its images; None leaves a value to the network.

    Raises:
        KdlibError: a side of less than 32 pixels or no whole number of them; a mean or a
            deviation that is not three finite numbers, or a deviation that is not positive.
    """
    if image_size is not None and (not isinstance(image_size, int) or image_size < SMALLEST):
        raise KdlibError(
            f"image_size of a detector is {image_size!r}; give whole pixels, at least {SMALLEST}."
        )
    _check_channels("mean", mean, positive=False)
    _check_channels("std", std, positive=True)


def _check_channels(name: str, values: Sequence[float] | None, *, positive: bool) -> None:
    if values is None:
        return
    numbers = [float(value) for value in values]
    if len(numbers) != 3 or not all(map(isfinite, numbers)) or (positive and min(numbers) <= 0):
        kind = "positive numbers" if positive else "numbers"
        raise KdlibError(f"{name} of a detector is {numbers}; give three {kind}, one a channel.")


# The first stages of a classifier: where it can stop there, what lies behind costs nothing.
class EarlyStages(nn.Module):
    """Runs a classifier, with its own weights, up to one of its stages.

    Args:
        network: a classifier of ours or of torchvision; one that cannot stop on the way runs to its
            end.
        count: the stages that are asked for; 0 for none.
    """

    def __init__(self, network: nn.Module, count: int) -> None:
        super().__init__()
        self.count, self.network = count, network
        if isinstance(network, StagedNetwork):
            self.network = StagedBackbone(network.stem, network.stages[:count])
        if isinstance(network, TappedNetwork):
            self.network = _stopped(network.network, count)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W), normalised -> the first ``count`` stages (B, C, h, w)."""
        if self.count == 0:
            return ()
        found = self.network(images)
        return (found.stages if hasattr(found, "stages") else found)[: self.count]


def _stopped(network: fx.GraphModule, count: int) -> fx.GraphModule:
    """A traced network whose output is its first ``count`` stages; the modules are the same."""
    stopped = fx.GraphModule(network, copy.deepcopy(network.graph))
    output = stopped.graph.output_node()
    named = cast("dict[str, fx.Node]", output.args[0])
    output.args = (tuple(named[f"stage{index}"] for index in range(count)),)
    stopped.graph.eliminate_dead_code()
    stopped.recompile()
    return stopped


# See what a method of someone else's class is given and returns, without changing the class.
class Call(NamedTuple):
    """One call of a watched method.

    Attributes:
        given: its arguments by name, whether they were given by position or by name.
        result: what it returned.
    """

    given: dict[str, Any]
    result: Any


@contextmanager
def watched(owner: object, method: str) -> Iterator[list[Call]]:
    """Note every call of a method as long as the context is open; after it, all is as before.

    For torchvision's detectors, which hand their matching to a method of their own and return
    sums only. Nothing stays on the object, so that no graph of a step outlives it.

    Args:
        owner: the object; of an ``nn.Module``, ``forward`` can be watched too.
        method: name of the method.

    Yields:
        The calls, in their order.
    """
    calls: list[Call] = []
    original, own = getattr(owner, method), vars(owner).get(method)
    signature = inspect.signature(original)

    @wraps(original)
    def noting(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        calls.append(Call(dict(signature.bind(*args, **kwargs).arguments), result))
        return result

    setattr(owner, method, noting)  # on the object: it hides the class's method
    try:
        yield calls
    finally:
        delattr(owner, method)
        if own is not None:  # it hid the class's method before
            setattr(owner, method, own)


# What a detector says where torchvision's own matching puts an object.
class Positives(NamedTuple):
    """The P anchors (or proposals) of a batch that are matched to an object.

    Attributes:
        logits: (P, C + 1), 0 the background, with their graph.
        boxes: (P, 4) predicted, x1, y1, x2, y2 as fractions of the image's width and height,
            with their graph; a box that leaves the image is not clamped.
        images: (P,) int64, index of the image in the batch.
        objects: (P,) int64, index of the object among this image's targets.
    """

    logits: Tensor
    boxes: Tensor
    images: Tensor
    objects: Tensor


def dense_positives(call: Call, coder: BoxCoder, sizes: Sequence[tuple[int, int]]) -> Positives:
    """Those of a detector that has its anchors on a grid: SSD, RetinaNet.

    Args:
        call: of ``compute_loss``; its ``head_outputs`` are (B, A, C + 1) and (B, A, 4), its
            ``matched_idxs`` (A,) of each image: the object of each anchor, below 0 for none.
        coder: the network's box coder.
        sizes: (height, width) of each image as the network sees it, before it is padded.
    """
    matches = torch.stack(call.given["matched_idxs"])
    images, anchors = torch.where(matches >= 0)
    outputs, boxes = call.given["head_outputs"], torch.stack(call.given["anchors"])
    found = coder.decode_single(outputs["bbox_regression"][images, anchors], boxes[images, anchors])
    return Positives(
        outputs["cls_logits"][images, anchors],
        as_fractions(found, images, sizes),
        images,
        matches[images, anchors],
    )


def sampled_positives(
    sampling: Call, prediction: Call, coder: BoxCoder, sizes: Sequence[tuple[int, int]]
) -> Positives:
    """Those of Faster R-CNN: the sampled proposals of an object.

    It predicts one box a class; the box of the object's own class is taken, as its loss does.

    Args:
        sampling: the call of ``select_training_samples``.
        prediction: the call of the box predictor's ``forward``.
        coder: the box coder of the heads.
        sizes: (height, width) of each image as the network sees it, before it is padded.
    """
    proposals, matched, labels, _ = sampling.result
    logits, codes = prediction.result
    label, images = torch.cat(labels), _image_of_each(proposals)
    (chosen,) = torch.where(label > 0)
    own = codes.reshape(len(codes), -1, 4)[chosen, label[chosen]]
    found = coder.decode_single(own, torch.cat(proposals)[chosen])
    images = images[chosen]
    fractions = as_fractions(found, images, sizes)
    return Positives(logits[chosen], fractions, images, torch.cat(matched)[chosen])


def as_fractions(boxes: Tensor, images: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Boxes (P, 4) in pixels -> as fractions of the width and the height of their own images."""
    sides = boxes.new_tensor([(width, height, width, height) for height, width in sizes])
    return boxes / sides[images]


def _image_of_each(proposals: Sequence[Tensor]) -> Tensor:
    counts = torch.tensor([len(boxes) for boxes in proposals], device=proposals[0].device)
    return torch.arange(len(counts), device=counts.device).repeat_interleave(counts)


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


# Detectors small enough to train on Scenes in minutes: torchvision's heads on our own stages.
Widths = tuple[int, int, int, int]
COARSE = 2
"""Stages that are read: at 1/8 and at 1/16 of the image."""
SSD_SCALES = (0.28, 0.34, 0.4)
SSD_RATIO = 1.3
RETINA_SCALES = (0.27, 0.33)
RETINA_RATIOS = (0.75, 1.33)
SELECTION = {"score_thresh": 0.01, "detections_per_img": 30}
HALF, QUARTER = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


class CoarseStages(nn.Module):
    """The coarse stages of a Scenes classifier, with a pyramid on them where one is asked for.

    Args:
        widths: channels of the stem and of the three stages.
        pyramid: channels of the feature pyramid's levels, 0 for the bare stages.
    """

    def __init__(self, widths: Widths, pyramid: int = 0) -> None:
        super().__init__()
        network = ThreeStageResNet(1, 1, widths, (2, 2, 2, 2))
        self.stages = StagedBackbone(network.stem, network.stages)
        channels = list(widths[-COARSE:])
        self.pyramid = FeaturePyramidNetwork(channels, pyramid) if pyramid else nn.Identity()
        self.out_channels = pyramid or channels

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Images (B, 3, H, W) -> features (B, C, h, w) at 1/8 and 1/16, by "0" and "1"."""
        stages = self.stages(images)[-COARSE:]
        return self.pyramid(OrderedDict((str(i), stage) for i, stage in enumerate(stages)))


def scenes_ssd(
    classes: int,
    widths: Widths,
    image_size: int = 64,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Detector:
    """SSD with four anchors a position (Liu 2016, arXiv 1512.02325).

    ``mean`` and ``std`` are those of the images' channels, a half and a quarter if not given.
    """
    backbone = CoarseStages(widths)
    anchors = DefaultBoxGenerator([[SSD_RATIO]] * COARSE, scales=list(SSD_SCALES))
    network = SSD(
        backbone,
        anchors,
        (image_size, image_size),
        classes + 1,
        image_mean=_scenes_detectors_channels(mean, HALF),
        image_std=_scenes_detectors_channels(std, QUARTER),
        topk_candidates=100,
        **SELECTION,
    )
    return Detector(network, classes)


def scenes_retinanet(
    classes: int,
    widths: Widths,
    pyramid: int,
    image_size: int = 64,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Detector:
    """RetinaNet with two anchors a position and batch norm in its heads (arXiv 1708.02002).

    ``mean`` and ``std`` are those of the images' channels, a half and a quarter if not given.
    """
    sizes = tuple((scale * image_size,) for scale in RETINA_SCALES)
    head = RetinaNetHead(pyramid, len(RETINA_RATIOS), classes + 1, norm_layer=nn.BatchNorm2d)
    network = RetinaNet(
        CoarseStages(widths, pyramid),
        classes + 1,
        min_size=image_size,
        max_size=image_size,
        image_mean=_scenes_detectors_channels(mean, HALF),
        image_std=_scenes_detectors_channels(std, QUARTER),
        anchor_generator=AnchorGenerator(sizes, (RETINA_RATIOS,) * COARSE),
        head=head,
        topk_candidates=200,
        **SELECTION,
    )
    return Detector(network, classes)


def _scenes_detectors_channels(
    values: Sequence[float] | None, default: Sequence[float]
) -> list[float]:
    return [float(value) for value in (default if values is None else values)]


# Detectors of torchvision, by their own names, for any size of image.
Channels: TypeAlias = Sequence[float] | None
SSD_SIZE = 300
SSD_UNPADDED, SSD_SMALLEST = 2, 268
"""Levels of SSD300 that take two pixels off their map, and the least size that leaves them one."""
LONGEST = 1333 / 800
"""Longest side of an image over its shortest side, at most: torchvision's bound."""


def ssd300_vgg16(
    classes: int,
    image_size: int = SSD_SIZE,
    mean: Channels = None,
    std: Channels = None,
    weights: str | None = None,
) -> Detector:
    """SSD on VGG-16 (Liu 2016, arXiv 1512.02325).

    ``weights`` "IMAGENET1K_FEATURES" (here the "DEFAULT") are the original's, which take images of
    0 to 255: the network's own ``mean`` and ``std`` are for them. For "IMAGENET1K_V1" give
    ImageNet's.

    At another size than 300 the anchors spread over the maps as they come out, and below 268 the
    two coarsest levels, whose maps would be empty, are left out.
    """
    name = "IMAGENET1K_FEATURES" if weights == "DEFAULT" else weights
    options = _torchvision_detectors_channels(mean, std)
    network = _built(detection.ssd300_vgg16, tv.vgg16, classes, name, options)
    if image_size != SSD_SIZE:
        network = _resized_ssd300(network, classes, image_size)
    return Detector(network, classes)


def ssdlite320_mobilenet_v3_large(
    classes: int,
    image_size: int = 320,
    mean: Channels = None,
    std: Channels = None,
    weights: str | None = None,
) -> Detector:
    """SSDLite on MobileNetV3 (Howard 2019, arXiv 1905.02244); its anchors fit any size."""
    build, options = (
        detection.ssdlite320_mobilenet_v3_large,
        _torchvision_detectors_channels(mean, std),
    )
    network = _built(build, tv.mobilenet_v3_large, classes, weights, options)
    transform = network.transform
    transform.fixed_size = (image_size, image_size)
    transform.min_size, transform.max_size = (image_size,), image_size
    return Detector(network, classes)


def with_pyramid(
    classes: int,
    build: str,
    backbone: str,
    image_size: int = 800,
    mean: Channels = None,
    std: Channels = None,
    weights: str | None = None,
) -> Detector:
    """RetinaNet (arXiv 1708.02002) or Faster R-CNN (arXiv 1506.01497) on a feature pyramid.

    ``image_size`` is the shorter side; the longer one is kept in proportion, up to 5/3 of it.
    Anchors have the sizes in pixels that they are published with, 32 to 512.
    """
    sizes = {"min_size": image_size, "max_size": round(image_size * LONGEST)}
    return Detector(
        _built(
            getattr(detection, build),
            getattr(tv, backbone),
            classes,
            weights,
            sizes | _torchvision_detectors_channels(mean, std),
        ),
        classes,
    )


def _built(
    build: Callable[..., nn.Module],
    backbone: Callable[..., nn.Module],
    classes: int,
    weights: str | None,
    options: dict[str, Any],
) -> Any:
    with fetching(backbone, weights):
        return build(
            weights=None,
            weights_backbone=weights,
            num_classes=classes + 1,
            progress=False,
            **options,
        )


def _torchvision_detectors_channels(mean: Channels, std: Channels) -> dict[str, list[float]]:
    given = {"image_mean": mean, "image_std": std}
    return {name: [*map(float, values)] for name, values in given.items() if values is not None}


def _resized_ssd300(network: Any, classes: int, size: int) -> SSD:
    """SSD300's backbone under anchors and heads for another size of image."""
    backbone, old = network.backbone, network.anchor_generator
    if size < SSD_SMALLEST:
        backbone.extra = backbone.extra[:-SSD_UNPADDED]
    levels = 1 + len(backbone.extra)
    anchors = DefaultBoxGenerator(old.aspect_ratios[:levels], scales=old.scales[: levels + 1])
    channels = retrieve_out_channels(backbone, (size, size))
    head = SSDHead(channels, anchors.num_anchors_per_location(), classes + 1)
    mean, std = network.transform.image_mean, network.transform.image_std
    return SSD(backbone, anchors, (size, size), classes + 1, mean, std, head=head)
