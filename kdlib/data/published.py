"""How large each real data set is where it was published: what `data check` compares with."""

from typing import NamedTuple


class Published(NamedTuple):
    """Numbers of images and classes."""

    train: int
    test: int
    classes: int


PUBLISHED = {
    "fashion_mnist": Published(60_000, 10_000, 10),
    "cifar100": Published(50_000, 10_000, 100),
    "mit67": Published(5_360, 1_340, 67),
    "sun397": Published(19_850, 19_850, 397),
    "ade20k": Published(20_210, 2_000, 1_055),
    "places365": Published(1_803_460, 36_500, 365),
}
"""Sources stand in each data set's own file. A copy of another size is not refused."""
PUBLISHED_OBJECTS = {
    "voc": Published(16_551, 4_952, 20),
    "coco": Published(118_287, 5_000, 80),
}
"""The same of images with objects."""
