"""How much memory a piece of work needs at most, by what PyTorch itself allocates.

The system's own figure (the largest resident set of a process) also counts what an allocator has
kept from earlier work, and would need a process a method. Events of allocations are exact, and
the same every time.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

EVENT = "[memory]"
CPU = torch.device("cpu")


def peak_bytes(work: Callable[[], object], device: torch.device = CPU) -> int:
    """The most bytes of tensors on the device that ``work`` holds beyond those there before it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        work()
    events = found.profiler.kineto_results.events()
    changes = sorted((one.start_ns(), one.nbytes()) for one in events if one.name() == EVENT)
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak


def state_bytes(module: nn.Module) -> int:
    """What a module holds for good: its parameters, and its buffers, such as a memory bank."""
    tensors = [*module.parameters(), *module.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
