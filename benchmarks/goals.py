"""What the project promises of speed, and whether it is met."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from typing import Any

MOST_OVERHEAD, MOST_COMPILED_OVERHEAD = 0.10, 0.05
TAUGHT = ("kd", "at", "dct", "dct+kd", "release_a", "dct_abs", "at+kd", "sp")
LEAST_SPEEDUP = 1.7
OVER_TORCHDISTILL = {"cpu": 2.5, "cuda": 3.0}
SHARE_OF_FLOOR = 0.6
Goal = tuple[str, str, float, float | None]


def judge(
    sections: Mapping[str, Any], steps: Iterable[Mapping[str, Any]], device: str
) -> list[dict[str, Any]]:
    """Every goal with its verdict, JSON-ready; ``met`` is None where nothing was measured.

    From the sections of ``make bench`` and the records of its `steps` on a kind of device. An
    overhead shall be at most what is wanted, all else at least.
    """
    goals = []
    for name, kind, wanted, found in _goals(sections, steps, device):
        met = None if found is None else found <= wanted if "overhead" in name else found >= wanted
        goals.append({"name": name, "device": kind, "wanted": wanted, "found": found, "met": met})
    return goals


def _goals(sections: Mapping, steps: Iterable[Mapping], device: str) -> Iterator[Goal]:
    """Name, device, what is wanted and what was found."""
    for record in steps if device == "cpu" else ():
        precision = record["provenance"]["precision"]
        over = record.get("taught", {}).get("over_plain", {})
        for method in TAUGHT:
            found = over[f"{method} kept"]["median"] - 1 if over else None
            name = f"{method} overhead over a plain step, kept answers, {precision}"
            yield name, "cpu", MOST_OVERHEAD, found
        for method, ratio in record.get("taught", {}).get("over_kept", {}).items():
            name = f"images a second over torchdistill's, Scenes, {method}, {precision}"
            yield name, "cpu", OVER_TORCHDISTILL["cpu"], ratio["median"]
        students, speedup = (record["lock_step"][name] for name in ("students", "speedup"))
        name = f"lock-step over separate steps, {len(students)} students, {precision}"
        yield name, "cpu", LEAST_SPEEDUP, speedup["median"]
    here = sections if device == "cuda" else {}
    compiled = here.get("methods", {}).get("compiled", {}).get("methods", {}).get("dct")
    found = compiled["time"]["median"] - 1 if compiled else None
    yield "DCT overhead, compiled", "cuda", MOST_COMPILED_OVERHEAD, found
    for kind, wanted in OVER_TORCHDISTILL.items():
        pairs = sections.get("pairs", {}).get("pairs", []) if kind == device else []
        judged = [row for row in pairs if row["ratios"]]
        for row, how in product(judged, ("each at its best", "students in lock-step")):
            pair = f"{row['teacher']} > {row['student']}, batch {row['batch_size']}"
            found = row["ratios"][how]["median"]
            yield f"images a second over torchdistill's, {pair}, {how}", kind, wanted, found
        if not judged:
            yield "images a second over torchdistill's", kind, wanted, None
    floors = here.get("floor", {}).get("steps", [])
    share = next((one["share"] for one in floors if one["image_size"] == 224), None)
    name = "share of the floor, resnet50 > resnet18, 224 pixels, bfloat16"
    yield name, "cuda", SHARE_OF_FLOOR, share
