"""Objects cut out by their boxes: the right pixels, the right kind, only of their own split."""

import pytest
import torch
from data_files import SHADES, write_coco, write_voc_detection

from kdlib.data import load_data
from kdlib.data.batches import Batches
from kdlib.data.image_data import ImageData
from kdlib.detection.data import Found, cropped, tabled
from kdlib.errors import KdlibError


@pytest.fixture(autouse=True)
def cache(own_cache):
    return own_cache


def scenes(split: str = "test", size: int = 10, task: str = "crops", **options) -> ImageData:
    return load_data("scenes", split, size=size, image_size=32, task=task, **options)


def of_rectangles() -> ImageData:
    """One image, 4 x 4 pixels a rectangle of its own value, and one without objects."""
    values = torch.arange(4, dtype=torch.uint8).view(2, 2) * 50 + 20
    image = values.repeat_interleave(4, 0).repeat_interleave(4, 1).expand(3, 8, 8)
    boxes = [(0, 0, 4, 4), (4, 0, 8, 4), (0, 4, 8, 8)]
    found = [Found(box, kind, kind == 2) for kind, box in enumerate(boxes)]
    objects = tabled([[], found], [(8, 8), (8, 8)])
    images = torch.stack([torch.zeros_like(image), image])
    names, plain = ("a", "b", "c"), ((0.0,) * 3, (1.0,) * 3)
    return ImageData(images, torch.zeros(2).long(), names, *plain, "digits", objects=objects)


def test_a_crop_shows_what_is_in_its_box_and_nothing_else():
    crops = cropped(of_rectangles(), 8)
    assert crops.images.shape == (2, 3, 8, 8) and crops.labels.tolist() == [0, 1]  # no crowd
    for crop, value in zip(crops.images, (20, 70), strict=True):
        assert (crop == value).all()  # a margin, or its neighbour's pixels, would show
    assert (crops.task, crops.objects, crops.classes) == ("classification", None, ("a", "b", "c"))


def test_a_box_of_any_shape_is_stretched_to_a_square():
    data = scenes(task="detection")
    crops = scenes(crop_size=24)
    assert crops.images.shape == (len(data.objects.kinds), 3, 24, 24)
    assert torch.equal(crops.labels, data.objects.kinds)
    x1, y1, x2, y2 = data.objects.boxes[7].int().tolist()
    window = data.images[int(data.objects.owners[7]), :, y1:y2, x1:x2].float().unsqueeze(0)
    expected = torch.nn.functional.interpolate(window, size=24, mode="bilinear", antialias=True)
    assert (crops.images[7] - expected[0]).abs().max() <= 1.5


@pytest.mark.parametrize("split", ["fit", "dev", "train"])
def test_crops_are_cut_out_of_their_own_split(split):
    own = cropped(scenes(split, task="detection"), 32)
    assert torch.equal(scenes(split).images, own.images)
    assert scenes(split).fingerprint == own.fingerprint


def test_fit_and_dev_share_no_image():
    fit, dev, whole = scenes("fit"), scenes("dev"), scenes("train")
    assert len(fit) + len(dev) == len(whole)
    assert torch.equal(torch.cat([fit.images, dev.images]), whole.images)
    assert len({fit.fingerprint, dev.fingerprint, whole.fingerprint}) == 3


@pytest.mark.parametrize(("name", "write"), [("voc", write_voc_detection), ("coco", write_coco)])
def test_crops_of_photographs_are_read_when_asked_for(name, write, tmp_path):
    data = load_data(name, "test", task="crops", crop_size=16, data_root=write(tmp_path))
    assert len(data) == 5  # the difficult one, or the crowd, is left out
    batch = next(Batches(data, 8).in_order())
    middle = batch.images[:, :, 8, 8] * torch.tensor(data.std) + torch.tensor(data.mean)
    shades = torch.tensor([SHADES[data.classes[label]] for label in data.labels])
    assert (255 * middle - shades).abs().max() < 8


@pytest.mark.parametrize("crop_size", [7, 513, 32.0, True])
def test_a_crop_size_out_of_range_is_refused(crop_size):
    with pytest.raises(KdlibError, match=f"crop_size is {crop_size}; .* 8 to 512"):
        scenes(crop_size=crop_size)


def test_nothing_to_cut_out_is_refused():
    with pytest.raises(KdlibError, match="none of the images has an object"):
        cropped(of_rectangles().first(1), 8)
    with pytest.raises(KdlibError, match="images with objects, and this data has none"):
        cropped(scenes(), 8)
