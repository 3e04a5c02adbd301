"""Tiny data sets in the on-disk formats of the real ones."""

import gzip
import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR100

FASHION = Path("FashionMNIST") / "raw"


def write_fashion(root: Path, count: int = 60, packed: bool = False) -> Path:
    """Fashion-MNIST's four IDX files with random garments, all ten kinds in both splits."""
    folder = root / FASHION
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for stem in ("train", "t10k"):
        pictures = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        _write_idx(folder / f"{stem}-images-idx3-ubyte", pictures, packed)
        _write_idx(folder / f"{stem}-labels-idx1-ubyte", labels, packed)
    return root


def _write_idx(path: Path, values: np.ndarray, packed: bool) -> None:
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes()
    content = header + values.tobytes()
    if packed:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(content))
    else:
        path.write_bytes(content)


def write_cifar100(root: Path, monkeypatch: pytest.MonkeyPatch, count: int = 20) -> Path:
    """CIFAR-100's pickles with random pixels, made the published ones by their MD5 sums."""
    folder = root / CIFAR100.base_folder
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    contents = {"meta": {"fine_label_names": [f"class {index}" for index in range(100)]}}
    for name in ("train", "test"):
        pixels = random.integers(0, 256, (count, 3072), dtype=np.uint8)
        contents[name] = {"data": pixels, "fine_labels": list(range(count))}
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content))
    sums = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in contents}
    monkeypatch.setattr(CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": sums["meta"]})
    return root
