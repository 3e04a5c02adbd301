"""What was measured, in words."""

from typing import Any

# What the project promises of itself; `python -m benchmarks` says of each whether it was met.
MOST_OVERHEAD = {"at": 0.04, "dct": 0.03}
LEAST_SPEEDUP = 1.7


def report(record: dict[str, Any]) -> str:
    """The text that ``python -m benchmarks`` prints, from the record that it writes."""
    return "\n".join([*_head(record), *_overhead(record), *_lockstep(record), *_rest(record)])


def _head(record: dict[str, Any]) -> list[str]:
    plan, source = record["plan"], record["provenance"]
    return [
        f"{source['machine']}; {source['device']}, {source['threads']} thread(s), "
        f"{source['precision']}; batch {plan['batch_size']}, {plan['image_size']} pixels",
        f"{plan['student']} taught by {plan['teacher']}; medians of paired ratios of "
        f"{plan['clock']}, in brackets their 95 % intervals",
        "",
    ]


def _overhead(record: dict[str, Any]) -> list[str]:
    lines = ["A step's cost over its floor (teacher forward; student's forward, backward, update)"]
    for method, found in sorted(record["overhead"].items()):
        low, high = (_bound(found[end], "{:+.1%}") for end in ("low", "high"))
        line = f"  {method:8} {found['median']:+.1%}   ({low} to {high})"
        lines.append(line + _verdict(found["median"], most=MOST_OVERHEAD.get(method)))
    return lines


def _lockstep(record: dict[str, Any]) -> list[str]:
    found = record["lock_step"]
    students, same = found["students"], "identical" if found["identical"] else "NOT identical"
    text = f"Lock-step of {len(students)} students ({', '.join(students)}) beside separate steps"
    times = _times(found["speedup"]) + _verdict(found["speedup"]["median"], least=LEAST_SPEEDUP)
    counts = [f"{count}: {one['median']:.2f} x" for count, one in record["lock_steps"].items()]
    more = f"  by number of students, {', '.join(counts)}"
    return [text, f"  {times}", f"  weights afterwards: {same}", more]


def _rest(record: dict[str, Any]) -> list[str]:
    peer, speed = record["torchdistill"], record["images_per_second"]
    lines = ["torchdistill is not installed; `make bench` installs it."]
    if peer is not None:
        text = f"torchdistill {peer['version']}: time of its step over ours (same networks, loss)"
        times = sorted(peer["times_our_step"].items())
        lines = [text, *(f"  {method:8} {_times(found)}" for method, found in times)]
    return [
        *lines,
        f"Scenes: {speed['composing']:,} images/s composed, "
        f"{speed['reading']:,} images/s in batches from the cache",
    ]


def _times(found: dict[str, float | None]) -> str:
    low, high = (_bound(found[end], "{:.2f}") for end in ("low", "high"))
    return f"{found['median']:.2f} x   ({low} to {high})"


def _bound(value: float | None, form: str) -> str:
    return "?" if value is None else form.format(value)


def _verdict(value: float, *, most: float | None = None, least: float | None = None) -> str:
    if most is not None:
        return f"   wanted: at most {most:.0%}, {'met' if value <= most else 'MISSED'}"
    if least is not None:
        return f"   wanted: at least {least}, {'met' if value >= least else 'MISSED'}"
    return ""
