"""The images of a data set as they are evaluated, and as they are kept in an analysis."""

from io import BytesIO
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kdlib.data.image_data import ImageData
from kdlib.data.photographs import Photographs

JPEG_QUALITY = 85


def pixels_of(data: ImageData) -> Tensor:
    """Images (N, 3, H, W) uint8, all in memory; of photographs the middle."""
    if isinstance(data.images, Tensor):
        return data.images
    return cast("Photographs", data.images).centres()


def as_jpeg(image: Tensor) -> Tensor:
    """(3, H, W) uint8 -> the bytes of its JPEG."""
    file = BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "jpeg", quality=JPEG_QUALITY)
    return torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)


def from_jpeg(content: Tensor) -> Tensor:
    """The bytes of a JPEG -> (3, H, W) uint8."""
    picture = np.array(Image.open(BytesIO(content.numpy().tobytes())))
    return torch.from_numpy(picture).permute(2, 0, 1)
