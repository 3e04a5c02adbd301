"""KD_cls and KD_loc: where their gradients go, and what the teacher sees."""

from contextlib import nullcontext

import pytest
import torch
from detection.detectors import NOTHING
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms.v2 import functional as tv

from kdlib import KdlibError, create_model
from kdlib.detection.batches import DetectionBatch
from kdlib.detection.losses import RECOGNITION, CropLoss
from kdlib.detection.teacher import CropTeacher, early_stages, sampled_crops

POSITIVES, CLASSES, SIZE, SIDE, CROP = 5, 7, 8, 64, 16
HALF = (0.5, 0.5, 0.5)
FIRST = torch.tensor([0])
# Of numbers that put no sample on the centre of a pixel, where bilinear values have a kink.
BOXES = torch.tensor(
    [[0.1137, 0.2071, 0.6113, 0.8939], [0.3137, 0.0571, 0.8071, 0.7139], [0.0, 0.0, 1.0, 1.0]]
).double()
OWNERS = torch.tensor([1, 0, 1])


@pytest.fixture
def logits():
    stream = torch.Generator().manual_seed(0)
    sizes, options = (CLASSES + 1, CLASSES), {"generator": stream, "dtype": torch.float64}
    return tuple((3 * torch.randn(POSITIVES, k, **options)).requires_grad_() for k in sizes)


@pytest.mark.parametrize("form", RECOGNITION)
def test_recognition_is_finite_and_teaches_the_student_alone(form, logits):
    (student, teacher), loss = logits, RECOGNITION[form]
    found = loss(student, teacher, 2.0)
    found.sum().backward()
    assert found.shape == (POSITIVES,) and teacher.grad is None
    assert student.grad[:, 0].any() == (form == "softmax")  # the only one with a background
    assert loss(student.bfloat16(), teacher.bfloat16(), 2.0).dtype == torch.float32
    sure = torch.tensor([[-300.0, 300.0, -300.0]], requires_grad=True)
    found = loss(sure, torch.tensor([[-300.0, 300.0]]), 1.0).sum()
    found.backward()
    assert torch.isfinite(found) and torch.isfinite(sure.grad).all()


@pytest.fixture
def images():
    """Two smooth images of different sizes."""
    stream = torch.Generator().manual_seed(1)
    few = [torch.rand(3, *s, generator=stream, dtype=torch.float64) for s in ((5, 6), (4, 9))]
    return [tv.resize(one, [4 * one.shape[-2], 4 * one.shape[-1]], antialias=True) for one in few]


def test_a_crop_is_cut_out_of_its_own_image_whatever_the_order_of_the_boxes(images):
    together = sampled_crops(images, BOXES, OWNERS, SIZE)
    for row, (box, owner) in enumerate(zip(BOXES, OWNERS, strict=True)):
        alone = sampled_crops([images[owner]], box[None], FIRST, SIZE)
        torch.testing.assert_close(together[row], alone[0])
    assert sampled_crops(images, BOXES[:0], OWNERS[:0], SIZE).shape == (0, 3, SIZE, SIZE)


def test_a_box_without_area_or_outside_stays_finite(images):
    odd = [0.4, 0.2, 0.4, 0.6], [1.2, 0.1, 1.5, 0.4], [-3, -2, -1, -1], [-0.2, 0.1, 0.5, 1.3]
    boxes = torch.tensor(odd).double().requires_grad_()
    crops = sampled_crops(images[:1], boxes, FIRST.repeat(4), SIZE)
    crops.pow(2).sum().backward()
    assert torch.isfinite(crops).all() and torch.isfinite(boxes.grad).all()
    assert (boxes.grad[3] == 0).tolist() == [True, False, False, True]  # edges beyond the image


@pytest.mark.parametrize(("name", "stops"), [
    ("scenes_small", True), ("resnet18", True), ("mobilenet_v2", True), ("wrn_16_2", False),
])  # fmt: skip
def test_early_stages_are_those_of_the_whole_network_and_cost_less(name, stops):
    network = create_model(name, 5).eval().requires_grad_(False)
    images, costs = torch.rand(2, 3, SIDE, SIDE, requires_grad=True), []
    early = early_stages(network, 1)
    for part in (early, network):
        with FlopCounterMode(display=False) as counter:
            whole = part(images)
        costs.append(counter.get_total_flops())
    assert (costs[0] < 0.8 * costs[1]) == stops
    for count in (1, 3):
        found = early_stages(network, count)(images)
        assert len(found) == count and all(map(torch.equal, found, whole.stages))
    early(images)[0].sum().backward()
    assert images.grad.any()


