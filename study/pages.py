"""Blocks of the README and of the pages in docs/: numbers come from records and measurements."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from kdlib.methods import METHODS, STAGES
from kdlib.runs import RunConfig
from study.export import checked, gains, size_table, speed_table, where
from study.figures.comparison import method_accuracy_table
from study.ledger.page import counts_markdown, make_ledger
from study.profiles import profile_names, read_profile
from study.records import describe_setting, load_records, recorded_tasks, runs_of, summary_table
from study.results import (
    check_block,
    claims_markdown,
    comparison_markdown,
    markdown_table,
    methods_markdown,
    read_accuracy,
    summary_markdown,
    teachers_markdown,
    update_block,
)
from study.statistics import (
    CLAIMS_FAMILIES,
    COMPARISONS_FAMILIES,
    SELF_TAUGHT,
    claims_table,
    claims_verdicts,
    main_runs,
    refinement_verdicts,
    self_taught_runs,
)

# Blocks of ``docs/deployment.md``.
DEPLOYMENT_FILE = "deployment.json"


def deployment_blocks(measurements: Path) -> dict[str, str]:
    """Text of each block, by name, from the records in a folder."""
    return {"deployment": _deployment(measurements / DEPLOYMENT_FILE)}


def _deployment(path: Path) -> str:
    """What the student gains: size, accuracy, speed; and how exact each format is."""
    if not path.exists():
        return "Not measured yet: `python -m benchmarks.deployment RUN`."
    records = json.loads(path.read_text(encoding="utf-8"))["exports"]
    formats = {record["format"]: record for record in records}
    facts, source = records[0]["facts"], records[0]["provenance"]
    run = f"Run `{facts['run_id']}`, trained at commit {(facts['commit'] or '?')[:7]}"
    parts = [
        f"{run}; exported at {source['commit'][:7]}.\n",
        size_table(list(formats.values())),
        *(_of_record(record) for record in records),
    ]
    return "\n".join(parts)


def _of_record(record: dict[str, Any]) -> str:
    """How fast one format is, and how exact."""
    title = f"**{record['runtime']}** (`--format {record['format']}`). {where(record)}\n"
    return "\n".join([title, speed_table(record), f"{gains(record)} {checked(record)}\n"])


# Blocks of ``docs/faults.md``.
FAULTS_FILE = "faults.json"
OUTCOMES = ("trials", "recovered", "told", "harmless", "failed")


def faults_blocks(measurements: Path) -> dict[str, str]:
    """Text of each block, by name, from the records in a folder."""
    return {"faults": _faults(measurements / FAULTS_FILE)}


def _faults(path: Path) -> str:
    """How often each fault was tried, and what became of it."""
    if not path.exists():
        return "Not measured yet: `make faults`."
    record = json.loads(path.read_text(encoding="utf-8"))
    found, source = record["faults"], record["provenance"]
    rows = [[name, *(str(found[name][o]) for o in OUTCOMES)] for name in sorted(found)]
    total = [str(sum(counts[outcome] for counts in found.values())) for outcome in OUTCOMES]
    where = (
        f"`make faults` at commit {(source['commit'] or '?')[:7]}, Python "
        f"{source['versions']['python']}, torch {source['versions']['torch']}, {source['system']}, "
        f"{source['cores']} cores.\n"
    )
    return "\n".join([where, markdown_table(["fault", *OUTCOMES], [*rows, ["all", *total]])])


# Blocks of ``docs/grids.md``.
def grids_blocks(measurements: Path) -> dict[str, str]:
    """Text of each block, by name, from the records in a folder."""
    return {
        "planning": _planning(measurements / "planning.json"),
        "slurm": _slurm(measurements / "slurm.json"),
    }


def _planning(path: Path) -> str:
    """What it costs to plan a large grid."""
    if not path.exists():
        return f"Not measured: there is no `{path.name}`."
    record = json.loads(path.read_text(encoding="utf-8"))
    head = ["jobs", "runs", "seconds", "of the processor", "peak MiB", "load of the machine"]
    names = ("jobs", "runs", "seconds", "processor_seconds", "peak_mib", "load")
    row = [str(record[name]) for name in names]
    return f"{markdown_table(head, [row])}\n{_source(record['provenance'])}"


def _slurm(path: Path) -> str:
    """What the grid on SLURM went through, and what was left of it."""
    if not path.exists():
        return "Not measured yet: `bash tests/cluster/run.sh --to benchmarks/results/slurm.json`."
    record = json.loads(path.read_text(encoding="utf-8"))
    equal, load = "equal to those left alone", "load of the machine"
    head = ["SLURM jobs", "kills", "records", equal, "seconds", load]
    cells = (str(record[name]) for name in ("records", "equal", "seconds", "load"))
    row = [str(record["jobs_submitted"]), str(len(record["kills"])), *cells]
    table = markdown_table(head, [row])
    killed = "; ".join(record["kills"])
    return f"{table}\nKilled, in this order: {killed}. {_source(record['provenance'])}"


def _source(provenance: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in provenance["versions"].items())
    commit = (provenance["commit"] or "?")[:7]
    return f"{provenance['cores']} cores of {provenance['machine']}; {versions}; commit {commit}."


# Blocks of ``docs/multi_gpu.md``.
MULTI_GPU_FILE = "places365.json"


def multi_gpu_blocks(measurements: Path) -> dict[str, str]:
    """Text of each block, by name: the methods, and what was measured in a folder."""
    path = measurements / MULTI_GPU_FILE
    if not path.exists():
        missing = f"Not measured: there is no `{MULTI_GPU_FILE}`."
        return {
            "methods-in-parts": _multi_gpu_methods(),
            "places365": missing,
            "places365-step": missing,
        }
    record = json.loads(path.read_text(encoding="utf-8"))
    return {
        "methods-in-parts": _multi_gpu_methods(),
        "places365-step": _measured(record),
        "places365": _modelled(record),
    }


def _multi_gpu_methods() -> str:
    """Which methods are the same in parts, which are of a part, and which are refused."""
    known = METHODS | STAGES
    apart = [name for name, method in known.items() if method.undivided]
    coupled = [name for name, method in known.items() if method.couples]
    rows = [
        ["the mean over all images of the batch", "all others"],
        ["compares the images of a process's part with each other", _names(coupled)],
        ["refused: " + _reasons(apart), _names(apart)],
    ]
    return markdown_table(["with several processes, the loss is", "methods"], rows)


def _names(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _reasons(names: list[str]) -> str:
    known = METHODS | STAGES
    return "; ".join(dict.fromkeys(known[name].undivided for name in names))


def _measured(record: Mapping[str, Any]) -> str:
    """The step on the device at hand."""
    source, matrix = record["provenance"], record["matrix"]
    rows = [
        [
            str(step["batch_size"]),
            f"{step['seconds']:.3f}",
            f"{step['batch_size'] / step['seconds']:,.1f}",
            f"{100 * step['share']:.0f}",
        ]
        for step in record["steps"]
    ]
    rates = ", ".join(f"{rate / 1000:,.2f} in {name}" for name, rate in matrix.items())
    return (
        f"{markdown_table(['images', 'seconds', 'images/s', '% of the matrix rate'], rows)}\n"
        f"{source['machine']} ({source['device']}, threads: {source['threads']}, "
        f"{source['clock']}), bfloat16, at commit {(source['commit'] or '?')[:7]}. Its matrix rate "
        f"(TFLOP/s of a large product) is {rates}. An image takes "
        f"{record['work']['flops'] / 1e9:.1f} GFLOP, a step {record['calls']:,} calls of operators."
    )


HEAD = (
    "GPUs", "% of the matrix rate", "images a GPU", "ms: arithmetic", "ms: all-reduce", "images/s",
    "µs a call", "cores a GPU: JPEG", "cores a GPU: cache", "hours", "hours: JPEG", "GPU hours",
    "GPU hours: teacher",
)  # fmt: skip


def _modelled(record: Mapping[str, Any]) -> str:
    """What many GPUs would take."""
    table = markdown_table(HEAD, map(_row, record["modelled"]))
    rates, run = record["published"], record["run"]
    there = record["modelled"][0]["cores_there"]
    return (
        f"**Modelled, not measured.** {run['teacher']} > {run['student']}, `{run['method']}`, "
        f"{run['epochs']} epochs of {rates['images']:,.0f} images, batch "
        f"{record['modelled'][0]['images_a_gpu']:.0f}; {rates['rate'] / 1e12:,.0f} TFLOP/s a GPU, "
        f"{rates['nvlink'] / 1e9:.0f} GB/s within a machine of {rates['gpus']:.0f}, "
        f"{rates['infiniband'] / 1e9:.0f} GB/s between machines, {there:.0f} processor cores a GPU "
        f"(`published/devices.csv` names the sources).\n\n{table}\n{_limits(record)}"
    )


def _row(row: Mapping[str, Any]) -> list[str]:
    return [
        str(row["gpus"]),
        f"{100 * row['share']:.0f} ({row['share_of']})",
        f"{row['images_a_gpu']:.0f}",
        f"{row['compute_ms']:.2f}",
        f"{row['reduce_ms']:.2f}",
        f"{row['images_per_second']:,.0f}",
        f"{row['microseconds_a_call']:.1f}",
        f"{row['cores_a_gpu']['decoded']:.1f}",
        f"{row['cores_a_gpu']['cached']:.1f}",
        f"{row['hours_of_gpus_alone']:.2f}",
        f"{row['hours']['decoded']:.2f}",
        f"{row['gpus'] * row['hours_of_gpus_alone']:.1f}",
        f"{row['gpus'] * row['teacher_hours_of_gpus_alone']:.1f}",
    ]


def _limits(record: Mapping[str, Any]) -> str:
    """For which rows the loader is the limit, in a sentence."""
    rows = record["modelled"]
    told = []
    for name, source in (("decoded", "Decoding JPEG files"), ("cached", "Reading the cache")):
        few = [row for row in rows if row["cores_a_gpu"][name] > row["cores_there"]]
        where = " and ".join(dict.fromkeys(str(row["gpus"]) for row in few))
        told.append(f"{source} is the limit on {where} GPUs." if few else f"{source} never is.")
    speeds = record["loading"]
    return (
        f"A core decodes {speeds['decoded']:,.0f} images a second, and reads "
        f"{speeds['cached']:,.0f} from the cache (`benchmarks/results/loading.json`). "
        + " ".join(told)
    )


# The tables of docs/speed.md, from the records of ``make bench``.
FOLDER = "speed"
Rows = Iterable[list[str]]


def speed_blocks(measurements: Path) -> dict[str, str]:
    """Each block's text by its name, such as ``speed_pairs``; of what is missing, the command.

    Args:
        measurements: ``benchmarks/results``.
    """
    paths = sorted((measurements / FOLDER).glob("*.json"))
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return {f"speed_{name}": section_text(name, records) for name in TABLES}


def section_text(name: str, records: Iterable[Mapping[str, Any]]) -> str:
    """One of ``TABLES``, for each machine on which its section was measured."""
    source, head, rows = TABLES[name]
    texts = []
    for record in records:
        if record.get(source):
            table = markdown_table(head, rows(record[source]))
            texts.append(f"{_where(record[source])}\n\n{table}".strip())
    return "\n\n".join(texts) or f"Not measured yet: `python -m benchmarks --only {source}`."


def _where(section: Any) -> str:
    if isinstance(section, list):
        return ""
    source, plan = section["provenance"], section["speed_plan"]
    place = f"{source['machine']}, {source['device']}, {source['threads']} thread(s)"
    return f"{place}; {plan['rounds']} rounds of {plan['clock']}; commit {source['commit'][:7]}."


def _goals(goals: list[dict[str, Any]]) -> Rows:
    verdicts = {True: "met", False: "**MISSED**", None: "not measured"}
    for goal in goals:
        found = "–" if goal["found"] is None else _value(goal, goal["found"])
        bound = "at most" if "overhead" in goal["name"] else "at least"
        wanted = f"{bound} {_value(goal, goal['wanted'])}"
        yield [goal["name"], goal["device"], wanted, found, verdicts[goal["met"]]]


def _value(goal: Mapping[str, Any], value: float) -> str:
    return f"{value:.2f} ×" if "images" in goal["name"] else f"{value:.1%}"


def _speed_methods(section: Mapping[str, Any]) -> Rows:
    compiled = section.get("compiled", {}).get("methods", {})
    for name, cost in section["eager"]["methods"].items():
        other = compiled.get(name)
        yield [
            name, _over(cost), "–" if other is None else _over(other),
            f"{cost['memory']['peak_bytes'] / 1e6:.0f}", f"{cost['memory']['ratio'] - 1:+.1%}",
        ]  # fmt: skip


def _over(cost: Mapping[str, Any]) -> str:
    time = cost["time"]
    interval = (
        "" if time["low"] is None else f" ({time['low'] - 1:+.1%} to {time['high'] - 1:+.1%})"
    )
    return f"{time['median'] - 1:+.1%}{interval}"


def _pairs(section: Mapping[str, Any]) -> Rows:
    for row in section["pairs"]:
        pair = f"{row['teacher']} > {row['student']}"
        for name, speed in row["images_per_second"].items():
            yield [pair, str(row["batch_size"]), name, f"{speed:,.1f}"]


def _ratios(section: Mapping[str, Any]) -> Rows:
    for row in section["pairs"]:
        pair = f"{row['teacher']} > {row['student']}"
        for name, ratio in row["ratios"].items():
            low, high = (_bound(ratio[end]) for end in ("low", "high"))
            times = f"{ratio['median']:.2f} × ({low} to {high})"
            yield [pair, str(row["batch_size"]), name, times, ratio["ours"], ratio["theirs"]]


def _bound(value: float | None) -> str:
    return "?" if value is None else f"{value:.2f}"


def _floor(section: Mapping[str, Any]) -> Rows:
    for row in section["steps"]:
        yield [
            f"{row['teacher']} > {row['student']}", str(row["image_size"]), str(row["batch_size"]),
            f"{row['gigaflops_a_step']:,.1f}", f"{row['matrix_gigaflops_a_second']:,.0f}",
            f"{row['seconds']:.3f}", f"{row['share']:.0%}",
        ]  # fmt: skip


def _breakdown(section: Mapping[str, Any]) -> Rows:
    for row in section["steps"]:
        largest_first = sorted(row["shares"].items(), key=lambda item: -item[1])
        shares = ", ".join(f"{name} {share:.1%}" for name, share in largest_first)
        yield [f"{row['teacher']} > {row['student']}", row["precision"], row["method"], shares]


def _speed_loading(section: Mapping[str, Any]) -> Rows:
    for row in section["photographs"]:
        for way, name in (("decoded", "JPEG folder"), ("cached", "cached folder")):
            yield [f"{name}, {row['size']}", *(f"{row[way][k]:,}" for k in ("bytes", "batches"))]


def _notebooks(section: Mapping[str, Any]) -> Rows:
    spent = section["seconds"]
    yield [f"{spent['notebook']:.2f}", f"{spent['program']:.2f}", f"{section['added_seconds']:.2f}"]


TABLES: dict[str, tuple[str, list[str], Callable[[Any], Rows]]] = {
    "goals": ("goals", ["goal", "device", "wanted", "found", "verdict"], _goals),
    "methods": (
        "methods",
        ["method", "over its floor", "compiled", "peak memory, MB", "over its floor's"],
        _speed_methods,
    ),
    "pairs": ("pairs", ["networks", "batch", "way", "images a second"], _pairs),
    "ratios": (
        "pairs", ["networks", "batch", "compared", "ours is faster by", "ours", "theirs"], _ratios,
    ),
    "floor": (
        "floor",
        ["networks", "pixels", "batch", "GFLOP a step", "matrix GFLOP/s", "seconds", "share"],
        _floor,
    ),
    "breakdown": (
        "breakdown", ["networks", "precision", "method", "where the time goes"], _breakdown,
    ),
    "loading": ("loading", ["photographs a second", "as bytes", "as batches"], _speed_loading),
    "notebooks": (
        "notebooks", ["notebook, s", "same code as a program, s", "added, s"], _notebooks,
    ),
}  # fmt: skip
"""By table: the section of the record it shows, its head, and its rows."""


# Blocks of the pages in docs/, made from measurements; a module a page.
PAGES: dict[str, Callable[[Path], dict[str, str]]] = {
    "docs/deployment.md": deployment_blocks,
    "docs/faults.md": faults_blocks,
    "docs/grids.md": grids_blocks,
    "docs/multi_gpu.md": multi_gpu_blocks,
    "docs/speed.md": speed_blocks,
}
"""By page, what makes its blocks from a folder of measurements."""


MEASUREMENTS = Path("benchmarks/results")
COMMANDS, LOADING = "commands.json", "loading.json"


def readme_blocks(readme: Path, roots: Sequence[Path]) -> dict[str, str]:
    """The text of each block, by name.

    Args:
        readme: the file; measurements lie beside it in ``benchmarks/results``.
        roots: folders of records.

    Raises:
        KdlibError: no records, or a damaged one.
    """
    table = load_records(*roots)
    runs = list(_main_runs(table))
    measured = Path(readme).parent / MEASUREMENTS
    return {
        "headline": read_accuracy(method_accuracy_table(runs[0])),
        "summary": "\n".join(
            [*(summary_markdown(summary_table(some)) for some in runs), *_of_detectors(roots)]
        ),
        "claims": "\n".join(
            [*(_claims(some) for some in runs), *_of_self_taught(roots), *_of_crops(roots)]
        ),
        "ledger": counts_markdown(make_ledger(load_records(*roots, task=None))),
        "methods": methods_markdown(),
        "profiles": profiles_markdown(),
        "times": _times(measured / COMMANDS),
        "steps": _steps(_step_files(measured)),
        "loading": _readme_loading(measured / LOADING),
    }


def all_blocks(readme: Path, roots: Sequence[Path]) -> Iterator[tuple[Path, str, str]]:
    """File, name and text of each block: those of the README, and of the pages beside it."""
    folder = Path(readme).parent
    yield from ((readme, *block) for block in readme_blocks(readme, roots).items())
    for page, blocks in PAGES.items():
        if (folder / page).exists():
            yield from ((folder / page, *one) for one in blocks(folder / MEASUREMENTS).items())


def update_readme(readme: Path, roots: Sequence[Path]) -> list[str]:
    """Make every block anew; returns the names of those that changed.

    Raises:
        KdlibError: as :func:`readme_blocks`, or a block's markers are missing.
    """
    made = all_blocks(readme, roots)
    return [name for path, name, text in made if update_block(path, name, text)]


def check_readme(readme: Path, roots: Sequence[Path]) -> None:
    """Refuse a README, or a page beside it, that differs from the records.

    Raises:
        KdlibError: names the file, and the first block and line that differ.
    """
    for path, name, text in all_blocks(readme, roots):
        check_block(path, name, text)


def profiles_markdown() -> str:
    """A row a profile: its name and what its file says of it."""
    return markdown_table(["PROFILE", "runs"], map(_profile_row, profile_names()))


def _profile_row(name: str) -> list[str]:
    return [f"[`{name}`](profiles/{name}.yaml)", " ".join(read_profile(name)["about"].split())]


def _main_runs(table: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """The runs of each data set's main comparison, on its test set; Scenes first."""
    usual = RunConfig()
    taught = table[table["method"] != "student"]
    main = taught[(taught["split"] == "train") & (taught["attentions"] == usual.attentions)]
    for dataset in sorted(set(main["dataset"]), key=lambda name: (name != usual.dataset, name)):
        yield runs_of(table, dataset, usual.attentions)


