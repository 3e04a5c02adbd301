"""The pages of the project, from templates, records and measurements: no number is typed by hand.

``README.md``, ``RESULTS.md`` and the pages of ``docs/`` are each made from their namesake in
``study/templates`` (jinja2). To change a page, change its template and make it anew.
"""

import json
from collections.abc import Iterator, Sequence
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from kdlib.data import DATASETS
from kdlib.files import write_text
from kdlib.methods import METHODS, STAGES, tuned_field
from kdlib.runs import RunConfig
from study import results
from study.confirm import PLAN, Study
from study.ledger.page import Ledger, counts_markdown, make_ledger
from study.names import name_of
from study.profiles import expand, profile_names, read_profile
from study.records import load_tables, summary_table, superseded
from study.statistics import STUDENT, main_runs
from study.tuning import at_edge, grid_scores, smoothed

TEMPLATES = Path(__file__).parent / "templates"
MEASUREMENTS, RECORDS = Path("benchmarks/results"), Path("records")
APART = ("segmentation", "detection")  # tasks of other papers, whose runs are not the study's
PAGES = [path.relative_to(TEMPLATES).as_posix() for path in sorted(TEMPLATES.rglob("[!_]*.md"))]


class Evidence:
    """What templates ask of the records under some folders."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self.roots = roots

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The runs of each task."""
        return load_tables(*self.roots)

    @cached_property
    def study(self) -> Study:
        """What the study of the plan found."""
        return Study(self.roots)

    @cached_property
    def superseded(self) -> dict[str, list[str]]:
        """The runs that no longer count, by the reason."""
        return superseded(*self.roots)

    @cached_property
    def ledger(self) -> Ledger:
        """The published numbers beside ours."""
        return make_ledger(pd.concat(self.tables.values(), ignore_index=True))

    @cached_property
    def settings(self) -> dict[str, list[str]]:
        """By task beside the study's: the settings on test sets, the largest first."""
        return {task: _main_settings(runs) for task, runs in self.tables.items() if task in APART}

    def summary(self, task: str) -> str:
        """A table of each setting: every method's accuracy and maps."""
        runs = self._main(task)
        rows = summary_table(main_runs(runs) if task == "detection" else runs)
        return results.summary_markdown(rows)

    def differences(self, task: str) -> str:
        """A table of each setting of all that is compared, exploratory."""
        found = results.differences_of(self.tables[task], self.settings[task])
        tables = (f"**{title}**\n\n{results.differences_markdown(rows)}" for title, rows in found)
        return "\n".join(tables)

    def _main(self, task: str) -> pd.DataFrame:
        table = self.tables[task]
        return table[table["setting"].isin(self.settings[task])]

    def finished(self, profile: str) -> tuple[int, int]:
        """How many runs of a profile have a record, of how many."""
        runs = expand(profile)
        return sum(run.run_id in self.study.records for run in runs), len(runs)

    @property
    def tuning(self) -> dict[str, dict[float, float]]:
        """Accuracy on the dev split by each method's weight in the study's grid."""
        planned = {run.run_id for run in expand("study_tune")}
        found = [one for name, one in self.study.records.items() if name in planned]
        return grid_scores(one for one in found if tuned_field(one["config"]["method"]))

    def status(self, name: str) -> int:
        """How many published numbers have a status of the ledger's."""
        return int((self.ledger.numbers["status"] == name).sum())

    @property
    def crop_classifiers(self) -> str:
        """How good the classifiers are that taught the detectors of the main comparisons."""
        crops, main = self.tables["crops"], self._main("detection")
        return results.teachers_markdown(crops[crops["setting"].isin(set(main["teacher_setting"]))])


def _main_settings(table: pd.DataFrame) -> list[str]:
    """Of test sets, with the plain network and another method; the largest first."""
    tested = table[table["split"] == "train"]
    several = tested.groupby("setting")["method"].nunique() > 1
    sizes = tested.loc[tested["method"] != STUDENT, "setting"].value_counts()
    return [setting for setting in sizes.index if several[setting]]


# Templates: what they can use, and the pages that they make.
def measured(folder: Path, name: str) -> Any:
    """A record of ``benchmarks/results``, if it was measured; of a pattern (``*``) their list."""
    found = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob(name))]
    return found if "*" in name else next(iter(found), None)


@cache
def environment() -> Environment:
    """Templates, with the project's tables and formats."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    made.filters |= {
        "table": aligned, "fmt": results.number, "amount": results.amount, "name": name_of,
        "metric_name": results.metric_name, "method_row": method_row,
        "probability": results.probability, "lower_first": lambda text: text[0].lower() + text[1:],
    }  # fmt: skip
    made.globals |= {
        "METHODS": METHODS, "STAGES": STAGES, "DATASETS": DATASETS,
        "profile_names": profile_names, "read_profile": read_profile,
        "at_edge": at_edge, "smoothed": smoothed, "PLAN": PLAN, "summary": results.summary_markdown,
        "counts": counts_markdown, "markdown_table": results.markdown_table,
    }  # fmt: skip
    return made


def method_row(name: str) -> dict[str, str]:
    """What the registry says of a method, by the heads of its table."""
    method, usual = METHODS[name], RunConfig()
    options = [f"{option} {value}" for option, value in method.options.items()]
    if name == "kd":  # whose options are a run's own, since it is added to other methods too
        options.append(f"temperature {usual.temperature}")
    if method.warmup:
        options.append(f"warm-up over {method.warmup:.0%} of the training")
    if method.ce_weight != 1:
        options.append(f"cross-entropy {method.ce_weight:g}")
    if str(method.build).startswith("kdlib.losses.dct:"):
        options.append("those of SpectralOptions")
    weight = usual.kd_weight if name == "kd" else method.weight if method.build else None
    return {
        "method": f"`{name}`", "loss": method.formula,
        "weight": "–" if weight is None else f"{weight:g}",
        "options": ", ".join(options) or "–", "source": method.source,
    }  # fmt: skip


def aligned(text: str) -> str:
    """Lines of cells between bars as a markdown table; the first line is its head."""
    lines = [line.split(" | ") for line in text.splitlines() if line.strip()]
    head, *rows = [[cell.strip() for cell in line] for line in lines]
    return results.markdown_table(head, rows)


def part(template: str, macro: str, given: Any) -> str:
    """What a macro of a template makes of ``given``."""
    return str(getattr(environment().get_template(template).module, macro)(given))


def found(roots: Sequence[Path], full: bool = False) -> str:
    """What the study found, with its table if ``full``; empty for a folder of other runs."""
    study = Study(roots)
    if not (study.begun or [*roots] == [RECORDS]):
        return ""
    return part("_found.md", "told_in_full" if full else "told", study)


def page(name: str, measurements: Path, evidence: Evidence | None = None) -> str:
    """The text of a page, such as ``docs/speed.md``; those of ``docs/`` need no records."""
    given = {"e": evidence, "m": partial(measured, measurements)}
    return environment().get_template(name).render(given)


def rendered(readme: Path, roots: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Each page beside a README, where measurements lie too, and the text that it should have."""
    folder, evidence = Path(readme).parent, Evidence(roots)
    for name in PAGES:
        yield folder / name, page(name, folder / MEASUREMENTS, evidence)


def update_readme(readme: Path, roots: Sequence[Path]) -> list[str]:
    """Make every page anew; returns the names of those that changed."""
    changed = []
    for path, text in rendered(readme, roots):
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
            changed.append(path.relative_to(Path(readme).parent).as_posix())
    return changed
