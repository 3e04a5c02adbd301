"""Types of what commands take, by which cyclopts reads and checks it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from kdlib.errors import KdlibError

Count = Annotated[int, Parameter(validator=Number(gte=1))]
Flag = Annotated[bool, Parameter(negative=())]
Words = Annotated[list[str] | None, Parameter(consume_multiple=True, negative=())]
Sizes = Annotated[tuple[Count, ...], Parameter(consume_multiple=True, negative=())]
Pairs = Annotated[
    tuple[tuple[str, str], ...], Parameter(["-p", "--parameter"], negative=(), json_list=False)
]


@dataclass(frozen=True)
class Plan:
    """What an export writes, and what it measures.

    Args:
        format: onnx (onnxruntime) or torch (.pt2).
        to: the file; by default student.onnx in the run's directory.
        threads: of the processor.
        batch_sizes: in which it is checked and timed.
        rounds: how often each is timed.
        measure: score and time student and teacher too, beyond the check of the logits.
    """

    format: str = "onnx"
    to: Path | None = None
    threads: Count = 1
    batch_sizes: Sizes = (1, 64)
    rounds: Count = 30
    measure: bool = True

    def __post_init__(self) -> None:
        if min(self.threads, self.rounds, *self.batch_sizes or (0,)) < 1:
            raise KdlibError(f"Threads, rounds and one or more batch sizes are at least 1: {self}.")


USUAL = Plan()