def _claims(runs: pd.DataFrame) -> str:
    """The verdicts of each family of claims that these runs can test."""
    tables = {name: claims_table(runs, claims) for name, claims in COMPARISONS_FAMILIES.items()}
    return "\n".join(
        f"{name}. {claims_markdown(table)}" for name, table in tables.items() if len(table)
    )


def _of_self_taught(roots: Sequence[Path]) -> Iterator[str]:
    """The verdicts on FRSKD, one family a data set and task, as its notebooks have them."""
    for task in recorded_tasks(*roots):
        if task not in SELF_TAUGHT:
            continue
        method, claims = SELF_TAUGHT[task]
        table = load_records(*roots, task=task)
        for runs in _main_runs(table):
            judged = refinement_verdicts(self_taught_runs(table, runs, method), claims)
            name = describe_setting(table, runs["setting"].iloc[0])
            if len(judged):
                yield f"A neighbour: FRSKD. **{name}**\n\n{comparison_markdown(judged)}"


def _detectors(roots: Sequence[Path]) -> pd.DataFrame:
    """Detectors of the test sets, one variant of each method; no row where none was trained."""
    if "detection" not in recorded_tasks(*roots):
        return pd.DataFrame()
    table = load_records(*roots, task="detection")
    main = main_runs(table[table["split"] == "train"])
    taught = main.groupby("setting")["method"].transform("nunique") > 1
    return main[taught]