HEADS, PREDICTOR = ("head.classification_head", "head.regression_head"), "roi_heads.box_predictor"
BRANCHES = {
    "scenes_ssd_tiny": HEADS, "scenes_retinanet_tiny": HEADS,
    "fasterrcnn_mobilenet_v3_large_fpn": (f"{PREDICTOR}.cls_score", f"{PREDICTOR}.bbox_pred"),
}  # fmt: skip
ALL = {"cls": 0.0, "loc": 1.0, "layers": (-1, 0, 1)}


@pytest.fixture(scope="module", params=BRANCHES)
def scene(request):
    """A detector's answer to two images of two objects each, a teacher, the detector's branches."""
    torch.manual_seed(0)
    detector = create_model(request.param, 3, image_size=SIDE, mean=HALF, std=HALF).train()
    teacher = CropTeacher(create_model("scenes_small", 3), CROP, HALF, HALF)
    boxes = torch.tensor([[4.0, 6.0, 24.0, 26.0], [30.0, 30.0, 52.0, 50.0]])
    targets = [{"boxes": boxes + shift, "labels": torch.tensor([1, 3])} for shift in (0.0, 5.0)]
    batch = DetectionBatch([torch.rand(3, SIDE, SIDE) for _ in targets], targets, torch.arange(2))
    answer = detector(batch.images, batch.targets)
    assert len(answer.positives.images) >= 4, "every object has a positive"
    branches = [detector.network.get_submodule(path) for path in BRANCHES[request.param]]
    return detector, teacher, batch, answer, branches


def terms_of(scene, answer=None, batch=None, **options):
    batch = batch or scene[2]
    return CropLoss(**options)(answer or scene[3], scene[1].teach(batch), batch)


@pytest.mark.parametrize(("options", "names", "branch"), [
    ({"cls": 1.0, "loc": 0.0}, {"kd_cls"}, 0), (ALL, {"loc", "kd_loc"}, 1),
    (ALL | {"layers": (-1,)}, {"loc"}, 1), (ALL | {"layers": (0,)}, {"kd_loc"}, 1),
])  # fmt: skip
def test_each_term_reaches_its_branch_alone_and_never_the_teacher(scene, options, names, branch):
    detector, teacher, batch, _, branches = scene
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    detector.zero_grad()
    teacher.train()
    terms = terms_of(scene, **options)
    torch.stack(list(terms.values())).sum().backward(retain_graph=True)
    parts = detector.network.backbone, *branches
    learnt = [any(p.grad is not None and p.grad.any() for p in part.parameters()) for part in parts]
    assert set(terms) == names and learnt == [True, branch == 0, branch == 1]
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    known = teacher(batch)
    assert not any(one.requires_grad for one in (known.crops, known.logits, *known.stages))
    pixels = CropTeacher(None, CROP, HALF, HALF).teach(batch)  # enough for those alone
    with nullcontext() if names == {"loc"} else pytest.raises(KdlibError, match="name (a|one)"):
        CropLoss(**options)(scene[3], pixels, batch)


def test_images_without_objects_change_nothing_and_batches_without_any_cost_nothing(scene):
    """Rows of the targets are found by image, so an empty one in front must shift nothing."""
    detector, _, batch, answer, _ = scene
    targets = [NOTHING, *batch.targets]
    longer = batch._replace(images=[torch.rand(3, SIDE, SIDE), *batch.images], targets=targets)
    shifted = answer.positives._replace(images=answer.positives.images + 1)
    beside = terms_of(scene, answer._replace(positives=shifted), longer)
    for name, term in terms_of(scene).items():
        torch.testing.assert_close(beside[name], term)
    empty = batch._replace(targets=[NOTHING, NOTHING])
    answer = detector(empty.images, empty.targets)
    terms = terms_of(scene, answer, empty)
    total = torch.stack([*answer.losses.values(), *terms.values()]).sum()
    total.backward()
    assert torch.isfinite(total) and set(terms) == {"kd_cls", "loc", "kd_loc"}
    assert not any(term.item() for term in terms.values())
