"""The parts of the study: profiles ``study_<part>``, in the order in which they are made."""

import sys
from pathlib import Path

from kdlib.errors import check_known
from kdlib.runs import is_finished
from study.profiles import expand, profile_names
from study.sealed import Entry, counted_entries

PREFIX = "study_"
ORDER = (
    "pilot", "tune", "confirm", "causal", "dials", "attentions", "mechanism_tune", "mechanism",
    "fashion", "methods",
)  # fmt: skip


def parts() -> list[str]:
    """Those that there are; what the order does not name comes last."""
    found = [name.removeprefix(PREFIX) for name in profile_names() if name.startswith(PREFIX)]
    return sorted(found, key=[*ORDER, *found].index)


def chosen(text: str) -> list[str]:
    """The parts that a text names, in their order."""
    names = text.replace(",", " ").split()
    for name in names:
        check_known("part of the study", name, parts())
    return [part for part in parts() if part in names]


def counted(part: str, fresh: str | None, records: Path) -> dict[str, Entry]:
    """The committed runs, which count as finished; none for a part that is made afresh."""
    return {} if part in chosen(fresh or "") else counted_entries(records)


def tell(wanted: str, fresh: str, root: Path, records: Path) -> list[str]:
    """Say how many runs of each part there are; return the parts that lack some."""
    lacking = []
    for part in chosen(wanted) or parts():
        runs, known = expand(PREFIX + part), counted(part, fresh, records)
        committed = sum(run.run_id in known for run in runs)
        made = sum(run.run_id not in known and is_finished(run, root) for run in runs)
        lacks = committed + made < len(runs)
        there = f"{committed} of {len(runs)} runs are in {records}, {made} in {root}"
        print(f"{part}: {there}; {'others to make' if lacks else 'nothing to do'}", file=sys.stderr)
        lacking += [part] if lacks else []
    return lacking