def _of_detectors(roots: Sequence[Path]) -> Iterator[str]:
    """How good detectors are, and a line of their teachers."""
    runs = _detectors(roots)
    if len(runs):
        yield summary_markdown(summary_table(runs))
        if "crops" in recorded_tasks(*roots):
            lines = teachers_markdown(load_records(*roots, task="crops"), runs)
            yield f"Their teachers:\n\n{lines}\n"


def _of_crops(roots: Sequence[Path]) -> Iterator[str]:
    """The verdicts on what crops teach detectors, one family a setting and question."""
    runs = _detectors(roots)
    for name, claims in CLAIMS_FAMILIES.items():
        judged = claims_verdicts(runs, claims) if len(runs) else runs
        if len(judged):
            yield f"A neighbour: {name[0].lower()}{name[1:]}. {claims_markdown(judged)}"


def _times(path: Path) -> str:
    """How long each command took in a fresh clone."""
    if not path.exists():
        return "Not measured yet; `python -m benchmarks.commands` does it, in a fresh clone."
    found = json.loads(path.read_text(encoding="utf-8"))
    head = ["command", "minutes", "processor cores", "of", "commit"]
    return markdown_table(head, [_time_row(name, row) for name, row in found.items()])


def _time_row(name: str, row: dict[str, Any]) -> list[str]:
    minutes = f"{row['seconds'] / 60:.0f}"
    return [f"`{name}`", minutes, str(row["cores"]), row["machine"], row["commit"][:7]]


