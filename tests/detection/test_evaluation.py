"""COCO's measures against pycocotools, and TIDE's errors by hand."""

import contextlib
import io
import json
from functools import partial

import numpy as np
import pytest
import torch
from detection.detectors import base_of, detections_of, objects_of, random_case
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from kdlib.detection import average_precision as ap
from kdlib.detection.average_precision import coco_measures, error_types
from kdlib.detection.evaluation import measured
from kdlib.errors import KdlibError

approx = partial(pytest.approx, rel=1e-12)  # equal but for the order in which a mean is summed
NAMES = ("map", "map50", "map75", "map_small", "map_medium", "map_large", "recall")
BOX = B = [10.0, 10.0, 50.0, 50.0]
P = [10.0, 10.0, 50.0, 26.0]  # IoU 0.4 with BOX
H, F = [10.0, 10.0, 50.0, 30.0], [70.0, 70.0, 90.0, 90.0]  # half of BOX; far away


def by_pycocotools(detections, objects, classes):
    """Its 12 numbers, and its table of precisions."""

    def data_set(of_image, names):
        coco, rows = COCO(), []
        for image in range(len(detections)):
            for box, kind, *more in zip(*of_image(image), strict=True):
                x, y, right, below = box.double().tolist()
                sides = {"bbox": [x, y, right - x, below - y], "area": (right - x) * (below - y)}
                place = {"id": len(rows) + 1, "image_id": image, "category_id": int(kind)}
                rows.append({"iscrowd": 0, **place, **sides, **dict(zip(names, more, strict=True))})
        images, kinds = ([{"id": i} for i in range(count)] for count in (len(detections), classes))
        coco.dataset = {"images": images, "categories": kinds, "annotations": rows}
        coco.createIndex()
        return coco

    small, large = objects.sizes
    with contextlib.redirect_stdout(io.StringIO()):
        found = data_set(detections.__getitem__, ["score"])
        evaluator = COCOeval(data_set(objects.of, ["iscrowd"]), found, "bbox")
        evaluator.params.areaRng = [[0, 1e10], [0, small], [small, large], [large, 1e10]]
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator.stats, evaluator.eval["precision"][..., 0, -1]


@pytest.mark.parametrize(("classes", "options"), [
    *((5, {"seed": seed}) for seed in range(8)),
    (1, {"seed": 3, "images": 8, "classes": 1, "most": 400}),  # of which the surest hundred count
])  # fmt: skip
def test_every_number_is_that_of_pycocotools_and_every_error_has_one_type(classes, options):
    case = detections, objects, _ = *random_case(**options), classes
    found, (stats, precision) = coco_measures(*case), by_pycocotools(*case)
    expected = [None if value == -1 else approx(value) for value in (*stats[:6], stats[8])]
    assert [found[name] for name in NAMES] == expected
    assert found["ap_by_iou"] == approx([row.mean() for row in precision])
    assert found["per_class"] == approx([precision[..., k].mean() for k in range(classes)])
    rows = ap.detected_rows(detections), ap.truth_rows(objects)
    mine = ap.evaluated(*rows, objects, classes)["precision"][..., 0, -1]
    np.testing.assert_allclose(mine, precision, rtol=0, atol=1e-15)  # each point of each curve
    assert base_of(*case) == pytest.approx(found["map50"], abs=0.0025)  # recalls differ in a bit
    everything, errors = measured(*case), error_types(*case)
    typed = sum(errors[name]["count"] for name in ap.ERRORS if name != "miss")
    assert typed == errors["false_pos"]["count"]
    assert errors["miss"]["count"] <= errors["false_neg"]["count"]
    assert all(0 <= error["dap"] <= 1 for error in errors.values())
    count = sum(len(one.scores) for one in detections)
    assert everything == {**found, "errors": errors, "detections": count}
    assert json.loads(json.dumps(everything, allow_nan=False)) == everything


def test_perfect_detections_score_one_none_score_zero_and_what_is_absent_has_no_score():
    perfect, objects = detections_of([BOX], [2], [0.3]), objects_of([BOX], [2], counts=[1, 0])
    empty = detections_of([], [], [])
    half = perfect._replace(scores=perfect.scores.bfloat16(), boxes=perfect.boxes.half())
    for given, score in ((perfect, 1), (half, 1), (empty, 0)):
        found = measured([given, empty], objects, 4)
        for name in ("map", "map50", "map_medium", "recall"):
            assert found[name] == pytest.approx(score)
        assert found["map_small"] is None and found["map_large"] is None
        assert [value is None for value in found["per_class"]] == [True, True, False, True]
    assert found["errors"]["miss"]["dap"] == found["errors"]["false_neg"]["dap"] == 1
    assert ap.THRESHOLDS == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


@pytest.mark.parametrize(("kind", "counts"), [(0, {}), (1, {"bkg": 1, "false_pos": 1})])
def test_a_detection_on_a_crowd_is_an_error_in_another_class_alone_and_no_crowd_is_missed(
    kind, counts
):
    """Of all else, golden values tell."""
    objects = objects_of([B, F], [0, 0], [1, 0], [0, 2])
    detections = [
        detections_of([], [], []),
        detections_of([F, B if kind else P], [0, kind], [9, 8]),
    ]
    errors = error_types(detections, objects, 2)  # an empty image in front
    assert {name: error["count"] for name, error in errors.items() if error["count"]} == counts
    twice = detections_of([H, H], [0, 0], [9, 8])  # half an overlap is a find, and then a dupe
    errors = error_types([twice], objects_of([B], [0]), 2)
    assert errors["dupe"]["count"] == errors["false_pos"]["count"] == 1


@pytest.mark.parametrize(("change", "says"), [
    ({"kinds": torch.tensor([-1])}, "Image 0 has a detection of class -1.*0 to 1"),
    ({"kinds": torch.tensor([2])}, "Image 0 has a detection of class 2.*0 to 1"),
    ({"boxes": torch.full((1, 4), torch.nan)}, "not finite.*diverged"),
    ({"scores": torch.tensor([torch.nan])}, "not finite.*diverged"),
    ({}, "Detections of 1 images, objects of 2"),
])  # fmt: skip
def test_what_cannot_be_measured_is_refused(change, says):
    given = detections_of([BOX], [0], [0.5])
    with pytest.raises(KdlibError, match=says):
        measured([given._replace(**change)], objects_of([BOX, BOX], [0, 0], counts=[1, 1]), 2)
    for objects in (objects_of([], []), objects_of([BOX], [0], [True])):
        for measure in (coco_measures, error_types):
            with pytest.raises(KdlibError, match="None of the 1 images has an object"):
                measure([given], objects, 1)
