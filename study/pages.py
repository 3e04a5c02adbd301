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
from kdlib.methods import METHODS, STAGES
from kdlib.runs import RunConfig
from study import results
from study.confirm import PLAN, Study
from study.ledger.page import Ledger, counts_markdown, make_ledger
from study.names import name_of
from study.profiles import profile_names, read_profile, tuned_weights
from study.records import load_tables, runs_of, summary_table, superseded, teacher_runs
from study.statistics import STUDENT, akin, judged_families, main_runs
from study.tuning import at_edge, dev_records, grid_scores

TEMPLATES = Path(__file__).parent / "templates"
MEASUREMENTS = Path("benchmarks/results")
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
        """By task: the settings of the main comparisons on test sets, Scenes first."""
        return {task: _main_settings(task, runs) for task, runs in self.tables.items()}

    @cached_property
    def families(self) -> dict[str, dict[str, pd.DataFrame]]:
        """By task: the verdicts of each family of claims in these settings, by its title."""
        found = {}
        for task, table in self.tables.items():
            pairs = [(title, self._main(rows, task)) for title, rows in judged_families(table)]
            found[task] = {title: rows for title, rows in pairs if len(rows)}
        return found

    def _main(self, rows: pd.DataFrame, task: str) -> pd.DataFrame:
        """Those of the main settings, in their order."""
        settings = self.settings[task]
        kept = rows[rows["setting"].isin(settings)]
        return kept.sort_values("setting", key=lambda one: one.map(settings.index), kind="stable")

    def summary(self, task: str) -> str:
        """A table of each setting: every method's accuracy and maps."""
        table = self.tables[task]
        rows = summary_table(main_runs(table) if task == "detection" else table)
        return results.summary_markdown(self._main(rows, task))

    def claims(self, task: str) -> str:
        """A table of each family and setting: the claims and their verdicts."""
        titled = self.families[task].items()
        tables = ((title, results.claims_markdown(rows)) for title, rows in titled)
        return "\n".join(f"### {title}\n\n{table}" for title, table in tables)

    @property
    def datasets(self) -> list[str]:
        """The data set of each setting of the classifiers."""
        runs = self.tables["classification"].drop_duplicates("setting").set_index("setting")
        return runs.loc[self.settings["classification"], "dataset"].tolist()

    def status(self, name: str) -> int:
        """How many published numbers have a status of the ledger's."""
        return int((self.ledger.numbers["status"] == name).sum())

    @property
    def crop_classifiers(self) -> str:
        """How good the classifiers are that taught the detectors of the main comparisons."""
        crops, main = self.tables["crops"], self._main(self.tables["detection"], "detection")
        return results.teachers_markdown(crops[crops["setting"].isin(set(main["teacher_setting"]))])

    @cached_property
    def accuracies(self) -> pd.DataFrame:
        """Of the first setting: ``mean`` top-1 and ``name`` of each method, best first."""
        means = summary_table(self.runs).set_index("label")["top1"]
        students = means.drop("teacher", errors="ignore").sort_values(ascending=False)
        return pd.DataFrame({"mean": students, "name": students.index.map(name_of)})

    @property
    def runs(self) -> pd.DataFrame:
        """The runs of the first setting, and their teachers."""
        table = self.tables["classification"]
        return runs_of(table, self.datasets[0], RunConfig.attentions)

    @property
    def teacher(self) -> float:
        """The accuracy of the teacher of the first setting."""
        return teacher_runs(self.runs, self.settings["classification"][0])["top1"].mean()

    @property
    def plain(self) -> list[dict[Any, Any]]:
        """Of plain students that differ from the first setting's in epochs alone: epochs, mean."""
        alike = akin(self.tables["classification"], self.runs, "epochs")
        plain = alike[alike["method"] == STUDENT].groupby("epochs")["top1"]
        return plain.agg(["mean", "size"]).reset_index().to_dict("records")


def _main_settings(task: str, table: pd.DataFrame) -> list[str]:
    usual = RunConfig()
    taught = table[(table["split"] == "train") & (table["method"] != STUDENT)]
    if task == "detection":
        several = table.groupby("setting")["method"].nunique() > 1
        sizes = taught["setting"].value_counts()  # the largest first
        return [setting for setting in sizes.index if several[setting]]
    main = taught[taught["attentions"] == usual.attentions]
    datasets = sorted(set(main["dataset"]), key=lambda name: (name != usual.dataset, name))
    return [str(runs_of(table, one, usual.attentions)["setting"].iloc[0]) for one in datasets]


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
        "at_edge": at_edge, "grid_scores": grid_scores, "dev_records": dev_records,
        "tuned_weights": tuned_weights,
        "PLAN": PLAN, "summary": results.summary_markdown, "counts": counts_markdown,
        "markdown_table": results.markdown_table,
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


def found(roots: Sequence[Path], profile: str | None = None) -> str:
    """What the study found; empty for another profile, or without a run of its plan."""
    study = Study(roots)
    told = profile in (None, *PLAN["profiles"]) and study.begun
    return part("_found.md", "told", study) if told else ""


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
