"""Every adapter learns a step from photographs in VOC's and COCO's formats, and is evaluated."""

import math

import pytest
import torch
from data_files import write_coco, write_voc_detection
from training import result_of

from kdlib.data import load_data
from kdlib.detection.batches import DetectionBatches
from kdlib.detection.evaluation import evaluate_detectors
from kdlib.detection.losses import CropLoss, CropTeacher
from kdlib.models import create_model
from kdlib.runs import RunConfig, needed_by
from kdlib.train import fit

ADAPTERS = (
    "ssd300_vgg16",
    "ssdlite320_mobilenet_v3_large",
    "retinanet_resnet50_fpn",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_resnet50_fpn",
)
WRITERS = {"voc": write_voc_detection, "coco": write_coco}
SIDE, CROP = 64, 16


@pytest.fixture(scope="module", params=WRITERS)
def photographs(request, tmp_path_factory):
    """The data set's name, and its root."""
    return request.param, WRITERS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_takes_a_step_and_is_evaluated(name, photographs):
    dataset, root = photographs
    train, test = (
        load_data(dataset, split, task="detection", data_root=root) for split in ("train", "test")
    )
    classes = len(train.classes)
    torch.manual_seed(0)
    known = {"image_size": SIDE, "mean": train.mean, "std": train.std}
    detector = create_model(name, classes, **known).train()
    teacher = CropTeacher(create_model("scenes_small", classes), CROP, train.mean, train.std)
    batches = DetectionBatches(train.first(4), 4, ("flip", "photometric", "iou_crop"), workers=0)
    (batch,) = batches.epoch(0, 0)
    optimiser = torch.optim.SGD(detector.parameters(), lr=1e-3)
    answer = detector(batch.images, batch.targets)
    taught = CropLoss()(answer.positives, detector, batch, *teacher.teach(batch))
    loss = torch.stack([*answer.losses.values(), *taught.values()]).sum()
    loss.backward()
    optimiser.step()
    assert set(taught) == {"kd_cls", "loc", "kd_loc"} and math.isfinite(loss.item())
    assert all(torch.isfinite(value).all() for value in detector.state_dict().values())
    (quality,) = evaluate_detectors([detector], test.first(2))
    assert 0 <= quality["results"]["map"] <= 1
    assert len(quality["results"]["per_class"]) == classes


def test_a_whole_run_on_photographs_teacher_of_crops_and_detector(photographs, tmp_path):
    """Loaded, cropped, trained, evaluated, recorded, as any other run; twice with the same end."""
    dataset, root = photographs
    config = RunConfig(
        dataset=dataset, task="detection", student="ssdlite320_mobilenet_v3_large",
        teacher="resnet18", method="kd_cls_loc", train_size=4, test_size=2, image_size=SIDE,
        crop_size=32, epochs=1, teacher_epochs=1, batch_size=2, learning_rate=1e-3,
        augmentation=("flip", "zoom_out"),
    )  # fmt: skip
    records = []
    for place in ("once", "again"):
        for teacher in needed_by([config]):
            fit([teacher], tmp_path / place, data_root=root, progress=False)
        records += fit([config], tmp_path / place, data_root=root, progress=False)
    assert result_of(records[0]) == result_of(records[1])
    assert records[0]["cost"]["parameters"] > 1e6


def test_images_without_any_object_are_trained_on_as_background(photographs):
    dataset, root = photographs
    data = load_data(dataset, "train", task="detection", data_root=root)
    empty = int(data.objects.counts.argmin())
    alone = data.part(empty, empty + 1)
    (batch,) = DetectionBatches(alone, 1).in_order()
    detector = create_model("scenes_retinanet_tiny", len(data.classes), image_size=SIDE).train()
    answer = detector(batch.images, batch.targets)
    assert len(batch.targets[0]["boxes"]) == len(answer.positives.images) == 0
    assert answer.losses["classification"].item() > 0
