"""Networks for pixels: shapes, gradients, and what they are made of."""

import pytest
import torch
from pretrained import write_imagenet_weights
from torch import nn
from torch.nn import functional

from kdlib.frskd.self_teacher import PixelHead, SelfTeacher
from kdlib.models import MODELS, create_model
from kdlib.models.cost import count_parameters, output_shapes

SIZES = {"scenes_segmenter": 32, "scenes_segmenter_tiny": 32}
EFFICIENT = 128
"""Pixels at which the coarsest of six levels is a single one."""

SEGMENTERS = [name for name, model in MODELS.items() if model.task == "segmentation"]


@pytest.mark.parametrize("name", SEGMENTERS)
def test_each_pixel_gets_a_class_and_each_level_halves_the_one_before(name):
    size = SIZES.get(name, EFFICIENT)
    network, images = create_model(name, 7).eval(), torch.rand(2, 3, size, size)
    with torch.no_grad():
        found = network(images)
    sides = [stage.shape[-1] for stage in found.stages]
    assert found.logits.shape == (2, 7, size, size)
    assert sides[0] == size // 4
    assert [2 * side for side in sides[1:]] == sides[:-1]
    assert len({stage.shape[1] for stage in found.stages}) == 1
    assert found.embedding.shape == (2, found.stages[0].shape[1])


def test_the_loss_of_pixels_reaches_every_parameter():
    network = create_model("scenes_segmenter_tiny", 5)
    found = network(torch.rand(4, 3, 32, 32))
    functional.cross_entropy(found.logits, torch.randint(5, (4, 32, 32))).backward()
    found = {name: p.grad for name, p in network.named_parameters()}
    assert not [name for name, gradient in found.items() if gradient is None or not gradient.any()]


def test_a_head_sums_refines_classifies_and_enlarges():
    head = PixelHead(3, 4).eval()
    fine, coarse = torch.randn(1, 3, 4, 6), torch.randn(1, 3, 2, 3)
    with torch.no_grad():
        raised = nn.Upsample(scale_factor=2, mode="bilinear")(functional.relu(coarse))
        inner = functional.relu(head.refine(functional.relu(fine) + raised))
        scores = torch.einsum("kc,bchw->bkhw", head.classifier.weight[..., 0, 0], inner)
        scores = scores + head.classifier.bias.view(1, -1, 1, 1)
        enlarged = nn.Upsample(scale_factor=4, mode="bilinear")(scores)
        torch.testing.assert_close(head((fine, coarse), (16, 24)), enlarged)


def test_a_self_teacher_of_pixels_answers_at_the_students_size():
    student = create_model("scenes_segmenter_tiny", 5)
    channels = [shape[0] for shape in output_shapes(student, 32).stages]
    teacher = SelfTeacher(channels, 5, 32, width=1, depth=1, repeat=2)
    found = student(torch.rand(2, 3, 32, 32))
    own = teacher(found.stages)
    assert own.logits.shape == found.logits.shape
    assert [s.shape for s in own.stages] == [s.shape for s in found.stages]


def test_a_backbone_begins_with_torchvisions_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(write_imagenet_weights(tmp_path, "efficientnet_b0")))
    first, second = (create_model("efficientdet_d0", 21, weights="IMAGENET1K_V1") for _ in "ab")
    pairs = zip(first.backbone.parameters(), second.backbone.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
    assert not torch.equal(first.head.classifier.weight, second.head.classifier.weight)


def test_the_published_backbones_grow():
    sizes = [count_parameters(create_model(f"efficientdet_d{n}", 21)) for n in (0, 1)]
    assert 3e6 < sizes[0] < sizes[1] < 8e6
