"""Detectors: torchvision's losses and detections, the positives beside them, and what is built."""

import gc
import weakref
from copy import deepcopy
from unittest.mock import Mock
from urllib.error import URLError

import pytest
import torch
from detection.detectors import CLASSES, DETECTORS, NOTHING, SIZE, detector, images, targets
from torch import nn
from torchvision import models as tv
from torchvision.models import detection
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from kdlib import KdlibError, create_model
from kdlib.detection.detector import Answer, watched
from kdlib.detection.models import SSD_SMALLEST
from kdlib.models.output import count_parameters, flops

HEAVY = ("ssd300_vgg16", "retinanet_resnet50_fpn", "fasterrcnn_resnet50_fpn")
LIGHT = [name for name in DETECTORS if name not in HEAVY]  # one of each kind at least
LITE, FASTER = "ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_fpn"
SMALL = ["scenes_ssd_tiny", "scenes_retinanet_tiny", FASTER]
FETCH = "torchvision.models._api.load_state_dict_from_url"


def answered(network, found=None) -> Answer:
    """A step's answer; the seed is that of the proposals' sampling."""
    torch.manual_seed(1)
    return network.train()(images(), targets() if found is None else found)


def plain(network):
    """torchvision's network as it comes: a copy without what a Detector hangs on it."""
    copy = deepcopy(network.network)
    for module in copy.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    return copy.train()


def same(some, others):
    return all(map(torch.equal, some, others))


def true_boxes(positives) -> torch.Tensor:
    """The targets' boxes of all positives, as fractions of their images' sides."""
    sides = [torch.tensor([i.shape[2], i.shape[1]] * 2) for i in images()]
    pairs = zip(positives.images.tolist(), positives.objects.tolist(), strict=True)
    return torch.stack([targets()[i]["boxes"][o] / sides[i] for i, o in pairs])


@pytest.mark.parametrize("name", DETECTORS)
def test_losses_and_detections_are_torchvisions_to_the_bit_and_every_weight_learns(name):
    network = detector(name)
    theirs = plain(network)
    losses, _, scores = answered(network)
    torch.manual_seed(1)
    expected = theirs(images(), targets())
    assert losses.keys() == expected.keys() and same(losses.values(), expected.values())
    network.zero_grad()
    sum(losses.values()).backward()
    gradients = [p.grad for p in network.parameters() if p.requires_grad]
    assert all(g is not None and g.isfinite().all() for g in gradients)
    with torch.no_grad():
        pairs = zip(network.eval()(images()), theirs.eval()(images()), strict=True)
        for found, their in pairs:
            real = their["labels"] > 0
            boxes, labels, surenesses = (their[key][real] for key in ("boxes", "labels", "scores"))
            assert same(found, (boxes, labels - 1, surenesses))
    assert scores == ("sigmoid" if "retinanet" in name else "softmax")


@pytest.mark.parametrize("name", LIGHT)
def test_losses_and_positives_reach_what_they_should_with_objects_or_without(name):
    network = detector(name)
    positives = answered(network).positives
    count = len(positives.images)
    assert count > 0 and network.classes == CLASSES
    assert positives.logits.shape == (count, CLASSES + 1) and positives.boxes.shape == (count, 4)
    assert positives.images.dtype == positives.objects.dtype == torch.int64
    first = next(p for p in network.network.backbone.parameters() if p.dim() == 4)
    for tensor in (positives.logits, positives.boxes):
        network.zero_grad()
        tensor.sum().backward(retain_graph=True)
        assert first.grad.isfinite().all() and first.grad.any()
    losses, positives, _ = answered(network, [NOTHING, NOTHING])
    assert [part.shape for part in positives] == [(0, CLASSES + 1), (0, 4), (0,), (0,)]
    total = sum(losses.values()) + positives.logits.sum() + positives.boxes.sum()
    total.backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)
    is_ssd = not isinstance(network.network, RetinaNet | FasterRCNN)
    assert (total == 0) if is_ssd else (total > 0)  # SSD takes its negatives by the positives
    network.zero_grad()
    positives = answered(network, [NOTHING, targets()[1]]).positives
    assert set(positives.images.tolist()) == {1} and set(positives.objects.tolist()) == {0}


