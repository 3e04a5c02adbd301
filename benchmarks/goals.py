"""What the project promises of its speed, and whether the records keep it."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

DCT_ON_CPU, DCT_COMPILED_ON_GPU = 0.03, 0.05
OVER_TORCHDISTILL = {"cpu": 1.5, "cuda": 3.0}
SHARE_OF_FLOOR = 0.6


class Goal(NamedTuple):
    """One promise: what of, on which kind of device, the bound, what was found (None: nothing)."""

    name: str
    device: str
    wanted: float
    found: float | None
    met: bool | None


def judge(
    sections: Mapping[str, Any], steps: Iterable[Mapping[str, Any]], device: str
) -> list[dict[str, Any]]:
    """Every goal with its verdict, JSON-ready; ``met`` is None where nothing was measured.

    Args:
        sections: of :func:`benchmarks.speed.measure_sections`, those that there are.
        steps: records of :func:`benchmarks.measure.measure` of this machine.
        device: ``cpu`` or ``cuda``: of which the records are.
    """
    found = [*_dct(sections, steps, device), *_beside(sections, device), *_floor(sections, device)]
    return [goal._asdict() for goal in found]


def _dct(sections: Mapping, steps: Iterable[Mapping], device: str) -> Iterator[Goal]:
    for record in steps if device == "cpu" else ():
        name = f"DCT overhead, {record['provenance']['precision']}"
        yield _at_most(name, "cpu", DCT_ON_CPU, record["overhead"]["dct"]["median"])
    costs = sections.get("methods", {}).get("compiled") if device == "cuda" else None
    value = None if costs is None else costs["methods"]["dct"]["time"]["median"] - 1
    yield _at_most("DCT overhead, compiled", "cuda", DCT_COMPILED_ON_GPU, value)


def _beside(sections: Mapping, device: str) -> Iterator[Goal]:
    for other, wanted in OVER_TORCHDISTILL.items():
        rows = sections.get("pairs", {}).get("pairs", []) if other == device else []
        judged = [(row, row["ratios"]) for row in rows if row["ratios"]]
        for row, ratios in judged:
            pair = f"{row['teacher']} > {row['student']}, batch {row['batch_size']}"
            for how in ("each at its best", "students in lock-step"):
                name = f"images a second over torchdistill's, {pair}, {how}"
                yield _at_least(name, other, wanted, ratios[how]["median"])
        if not judged:
            yield _at_least("images a second over torchdistill's", other, wanted, None)


def _floor(sections: Mapping, device: str) -> Iterator[Goal]:
    rows = sections.get("floor", {}).get("steps", []) if device == "cuda" else []
    share = next((row["share"] for row in rows if row["image_size"] == 224), None)
    name = "share of the floor, resnet50 > resnet18, 224 pixels, bfloat16"
    yield _at_least(name, "cuda", SHARE_OF_FLOOR, share)


def _at_most(name: str, device: str, wanted: float, found: float | None) -> Goal:
    return Goal(name, device, wanted, found, None if found is None else found <= wanted)


def _at_least(name: str, device: str, wanted: float, found: float | None) -> Goal:
    return Goal(name, device, wanted, found, None if found is None else found >= wanted)
