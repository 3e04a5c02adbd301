"""What a record says of a detector, and what is refused."""

import json
import time

import pytest
import torch
from detection.random_detections import detections_of, objects_of, random_case

from kdlib.detection.error_types import error_types
from kdlib.detection.evaluation import DetectionMarks, coco_measures
from kdlib.errors import KdlibError

BOX = [10.0, 10.0, 50.0, 50.0]
KEYS = {
    "map", "map50", "map75", "map_small", "map_medium", "map_large", "ap_by_iou", "per_class",
    "recall", "errors", "detections",
}  # fmt: skip


def test_all_measures_whatever_the_batches():
    detections, objects = random_case(0)
    marks = DetectionMarks(5, objects)
    for part in (slice(0, 13), slice(13, 14), slice(14, None)):
        marks.add(detections[part])
    found = marks.results()
    assert set(found) == KEYS
    assert found["errors"] == error_types(detections, objects, 5)
    assert found["detections"] == sum(len(one.scores) for one in detections)
    assert coco_measures(detections, objects, 5).items() <= found.items()
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_detections_may_have_gradients_and_half_precision():
    half = detections_of([BOX], [0], [0.5])
    half = half._replace(scores=half.scores.bfloat16(), boxes=half.boxes.half().requires_grad_())
    marks = DetectionMarks(1, objects_of([BOX], [0]))
    marks.add([half])
    assert marks.results()["map"] == pytest.approx(1)
    assert not marks.detections[0].boxes.requires_grad


@pytest.mark.parametrize("kind", [-1, 2])
def test_a_class_that_there_is_not_is_refused(kind):
    marks = DetectionMarks(2, objects_of([BOX], [0]))
    with pytest.raises(KdlibError, match=f"Image 0 has a detection of class {kind}.*0 to 1"):
        marks.add([detections_of([BOX, BOX], [0, kind], [0.5, 0.4])])


@pytest.mark.parametrize("where", ["boxes", "scores"])
def test_a_detector_that_diverged_is_told(where):
    given = detections_of([BOX], [0], [0.5])
    given = given._replace(**{where: torch.full_like(getattr(given, where), torch.nan)})
    with pytest.raises(KdlibError, match="not finite.*diverged"):
        DetectionMarks(1, objects_of([BOX], [0])).add([given])


@pytest.mark.parametrize("images", [1, 3])
def test_every_image_is_to_be_added_once(images):
    marks = DetectionMarks(1, objects_of([BOX, BOX], [0, 0], counts=[1, 1]))
    marks.add([detections_of([BOX], [0], [0.5])] * images)
    with pytest.raises(KdlibError, match=f"Detections of {images} images, objects of 2"):
        marks.results()


def test_two_thousand_images_of_thirty_detections_take_seconds():
    detections, objects = random_case(1, images=100, classes=68, most=60)
    boxes, kinds, crowd = (
        values.repeat(20, *[1] * (values.ndim - 1))
        for values in (objects.boxes, objects.kinds, objects.crowd)
    )
    objects = objects_of(boxes, kinds, crowd, objects.counts.repeat(20), objects.sizes)
    marks = DetectionMarks(68, objects)
    marks.add(detections * 20)
    began = time.process_time()
    marks.results()
    assert time.process_time() - began < 5
