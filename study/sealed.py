"""Sealed records: the form in which runs are committed, a few files that a reviewer can compare.

A folder of them holds ``<dataset>-<task>.jsonl``, one line per run, sorted by run id: its record,
the text of its history, its analysis, why it is superseded if it is, and a digest of the line;
attention maps and answers in folders by run id; and ``SHA256SUMS``, as ``sha256sum`` writes it.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from kdlib.errors import KdlibError
from kdlib.files import locked, write_atomic, write_text
from kdlib.runs import RunConfig

SUMS = "SHA256SUMS"
TENSORS = ("attention_maps.safetensors", "answers.safetensors")
MEND = "Put back the committed copy: git checkout HEAD -- "
Entry = dict[str, Any]
"""A line: ``run_id``, ``record`` (as in record.json), ``history`` (as in history.csv), and where
there are any ``analysis`` (as in analysis.json) and ``superseded``, the reason."""


def is_sealed(root: Path) -> bool:
    """Whether a folder holds sealed records, and no folders of runs."""
    return (Path(root) / SUMS).exists()


def entries_of(root: Path) -> Iterator[tuple[Path, Entry]]:
    """Every entry of a sealed folder by run id, with the path by which errors call it."""
    for run, (path, line) in sorted(_lines(root).items()):
        yield path / run, json.loads(line)


def entry_of(directory: Path) -> Entry:
    """The entry of a run of a sealed folder; of a run's directory, which need not exist."""
    lines = _lines(directory.parent)
    if directory.name not in lines:
        raise KdlibError(f"{directory.parent} has no record of '{directory.name}'.")
    return json.loads(lines[directory.name][1])


def run_ids(root: Path) -> set[str]:
    """The runs of a sealed folder."""
    return set(_lines(root))


def counted_entries(root: Path) -> dict[str, Entry]:
    """Entries by run id, without those superseded; lines may have been taken out since sealing."""
    whole = [line for one in root.glob("*.jsonl") for line in _whole_lines(one).values()]
    entries = map(json.loads, whole)
    return {entry["run_id"]: entry for entry in entries if not entry.get("superseded")}


def checked_file(path: Path) -> Path:
    """A file of a run's directory; refused if its folder is sealed and it is not as sealed."""
    if is_sealed(root := path.parent.parent):
        _check(root, path.relative_to(root).as_posix())
    return path


def check_sealed(root: Path) -> None:
    """Refuse a sealed folder of which a file is missing, too many, or not as it was sealed."""
    listed, there = set(_sums(root)), set(_files(root))
    if wrong := sorted(listed ^ there):
        where = SUMS if wrong[0] in there else "the folder"
        raise KdlibError(f"{root / wrong[0]} is not in {where}. {MEND}{root}")
    for name in sorted(listed):
        _check(root, name)


def _sums(root: Path) -> dict[str, str]:
    if not (root / SUMS).exists():
        raise KdlibError(f"{root / SUMS} is missing. {MEND}{root}")
    lines = (root / SUMS).read_text(encoding="utf-8", errors="replace").splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def _files(root: Path) -> list[str]:
    paths = (*root.glob("*.jsonl"), *(one for name in TENSORS for one in root.glob(f"*/{name}")))
    return sorted(path.relative_to(root).as_posix() for path in paths)


def _check(root: Path, name: str) -> bytes:
    """The content of a file whose checksum is as sealed; else names it, and the run in it."""
    content = (root / name).read_bytes()
    if _sums(root).get(name) == hashlib.sha256(content).hexdigest():
        return content
    damaged = [run for run, line in _split(content) if not _is_whole(line)]
    where = f" in the line of '{damaged[0]}'" if name.endswith(".jsonl") and damaged else ""
    raise KdlibError(f"{root / name} is not what {SUMS} says of it{where}. {MEND}{root}")


def _lines(root: Path) -> dict[str, tuple[Path, str]]:
    """By run id its file and line; read once in each state of the folder."""
    paths = [root / SUMS, *sorted(root.glob("*.jsonl"))]
    found = [(one, one.stat()) for one in paths if one.exists()]
    return _read(root, tuple((one.name, s.st_mtime_ns, s.st_size) for one, s in found))


@lru_cache(maxsize=4)
def _read(root: Path, state: tuple[tuple[str, int, int], ...]) -> dict[str, tuple[Path, str]]:
    names = [name for name, *_ in state[1:]]
    if missing := sorted(name for name in _sums(root) if "/" not in name and name not in names):
        raise KdlibError(f"{root / missing[0]} is missing. {MEND}{root}")
    return {run: (root / name, line) for name in names for run, line in _split(_check(root, name))}


def _split(content: bytes) -> Iterator[tuple[str, str]]:
    """The run id and the text of each line."""
    for line in content.decode(errors="replace").split("\n")[:-1]:
        yield line[len('{"run_id":"') :].partition('"')[0], line


# Lines: compact, with a digest of each, by which a damaged one is named.
def _sealed_line(entry: Mapping[str, Any]) -> str:
    own = {name: value for name, value in entry.items() if name != "sha256"}
    order = sorted(own, key=("run_id", "superseded", "record", "history", "analysis").index)
    plain = {name: own[name] for name in order}
    return _compact({**plain, "sha256": hashlib.sha256(_compact(plain).encode()).hexdigest()})


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _is_whole(line: str) -> bool:
    try:
        return _sealed_line(json.loads(line)) == line
    except (ValueError, AttributeError, RecursionError):
        return False


def seal(root: Path, runs: Iterable[tuple[Entry, Sequence[Path]]]) -> None:
    """Add entries, each with its run's tensors, or replace them; then renew the checksums.

    What is killed halfway can be repeated: lines that are whole by themselves are taken as they
    are.
    """
    with locked(root / ".lock"):
        by_file: dict[str, dict[str, str]] = {}
        for entry, tensors in runs:
            config = entry["record"]["config"]
            name = f"{config['dataset']}-{config.get('task', RunConfig.task)}.jsonl"
            lines = by_file.setdefault(name, _whole_lines(root / name))
            before = json.loads(lines.get(entry["run_id"], "{}"))
            if before and not _same_results(before, entry):
                shutil.rmtree(root / entry["run_id"], ignore_errors=True)
            entry = _merged(before, entry)
            for source in tensors:
                target = root / entry["run_id"] / source.name
                write_atomic(target, partial(shutil.copyfile, source))
            lines[entry["run_id"]] = _sealed_line(entry)
        for name, lines in by_file.items():
            write_text(root / name, "".join(f"{lines[run]}\n" for run in sorted(lines)))
        digests = {n: hashlib.sha256((root / n).read_bytes()).hexdigest() for n in _files(root)}
        write_text(root / SUMS, "".join(f"{digest}  {n}\n" for n, digest in digests.items()))


def _merged(before: Entry, new: Entry) -> Entry:
    """A new entry with what still holds of the one before it: of the same record, of its results.

    A record that was marked as superseded cannot come back as it was.
    """
    if before.get("record") == new["record"]:
        return {**before, **new}
    kept = ("analysis",) if before and _same_results(before, new) else ()
    return {**{name: before[name] for name in kept if name in before}, **new}


def _same_results(one: Entry, other: Entry) -> bool:
    return one["record"].get("results") == other["record"].get("results")


def _whole_lines(path: Path) -> dict[str, str]:
    lines = dict(_split(path.read_bytes())) if path.exists() else {}
    for run, line in lines.items():
        if not _is_whole(line):
            raise KdlibError(f"{path} is damaged in the line of '{run}'. {MEND}{path}")
    return lines
