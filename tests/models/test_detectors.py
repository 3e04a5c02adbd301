"""Detectors: torchvision's losses and detections, and the positives told beside them."""

import gc
import weakref
from copy import deepcopy

import pytest
import torch
from detectors import CLASSES, SIZE, detector, images, nothing, targets
from torch import nn
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.ops import box_iou

from kdlib.detection.models import Answer, Detections
from kdlib.errors import KdlibError
from kdlib.models import MODELS, check_task, create_model
from kdlib.models.cost import flops

torch.set_num_threads(1)

HEAVY = ("ssd300_vgg16", "retinanet_resnet50_fpn", "fasterrcnn_resnet50_fpn")
DETECTORS = [name for name, model in MODELS.items() if model.task == "detection"]
LIGHT = [name for name in DETECTORS if name not in HEAVY]
"""One of each kind at least: what the heavy ones share with these is tested on these."""
GRIDS = [name for name in LIGHT if not name.startswith("fasterrcnn")]
PROPOSALS = [name for name in LIGHT if name.startswith("fasterrcnn")]
SMALL = ["scenes_ssd_tiny", "scenes_retinanet_tiny", "fasterrcnn_mobilenet_v3_large_fpn"]


def answered(network, found=None) -> Answer:
    """A step's answer; the seed is that of the proposals' sampling."""
    torch.manual_seed(1)
    return network.train()(images(), targets() if found is None else found)


def plain(network):
    """torchvision's network as it comes, without what a Detector hangs on it."""
    network = deepcopy(network)
    for module in network.modules():
        module._forward_hooks.clear(), module._forward_pre_hooks.clear()
    return network


def matched(network, found):
    """Anchors and the object of each, by torchvision's own parts, one after the other."""
    batch, targets = network.transform(images(), found)
    features = list(network.backbone(batch.tensors).values())
    anchors = network.anchor_generator(batch, features)
    pairs = zip(targets, anchors, strict=True)
    objects = [network.proposal_matcher(box_iou(t["boxes"], a)) for t, a in pairs]
    return targets, network.head(features), anchors, objects


@pytest.mark.parametrize("name", DETECTORS)
def test_losses_are_torchvisions_to_the_bit(name):
    network = detector(name)
    theirs = plain(network.network).train()
    torch.manual_seed(1)
    expected = theirs(images(), targets())
    losses = answered(network).losses
    assert losses.keys() == expected.keys()
    assert all(torch.equal(losses[key], expected[key]) for key in expected)


@pytest.mark.parametrize("name", DETECTORS)
def test_detections_are_torchvisions_with_kinds_from_zero(name):
    network = detector(name).eval()
    theirs = plain(network.network).eval()
    with torch.no_grad():
        found, expected = network(images()), theirs(images())
    assert len(found) == 2
    for detections, their in zip(found, expected, strict=True):
        assert isinstance(detections, Detections)
        real = their["labels"] > 0
        assert torch.equal(detections.boxes, their["boxes"][real])
        assert torch.equal(detections.kinds, their["labels"][real] - 1)
        assert torch.equal(detections.scores, their["scores"][real])


@pytest.mark.parametrize("name", LIGHT)
def test_losses_and_positives_reach_what_they_should(name):
    network = detector(name)
    losses, positives = answered(network)
    count = len(positives.images)
    assert count > 0 and network.classes == CLASSES
    assert positives.logits.shape == (count, CLASSES + 1) and positives.boxes.shape == (count, 4)
    assert positives.images.dtype == positives.objects.dtype == torch.int64
    network.zero_grad()
    sum(losses.values()).backward(retain_graph=True)
    gradients = [p.grad for p in network.parameters() if p.requires_grad]
    assert all(g is not None and g.isfinite().all() for g in gradients)
    for tensor in (positives.logits, positives.boxes):
        network.zero_grad()
        tensor.sum().backward(retain_graph=True)
        first = next(p for p in network.network.backbone.parameters() if p.dim() == 4)
        assert first.grad.isfinite().all() and first.grad.any()
    network.zero_grad()


@pytest.mark.parametrize("name", [*GRIDS, "ssd300_vgg16"])
def test_positives_are_the_anchors_that_torchvision_matches(name):
    network = detector(name)
    _, outputs, _, objects = matched(plain(network.network).train(), targets())
    positives = answered(network).positives
    for image, of_anchor in enumerate(objects):
        (chosen,) = torch.where(of_anchor >= 0)
        here = positives.images == image
        assert torch.equal(positives.objects[here], of_anchor[chosen])
        assert torch.equal(positives.logits[here], outputs["cls_logits"][image, chosen])


