"""Random weights in the place of torchvision's downloads, so that none is made."""

from pathlib import Path

import torch
from torchvision import models


def write_imagenet_weights(home: Path, *names: str) -> Path:
    """What ``TORCH_HOME`` holds after torchvision has fetched ``IMAGENET1K_V1`` of each network."""
    folder = home / "hub" / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        url = models.get_model_weights(name)["IMAGENET1K_V1"].url
        torch.save(models.get_model(name).state_dict(), folder / url.rsplit("/", 1)[1])
    return home