@pytest.mark.parametrize("name", [name for name in LIGHT if name != FASTER])
def test_positives_are_the_anchors_that_torchvision_matches(name, monkeypatch):
    network = detector(name)
    theirs, head = plain(network), network.network.head
    batch, resized = theirs.transform(images(), targets())
    features = list(theirs.backbone(batch.tensors).values())
    anchors, logits = theirs.anchor_generator(batch, features), theirs.head(features)["cls_logits"]
    pairs = [*zip((one["boxes"] for one in resized), anchors, strict=True)]
    objects = torch.stack([theirs.proposal_matcher(box_iou(boxes, own)) for boxes, own in pairs])
    positives = answered(network).positives
    chosen = torch.where(objects >= 0)  # image after image
    parts = positives.images, positives.objects, positives.logits
    assert same(parts, (chosen[0], objects[chosen], logits[chosen]))
    # A perfect regression gives the boxes of the targets; one that is wide off is left as it is.
    encode, forward = theirs.box_coder.encode_single, head.forward
    matched = zip(pairs, objects, strict=True)
    codes = torch.stack([encode(boxes[o.clamp(min=0)], own) for (boxes, own), o in matched])
    monkeypatch.setattr(head, "forward", lambda given: forward(given) | {"bbox_regression": codes})
    positives = answered(network).positives
    torch.testing.assert_close(positives.boxes, true_boxes(positives), atol=1e-4, rtol=0)
    codes += 30
    assert (answered(network).positives.boxes[:, 2:] > 1).all()


def test_positive_proposals_overlap_their_objects_and_take_the_box_of_their_class(monkeypatch):
    network, exact = detector(FASTER), True
    heads, predict = network.network.roi_heads, network.network.roi_heads.box_predictor.forward

    def predicting(features):
        codes = torch.cat(samplings[-1].result[3]) * exact
        each = codes[:, None].repeat(1, CLASSES + 1, 1)  # of every class the same,
        each[:, 0] = 7  # but of label 0 nonsense
        return predict(features)[0], each.flatten(1)

    monkeypatch.setattr(heads.box_predictor, "forward", predicting)
    with watched(heads, "select_training_samples") as samplings:
        positives = answered(network).positives
        torch.testing.assert_close(positives.boxes, true_boxes(positives), atol=1e-4, rtol=0)
        assert len(positives.images) == sum((labels > 0).sum() for labels in samplings[0].result[2])
        exact = False  # the boxes are the proposals now
        positives = answered(network).positives
    assert (box_iou(positives.boxes, true_boxes(positives)).diagonal() >= 0.5 - 1e-5).all()
    found = set(zip(positives.images.tolist(), positives.objects.tolist(), strict=True))
    assert found == {(0, 0), (0, 1), (1, 0)}  # the objects themselves are proposals


@pytest.mark.parametrize("name", SMALL)
def test_a_step_leaves_nothing_behind_even_if_it_fails(name):
    network = detector(name)
    before = [(module, set(vars(module))) for module in network.modules()]
    gc.collect()
    gc.disable()
    try:
        answer = answered(network)
        tensors = (*answer.losses.values(), answer.positives.logits, answer.positives.boxes)
        graphs = [weakref.ref(tensor) for tensor in tensors]
        del answer, tensors
        assert all(graph() is None for graph in graphs)  # by counting references alone
    finally:
        gc.enable()
    flat = {"boxes": torch.tensor([[4.0, 4, 4, 9]]), "labels": torch.tensor([1])}
    with pytest.raises(AssertionError, match="positive height and width"):
        answered(network, [flat, NOTHING])
    with torch.no_grad():
        network.eval()(images())
    assert all(set(vars(module)) == names for module, names in before)


@pytest.mark.parametrize("name", SMALL)
def test_a_copy_is_whole_and_its_own_in_any_memory_format_and_precision(name):
    network = detector(name)
    copy, expected = deepcopy(network), answered(network)
    nn.init.zeros_(next(p for p in copy.parameters() if p.dim() == 4))
    assert not torch.equal(answered(copy).positives.logits, expected.positives.logits)
    copy.load_state_dict(network.state_dict())
    assert same(answered(copy).positives, expected.positives)
    losses = answered(copy.to(memory_format=torch.channels_last)).losses
    torch.testing.assert_close(losses, expected.losses, rtol=1e-3, atol=1e-3)
    # Losses, anchors and boxes are float32 in bfloat16 too.
    with torch.autocast("cpu", torch.bfloat16):
        losses, positives, _ = answered(network)
        found = network.eval()(images())
    results = (positives.logits, positives.boxes, found[0].boxes, found[0].scores)
    assert {one.dtype for one in (*losses.values(), *results)} == {torch.float32}
    if name != FASTER:  # the anchors are the same, thus the matching
        torch.testing.assert_close(losses, expected.losses, rtol=0.05, atol=0.02)
        assert same(positives[2:], expected.positives[2:])


