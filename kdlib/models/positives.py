"""What a detector says where torchvision's own matching puts an object."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder

from kdlib.models.watching import Call


class Positives(NamedTuple):
    """The P anchors (or proposals) of a batch that are matched to an object.

    Attributes:
        logits: (P, C + 1), 0 the background, with their graph.
        boxes: (P, 4) predicted, x1, y1, x2, y2 as fractions of the image's width and height,
            with their graph; a box that leaves the image is not clamped.
        images: (P,) int64, index of the image in the batch.
        objects: (P,) int64, index of the object among this image's targets.
    """

    logits: Tensor
    boxes: Tensor
    images: Tensor
    objects: Tensor


def dense_positives(call: Call, coder: BoxCoder, sizes: Sequence[tuple[int, int]]) -> Positives:
    """Those of a detector that has its anchors on a grid: SSD, RetinaNet.

    Args:
        call: of ``compute_loss``; its ``head_outputs`` are (B, A, C + 1) and (B, A, 4), its
            ``matched_idxs`` (A,) of each image: the object of each anchor, below 0 for none.
        coder: the network's box coder.
        sizes: (height, width) of each image as the network sees it, before it is padded.
    """
    matches = torch.stack(call.given["matched_idxs"])
    images, anchors = torch.where(matches >= 0)
    outputs, boxes = call.given["head_outputs"], torch.stack(call.given["anchors"])
    found = coder.decode_single(outputs["bbox_regression"][images, anchors], boxes[images, anchors])
    return Positives(
        outputs["cls_logits"][images, anchors],
        as_fractions(found, images, sizes),
        images,
        matches[images, anchors],
    )


def sampled_positives(
    sampling: Call, prediction: Call, coder: BoxCoder, sizes: Sequence[tuple[int, int]]
) -> Positives:
    """Those of Faster R-CNN: the sampled proposals of an object.

    It predicts one box a class; the box of the object's own class is taken, as its loss does.

    Args:
        sampling: the call of ``select_training_samples``.
        prediction: the call of the box predictor's ``forward``.
        coder: the box coder of the heads.
        sizes: (height, width) of each image as the network sees it, before it is padded.
    """
    proposals, matched, labels, _ = sampling.result
    logits, codes = prediction.result
    label, images = torch.cat(labels), _image_of_each(proposals)
    (chosen,) = torch.where(label > 0)
    own = codes.reshape(len(codes), -1, 4)[chosen, label[chosen]]
    found = coder.decode_single(own, torch.cat(proposals)[chosen])
    images = images[chosen]
    fractions = as_fractions(found, images, sizes)
    return Positives(logits[chosen], fractions, images, torch.cat(matched)[chosen])


def as_fractions(boxes: Tensor, images: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Boxes (P, 4) in pixels -> as fractions of the width and the height of their own images."""
    sides = boxes.new_tensor([(width, height, width, height) for height, width in sizes])
    return boxes / sides[images]


def _image_of_each(proposals: Sequence[Tensor]) -> Tensor:
    counts = torch.tensor([len(boxes) for boxes in proposals], device=proposals[0].device)
    return torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
