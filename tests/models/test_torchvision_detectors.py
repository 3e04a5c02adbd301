"""torchvision's detectors by name: sizes of images, sizes of networks, weights of backbones."""

from urllib.error import URLError

import pytest
import torch
from detectors import CLASSES, detector, images, targets
from torchvision import models as tv
from torchvision.models import detection

from kdlib.detection.models import SSD_SMALLEST
from kdlib.errors import KdlibError
from kdlib.models import create_model
from kdlib.models.cost import count_parameters

torch.set_num_threads(1)

LITE = "ssdlite320_mobilenet_v3_large"
FASTER = "fasterrcnn_mobilenet_v3_large_fpn"


def test_without_options_a_detector_is_the_one_that_torchvision_builds():
    torch.manual_seed(3)
    ours = create_model(LITE, 90).network
    torch.manual_seed(3)
    theirs = getattr(detection, LITE)(weights=None, weights_backbone=None, num_classes=91)
    pairs = zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True)
    assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)
    assert repr(ours.transform) == repr(theirs.transform)
    published = detection.SSDLite320_MobileNet_V3_Large_Weights.COCO_V1.meta["num_params"]
    assert count_parameters(ours) == published


def test_ssd300_has_its_published_size_and_fewer_levels_on_small_images():
    whole = create_model("ssd300_vgg16", 90)
    published = detection.SSD300_VGG16_Weights.COCO_V1.meta["num_params"]
    assert count_parameters(whole) == published
    assert whole.network.transform.fixed_size == (300, 300)
    assert whole.network.anchor_generator.steps is not None
    small = detector("ssd300_vgg16").network
    assert len(small.anchor_generator.aspect_ratios) == 1 + len(small.backbone.extra) == 4
    assert small.transform.image_std == whole.network.transform.image_std


def test_from_268_pixels_on_all_levels_of_ssd300_hold_a_pixel():
    backbone = create_model("ssd300_vgg16", 1, image_size=SSD_SMALLEST).network.backbone
    maps = backbone.to("meta")(torch.zeros(1, 3, SSD_SMALLEST, SSD_SMALLEST, device="meta"))
    assert [features.shape[-1] for features in maps.values()][-1] == 1
    with pytest.raises(RuntimeError, match="[Kk]ernel size"):
        backbone(torch.zeros(1, 3, SSD_SMALLEST - 1, SSD_SMALLEST - 1, device="meta"))


def test_images_are_resized_as_asked():
    lite, faster = (detector(name).network.transform.eval() for name in (LITE, FASTER))
    assert lite(images())[0].image_sizes == [(64, 64), (64, 64)]
    assert faster(images())[0].image_sizes == [(64, 64), (64, 85)]
    long = faster([torch.rand(3, 20, 200)])[0].image_sizes[0]
    assert long == (10, 107)  # the longer side is bounded, in torchvision's proportion


@pytest.mark.parametrize(("name", "backbone"), [
    (LITE, tv.mobilenet_v3_large), (FASTER, tv.mobilenet_v3_large),
])  # fmt: skip
def test_a_backbone_begins_with_the_weights_that_are_named(name, backbone, monkeypatch):
    state = backbone().state_dict()
    monkeypatch.setattr(
        "torchvision.models._api.load_state_dict_from_url", lambda *_args, **_kwargs: state
    )
    network = create_model(name, CLASSES, image_size=64, weights="IMAGENET1K_V1")
    found = {tuple(p.shape): p for p in network.network.backbone.parameters() if p.dim() == 4}
    first = state["features.0.0.weight"]
    assert torch.equal(found[tuple(first.shape)], first)
    answer = network.train()(images(), targets())
    sum(answer.losses.values()).backward()
    assert len(answer.positives.images) > 0


def test_unknown_weights_of_a_backbone_are_refused_with_the_valid_ones():
    with pytest.raises(KdlibError, match=r"weights of mobilenet_v3_large 'COCO_V1'.*IMAGENET1K_V2"):
        create_model(LITE, CLASSES, weights="COCO_V1")


def test_ssd300_takes_the_original_weights_and_says_where_they_go(monkeypatch):
    def offline(*_args, **_kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(KdlibError, match=r"no route to host.*vgg16_features-\S+\.pth in .*points"):
        create_model("ssd300_vgg16", CLASSES, weights="DEFAULT")
