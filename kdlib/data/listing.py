"""What a data set of photographs holds: files, labels, classes; read from its lists and checked."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdlib.errors import KdlibError

SHOWN = 20
"""Missing files or classes that an error lists."""


@dataclass(frozen=True)
class Listing:
    """One split of a data set, in the order of its list.

    Attributes:
        dataset: its name.
        folder: what ``names`` are relative to.
        names: of the files, with slashes.
        labels: of each file, positions in ``classes``.
        classes: names of the classes.
        remedy: how to get the data set.
    """

    dataset: str
    folder: Path
    names: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    remedy: str

    def path(self, position: int) -> str:
        """Where a photograph lies."""
        return f"{self.folder}/{self.names[position]}"

    def facts(self) -> NDArray[np.int64]:
        """Size in bytes and time of change in nanoseconds of each file: (N, 2).

        Raises:
            KdlibError: files are missing; says how many, which (the first of them) and what to do.
        """
        facts = [_facts(Path(self.path(position))) for position in range(len(self.names))]
        lacking = [name for name, fact in zip(self.names, facts, strict=True) if fact is None]
        if lacking:
            raise self._missing(lacking)
        return np.array(facts, np.int64).reshape(-1, 2)

    def _missing(self, lacking: Sequence[str]) -> KdlibError:
        return KdlibError(
            f"{self.dataset}: {len(lacking):,} of {len(self.names):,} photographs are missing in "
            f"{self.folder}:\n{_shown(lacking)}\nTo get them:\n  {self.remedy}"
        )


def _facts(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _shown(names: Sequence[str]) -> str:
    more = [f"... and {len(names) - SHOWN:,} more"] if len(names) > SHOWN else []
    return "\n".join(f"  {name}" for name in [*names[:SHOWN], *more])


def read_lines(path: Path, parse: Callable[[str], str | None], expected: str) -> list[str]:
    """What ``parse`` makes of each line that is not empty.

    Args:
        path: the list.
        parse: from a line without blanks at its ends to its meaning; ``None`` if it has none.
        expected: what a line looks like, for the error.

    Raises:
        KdlibError: a line that means nothing; names the file and the line. Or an empty list.
    """
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        meaning = parse(line.strip()) if line.strip() else ""
        if meaning is None:
            raise KdlibError(f"{path}, line {number}: {line[:80]!r} is not like '{expected}'.")
        if meaning:
            found.append(meaning)
    if not found:
        raise KdlibError(f"{path} is empty; expected lines like '{expected}'.")
    return found


def check_apart(dataset: str, train: Iterable[str], test: Iterable[str]) -> None:
    """Refuse lists that share a photograph: what is tested would have been trained on.

    Raises:
        KdlibError: says how many they share and shows some of them.
    """
    both = sorted(set(train) & set(test))
    if both:
        raise KdlibError(
            f"{dataset}: {len(both):,} photographs are in the training and in the test list:\n"
            f"{_shown(both)}\nUse the official lists."
        )


def check_classes(dataset: str, found: Mapping[str, Iterable[str]]) -> None:
    """Refuse parts that do not have the same classes, each with a photograph at least.

    Args:
        dataset: its name.
        found: the classes of each part, under its name.

    Raises:
        KdlibError: says how many classes each has, and which only some have.
    """
    sets = {part: set(names) for part, names in found.items()}
    every = set[str]().union(*sets.values())
    odd = sorted(name for name in every if any(name not in names for names in sets.values()))
    if odd:
        counts = ", ".join(f"{part} has {len(names)}" for part, names in sets.items())
        raise KdlibError(
            f"{dataset}: all parts must have the same classes, but {counts}. Not in all of "
            f"them:\n{_shown(odd)}"
        )
