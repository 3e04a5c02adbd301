"""What a student is shown in its teacher's place: controls that tell why a teacher helps.

Where attention maps of *another image* help as much, the loss regularises; where a mask of all
*objects* does, it says where objects are; where only one of the *relevant* objects does, which of
them matter. Of logits, *noise* leaves the confidence alone: classes are exchanged at random.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kdlib.data.batches import Batch
from kdlib.data.image_data import ImageData
from kdlib.distill import Distiller, TeacherOutput
from kdlib.errors import KdlibError
from kdlib.kept import KeptTeacher
from kdlib.losses.attention import MapLoss
from kdlib.methods import method_of
from kdlib.models import create_model
from kdlib.runs import RunConfig
from kdlib.seeds import derive_seed, generator, seed_everything

Guide = Callable[[Batch, Any], Any]  # from a batch and its teacher's output to what is shown


def guide_of(config: RunConfig, teacher: Any, data: ImageData, distiller: Distiller) -> Guide:
    """What the student of a run is shown; a ``KdlibError`` where its guide cannot be."""
    if not isinstance(teacher, KeptTeacher):
        raise KdlibError(
            f"guide '{config.guide}' needs a teacher, and augmentation with finitely many views: "
            "none, or 'flip' alone."
        )
    of_maps, of_logits = config.guide != "noise", method_of(config.method).of in (None, "logits")
    reads_maps = isinstance(distiller.method_loss, MapLoss)
    if of_maps != reads_maps or (distiller.kd_weight and of_maps) or not (of_maps or of_logits):
        reads = "attention maps alone, such as 'at' or 'dct'" if of_maps else "logits, such as 'kd'"
        raise KdlibError(f"guide '{config.guide}' is for losses of {reads}, not '{config.method}'.")
    return GUIDES[config.guide](config, teacher, data)


def _other_image(config: RunConfig, teacher: KeptTeacher, data: ImageData) -> Guide:
    others = torch.randperm(len(data), generator=generator(config.teacher_seed, "other image"))
    return lambda batch, _: teacher.teach(batch._replace(indices=others[batch.indices.cpu()]))


def _untrained(config: RunConfig, teacher: KeptTeacher, data: ImageData) -> Guide:
    seed_everything(derive_seed(config.teacher_seed, "untrained"))
    network = create_model(config.teacher, len(data.classes))
    untrained = teacher.of(network.to(next(teacher.parameters()).device))
    return lambda batch, _: untrained.teach(batch)


def _mean(config: RunConfig, teacher: KeptTeacher, data: ImageData) -> Guide:
    def shown(batch: Batch, output: TeacherOutput) -> TeacherOutput:
        maps = (one.expand_as(like) for one, like in zip(means, output.maps, strict=True))
        return _with_maps(output, maps)

    means = [stage.mean(0, keepdim=True) for stage in teacher.all_maps()]
    return shown


def _masks(config: RunConfig, teacher: KeptTeacher, data: ImageData) -> Guide:
    """Where relevant objects, or all, are seen, in the place of each map."""
    truth = data.relevance if config.guide == "relevant" else data.foreground
    if truth is None:
        raise KdlibError(f"guide '{config.guide}' needs scenes; '{config.dataset}' has no masks.")

    def shown(batch: Batch, output: TeacherOutput) -> TeacherOutput:
        masks = truth(batch.indices.cpu()).to(batch.images.device, torch.float32)
        if batch.mirrored is not None:
            masks = torch.where(batch.mirrored[:, None, None], masks.flip(-1), masks)
        sizes = [(stage.shape[1], stage.shape[2]) for stage in output.maps]
        return _with_maps(output, (functional.adaptive_avg_pool2d(masks, one) for one in sizes))

    return shown


def _noise(config: RunConfig, teacher: KeptTeacher, data: ImageData) -> Guide:
    shape, stream = (len(data), len(data.classes)), generator(config.teacher_seed, "noise")
    exchanged = torch.rand(shape, generator=stream).argsort(1)

    def shown(batch: Batch, output: TeacherOutput) -> TeacherOutput:
        order = exchanged[batch.indices.cpu()].to(output.logits.device)
        return TeacherOutput(output.logits.gather(1, order), (), output.embedding)

    return shown


GUIDES: dict[str, Callable[[RunConfig, KeptTeacher, ImageData], Guide]] = {
    "other_image": _other_image, "untrained": _untrained, "mean": _mean,
    "relevant": _masks, "objects": _masks, "noise": _noise,
}  # fmt: skip


def _with_maps(output: TeacherOutput, maps: Iterable[Tensor]) -> TeacherOutput:
    shown = TeacherOutput(output.logits, (), output.embedding)
    shown.maps = tuple(maps)
    return shown
