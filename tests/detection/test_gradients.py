"""Where the gradients of KD_cls and KD_loc go, and where none goes."""

import pytest
import torch

from kdlib.detection.batches import DetectionBatch
from kdlib.detection.losses import CropLoss, CropTeacher
from kdlib.models import create_model

CLASSES, SIDE, CROP = 3, 64, 16
HALF = (0.5, 0.5, 0.5)
DETECTORS = {
    "scenes_ssd_tiny": ("head.classification_head", "head.regression_head"),
    "scenes_retinanet_tiny": ("head.classification_head", "head.regression_head"),
    "fasterrcnn_mobilenet_v3_large_fpn": (
        "roi_heads.box_predictor.cls_score",
        "roi_heads.box_predictor.bbox_pred",
    ),
}


def photographs():
    """Two images of two objects each."""
    stream = torch.Generator().manual_seed(0)
    boxes = torch.tensor([[4.0, 6.0, 24.0, 26.0], [30.0, 30.0, 52.0, 50.0]])
    targets = [{"boxes": boxes + shift, "labels": torch.tensor([1, 3])} for shift in (0.0, 5.0)]
    images = [torch.rand(3, SIDE, SIDE, generator=stream) for _ in targets]
    return DetectionBatch(images, targets, torch.arange(2))


@pytest.fixture(params=DETECTORS)
def scene(request):
    """A detector's answer to a batch, and a teacher's lesson on it."""
    torch.manual_seed(0)
    detector = create_model(request.param, CLASSES, image_size=SIDE, mean=HALF, std=HALF).train()
    teacher = CropTeacher(create_model("scenes_small", CLASSES), CROP, HALF, HALF)
    batch = photographs()
    answer = detector(batch.images, batch.targets)
    assert len(answer.positives.images) >= 4, "every object has a positive"
    return request.param, detector, teacher, batch, answer


def learn(scene, **options):
    """Send the gradient of a loss's terms, those alone, into the detector; return the terms."""
    _, detector, teacher, batch, answer = scene
    terms = CropLoss(**options)(answer.positives, detector, batch, *teacher.teach(batch))
    torch.stack(list(terms.values())).sum().backward()
    return terms


def reached(module):
    """Whether any gradient that is not zero has come to a module's parameters."""
    grads = [parameter.grad for parameter in module.parameters()]
    return any(grad is not None and bool(grad.abs().sum() > 0) for grad in grads)


def branches(scene):
    name, detector, *_ = scene
    return [detector.network.get_submodule(path) for path in DETECTORS[name]]


def test_kd_cls_reaches_the_classification_branch_alone(scene):
    terms = learn(scene, cls=1.0, loc=0.0)
    classification, regression = branches(scene)
    assert set(terms) == {"kd_cls"}
    assert reached(classification) and reached(scene[1].network.backbone)
    assert not reached(regression)


@pytest.mark.parametrize("layers", [(-1,), (0,), (-1, 0, 1)])
def test_kd_loc_reaches_the_regression_branch_alone(scene, layers):
    terms = learn(scene, cls=0.0, loc=1.0, layers=layers)
    classification, regression = branches(scene)
    assert set(terms) == {"loc" if layer == -1 else "kd_loc" for layer in layers}
    assert reached(regression) and reached(scene[1].network.backbone)
    assert not reached(classification)


def test_nothing_reaches_the_teacher_or_moves_it(scene):
    teacher = scene[2]
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    scene[1].train()
    teacher.train()
    learn(scene, layers=(-1, 0, 1, 2))
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_the_target_has_no_graph(scene):
    _, _, teacher, batch, _ = scene
    lesson = teacher(batch)
    for value in (lesson.crops, lesson.logits, *lesson.stages):
        assert not value.requires_grad


def test_a_predicted_box_equal_to_its_target_costs_nothing(scene):
    _, detector, teacher, batch, answer = scene
    _, lesson = teacher.teach(batch)
    rows = lesson.starts[answer.positives.images] + answer.positives.objects
    truth = torch.cat([target["boxes"] / SIDE for target in batch.targets])[rows]
    exact = answer.positives._replace(boxes=truth)
    terms = CropLoss(cls=0.0, loc=1.0, layers=(-1, 0, 1))(exact, detector, batch, teacher, lesson)
    assert all(term.item() < 1e-5 for term in terms.values())
    off = exact._replace(boxes=truth + 0.05)
    moved = CropLoss(cls=0.0, loc=1.0, layers=(-1, 0, 1))(off, detector, batch, teacher, lesson)
    assert all(term.item() > 1e-3 for term in moved.values())


def test_a_batch_without_objects_has_terms_of_zero(scene):
    _, detector, teacher, batch, _ = scene
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    empty = batch._replace(targets=[nothing, nothing])
    answer = detector(empty.images, empty.targets)
    terms = CropLoss()(answer.positives, detector, empty, *teacher.teach(empty))
    total = torch.stack([*answer.losses.values(), *terms.values()]).sum()
    total.backward()
    assert {name: term.item() for name, term in terms.items()} == {
        "kd_cls": 0.0, "loc": 0.0, "kd_loc": 0.0,
    }  # fmt: skip
    assert torch.isfinite(total)


def test_one_image_without_objects_leaves_the_others_as_they_are(scene):
    """Rows of the lesson are found by image, so an empty one in front must shift nothing."""
    _, detector, teacher, batch, answer = scene
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    longer = batch._replace(
        images=[torch.rand(3, SIDE, SIDE), *batch.images], targets=[nothing, *batch.targets]
    )
    shifted = answer.positives._replace(images=answer.positives.images + 1)
    loss = CropLoss()
    alone = loss(answer.positives, detector, batch, *teacher.teach(batch))
    beside = loss(shifted, detector, longer, *teacher.teach(longer))
    for name, term in alone.items():
        torch.testing.assert_close(beside[name], term)
