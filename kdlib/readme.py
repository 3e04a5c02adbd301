"""Blocks of the README and of the pages in docs/: numbers come from records and measurements."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from kdlib.comparisons import FAMILIES, claims_table
from kdlib.detection.claims import FAMILIES as DETECTOR_FAMILIES
from kdlib.detection.claims import main_runs
from kdlib.detection.claims import verdicts as detector_verdicts
from kdlib.detection.teachers import teachers_markdown
from kdlib.docs_blocks import PAGES
from kdlib.figure_tables import method_accuracy
from kdlib.ledger import make_ledger
from kdlib.ledger.sections import counts_markdown
from kdlib.markdown import (
    check_block,
    claims_markdown,
    comparison_markdown,
    markdown_table,
    summary_markdown,
    update_block,
)
from kdlib.method_table import methods_markdown
from kdlib.profile_table import profiles_markdown
from kdlib.readings import read_accuracy
from kdlib.refinement import SELF_TAUGHT, self_taught_runs, verdicts
from kdlib.run_table import describe_setting, load_records, recorded_tasks, summary_table
from kdlib.runs import RunConfig
from kdlib.selection import runs_of

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
        "headline": read_accuracy(method_accuracy(runs[0])),
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
        "loading": _loading(measured / LOADING),
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


def _main_runs(table: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """The runs of each data set's main comparison, on its test set; Scenes first."""
    usual = RunConfig()
    taught = table[table["method"] != "student"]
    main = taught[(taught["split"] == "train") & (taught["attentions"] == usual.attentions)]
    for dataset in sorted(set(main["dataset"]), key=lambda name: (name != usual.dataset, name)):
        yield runs_of(table, dataset, usual.attentions)


def _claims(runs: pd.DataFrame) -> str:
    """The verdicts of each family of claims that these runs can test."""
    tables = {name: claims_table(runs, claims) for name, claims in FAMILIES.items()}
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
            judged = verdicts(self_taught_runs(table, runs, method), claims)
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
    for name, claims in DETECTOR_FAMILIES.items():
        judged = detector_verdicts(runs, claims) if len(runs) else runs
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


def _loading(path: Path) -> str:
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