@pytest.mark.parametrize(("name", "count", "low", "least", "most"), [
    ("scenes_ssd", 320, 0.9, 0.15e6, 0.18e6), ("scenes_retinanet", 160, 0.8, 0.25e6, 0.35e6),
])  # fmt: skip
def test_detectors_of_scenes_are_small_with_few_anchors_that_fit(name, count, low, least, most):
    assert least < count_parameters(detector(name)) < most and flops(detector(name), SIZE) > 1e5
    assert count_parameters(detector(f"{name}_tiny")) < 0.03e6
    maps = [torch.zeros(1, 1, side, side) for side in (8, 4)]
    batch = ImageList(torch.zeros(1, 3, 64, 64), [(64, 64)])
    (found,) = detector(name).network.anchor_generator(batch, maps)
    sides, corners = torch.rand(2, 500, 2, generator=torch.Generator().manual_seed(0))
    sides = 13 + 12 * sides  # of what is within 64 x 64
    corners *= 64 - sides
    best = box_iou(torch.cat([corners, corners + sides], dim=1), found).amax(1)
    assert found.shape == (count, 4) and (best >= 0.5).float().mean() > low


def test_detectors_have_torchvisions_parts_and_ssd300_fewer_levels_on_small_images(monkeypatch):
    torch.manual_seed(3)
    ours = create_model(LITE, 90).network
    torch.manual_seed(3)
    theirs = getattr(detection, LITE)(weights_backbone=None, num_classes=91)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert same(ours.state_dict().values(), theirs.state_dict().values())
    assert repr(ours.transform) == repr(theirs.transform)
    monkeypatch.setattr(FETCH, Mock(side_effect=URLError("no route to host")))
    with torch.device("meta"):
        whole = create_model("ssd300_vgg16", 90)
        backbone = create_model("ssd300_vgg16", 1, image_size=SSD_SMALLEST).network.backbone
        maps = backbone(torch.zeros(1, 3, SSD_SMALLEST, SSD_SMALLEST))
        assert [features.shape[-1] for features in maps.values()][-1] == 1
        with pytest.raises(RuntimeError, match="[Kk]ernel size"):
            backbone(torch.zeros(1, 3, SSD_SMALLEST - 1, SSD_SMALLEST - 1))
        # Its default weights are the original's, and the message says where they go.
        with pytest.raises(KdlibError, match=r"no route.*vgg16_features-\S+\.pth in .*points"):
            create_model("ssd300_vgg16", CLASSES, weights="DEFAULT")
    for name, network in ((LITE, ours), ("ssd300_vgg16", whole)):
        published = tv.get_model_weights(name).DEFAULT.meta["num_params"]
        assert count_parameters(network) == published
    assert whole.network.transform.fixed_size == (300, 300)
    assert whole.network.anchor_generator.steps is not None
    small = detector("ssd300_vgg16").network
    assert len(small.anchor_generator.aspect_ratios) == 1 + len(small.backbone.extra) == 4
    assert small.transform.image_std == whole.network.transform.image_std


def test_images_are_resized_and_normalised_as_asked():
    lite, faster = (detector(name).network.transform.eval() for name in (LITE, FASTER))
    assert lite(images())[0].image_sizes == [(64, 64), (64, 64)]
    assert faster(images())[0].image_sizes == [(64, 64), (64, 85)]
    # The longer side is bounded, in torchvision's proportion.
    assert faster([torch.rand(3, 20, 200)])[0].image_sizes == [(10, 107)]
    network = create_model("scenes_ssd_tiny", 5, mean=(0.1, 0.2, 0.3), std=torch.tensor([1, 2, 4]))
    batch, _ = network.network.transform([torch.full((3, 64, 64), 0.5)])
    torch.testing.assert_close(batch.tensors.mean((0, 2, 3)), torch.tensor([0.4, 0.15, 0.05]))
    assert create_model("scenes_ssd_tiny", 5, image_size=None, mean=None).classes == 5


@pytest.mark.parametrize(("options", "message"), [
    ({"image_size": 16}, "image_size of a detector is 16; give whole pixels, at least 32"),
    ({"mean": [0.5]}, r"mean of a detector is \[0.5\]; give three numbers"),
    ({"mean": [0.5, 0.5, float("nan")]}, "mean of a detector"),
    ({"std": [0.2, 0.0, 0.2]}, "give three positive numbers"),
    ({"weights": "DEFAULT"}, "Unknown option of model '.*'.*image_size, mean, std"),
    ({"size": 64}, "Unknown option of model '"), ({"image_size": 64.0}, "detector is 64.0"),
])  # fmt: skip
def test_input_that_cannot_be_is_refused(options, message):
    for name in ("scenes_ssd", "ssd300_vgg16")[: 1 if "weights" in options else 2]:
        with pytest.raises(KdlibError, match=message):
            create_model(name, 5, **options)
    with pytest.raises(KdlibError, match="needs targets: give them, or call eval"):
        detector("scenes_ssd_tiny").train()(images())
