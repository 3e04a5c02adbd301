"""Every random stream of a run comes from here, so that no stream can shift another."""

import hashlib
import random

import torch


def derive_seed(seed: int, *purpose: object) -> int:
    """A 63-bit seed for one named purpose of a run (``"order"``, ``"augmentation"``, an epoch)."""
    text = ":".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: object) -> torch.Generator:
    """A CPU generator of its own for one purpose; the same arguments give the same stream."""
    return torch.Generator().manual_seed(derive_seed(seed, *purpose))


def seed_everything(seed: int) -> None:
    """Seed the global streams, which weight initialisation and dropout read."""
    random.seed(seed)
    torch.manual_seed(seed)
