"""Processes that ``accelerate launch`` starts to train one student, each on a part of each batch.

One process by itself is a world of one, for which nothing here changes anything.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from inspect import signature
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed, nn

from kdlib.errors import KdlibError, unknown

LEAST = 2  # images of a process in a step: a batch norm of maps of one pixel needs two
PATIENCE = timedelta(hours=1)  # with one of the processes, or another launch of the same run
Item = TypeVar("Item")


class Shard(NamedTuple):
    """How many of a whole batch's images a process has."""

    counted: int  # 0 where a small batch leaves it none, and it takes the step with another's
    whole: int


@dataclass(frozen=True)
class ProcessGroup:
    """One of ``size`` processes that train together; that of ``rank`` 0 alone writes files."""

    rank: int = 0
    size: int = 1
    device: torch.device | None = None  # ``None`` leaves that to whoever trains
    synchronised: bool = False  # whether batch norms take means over all processes' images

    @property
    def is_main(self) -> bool:
        """Whether it is the process that writes."""
        return self.rank == 0

    @property
    def facts(self) -> dict[str, Any]:
        """What a result depends on; goes into records and checkpoints."""
        norms = {"batch_norm": "all" if self.synchronised else "own"} if self.size > 1 else {}
        return {"processes": self.size, **norms}

    def conditions(self, device: torch.device) -> dict[str, Any]:
        """What the last bits depend on, besides the configuration and its sources; with `facts`."""
        cuda = device.type == "cuda"
        return {
            **self.facts,
            "device": torch.cuda.get_device_name(device) if cuda else device.type,
            "threads": torch.get_num_threads(),
            "processor": torch.backends.cpu.get_cpu_capability(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        }

    def own(self, batch: Tensor, neighbour: bool = False) -> tuple[Tensor, Shard | None]:
        """The part of a batch's positions (B,) that this process has, and which part that is."""
        if self.size == 1:
            return batch, None
        busy = max(1, min(self.size, len(batch) // LEAST))
        parts, counts = torch.arange(len(batch)).tensor_split(busy), self.rank < busy
        rows = parts[self.rank] if counts else parts[0][:LEAST]
        # The neighbour, cyclically the image before this part, stands in front and is not counted.
        seen = torch.cat([rows[:1] - 1, rows]) if neighbour else rows
        return batch[seen], Shard(len(rows) if counts else 0, len(batch))

    def in_order(self, mine: list[Item]) -> list[Item]:
        """What all processes made of ``items[rank::size]``, in the order of the items."""
        parts = self.gathered(mine)
        return [parts[n % self.size][n // self.size] for n in range(sum(map(len, parts)))]

    def gathered(self, mine: Item) -> list[Item]:
        """What each process has, in their order; tensors must be on the CPU."""
        found: list[Any] = [mine] * self.size
        if self.size > 1:
            distributed.all_gather_object(found, mine)
        return found

    def from_main(self, value: Item) -> Item:
        """What the main process has."""
        held = [value]
        if self.size > 1:
            distributed.broadcast_object_list(held, src=0, device=self.device)
        return held[0]

    def means(self, terms: Mapping[str, Tensor], shard: Shard) -> dict[str, Tensor]:
        """Loss terms (scalars without a graph) as means over the whole batch's images."""
        total = torch.stack(list(terms.values())).double() * (shard.counted / shard.whole)
        distributed.all_reduce(total)
        return dict(zip(terms, total, strict=True))

    def wrapped(self, parts: nn.Module, some_unused: bool = False) -> nn.Module:
        """What a step calls: parts with the main process's tensors, their gradients averaged."""
        if self.size == 1:
            return parts
        from torch.nn.parallel import DistributedDataParallel

        if self.synchronised:
            nn.SyncBatchNorm.convert_sync_batchnorm(parts)  # in place; tensors stay the same
        # Each process has the same buffers; PyTorch before 2.13 has another name for the setting.
        names = signature(DistributedDataParallel).parameters
        sync = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
        settings: Any = {sync: False, "gradient_as_bucket_view": True}
        return DistributedDataParallel(parts, find_unused_parameters=some_unused, **settings)

    def share_buffers(self, parts: nn.Module) -> None:
        """Give all processes the main one's buffers: running means above all."""
        for buffer in parts.buffers() if self.size > 1 else ():
            distributed.broadcast(buffer, src=0)

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process does what is inside before all others, and says what is wrong."""
        if not self.is_main:
            distributed.barrier()
        yield
        if self.is_main and self.size > 1:
            distributed.barrier()


ALONE = ProcessGroup()


def usable_device(name: str | None) -> torch.device:
    """The device of this name, by default the GPU if there is one; or a KdlibError."""
    valid = ["cpu", *["cuda"] * torch.cuda.is_available()]
    try:
        torch.empty(0, device=name or valid[-1])
    except (RuntimeError, AssertionError) as error:
        raise unknown("device of this machine", name, valid) from error
    return torch.device(name or valid[-1])


def launched_world(device: str | None = None, synchronised: bool = False) -> ProcessGroup:
    """The world that ``accelerate launch`` started; ``device=None``: GPUs if there are any."""
    alone = ProcessGroup(device=usable_device(device) if device else None)
    if find_spec("accelerate") is None and os.environ.get("WORLD_SIZE", "1") == "1":
        return alone
    from accelerate import PartialState

    here = torch.cuda.device_count() if device != "cpu" else 0
    if (started := int(os.environ.get("LOCAL_WORLD_SIZE", 1))) > max(here, 1) and here:
        raise KdlibError(
            f"This launch has {started} processes on a machine with {here} GPUs; start at most as "
            "many as there are GPUs, or add --device cpu."
        )
    state = PartialState(cpu=device == "cpu", timeout=PATIENCE)
    if state.num_processes == 1:
        return alone
    return ProcessGroup(state.process_index, state.num_processes, state.device, synchronised)
