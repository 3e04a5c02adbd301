"""CIFAR-100 through torchvision, which checks the files' MD5 sums before it unpickles them."""

import hashlib
from pathlib import Path

import torch
from torch.nn import functional
from torchvision.datasets import CIFAR100

from kdlib.data.image_data import ImageData
from kdlib.data.roots import data_root as resolve_root
from kdlib.data.roots import missing
from kdlib.errors import KdlibError

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
LAYOUT = "\n".join(f"cifar-100-python/{name}" for name in ("train", "test", "meta"))
COMMAND = "python -c \"from torchvision.datasets import CIFAR100; CIFAR100('ROOT', download=True)\""


def load_cifar100(
    split: str,
    *,
    size: int | None = None,
    image_size: int = 32,
    attentions: int = 2,
    distractors: int = 4,
    data_root: Path | None = None,
    reader: type[CIFAR100] = CIFAR100,
) -> ImageData:
    """CIFAR-100's training or test set; ``attentions`` and ``distractors`` have no meaning here.

    Raises:
        KdlibError: files missing, or not those that were published.
    """
    root = resolve_root(data_root)
    if not (root / "cifar-100-python").is_dir():
        raise missing("cifar100", root, LAYOUT, COMMAND)
    try:
        found = reader(str(root), train=split == "train")
    except RuntimeError as error:
        raise KdlibError(
            f"The files in {root}/cifar-100-python are not the published ones ({error}). "
            f"Remove them and get them again: {COMMAND}"
        ) from error
    images = torch.from_numpy(found.data[:size]).permute(0, 3, 1, 2)
    if image_size != images.shape[-1]:
        shape = (image_size, image_size)
        images = functional.interpolate(images.float(), shape, mode="bilinear", antialias=True)
    return ImageData(
        images=images.round().byte().contiguous()
        if images.is_floating_point()
        else images.contiguous(),
        labels=torch.tensor(found.targets[:size]),
        classes=tuple(found.classes),
        mean=MEAN,
        std=STD,
        fingerprint=hashlib.sha256(found.data[:size].tobytes()).hexdigest()[:16],
    )
