"""Detectors small enough to train on Scenes in minutes: torchvision's heads on our own stages.

Objects of Scenes are 13 to 25 pixels a side in an image of 64; anchors are fractions of the image's
side, so that other sizes of images work too.
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.ssd import SSD
from torchvision.ops import FeaturePyramidNetwork

from kdlib.models.cifar_resnet import ThreeStageResNet
from kdlib.models.detectors import Detector
from kdlib.models.segmenter import StagedBackbone

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
        self.stages = StagedBackbone(ThreeStageResNet(1, 1, widths, (2, 2, 2, 2)))
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
        image_mean=_channels(mean, HALF),
        image_std=_channels(std, QUARTER),
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
        image_mean=_channels(mean, HALF),
        image_std=_channels(std, QUARTER),
        anchor_generator=AnchorGenerator(sizes, (RETINA_RATIOS,) * COARSE),
        head=head,
        topk_candidates=200,
        **SELECTION,
    )
    return Detector(network, classes)


def _channels(values: Sequence[float] | None, default: Sequence[float]) -> list[float]:
    return [float(value) for value in (default if values is None else values)]
