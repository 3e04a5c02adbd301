"""Kept answers: what a frozen teacher says of every image of a training set is asked once.

Where an augmentation has finitely many views of an image (itself, or itself and its mirror image),
the teacher's answers to all of them are made in a fixed order, kept in the cache, and read from
there, memory-mapped, by every run of every method and process.
"""

import hashlib
import json
import math
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from kdlib.data.batches import Batch, Batches
from kdlib.data.image_data import ImageData
from kdlib.distill import FrozenTeacher, Stages, TeacherOutput
from kdlib.files import cache_root, checksum, locked, write_json, writing

BATCH = 250  # images that are answered at a time, however many a step has
LARGEST = 4e9  # bytes of a part that is kept; what is larger is asked for batch by batch
FACTS = "facts.json"  # written last: what is without it is not whole
CHUNK = 1 << 24  # bytes of a file that are read at a time


def _numbered(tensors: Stages) -> dict[str, Tensor]:
    return {str(number): tensor for number, tensor in enumerate(tensors)}


PARTS: dict[str, Callable[[TeacherOutput], dict[str, Tensor]]] = {
    "answers": lambda output: {
        "logits": output.logits, "embedding": output.embedding, **_numbered(output.maps)
    },
    "stages": lambda output: _numbered(output.stages),
}  # fmt: skip
"""What is kept, each when a method first reads of it; features take a hundred times the room."""


class KeptTeacher(FrozenTeacher):
    """A frozen teacher that answers from what it once said of the training set ``data``.

    ``mirrored``: and of its mirror images. Answers depend on the teacher, the data, the
    ``precision`` and, in their last bits, on ``conditions``: files of other ones are not read.
    """

    def __init__(
        self,
        network: nn.Module,
        data: ImageData,
        mirrored: bool,
        precision: str,
        conditions: Mapping[str, Any],
    ) -> None:
        super().__init__(network)
        self.data, self.views, self.precision = data, 1 + mirrored, precision
        self.conditions, self.in_order = conditions, False
        own = {"teacher": checksum(network.state_dict()), "data": data.fingerprint}
        own["labels"] = checksum({"labels": data.labels})  # of a part of the data too
        self.identity = {**conditions, **own, "precision": precision, "views": self.views}
        self._wholes: dict[str, list[Tensor]] = {}

    def on(self, data: ImageData) -> "KeptTeacher":
        """This teacher, kept on images that are always seen in order, as they are."""
        made = KeptTeacher(self.network, data, False, self.precision, self.conditions)
        made.in_order = True
        return made

    def of(self, network: nn.Module) -> "KeptTeacher":
        """Another network as this one is kept."""
        return KeptTeacher(network, self.data, self.views > 1, self.precision, self.conditions)

    def forward(self, images: Tensor) -> TeacherOutput:
        """The teacher's live output for normalised images (B, 3, H, W)."""
        mixed = self.precision == "bfloat16"
        with torch.autocast(images.device.type, torch.bfloat16, mixed):
            return super().forward(images)

    def teach(self, batch: Batch) -> TeacherOutput:
        """The teacher's output for a batch: kept, if it is of views that are."""
        has_view = self.in_order or batch.mirrored is not None
        return KeptOutput(self, batch) if has_view else self(batch.images)

    def kept(self, part: str, batch: Batch) -> list[Tensor]:
        """A batch's tensors of a part of ``PARTS``; none if the part is too large to be kept."""
        mirrored = 0 if batch.mirrored is None else batch.mirrored
        rows = (batch.indices + mirrored * len(self.data)).cpu()
        return [whole[rows].to(batch.images.device) for whole in self._whole(part)]

    def all_maps(self) -> list[Tensor]:
        """The attention maps (views x N, H, W) of each stage, on the CPU."""
        return self._whole("answers")[2:]

    def _whole(self, part: str) -> list[Tensor]:
        """A part's tensors (views x N, ...), mapped from its files, which are made if need be."""
        if part not in self._wholes:
            identity = {**self.identity, "part": part, "at_once": BATCH}
            digest = hashlib.sha256(repr(sorted(identity.items())).encode()).hexdigest()
            folder = cache_root() / f"{part}-{digest[:16]}"
            with locked(folder.with_suffix(".lock")):
                files = _whole_files(folder, identity)
                if files is None:
                    files = self._make(part, folder, identity)
            self._wholes[part] = [_mapped(folder / name, *what) for name, *what in files]
        return self._wholes[part]

    def _make(self, part: str, folder: Path, identity: Mapping[str, Any]) -> list[Any]:
        """Ask for all views, and write the files of a part; the name and content of each."""
        shutil.rmtree(folder, ignore_errors=True)
        answers = (PARTS[part](output) for output in self._all_views(part))
        first = next(answers)
        count, sums = self.views * len(self.data), dict.fromkeys(first, 0)
        if sum(one[0].nbytes for one in first.values()) * count > LARGEST:
            return []
        with writing(folder), ExitStack() as opened:
            folder.mkdir(parents=True)
            out = {name: opened.enter_context((folder / name).open("wb")) for name in first}
            for tensors in chain([first], answers):
                for name, tensor in tensors.items():
                    content = tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes()
                    sums[name] = zlib.crc32(content, sums[name])
                    out[name].write(content)
            files = [
                [name, [count, *one.shape[1:]], str(one.dtype).removeprefix("torch."), sums[name]]
                for name, one in first.items()
            ]
            write_json(folder / FACTS, {"of": identity, "files": files})
        return files

    def _all_views(self, part: str) -> Iterator[TeacherOutput]:
        place = next(self.network.parameters()).device
        total = self.views * len(self.data)
        with tqdm(total=total, desc=f"teacher's {part}", unit="image", delay=1) as bar:
            for view in range(self.views):
                for batch in Batches(self.data, BATCH, device=place).in_order():
                    images = batch.images.flip(-1) if view else batch.images
                    yield self(images.contiguous(memory_format=torch.channels_last))
                    bar.update(len(images))


def _whole_files(folder: Path, identity: Mapping[str, Any]) -> list[Any] | None:
    """The files of a part that is whole, undamaged and of this identity; else nothing."""
    try:
        facts = json.loads((folder / FACTS).read_text("utf-8"))
        whole = all(_crc(folder / name) == crc for name, *_, crc in facts["files"])
        return facts["files"] if whole and facts["of"] == identity else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _crc(path: Path) -> int:
    found = 0
    with path.open("rb") as file:
        while content := file.read(CHUNK):
            found = zlib.crc32(content, found)
    return found


def _mapped(path: Path, shape: list[int], kind: str, *_: int) -> Tensor:
    dtype = getattr(torch, kind)
    return torch.from_file(str(path), shared=False, size=math.prod(shape), dtype=dtype).view(shape)


class KeptOutput(TeacherOutput):
    """What is kept of a teacher's output for a batch; what is not is asked of it when read."""

    def __init__(self, teacher: KeptTeacher, batch: Batch) -> None:
        self.logits, self.embedding, *maps = teacher.kept("answers", batch)
        self.maps, self._teacher, self._batch = tuple(maps), teacher, batch

    @cached_property
    def _live(self) -> TeacherOutput:
        return self._teacher(self._batch.images)

    @cached_property
    def stages(self) -> Stages:  # type: ignore[override]
        """Features (B, C, H, W) of each stage."""
        return tuple(self._teacher.kept("stages", self._batch)) or self._live.stages

    @cached_property
    def before(self) -> Stages:
        """What the last ReLU of each stage is given."""
        return self._live.before