@pytest.mark.parametrize("name", GRIDS)
def test_a_perfect_regression_gives_the_boxes_of_the_targets(name):
    network = deepcopy(detector(name))
    inner = network.network
    resized, _, anchors, objects = matched(plain(inner).train(), targets())
    codes = [
        inner.box_coder.encode_single(t["boxes"][o.clamp(min=0)], a)
        for t, a, o in zip(resized, anchors, objects, strict=True)
    ]
    inner.head.register_forward_hook(
        lambda _head, _given, output: output | {"bbox_regression": torch.stack(codes)}
    )
    positives = answered(network).positives
    torch.testing.assert_close(positives.boxes, true_boxes(positives), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", PROPOSALS)
def test_a_perfect_regression_of_proposals_gives_the_boxes_too(name, monkeypatch):
    network = deepcopy(detector(name))
    heads, sampled = network.network.roi_heads, []
    sample, predict = heads.select_training_samples, heads.box_predictor.forward

    def sampling(*given):
        sampled.append(sample(*given))
        return sampled[0]

    def predicting(features):
        codes = torch.cat(sampled[0][3])  # of every class the same, but of label 0 nonsense
        each = codes[:, None].repeat(1, CLASSES + 1, 1)
        each[:, 0] = 7
        return predict(features)[0], each.flatten(1)

    monkeypatch.setattr(heads, "select_training_samples", sampling)
    monkeypatch.setattr(heads.box_predictor, "forward", predicting)
    positives = answered(network).positives
    torch.testing.assert_close(positives.boxes, true_boxes(positives), atol=1e-4, rtol=0)
    assert len(positives.images) == sum((labels > 0).sum() for labels in sampled[0][2])


@pytest.mark.parametrize("name", PROPOSALS)
def test_positive_proposals_overlap_their_objects_by_half(name):
    network = deepcopy(detector(name))
    predictor = network.network.roi_heads.box_predictor
    nn.init.zeros_(predictor.bbox_pred.weight), nn.init.zeros_(predictor.bbox_pred.bias)
    positives = answered(network).positives  # the boxes are the proposals now
    overlap = box_iou(positives.boxes, true_boxes(positives)).diagonal()
    assert (overlap >= 0.5 - 1e-5).all()
    found = set(zip(positives.images.tolist(), positives.objects.tolist(), strict=True))
    assert found == {(0, 0), (0, 1), (1, 0)}  # the objects themselves are proposals


def true_boxes(positives) -> torch.Tensor:
    """The targets' boxes of all positives, as fractions of their images' sides."""
    sides = [torch.tensor([i.shape[2], i.shape[1]] * 2) for i in images()]
    pairs = zip(positives.images.tolist(), positives.objects.tolist(), strict=True)
    return torch.stack([targets()[i]["boxes"][o] / sides[i] for i, o in pairs])


def test_boxes_that_leave_the_image_are_not_clamped():
    network = deepcopy(detector("scenes_ssd_tiny"))
    network.network.head.register_forward_hook(
        lambda _head, _given, output: output | {"bbox_regression": output["bbox_regression"] + 30}
    )
    assert (answered(network).positives.boxes[:, 2:] > 1).all()


@pytest.mark.parametrize("name", LIGHT)
def test_a_batch_without_objects_has_no_positives_and_trains(name):
    network = detector(name)
    losses, positives = answered(network, [nothing(), nothing()])
    assert [len(part) for part in positives] == [0, 0, 0, 0]
    assert positives.logits.shape == (0, CLASSES + 1) and positives.boxes.shape == (0, 4)
    total = sum(losses.values()) + positives.logits.sum() + positives.boxes.sum()
    total.backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)
    is_ssd = not isinstance(network.network, RetinaNet | FasterRCNN)
    assert (total == 0) if is_ssd else (total > 0)  # SSD takes its negatives by the positives
    network.zero_grad()


@pytest.mark.parametrize("name", SMALL)
def test_an_image_without_objects_keeps_its_place_in_the_batch(name):
    positives = answered(detector(name), [nothing(), targets()[1]]).positives
    assert set(positives.images.tolist()) == {1} and set(positives.objects.tolist()) == {0}


@pytest.mark.parametrize("name", LIGHT)
def test_a_step_leaves_nothing_behind(name):
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
        with torch.no_grad():
            network.eval()(images())
    finally:
        gc.enable()
    assert all(set(vars(module)) == names for module, names in before)


@pytest.mark.parametrize("name", SMALL)
def test_a_step_that_fails_leaves_nothing_behind_either(name):
    network = detector(name)
    before = [(module, set(vars(module))) for module in network.modules()]
    flat = {"boxes": torch.tensor([[4.0, 4, 4, 9]]), "labels": torch.tensor([1])}
    with pytest.raises(AssertionError, match="positive height and width"):
        answered(network, [flat, nothing()])
    assert all(set(vars(module)) == names for module, names in before)


