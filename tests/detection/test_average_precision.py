"""COCO's measures against pycocotools, and where there is little or nothing to measure."""

import contextlib
import io

import numpy as np
import pytest
from detection.random_detections import detections_of, objects_of, random_case
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from kdlib.detection.evaluation import (
    THRESHOLDS,
    coco_measures,
    detected_rows,
    evaluated,
    truth_rows,
)
from kdlib.errors import KdlibError

CLASSES = 5
NAMES = ("map", "map50", "map75", "map_small", "map_medium", "map_large", "recall")
BOX = [10.0, 10.0, 50.0, 50.0]


def approx(numbers):
    """Equal but for the order in which a mean is summed."""
    return pytest.approx(numbers, rel=1e-12)


def annotation(box, kind, image, **more):
    x, y, right, below = box.double().tolist()
    sides = {"bbox": [x, y, right - x, below - y], "area": (right - x) * (below - y)}
    return {"image_id": image, "category_id": kind, "iscrowd": 0, **sides, **more}


def data_set(annotations, images, classes):
    numbered = [{**one, "id": number} for number, one in enumerate(annotations, 1)]
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image} for image in range(images)],
        "categories": [{"id": kind} for kind in range(classes)],
        "annotations": numbered,
    }
    coco.createIndex()
    return coco


def by_pycocotools(detections, objects, classes):
    """Its 12 numbers, and its table of precisions."""
    truth, found = [], []
    for image, one in enumerate(detections):
        for box, kind, crowd in zip(*objects.of(image), strict=True):
            truth.append(annotation(box, int(kind), image, iscrowd=int(crowd)))
        for box, kind, score in zip(*one, strict=True):
            found.append(annotation(box, int(kind), image, score=float(score)))
    with contextlib.redirect_stdout(io.StringIO()):
        sets = (data_set(rows, len(detections), classes) for rows in (truth, found))
        evaluator = COCOeval(*sets, "bbox")
        small, large = objects.sizes
        evaluator.params.areaRng = [[0, 1e10], [0, small], [small, large], [large, 1e10]]
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator.stats, evaluator.eval["precision"][..., 0, -1]


@pytest.mark.parametrize("seed", range(8))
def test_every_number_is_that_of_pycocotools(seed):
    detections, objects = random_case(seed)
    found = coco_measures(detections, objects, CLASSES)
    stats, precision = by_pycocotools(detections, objects, CLASSES)
    assert [found[name] for name in NAMES] == approx([*stats[:6], stats[8]])
    assert found["ap_by_iou"] == approx([row.mean() for row in precision])
    assert found["per_class"] == approx([precision[..., k].mean() for k in range(CLASSES)])


def test_every_point_of_every_curve_is_that_of_pycocotools():
    detections, objects = random_case(9)
    rows = detected_rows(detections), truth_rows(objects)
    mine = evaluated(*rows, objects, CLASSES)["precision"][..., 0, -1]
    theirs = by_pycocotools(detections, objects, CLASSES)[1]
    np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-15)


def test_of_a_class_and_image_the_surest_hundred_count():
    detections, objects = random_case(3, images=8, classes=1, most=400)
    assert max(len(one.scores) for one in detections) > 200
    found = coco_measures(detections, objects, 1)
    assert found["map"] == approx(by_pycocotools(detections, objects, 1)[0][0])


def test_perfect_detections_score_one_and_absent_classes_and_sizes_nothing():
    objects = objects_of([BOX], [2])
    found = coco_measures([detections_of([BOX], [2], [0.3])], objects, 4)
    assert found["map"] == found["map50"] == found["map_medium"] == pytest.approx(1)
    assert found["map_small"] is None and found["map_large"] is None
    assert [value is None for value in found["per_class"]] == [True, True, False, True]


def test_a_box_that_overlaps_by_two_thirds_is_found_at_four_of_ten_thresholds():
    third = [10.0, 10.0, 50.0, 36.6667]  # IoU 0.667
    found = coco_measures([detections_of([third], [0], [1.0])], objects_of([BOX], [0]), 1)
    assert np.round(found["ap_by_iou"], 6).tolist() == [1] * 4 + [0] * 6
    assert THRESHOLDS == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


def test_a_detector_that_finds_nothing_scores_zero():
    found = coco_measures([detections_of([], [], [])], objects_of([BOX], [0]), 2)
    assert found["map"] == found["map50"] == found["recall"] == 0
    assert found["per_class"] == [0, None]


@pytest.mark.parametrize("crowd", [[], [True]])
def test_without_an_object_that_counts_there_is_no_result(crowd):
    objects = objects_of([BOX] * len(crowd), [0] * len(crowd), crowd)
    with pytest.raises(KdlibError, match="None of the 1 images has an object"):
        coco_measures([detections_of([BOX], [0], [1.0])], objects, 1)
