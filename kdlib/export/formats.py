"""The formats of exported networks: one line each."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from kdlib.errors import KdlibError, unknown
from kdlib.export.deployed import Deployed

FACTS = "kdlib"
"""Name under which a file holds what it is: JSON."""
Answer = Callable[[Tensor], Tensor]
"""From images (B, 3, H, W) uint8 to logits, with any B."""


@dataclass(frozen=True)
class Format:
    """One line of the registry.

    Attributes:
        suffix: of its files.
        runtime: what runs them.
        packages: what it needs beyond PyTorch, by the names they are imported and installed by.
        write: writes a program with its facts to a file.
        load: from a file and a number of threads to what answers.
    """

    suffix: str
    runtime: str
    packages: tuple[str, ...]
    write: Callable[[ExportedProgram, Path, Mapping[str, Any]], None]
    load: Callable[[Path, int], Answer]


def format_of(name: str) -> Format:
    """A format by its name.

    Raises:
        KdlibError: there is no such format, or its packages are not installed.
    """
    if name not in FORMATS:
        raise unknown("format", name, FORMATS)
    missing = [one for one in FORMATS[name].packages if find_spec(one) is None]
    if missing:
        raise KdlibError(
            f"Format '{name}' needs {', '.join(missing)}, which this Python lacks. Install: "
            f"python -m pip install {' '.join(FORMATS[name].packages)}"
        )
    return FORMATS[name]


def traced(network: Deployed, image_size: int) -> ExportedProgram:
    """The network as a graph, for any number of images of one size.

    It says nothing of the files that the code lay in.
    """
    images = torch.zeros(2, 3, image_size, image_size, dtype=torch.uint8)
    with torch.no_grad():
        shapes = {"images": {0: Dim("batch")}}
        program = torch.export.export(network.eval(), (images,), dynamic_shapes=shapes)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def write_onnx(program: ExportedProgram, path: Path, facts: Mapping[str, Any]) -> None:
    """Write one file that holds the weights too."""
    exported = torch.onnx.export(
        program,
        (),
        dynamo=True,
        verbose=False,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: "batch"},),
    )
    assert exported is not None  # with dynamo it never is
    exported.model.metadata_props[FACTS] = json.dumps(dict(facts))
    exported.save(path, external_data=False)


def load_onnx(path: Path, threads: int) -> Answer:
    """Load a file with onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def answer(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])

    return answer


def write_torch(program: ExportedProgram, path: Path, facts: Mapping[str, Any]) -> None:
    """Write a ``.pt2`` archive."""
    with path.open("wb") as file:  # a path that does not end in .pt2 would be warned of
        torch.export.save(program, file, extra_files={f"{FACTS}.json": json.dumps(dict(facts))})


def load_torch(path: Path, threads: int) -> Answer:
    """Load an archive; the threads are those that PyTorch has.

    PyTorch unpickles parts of an archive, so this is for files that were made here.
    """
    with path.open("rb") as file:
        return torch.export.load(file).module()


FORMATS: dict[str, Format] = {
    "onnx": Format(
        ".onnx", "onnxruntime", ("onnx", "onnxscript", "onnxruntime"), write_onnx, load_onnx
    ),
    "torch": Format(".pt2", "torch.export", (), write_torch, load_torch),
}
