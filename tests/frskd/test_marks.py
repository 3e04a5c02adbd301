"""IoU against numpy, batch after batch, and where there is little or nothing to measure."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from kdlib.data.image_data import IGNORED
from kdlib.errors import KdlibError
from kdlib.frskd.segmentation import SegmentationMarks

CLASSES = 5


class Three:
    """A team in which all have counted the same."""

    def gathered(self, mine):
        return [mine] * 3


def marks_of(predicted: np.ndarray, truth: np.ndarray, *team: Three) -> SegmentationMarks:
    marks = SegmentationMarks(CLASSES, *team)
    for some, labels in zip(np.array_split(predicted, 2), np.array_split(truth, 2), strict=True):
        logits = functional.one_hot(torch.from_numpy(some), CLASSES).permute(0, 3, 1, 2).float()
        marks.add(logits, torch.from_numpy(labels))
    return marks


def test_iou_of_each_class_over_all_batches_equals_its_definition():
    # Class 4 is in neither, class 3 in the predictions alone.
    random = np.random.default_rng(0)
    predicted, truth = random.integers(0, 4, (5, 8, 9)), random.integers(0, 3, (5, 8, 9))
    truth[random.random(truth.shape) < 0.2] = IGNORED
    found, counted, ious = marks_of(predicted, truth).results(), truth != IGNORED, []
    for kind in range(4):
        mine, true = (predicted == kind) & counted, truth == kind
        ious.append((mine & true).sum() / (mine | true).sum())
    *occurring, last = found["per_class"]
    assert occurring == pytest.approx(ious, rel=1e-5) and last is None
    assert found["miou"] == pytest.approx(np.mean(ious), rel=1e-5)
    assert found["pixel_accuracy"] == pytest.approx((predicted == truth)[counted].mean())
    assert marks_of(predicted, truth, Three()).results() == found


def test_background_alone_is_a_result_and_nothing_is_none():
    nothing = np.zeros((2, 4, 4), np.int64)
    assert marks_of(nothing, nothing).results() == {
        "miou": 1.0, "pixel_accuracy": 1.0, "per_class": [1.0, None, None, None, None],
    }  # fmt: skip
    with pytest.raises(KdlibError, match="No pixel"):
        marks_of(nothing, np.full_like(nothing, IGNORED)).results()
    with pytest.raises(KdlibError, match=f"largest {CLASSES}"):
        marks_of(nothing, np.full_like(nothing, CLASSES))
