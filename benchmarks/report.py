"""What was measured, in words, and what the project promises of its speed."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

MOST_OVERHEAD = {"at": 0.04, "dct": 0.03}
LEAST_SPEEDUP = 1.7
DCT_ON_CPU, DCT_COMPILED_ON_GPU = 0.03, 0.05
OVER_TORCHDISTILL = {"cpu": 1.5, "cuda": 3.0}
SHARE_OF_FLOOR = 0.6
Goal = dict[str, Any]


def report(record: dict[str, Any]) -> str:
    """The text that ``python -m benchmarks`` prints of the section `steps`."""
    return "\n".join([*_overhead(record), *_lockstep(record), *_rest(record)])


def _overhead(record: dict[str, Any]) -> Iterator[str]:
    plan, source = record["plan"], record["provenance"]
    yield (
        f"{source['machine']}; {source['device']}, {source['threads']} thread(s), "
        f"{source['precision']}; batch {plan['batch_size']}, {plan['image_size']} pixels\n"
        f"{plan['student']} taught by {plan['teacher']}; medians of paired ratios of "
        f"{plan['clock']}, in brackets their 95 % intervals\n"
    )
    yield "A step's cost over its floor (teacher forward; student's forward, backward, update)"
    for method, found in sorted(record["overhead"].items()):
        most, verdict = MOST_OVERHEAD.get(method), ""
        if most is not None:
            verdict = f"   wanted: at most {most:.0%}, {_met(found['median'] <= most)}"
        yield f"  {method:8} {_shown(found, '+.1%')}{verdict}"


def _lockstep(record: dict[str, Any]) -> Iterator[str]:
    found = record["lock_step"]
    students, same = found["students"], "identical" if found["identical"] else "NOT identical"
    reached = _met(found["speedup"]["median"] >= LEAST_SPEEDUP)
    counts = [f"{count}: {one['median']:.2f} x" for count, one in record["lock_steps"].items()]
    yield f"Lock-step of {len(students)} students ({', '.join(students)}) beside separate steps"
    times = _shown(found["speedup"], ".2f", " x")
    yield f"  {times}   wanted: at least {LEAST_SPEEDUP}, {reached}"
    yield f"  weights afterwards: {same}"
    yield f"  by number of students, {', '.join(counts)}"


def _rest(record: dict[str, Any]) -> Iterator[str]:
    peer, speed = record["torchdistill"], record["images_per_second"]
    if peer is None:
        yield "torchdistill is not installed; `make bench` installs it."
    else:
        yield f"torchdistill {peer['version']}: time of its step over ours (same networks, loss)"
        for method, found in sorted(peer["times_our_step"].items()):
            yield f"  {method:8} {_shown(found, '.2f', ' x')}"
    made, read = (f"{speed[what]:,} images/s" for what in ("composing", "reading"))
    yield f"Scenes: {made} composed, {read} in batches from the cache"


def _shown(found: dict[str, float | None], form: str, unit: str = "") -> str:
    """A median and its interval; a bound that is not known as a question mark."""
    low, high = ("?" if found[end] is None else format(found[end], form) for end in ("low", "high"))
    return f"{found['median']:{form}}{unit}   ({low} to {high})"


def _met(met: bool) -> str:
    return "met" if met else "MISSED"


def judge(
    sections: Mapping[str, Any], steps: Iterable[Mapping[str, Any]], device: str
) -> list[Goal]:
    """Every goal with its verdict, JSON-ready; ``met`` is None where nothing was measured.

    Args:
        sections: the records of ``make bench``, those that there are.
        steps: records of :func:`benchmarks.measure.measure` of this machine.
        device: ``cpu`` or ``cuda``: of which the records are.
    """
    return [*_dct(sections, steps, device), *_beside(sections, device), _floor(sections, device)]


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
        judged = [row for row in rows if row["ratios"]]
        for row in judged:
            pair = f"{row['teacher']} > {row['student']}, batch {row['batch_size']}"
            for how in ("each at its best", "students in lock-step"):
                name = f"images a second over torchdistill's, {pair}, {how}"
                yield _at_least(name, other, wanted, row["ratios"][how]["median"])
        if not judged:
            yield _at_least("images a second over torchdistill's", other, wanted, None)


def _floor(sections: Mapping, device: str) -> Goal:
    rows = sections.get("floor", {}).get("steps", []) if device == "cuda" else []
    share = next((row["share"] for row in rows if row["image_size"] == 224), None)
    name = "share of the floor, resnet50 > resnet18, 224 pixels, bfloat16"
    return _at_least(name, "cuda", SHARE_OF_FLOOR, share)


def _at_most(name: str, device: str, wanted: float, found: float | None) -> Goal:
    met = None if found is None else found <= wanted
    return {"name": name, "device": device, "wanted": wanted, "found": found, "met": met}


def _at_least(name: str, device: str, wanted: float, found: float | None) -> Goal:
    goal = _at_most(name, device, wanted, found)
    return {**goal, "met": None if found is None else found >= wanted}
