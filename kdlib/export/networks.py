"""A network in its two forms: PyTorch's, and the file's."""

import warnings
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from kdlib.data.image_data import ImageData
from kdlib.export.deployed import Deployed
from kdlib.export.finding import Trained
from kdlib.export.formats import Answer, Format, traced
from kdlib.models import count_parameters, flops


@dataclass(frozen=True)
class Exported:
    """A network in its two forms.

    Attributes:
        trained: where it comes from.
        deployed: PyTorch's.
        file: the exported one.
        answer: what answers with that file.
    """

    trained: Trained
    deployed: Deployed
    file: Path
    answer: Answer

    def size(self) -> dict[str, Any]:
        """Parameters, operations for one image, and the file's bytes."""
        config = self.trained.config
        return {
            "run_id": config.run_id,
            "model": config.student,
            "parameters": count_parameters(self.deployed),
            "flops": flops(self.deployed.network, config.input_size),
            "bytes": self.file.stat().st_size,
            "sha256": sha256(self.file.read_bytes()).hexdigest(),
        }


def exported(
    trained: Trained, data: ImageData, kind: Format, threads: int, folder: Path
) -> Exported:
    """Write a network to a file in ``folder``, and load it from there.

    Args:
        trained: the network.
        data: images of the kind that it was trained on: their classes, their mean.
        kind: the format.
        threads: that the loaded file answers with.
        folder: where the file goes, under the run's id.
    """
    network = trained.network(len(data.classes))
    deployed = Deployed(network, data.mean, data.std).eval()
    deployed = deployed.to(memory_format=torch.channels_last)  # as it was trained; it is faster
    file = folder / f"{trained.config.run_id}{kind.suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch about its own parts
        kind.write(traced(deployed, trained.config.input_size), file, facts_of(trained, data))
        return Exported(trained, deployed, file, kind.load(file, threads))


def facts_of(trained: Trained, data: ImageData) -> dict[str, Any]:
    """What a file says of itself."""
    config, record = trained.config, trained.record
    return {
        "model": config.student,
        "task": config.task,
        "input": "images: uint8, RGB, (batch, 3, image_size, image_size), not normalised",
        "output": "logits: float32, one a class, of each image or of each pixel",
        "image_size": config.input_size,
        "classes": list(data.classes),
        "mean": list(data.mean),
        "std": list(data.std),
        "run_id": config.run_id,
        "config_hash": config.config_hash,
        "commit": record["provenance"]["commit"] if record else None,
        "weights_sha256": trained.sha256,
    }