def _step_files(measured: Path) -> list[Path]:
    """One a machine and precision, which their names end in."""
    return sorted(measured.glob("*float*.json"))


def _readme_loading(path: Path) -> str:
    """How fast photographs become batches: a row a size of photograph."""
    if not path.exists():
        return "Not measured yet; `python -m benchmarks.loading` does it."
    record = json.loads(path.read_text(encoding="utf-8"))
    source = record["provenance"]
    head = ["photographs a second", "JPEG", "as bytes: decoded", "from the cache", "times"]
    head += ["as batches: decoded", "from the cache", "times", "cache made"]
    rows = [_loading_row(row) for row in record["photographs"]]
    where = f"{source['machine']}, {source['cores']} cores, commit {source['commit'][:7]}"
    return f"{markdown_table(head, rows)}\n\n{where}."


def _loading_row(row: dict[str, Any]) -> list[str]:
    speeds = [(row["decoded"][kind], row["cached"][kind]) for kind in ("bytes", "batches")]
    cells = [[f"{slow:,}", f"{fast:,}", f"{fast / slow:.1f} ×"] for slow, fast in speeds]
    return [row["size"], f"{row['kilobytes']} kB", *cells[0], *cells[1], f"{row['making']:,}"]


def _steps(paths: Sequence[Path]) -> str:
    """What a step costs: a row a file of ``make bench``."""
    if not paths:
        return "Not measured yet; `make bench` does it."
    head = ["machine", "precision", "AT over its floor", "DCT over its floor", "lock-step of 4"]
    head += ["torchdistill's AT step", "scenes composed a second", "read a second"]
    rows = [_step_row(json.loads(path.read_text(encoding="utf-8"))) for path in paths]
    return markdown_table(head, rows)


def _step_row(record: dict[str, Any]) -> list[str]:
    source, cost, peer = record["provenance"], record["overhead"], record["torchdistill"]
    images = record["images_per_second"]
    theirs = f"{peer['times_our_step']['at']['median']:.2f} × ours" if peer else "–"
    return [
        f"{source['machine']}, {source['device']}",
        source["precision"],
        *(f"{cost[method]['median']:+.1%}" for method in ("at", "dct")),
        f"{record['lock_step']['speedup']['median']:.2f} × as fast",
        theirs,
        *(f"{images[name]:,}" for name in ("composing", "reading")),
    ]
