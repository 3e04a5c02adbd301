"""CIFAR-100 (Krizhevsky 2009) through torchvision's reader.

Its files are pickles, which can run code when they are read. torchvision unpickles them only
after their MD5 sums are found equal to those that it carries; no other file is ever unpickled.
"""

from pathlib import Path

import torch
from torchvision.datasets import CIFAR100
from torchvision.datasets.utils import check_integrity

from kdlib.data.image_data import ImageData, checked_root, fingerprint, missing, resized
from kdlib.errors import KdlibError

MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
REMEDY = "python -c \"from torchvision.datasets import CIFAR100 as C; C('ROOT', download=True)\""


def load_cifar100(
    split: str, size: int | None, image_size: int, data_root: Path | None, **others: int
) -> ImageData:
    """CIFAR-100 with its 100 fine classes; the published order, which is random, is kept."""
    published = _published(split, checked_root(data_root))
    images = torch.from_numpy(published.data).permute(0, 3, 1, 2).contiguous()
    labels = torch.tensor(published.targets)
    digest = fingerprint(("cifar100", image_size), (images, labels))
    images = resized(images, image_size)
    whole = ImageData(images, labels, tuple(published.classes), MEAN, STD, digest)
    return whole.first(size or len(whole))


def _published(split: str, root: Path) -> CIFAR100:
    meta = (CIFAR100.meta["filename"], CIFAR100.meta["md5"])
    sums = [*CIFAR100.train_list, *CIFAR100.test_list, meta]
    paths = {root / CIFAR100.base_folder / name: md5 for name, md5 in sums}
    layout = "\n".join(f"ROOT/{path.relative_to(root)}" for path in paths)
    for path in paths:
        if not path.is_file():
            raise missing("CIFAR-100", path, layout, REMEDY)
    try:
        return CIFAR100(str(root), train=split == "train")
    except RuntimeError as error:
        damaged = [str(path) for path, md5 in paths.items() if not check_integrity(path, md5)]
        raise KdlibError(
            f"{', '.join(damaged)}: not the published file (its MD5 sum differs). "
            f"Remove it and get it again:\n  {REMEDY}"
        ) from error
