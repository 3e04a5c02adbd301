"""``kdlib verify``: make runs again from their records, and compare every number."""

import csv
import math
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from kdlib.errors import KdlibError
from kdlib.runs import RunConfig, earlier, is_finished, run_directory
from kdlib.train import fit
from study.export import limited_threads
from study.records import Run, find_directory, find_runs, history_of, record_of
from study.sealed import counted_entries, is_sealed

MEASURED = ("results", "ssim", "relevance", "self_teacher", "dictionary", "diverged")
COST = ("parameters", "flops")  # the rest of it is time
CONDITIONS = ("processor", "capability", "threads", "precision", "device", "commit", "dirty")
SAME, DIFFERS, CLOSE = 0, 1, 3
"""Exit statuses."""
MOST_NAMED = 6  # measures that a verdict lists, and verdicts
NOTHING = "No run that was made here is among the committed records, so none is compared."


class Verdict(NamedTuple):
    """What became of a run that was made again."""

    run_id: str
    moved: dict[str, float]  # the largest difference of each measure that is not the same
    conditions: dict[str, tuple[Any, Any]]  # those that differ: of the record, and of now

    def status(self, within: float) -> int:
        """The exit status that says the same."""
        largest = max(self.moved.values(), default=0.0)
        return (CLOSE if largest <= within else DIFFERS) if self.moved else SAME

    def told(self, within: float) -> str:
        """One line: how close, in which measures; and the conditions that differ."""
        if not self.moved:
            return f"{self.run_id}: the same bits"
        close = self.status(within) == CLOSE
        head = f"the same within {within:g}" if close else "differs"
        order = sorted(self.moved.items(), key=lambda one: -one[1])
        parts = [f"{name} {size:.2g}" for name, size in order[:MOST_NAMED]]
        if more := len(order) - len(parts):
            parts.append(f"{more} more")
        ways = [f"{n} {then} then, {now} now" for n, (then, now) in self.conditions.items()]
        return f"{self.run_id}: {head} ({', '.join(parts)}). Conditions that differ: " + (
            "; ".join(ways) or "none"
        )


def verify(
    runs: Sequence[Path], root: Path, trained: Path | None, data_root: Path | None, within: float
) -> int:
    """As ``kdlib verify``: prints a verdict for each run, and returns the exit status."""
    if not runs and trained is not None:
        return compare(trained, root, within)
    if not runs:
        raise KdlibError("Name the runs to verify: a directory, an id, or how an id begins.")
    verdicts = []
    for found in [counted_record(find_directory(run, root)) for run in runs]:
        verdicts.append(made_again(found, trained, data_root))
        print(verdicts[-1].told(within), flush=True)
    return worst(verdicts, within)


def worst(verdicts: Iterable[Verdict], within: float) -> int:
    """The exit status of several."""
    statuses = {verdict.status(within) for verdict in verdicts}
    return DIFFERS if DIFFERS in statuses else max(statuses, default=SAME)


def compare(trained: Path, root: Path, within: float) -> int:
    """As ``kdlib verify --runs`` alone: what is finished there, beside its sealed records."""
    entries, verdicts = counted_entries(root), []
    for path in sorted(trained.glob("*/record.json")):
        if entry := entries.get(path.parent.name):
            verdicts.append(judged((entry["record"], entry["history"]), of(path.parent)))
    others = [verdict for verdict in verdicts if verdict.moved]
    print("".join(f"{verdict.told(within)}\n" for verdict in others[:MOST_NAMED]), end="")
    equal = f"{len(verdicts) - len(others)} of {len(verdicts)} runs in {trained}"
    print(f"{equal} equal the committed records to the bit." if verdicts else NOTHING)
    return worst(verdicts, within)


def counted_record(directory: Path) -> Run:
    """A finished run whose record counts; else a ``KdlibError``."""
    is_run = is_sealed(directory.parent) or (directory / "record.json").exists()
    found = find_runs(directory.parent).get(directory.name) if is_run else None
    if found is None:
        raise KdlibError(f"{directory} is not a finished run; give one, or the id of one.")
    if found.superseded:
        raise KdlibError(f"{directory.name} is superseded: {found.superseded}.")
    return found


def made_again(found: Run, trained: Path | None, data_root: Path | None) -> Verdict:
    """Train a recorded run, and all that it needs, with as many threads as then."""
    config, then = RunConfig(**found.record["config"]), found.record["provenance"]
    needed = earlier([config])
    device = "cpu" if then["device"] == "cpu" else None  # else what is here
    seconds = found.record["cost"]["train_seconds"]
    print(f"{config.run_id}: {len(needed)} runs before it; its training took {seconds:.0f} s then")
    with TemporaryDirectory() as folder, limited_threads(then["threads"]):
        for one in [*needed, config]:
            if trained is not None and one is not config and is_finished(one, trained):
                shutil.copytree(run_directory(one, trained), run_directory(one, Path(folder)))
            fit(one, Path(folder), data_root=data_root, device=device)
        return judged(of(found.directory), of(run_directory(config, Path(folder))))


Measured = tuple[Mapping[str, Any], str]  # a record, and the text of its history


def of(directory: Path) -> Measured:
    """What a run has measured."""
    return record_of(directory), history_of(directory)


def judged(then: Measured, now: Measured) -> Verdict:
    """Whether a run's numbers, and its conditions, are the same."""
    ways = differing(then[0]["provenance"], now[0]["provenance"])
    return Verdict(now[0]["run_id"], differences(numbers(*then), numbers(*now)), ways)


def numbers(record: Mapping[str, Any], written: str) -> dict[str, Any]:
    """All that a run measured, by place, such as ``results.per_class.3`` or ``history.ce.1``."""
    rows = list(csv.DictReader(StringIO(written)))
    history = {column: [float(row[column]) for row in rows] for column in (rows or [{}])[0]}
    history.pop("seconds", None)
    own: dict[str, Any] = {name: record[name] for name in MEASURED if name in record}
    own |= {"cost": {name: record["cost"][name] for name in COST}, "history": history}
    return dict(_flat(own, ""))


def _flat(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        yield place, value
        return
    for name, one in value.items():
        yield from _flat(one, f"{place}.{name}" if place else str(name))


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, float]:
    """The largest difference of each measure that moved: infinite where one is no number.

    Numbers above 1 are compared by shares of them, counts by shares of all that were counted. What
    only the newer of the two measures is no difference.
    """
    moved: dict[str, float] = {}
    counts: dict[str, int] = defaultdict(int)
    for place, value in then.items():
        counts[_measure(place)] += abs(value) if type(value) is int else 0
    for place, value in then.items():
        name, found = _measure(place), now.get(place, "missing")
        if value != found:
            size = math.inf
            if {type(value), type(found)} <= {int, float}:
                size = abs(value - found) / max(1, counts[name] or abs(value))
            moved[name] = max(size, moved.get(name, 0.0))
    return moved


def _measure(place: str) -> str:
    return ".".join(part for part in place.split(".") if not part.isdigit())


def differing(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Conditions of two provenances that are not the same; older records know fewer of them."""
    ways = ({name: of.get(name, "unknown") for name in CONDITIONS} for of in (then, now))
    before, after = (way | of["versions"] for way, of in zip(ways, (then, now), strict=True))
    return {n: (before.get(n), one) for n, one in after.items() if before.get(n) != one}