@pytest.mark.parametrize("name", SMALL)
def test_a_copy_is_whole_and_its_own(name):
    network = detector(name)
    copy = deepcopy(network)
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.mul_(0.5)
    assert not torch.equal(answered(copy).positives.logits, answered(network).positives.logits)
    copy.load_state_dict(network.state_dict())
    first, second = (answered(each) for each in (network, copy))
    assert all(torch.equal(*pair) for pair in zip(first.positives, second.positives, strict=True))


@pytest.mark.parametrize("name", SMALL)
def test_a_state_dict_carries_the_whole_network(name):
    answered(detector(name))
    loaded = create_model(name, CLASSES, image_size=SIZE).eval()
    loaded.load_state_dict(detector(name).state_dict())
    with torch.no_grad():
        first, second = (network.eval()(images()) for network in (detector(name), loaded))
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))


@pytest.mark.parametrize("name", ["scenes_ssd", "scenes_retinanet", *SMALL])
def test_bfloat16_leaves_losses_anchors_and_boxes_in_float32(name):
    network = detector(name)
    exact = answered(network)
    with torch.autocast("cpu", torch.bfloat16):
        losses, positives = answered(network)
        found = network.eval()(images())
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert positives.logits.dtype == positives.boxes.dtype == torch.float32
    assert found[0].boxes.dtype == found[0].scores.dtype == torch.float32
    if name not in PROPOSALS:  # the anchors are the same, thus the matching
        for key, loss in losses.items():
            torch.testing.assert_close(loss, exact.losses[key], rtol=0.05, atol=0.02)
        assert torch.equal(positives.images, exact.positives.images)
        assert torch.equal(positives.objects, exact.positives.objects)


@pytest.mark.parametrize("name", SMALL)
def test_channels_last_agrees(name):
    network = deepcopy(detector(name))
    expected = answered(network).losses
    found = answered(network.to(memory_format=torch.channels_last)).losses
    for key, loss in expected.items():
        torch.testing.assert_close(found[key], loss, rtol=1e-3, atol=1e-3)


def test_an_output_that_is_no_class_is_not_a_detection():
    network = deepcopy(detector("scenes_retinanet_tiny"))
    bias = network.network.head.classification_head.cls_logits.bias
    with torch.no_grad():
        bias.view(-1, CLASSES + 1)[:, 0] = 5
        bias.view(-1, CLASSES + 1)[:, 3] = 4
        found = network.eval()(images())
    assert {kind for one in found for kind in one.kinds.tolist()} <= {2}


def test_scores_tell_which_detectors_have_a_softmax():
    for name in DETECTORS:
        assert detector(name).scores == ("sigmoid" if "retinanet" in name else "softmax")


def test_training_without_targets_is_refused():
    with pytest.raises(KdlibError, match="needs targets: give them, or call eval"):
        detector("scenes_ssd_tiny").train()(images())


def test_detectors_are_for_detection_and_classifiers_for_crops():
    check_task("scenes_ssd", "detection"), check_task("resnet18", "crops")
    with pytest.raises(KdlibError, match="'resnet18' is not for task 'detection'.*ssd300_vgg16"):
        check_task("resnet18", "detection")
    with pytest.raises(KdlibError, match="'scenes_ssd' is not for task 'crops'"):
        check_task("scenes_ssd", "crops")
    with pytest.raises(KdlibError, match="'scenes_ssd' is not for task 'segmentation'"):
        check_task("scenes_ssd", "segmentation")


def test_the_operations_of_a_detector_are_counted():
    assert flops(create_model("scenes_ssd_tiny", 5), 64) > 1e5


@pytest.mark.parametrize(("options", "message"), [
    ({"image_size": 16}, "image_size of a detector is 16; give whole pixels, at least 32"),
    ({"image_size": 64.0}, "image_size of a detector is 64.0"),
    ({"mean": [0.5]}, r"mean of a detector is \[0.5\]; give three numbers"),
    ({"mean": [0.5, 0.5, float("nan")]}, "mean of a detector"),
    ({"std": [0.2, 0.0, 0.2]}, "give three positive numbers"),
    ({"weights": "DEFAULT"}, "Unknown option of model 'scenes_ssd'.*image_size, mean, std"),
    ({"size": 64}, "Unknown option of model 'scenes_ssd'"),
])  # fmt: skip
def test_input_that_cannot_be_is_refused(options, message):
    with pytest.raises(KdlibError, match=message):
        create_model("scenes_ssd", 5, **options)


def test_mean_and_deviation_normalise_the_images():
    network = create_model("scenes_ssd_tiny", 5, mean=(0.1, 0.2, 0.3), std=torch.tensor([1, 2, 4]))
    batch, _ = network.network.transform([torch.full((3, 64, 64), 0.5)])
    expected = torch.tensor([0.4, 0.15, 0.05])
    torch.testing.assert_close(batch.tensors.mean((0, 2, 3)), expected)
    assert create_model("scenes_ssd_tiny", 5, image_size=None, mean=None).classes == 5
