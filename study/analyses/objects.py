"""Which objects matter to a network? Measured on scenes, where they are known and can go.

Energy maps are what attention losses compare; class maps, of the answer's own evidence, and what
becomes of the answer without an object, say what they can be asked about.
"""

from collections import defaultdict
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kdlib.data import DATASETS
from kdlib.data.batches import Batches
from kdlib.data.image_data import ImageData
from kdlib.data.scenes import compose, split_seed
from kdlib.errors import KdlibError
from kdlib.evaluate import predict
from kdlib.losses.attention import attention_map
from kdlib.runs import RunConfig

IMAGES, CHUNK = 2000, 250  # of the test set, and at a time


def selectivity(maps: Tensor, relevant: Tensor, others: Tensor) -> Tensor:
    """Chance that a map (B, h, w) is higher on a relevant pixel than on one of another object.

    Masks (B, H, W) bool -> (B,): 0.5 for a map that cannot tell them apart, and where an image
    shows only one of the two. It is the area under the ROC curve; ties count half.
    """
    size = (maps.shape[1], maps.shape[2])
    shares = (functional.adaptive_avg_pool2d(mask.double(), size) for mask in (relevant, others))
    mine, theirs = (share.flatten(1) for share in shares)
    values = maps.flatten(1)
    # With ties in one order and in the other: their mean counts half of each.
    orders = (values.argsort(dim=1, stable=True), values.flip(1).argsort(dim=1, stable=True))
    flipped = (mine.flip(1), theirs.flip(1))
    area = (
        _area(*(one.gather(1, order) for one in both))
        for order, both in zip(orders, ((mine, theirs), flipped), strict=True)
    )
    total = mine.sum(1) * theirs.sum(1)
    return torch.where(total > 0, sum(area) / 2 / total.where(total > 0, 1), 0.5)


def _area(mine: Tensor, theirs: Tensor) -> Tensor:
    below = theirs.cumsum(1) - theirs / 2
    return (mine * below).sum(1)


def pointing_given_object(maps: Tensor, relevant: Tensor, foreground: Tensor) -> Tensor:
    """Of the objects that a map's strongest cell shows, the relevant share: (B,), NaN if none."""
    peak = (maps == maps.amax((1, 2), keepdim=True)).double()
    size = (maps.shape[1], maps.shape[2])
    hit, seen = (
        (peak * functional.adaptive_avg_pool2d(mask.double(), size)).sum((1, 2))
        for mask in (relevant, foreground)
    )
    return hit / seen


def class_maps(network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """Gradient times activation of each stage, (B, h, w): evidence for the classes ``labels``.

    ``sum_c F_c dz_y / dF_c``; at the last stage of a network that averages it before a linear
    layer that is its class activation map (Zhou et al. 2016, arXiv 1512.04150), but for a factor.
    """
    with torch.enable_grad():
        output = network(images)
        chosen = output.logits.gather(1, labels[:, None]).sum()
        gradients = torch.autograd.grad(chosen, output.stages)
    pairs = zip(output.stages, gradients, strict=True)
    return tuple((stage * gradient).sum(1).detach() for stage, gradient in pairs)


@lru_cache(maxsize=1)
def _scenes_without(
    dataset: str, size: int, count: int, data_root: Path | None, **shown: int
) -> tuple[list[Tensor], Tensor]:
    """The first test images (N, 3, H, W) without each object in turn; who is seen, (N, n) bool."""
    source = resolve_name(str(DATASETS[dataset].source))
    found = source("test", None, size, sample=0, data_root=data_root, **shown)
    draw = partial(compose, found.bank, found.recipe, split_seed("test"), np.arange(count))
    changed = [draw(without=k).images for k in range(sum(shown.values()))]
    return changed, draw().masks.flatten(2).any(2)


def removal(
    network: nn.Module, config: RunConfig, data: ImageData, data_root: Path | None, **how: Any
) -> dict[str, float]:
    """What taking an object out costs the true class: nats of ``log p``, a mean over objects.

    ``removal_relevant`` and ``removal_other``, of objects of either kind that are seen in the first
    2,000 images of ``data``, a test set of scenes; all else of a scene stays as it was.
    """
    part = data.first(IMAGES)
    shown = {"attentions": config.attentions, "distractors": config.distractors}
    changed, seen = _scenes_without(
        config.dataset, config.image_size, len(part), data_root, **shown
    )

    def log_p(images: Tensor) -> Tensor:
        logits = predict(network, replace(part, images=images), **how).double()
        return logits.log_softmax(1).gather(1, part.labels[:, None])[:, 0]

    whole = log_p(cast("Tensor", part.images))
    drops = torch.stack([whole - log_p(images) for images in changed], dim=1)
    relevant = torch.arange(len(changed)) < config.attentions
    kinds = {"removal_relevant": seen & relevant, "removal_other": seen & ~relevant}
    return {name: drops[chosen].mean().item() for name, chosen in kinds.items()}


def of_objects(network: nn.Module, data: ImageData) -> dict[str, list[float]]:
    """Which objects maps tell apart: means over the first 2,000 images of a test set, one a stage.

    Of ``energy`` maps and of ``class`` maps :func:`selectivity`, and the share of relevant ones
    among images whose strongest cell shows an object (``pointing``).
    """
    found: dict[str, list[Tensor]] = defaultdict(list)
    part = data.first(IMAGES)
    if part.relevance is None or part.foreground is None:
        raise KdlibError("Only scenes tell which objects are relevant; give a data set of scenes.")
    for batch in Batches(part, CHUNK).in_order():
        relevant, objects = part.relevance(batch.indices), part.foreground(batch.indices)
        stages = network(batch.images).stages
        kinds = {
            "energy": [attention_map(stage.detach()) for stage in stages],
            "class": class_maps(network, batch.images, batch.labels),
        }
        for kind, maps in kinds.items():
            apart = [selectivity(one, relevant, objects & ~relevant) for one in maps]
            hits = [pointing_given_object(one, relevant, objects) for one in maps]
            found[f"{kind}_selectivity"].append(torch.stack(apart))
            found[f"{kind}_pointing"].append(torch.stack(hits))
    return {name: torch.cat(parts, 1).nanmean(1).tolist() for name, parts in found.items()}
