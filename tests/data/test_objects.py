"""The table of objects, and what becomes of boxes that are not sound."""

import pytest
import torch

from kdlib.detection.data import COCO_SIZES, Found, Objects, tabled

SHAPES = [(64, 48), (20, 10), (30, 30)]


def three() -> Objects:
    """Two objects, none, and one that is a crowd."""
    return tabled(
        [
            [Found((1, 2, 3, 4), 5, False), Found((0, 0, 64, 48), 1, False)],
            [],
            [Found((2, 2, 9, 9), 0, True)],
        ],
        SHAPES,
    )


def test_each_image_has_its_own_objects():
    objects = three()
    assert (len(objects), objects.counts.tolist()) == (3, [2, 0, 1])
    assert objects.owners.tolist() == [0, 0, 2]
    boxes, kinds, crowd = objects.of(0)
    assert boxes.tolist() == [[1, 2, 3, 4], [0, 0, 64, 48]] and kinds.tolist() == [5, 1]
    assert not crowd.any() and objects.of(2)[2].tolist() == [True]
    assert [part.shape for part in objects.of(1)] == [(0, 4), (0,), (0,)]
    assert (objects.boxes.dtype, objects.kinds.dtype) == (torch.float32, torch.int64)


def test_a_part_has_the_objects_of_its_images():
    objects = three().part(1, 3)
    assert objects.starts.tolist() == [0, 0, 1] and objects.kinds.tolist() == [0]
    assert len(three().part(1, 1)) == 0 and len(three().part(0, 9)) == 3


def test_crowds_do_not_count_and_their_images_stay():
    objects = three().counted()
    assert objects.counts.tolist() == [2, 0, 0] and not objects.crowd.any()


def test_a_data_set_without_any_object_is_a_table_too():
    objects = tabled([[], []], SHAPES[:2])
    assert objects.boxes.shape == (0, 4) and objects.counts.tolist() == [0, 0]
    assert objects.sizes == COCO_SIZES == (1024, 9216)


@pytest.mark.parametrize(("box", "left"), [
    ((4, 4, 9, 9), (4, 4, 9, 9)),
    ((-5, -5, 9, 9), (0, 0, 9, 9)),  # reaches out: clipped
    ((50, 40, 90, 90), (50, 40, 64, 48)),
    ((-9, -9, 99, 99), (0, 0, 64, 48)),
    ((3.5, 3.5, 3.75, 9), (3.5, 3.5, 3.75, 9)),  # thinner than a pixel: stays
    ((4, 4, 4, 9), None),  # no width
    ((4, 9, 8, 9), None),  # no height
    ((9, 9, 4, 4), None),  # corners swapped
    ((64, 0, 80, 10), None),  # outside, touching the edge
    ((-20, 0, -10, 10), None),
    ((0, 60, 10, 70), None),
])  # fmt: skip
def test_boxes_are_clipped_and_dropped_if_nothing_is_left(box, left):
    objects = tabled([[Found(box, 3, False)], [Found((1, 1, 2, 2), 4, False)]], SHAPES[:2])
    assert objects.of(0)[0].tolist() == ([] if left is None else [list(left)])
    assert objects.of(1)[1].tolist() == [4]  # the next image keeps its own
