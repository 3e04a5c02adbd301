"""The images of a data set as they are evaluated, whatever they are kept as."""

from torch import Tensor

from kdlib.data.image_data import ImageData


def pixels_of(data: ImageData) -> Tensor:
    """Images (N, 3, H, W) uint8, all in memory; of photographs the middle."""
    return data.images if isinstance(data.images, Tensor) else data.images.centres()
