"""IoU against numpy, batch after batch, and where there is little or nothing to measure."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from kdlib.data.image_data import IGNORED
from kdlib.errors import KdlibError
from kdlib.frskd.segmentation import SegmentationMarks

CLASSES = 5


def answers(predicted: torch.Tensor) -> torch.Tensor:
    """Logits (B, K, H, W) whose largest is the predicted class."""
    return functional.one_hot(predicted, CLASSES).permute(0, 3, 1, 2).float()


@pytest.fixture
def masks():
    """Predictions and truth (6, 8, 9); class 4 in neither, class 3 in the predictions alone."""
    random = np.random.default_rng(0)
    predicted, truth = random.integers(0, 4, (6, 8, 9)), random.integers(0, 3, (6, 8, 9))
    truth[random.random(truth.shape) < 0.2] = IGNORED
    return predicted, truth


def test_iou_of_each_class_over_all_batches_equals_its_definition(masks):
    predicted, truth = masks
    marks = SegmentationMarks(CLASSES)
    for part in (slice(0, 4), slice(4, 6)):
        marks.add(answers(torch.from_numpy(predicted[part])), torch.from_numpy(truth[part]))
    found, counted, ious = marks.results(), truth != IGNORED, []
    for kind in range(4):
        mine, true = (predicted == kind) & counted, truth == kind
        ious.append((mine & true).sum() / (mine | true).sum())
    assert found["per_class"][:4] == pytest.approx(ious, rel=1e-5)
    assert found["per_class"][4] is None
    assert found["miou"] == pytest.approx(np.mean(ious), rel=1e-5)
    assert found["pixel_accuracy"] == pytest.approx((predicted == truth)[counted].mean())


def test_processes_add_up_what_each_has_counted(masks):
    class Three:
        """A team in which all have counted the same."""

        def gathered(self, mine):
            return [mine] * 3

    predicted, truth = map(torch.from_numpy, masks)
    one, three = SegmentationMarks(CLASSES), SegmentationMarks(CLASSES, Three())
    for marks in (one, three):
        marks.add(answers(predicted), truth)
    assert three.results() == one.results()


def test_an_image_of_background_alone():
    marks = SegmentationMarks(CLASSES)
    nothing = torch.zeros(1, 4, 4, dtype=torch.int64)
    marks.add(answers(nothing), nothing)
    assert marks.results() == {
        "miou": 1.0, "pixel_accuracy": 1.0, "per_class": [1.0, None, None, None, None],
    }  # fmt: skip


def test_where_no_pixel_counts_there_is_no_result():
    marks = SegmentationMarks(CLASSES)
    void = torch.full((2, 4, 4), IGNORED)
    marks.add(answers(torch.zeros(2, 4, 4, dtype=torch.int64)), void)
    with pytest.raises(KdlibError, match="No pixel"):
        marks.results()


def test_a_class_that_the_network_does_not_have_is_refused():
    labels = torch.full((1, 4, 4), CLASSES)
    with pytest.raises(KdlibError, match=f"largest {CLASSES}"):
        SegmentationMarks(CLASSES).add(answers(torch.zeros_like(labels)), labels)
