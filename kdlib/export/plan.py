"""What an export is to write, and what it is to measure."""

from dataclasses import dataclass
from pathlib import Path

from kdlib.errors import KdlibError


@dataclass(frozen=True)
class Plan:
    """What to write, and what to measure.

    Attributes:
        format: one of ``kdlib.export.FORMATS``.
        to: the file; ``None`` for ``student`` with the format's suffix in the run's directory.
        threads: of the processor, for all that is measured.
        batch_sizes: in which the file is checked and timed.
        rounds: how often each network is timed in each.
        tolerance: what a logit may differ by, in units of the largest logit (of 1 if it is less).
        measure: score and time student and teacher too, beyond the check of the logits.
    """

    format: str = "onnx"
    to: Path | None = None
    threads: int = 1
    batch_sizes: tuple[int, ...] = (1, 64)
    rounds: int = 30
    tolerance: float = 1e-4
    measure: bool = True

    def __post_init__(self) -> None:
        """Check every value that can be checked without a run."""
        counts = {"number of threads": self.threads, "number of rounds": self.rounds}
        for name, value in {**counts, "batch size": min(self.batch_sizes, default=0)}.items():
            if value < 1:
                raise KdlibError(f"The {name} is {value}; it must be at least 1.")
        if self.to is not None and self.to.is_dir():
            raise KdlibError(f"{self.to} is a folder; give the name of a file in it.")
