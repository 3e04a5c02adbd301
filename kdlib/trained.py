"""Networks of finished runs, and what they attend to."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdlib.checkpoints import load_weights
from kdlib.data.batches import Batches
from kdlib.data.image_data import ImageData
from kdlib.data.mixing import output_count
from kdlib.distillers import Pair, create_distiller
from kdlib.distillers.base import SelfTaughtLoss
from kdlib.errors import KdlibError
from kdlib.evaluate import predict
from kdlib.losses.attention import attention_maps
from kdlib.models import create_model, output_shapes
from kdlib.models.refined import RefinedNetwork
from kdlib.runs import RunConfig, is_finished, run_directory
from kdlib.trainee import SELF_TEACHER


def trained_network(config: RunConfig, root: Path, classes: int, **options: Any) -> nn.Module:
    """The network that a finished run left, on the CPU and in eval mode.

    Args:
        config: the run.
        root: the folder of all runs.
        classes: number of classes.
        options: of :func:`kdlib.models.create_model`; a detector's ``image_size``, ``mean`` and
            ``std`` are no weights.

    Raises:
        KdlibError: the run is not finished, or its weights are for other classes.
    """
    directory = run_directory(config, Path(root))
    if not is_finished(config, Path(root)):
        raise KdlibError(f"{directory} holds no finished run; train it first with fit.")
    network = create_model(config.student, classes, **options)
    load_weights(network, directory / "weights.safetensors", classes)
    return network.eval()


def refined_network(config: RunConfig, root: Path, classes: int) -> RefinedNetwork:
    """The student of a finished self-taught run with its self-teacher, in eval mode.

    Raises:
        KdlibError: the run is not finished, or its method has no self-teacher.
    """
    student = trained_network(config, root, classes)
    outputs = output_count(classes, config.augmentation)
    shapes = output_shapes(student, config.image_size)
    pair = Pair(shapes, None, torch.zeros(0), config.batch_size, 0, outputs, config.pixels)
    loss = create_distiller(config, pair).method_loss
    if not isinstance(loss, SelfTaughtLoss):
        raise KdlibError(f"'{config.method}' has no self-teacher; ask for one such as 'frskd'.")
    path = run_directory(config, Path(root)) / SELF_TEACHER
    load_weights(loss.self_teacher, path, classes)
    return RefinedNetwork(student, loss.self_teacher, classes).eval()


@torch.no_grad()
def attention_on(network: nn.Module, data: ImageData) -> tuple[Tensor, ...]:
    """Attention maps (N, h, w) of each stage, fine to coarse, for all images of ``data``."""
    batch = next(Batches(data, len(data)).in_order())
    return attention_maps(network.eval()(batch.images).stages)


def predicted(network: nn.Module, data: ImageData) -> Tensor:
    """The class (N,) that a network gives each image of ``data``."""
    return predict(network, data).argmax(1)
