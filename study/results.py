"""Results of runs: what the notebooks, the command line and the README read.

Records lie in :mod:`study.records`, the table of runs in :mod:`study.records`, the statistics
in :mod:`study.statistics`, the text in :mod:`study.results`; this gathers them.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pandas as pd

from kdlib.errors import KdlibError
from kdlib.files import write_text
from kdlib.losses.dct import PRESETS
from kdlib.methods import METHODS, Method
from kdlib.runs import RunConfig
from kdlib.srm.options import SrmOptions
from kdlib.tasks import TASKS
from study.names import difference_name, name_of
from study.profiles import expand
from study.records import (
    METRICS,
    OF_DETECTORS,
    find_records,
    load_records,
    recorded_tasks,
    summary_table,
)
from study.statistics import (
    ALPHA,
    CLAIMS_FAMILIES,
    COMPARISONS_CLAIMS,
    PIXEL_CLAIMS,
    POWER,
    SPREADS,
    Claim,
    Comparison,
    claims_table,
    claims_verdicts,
    seeds_to_resolve,
    smallest_effect,
)

# Tables as markdown, and the blocks of the README that are made from records.
SMALL_P = 0.001
_OF_IMAGES = {"top1": "top-1 %", "top1_std": "std", "top5": "top-5 %", "mca": "class mean %"}
_OF_DETECTORS = {"map": "mAP %", "map50": "mAP50 %", "map75": "mAP75 %"}
HEADS = {
    "classification": _OF_IMAGES,
    "segmentation": {"miou": "mIoU %", "miou_std": "std", "pixel_accuracy": "pixels %"},
    "detection": {
        name: head
        for metric, shown in _OF_DETECTORS.items()
        for name, head in ((metric, shown), (f"{metric}_std", "std"))
    },
    "crops": _OF_IMAGES,
}
"""Columns that tables show of a task, and what they are called."""


def summary_markdown(summary: pd.DataFrame) -> str:
    """A table for each setting of :func:`study.records.summary_table`; accuracies in percent."""
    blocks = []
    for description, rows in summary.groupby("description", sort=False):
        has_attention = rows[["ssim", "energy_share"]].notna().any()
        heads = HEADS[rows["task"].iloc[0]]
        head = ["method", "n", *heads.values()]
        head += [name for name, shown in _ATTENTION.items() if has_attention[shown]]
        body = [_summary_row(row, heads, has_attention) for row in rows.to_dict("records")]
        blocks.append(f"**{description}**\n\n{markdown_table(head, body)}")
    return "\n".join(blocks)


_ATTENTION = {"SSIM": "ssim", "relevant %": "energy_share"}


def _summary_row(row: dict, heads: Iterable[str], shown: pd.Series) -> list[str]:
    # A variant by what it changes, as in figures; a method as it is asked for.
    label = name_of(row["label"]) if " [" in row["label"] else row["label"]
    cells = [label, str(row["n"])]
    cells += [_points(row[name], 2 if name.endswith("_std") else 1) for name in heads]
    if shown["ssim"]:
        cells.append(number(row["ssim"], ".3f"))
    if shown["energy_share"]:
        cells.append(_points(row["energy_share"]))
    return cells


def comparison_markdown(comparisons: pd.DataFrame) -> str:
    """The table of :func:`study.statistics.compare`: points of percent, or SSIM itself."""
    head = ["claim", "compared", "n", "difference", "95 % interval", "p (Holm)"]
    body = [_comparison_row(row) for row in comparisons.to_dict("records")]
    return markdown_table([*head, "n could resolve", "verdict"], body)


def claims_markdown(claims: pd.DataFrame) -> str:
    """A table of verdicts for each setting of :func:`study.statistics.claims_table`."""
    groups = claims.groupby("description", sort=False)
    return "\n".join(f"**{name}**\n\n{comparison_markdown(rows)}" for name, rows in groups)


def _comparison_row(row: dict) -> list[str]:
    scale, unit, digits = (1, "", 3) if row["metric"] == "ssim" else (100, "", 2)
    headline = row["metric"] in {measures.metric for measures in TASKS.values()}
    what = "" if headline else f", {metric_name(row['metric'])}"

    def show(value: float, sign: str = "+") -> str:
        return number(scale * value, f"{sign}.{digits}f") + unit

    interval = "–" if pd.isna(row["low"]) else f"{show(row['low'])} to {show(row['high'])}"
    return [
        row["claim"],
        f"{row['method']} − {row['baseline']}{what}",
        str(row["n"]),
        show(row["difference"]),
        interval,
        f"< {SMALL_P}" if row["p_holm"] < SMALL_P else number(row["p_holm"], ".3f"),
        show(row["resolvable"], ""),
        row["verdict"],
    ]


METRIC_NAMES = {
    "map50": "mAP50",
    "map75": "mAP75",
    "ap50_less_ap75": "mAP50 − mAP75",
    "ap75_less_ap50": "mAP75 − mAP50",
    "dap_cls": "dAP of classification errors",
    "dap_loc": "dAP of localisation errors",
}


def metric_name(metric: str) -> str:
    """A column of a table as it is written in words."""
    return METRIC_NAMES.get(metric, metric.replace("_", " "))


def _points(fraction: float, digits: int = 1) -> str:
    return number(100 * fraction, f".{digits}f")


def number(value: float, form: str) -> str:
    """A number in a format such as ``+.2f``; a dash where it is missing."""
    return "–" if pd.isna(value) else format(value, form)


def markdown_table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A markdown table, columns aligned so that it reads well in a terminal too."""
    rows = [list(head), *map(list, body)]
    widths = [max(3, *(len(row[i]) for row in rows)) for i in range(len(head))]
    lines = [_markdown_line(row, widths) for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines) + "\n"


def _markdown_line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return "| " + " | ".join(padded) + " |"


def update_block(path: Path, name: str, text: str) -> bool:
    """Put ``text`` between the markers ``<!-- results:NAME -->`` and ``<!-- /results:NAME -->``.

    Returns:
        Whether the file changed.

    Raises:
        KdlibError: the file has not exactly one such pair of markers.
    """
    before = Path(path).read_text(encoding="utf-8")
    start, stop = _block(before, path, name)
    after = f"{before[:start]}\n{text.strip()}\n{before[stop:]}"
    if after != before:
        write_text(Path(path), after)
    return after != before


def check_block(path: Path, name: str, text: str) -> None:
    """Refuse a file whose block differs from ``text``, which was made from the records.

    Raises:
        KdlibError: it differs (says in which line), or the markers are not there.
    """
    whole = Path(path).read_text(encoding="utf-8")
    start, stop = _block(whole, path, name)
    parting = first_difference(whole[start:stop].strip(), text.strip())
    if parting:
        raise KdlibError(
            f"{path}: the block 'results:{name}' differs from the records in its {parting}\n"
            "Make it anew."
        )


def first_difference(found: str, made: str) -> str:
    """The first line in which a file's text differs from what records give; empty if none does."""
    lines = zip_longest(found.splitlines(), made.splitlines(), fillvalue="(no line)")
    for number, (theirs, ours) in enumerate(lines, 1):
        if theirs != ours:
            return f"line {number}:\n  file:    {theirs}\n  records: {ours}"
    return ""


def _block(text: str, path: Path, name: str) -> tuple[int, int]:
    marked = rf"<!-- results:{re.escape(name)} -->(.*?)<!-- /results:{re.escape(name)} -->"
    found = list(re.finditer(marked, text, re.DOTALL))
    if len(found) != 1:
        raise KdlibError(
            f"{path} has {len(found)} blocks 'results:{name}'; it needs one: "
            f"<!-- results:{name} --> ... <!-- /results:{name} -->"
        )
    return found[0].span(1)


# The classifiers that teach detectors: a line each, for there is nothing to compare them with.
def teachers_markdown(crops: pd.DataFrame, detectors: pd.DataFrame | None = None) -> str:
    """A list: how well classifiers know objects that are cut out.

    Args:
        crops: their runs, from ``load_records(..., task="crops")``.
        detectors: only what taught these runs; ``None`` for all.
    """
    if detectors is not None and len(crops):
        taught = set(detectors["teacher_setting"].dropna())
        crops = crops[crops["setting"].isin(taught)]
    order = ["split", "dataset", "student", "crop_size", "setting"]
    return "\n".join(_teachers_line(rows) for _, rows in crops.groupby(order, sort=True))


def _teachers_line(rows: pd.DataFrame) -> str:
    first, top1 = rows.iloc[0], 100 * rows["top1"]
    spread = f" ± {number(top1.std(), '.2f')}" if len(rows) > 1 else ""
    where = ", dev split" if first["split"] == "dev" else ""
    side = first["crop_size"]
    return (
        f"* {first['student']}, which learnt the objects of {first['dataset']}{where} cut out and "
        f"made {side} x {side} pixels, names {top1.mean():.1f}{spread} % of them rightly, "
        f"n {len(rows)}."
    )


# The registry as a table: what a method computes, where it comes from, what it starts from.
HEAD = ["method", "loss", "weight", "options", "source"]


def methods_markdown() -> str:
    """A row a method: formula, default weight, options with their defaults, source."""
    return markdown_table(HEAD, [_row(name, method) for name, method in METHODS.items()])


def describe(name: str, method: Method) -> str:
    """The same of one method, as the command line prints it."""
    facts = [f"weight {_weight(name, method)}", *_method_table_options(name, method)]
    return f"{name:15} {method.source}\n{'':15} {method.formula}\n{'':15} {', '.join(facts)}"


def _row(name: str, method: Method) -> list[str]:
    options = ", ".join(_method_table_options(name, method)) or "–"
    return [f"`{name}`", method.formula, _weight(name, method), options, method.source]


def _weight(name: str, method: Method) -> str:
    """KD's is a field of its own, since it is added to other methods too."""
    if name == "kd":
        return f"{RunConfig().kd_weight:g}"
    return f"{method.weight:g}" if method.build else "–"


def _method_table_options(name: str, method: Method) -> list[str]:
    found = [f"{option} {value}" for option, value in method.options.items()]
    if name == "kd":
        found.append(f"temperature {RunConfig().temperature}")
    if method.warmup:
        found.append(f"warm-up over {method.warmup:.0%} of the training")
    if method.ce_weight != 1:
        found.append(f"cross-entropy {method.ce_weight:g}")
    return [*found, "those of SpectralOptions"] if name in {*PRESETS, "dct_options"} else found


# Sentences that read a result, made from its table: none can say what the table does not.
SHARES = (*METRICS, *OF_DETECTORS, *SPREADS, "energy_share", "pointing")
MEASURES = {
    "top1": "accuracy",
    "miou": "mIoU",
    "map": "mAP",
    "ssim": "SSIM",
    "energy_share": "relevance",
}


def read_comparison(row: Mapping[str, Any]) -> str:
    """Verdict, numbers and reason of a row of :func:`study.statistics.judge`, as markdown."""
    head = f"**{row['claim']}: {row['verdict']}.**"
    pair = difference_name(row["method"], row["baseline"])
    if row["n"] == 0:
        return f"{head} The two have no seed in common."
    metric = row["metric"]
    mean = f"{pair} is {amount(row['difference'], metric)}"
    if row["n"] == 1:
        return f"{head} {mean} with one seed, and one seed decides nothing."
    interval = f"{amount(row['low'], metric, unit='')} to {amount(row['high'], metric)}"
    could = amount(row["resolvable"], metric, sign="")
    return (
        f"{head} {mean} (95 % interval {interval}; p after Holm's correction "
        f"{_probability(row['p_holm'])}; n = {row['n']} could resolve {could}). {_reason(row)}"
    )


def _reason(row: Mapping[str, Any]) -> str:
    """Why the rule gives this verdict."""
    if row["verdict"] == "holds":
        return f"The interval lies above 0 and the corrected p is below {ALPHA}."
    if row["high"] < 0:
        return "The interval lies wholly below 0: the reverse is what was seen."
    least = amount(smallest_effect(row["metric"]), row["metric"], sign="")
    if row["verdict"] == "does not hold":
        return f"The interval lies wholly below {least}, the smallest difference that matters."
    if row["low"] > 0:
        return f"The interval lies above 0, but the corrected p is not below {ALPHA}."
    return f"The interval has room for no gain and for one that matters, {least}."


def read_claims(claims: pd.DataFrame, wanted: Iterable[Claim]) -> str:
    """A list in markdown: :func:`read_comparison` of each claim, or what it would need.

    Args:
        claims: of one setting, from :func:`study.statistics.claims_table`; may be empty.
        wanted: the claims to read, in this order.
    """
    tested = {row["claim"]: row for row in claims.to_dict("records")}
    lines = [
        read_comparison(tested[claim.text])
        if claim.text in tested
        else f"**{claim.text}: not tested here.** It needs `{claim.method}` and "
        f"`{claim.baseline}`, with their {MEASURES.get(claim.metric, metric_name(claim.metric))}."
        for claim in wanted
    ]
    return "\n".join(f"* {line}" for line in lines)


def read_accuracy(accuracy: pd.DataFrame) -> str:
    """The highest mean, and how much of the way from student to teacher it goes.

    Args:
        accuracy: from :func:`study.figures.comparison.method_accuracy_table`.
    """
    means = accuracy.groupby("label")["mean"].first()
    students = means.drop("teacher", errors="ignore")
    best = str(students.idxmax())
    text = f"The highest mean of {len(students)} methods is that of {name_of(best)}: "
    text += f"{means[best]:.1%}."
    if {"student", "teacher"} <= set(means.index) and means["teacher"] > means["student"]:
        share = (means[best] - means["student"]) / (means["teacher"] - means["student"])
        text += f" The student alone has {means['student']:.1%}, the teacher "
        text += f"{means['teacher']:.1%}; so it closes {share:.0%} of the gap."
    return text + " The highest of several means is high by luck too: the paired tests decide."


def read_noise(noise: Comparison) -> str:
    """How large differences are that are nothing but noise, and what follows for n.

    Args:
        noise: the comparison of a method with its twin.
    """
    if noise.n < 2:
        return "The noise cannot be measured: that takes two seeds of both methods or more."
    least = smallest_effect(noise.metric)
    needed = seeds_to_resolve(least, noise.std)
    seeds = f"{needed} seeds" if needed else "more than 200 seeds"
    return (
        f"{name_of(noise.method)} and {name_of(noise.baseline)} have the same loss, and still "
        f"differ by {amount(noise.difference, noise.metric)} on average, with a standard "
        f"deviation of {amount(noise.std, noise.metric, sign='')} from seed to seed. With that "
        f"scatter n = {noise.n} can find a true difference of "
        f"{amount(noise.resolvable, noise.metric, sign='')} with probability {POWER:.0%}; to find "
        f"{amount(least, noise.metric, sign='')} it would take {seeds}."
    )


def read_stages(data: pd.DataFrame) -> str:
    """The highest student and its runner-up at each stage, as a list in markdown.

    Args:
        data: one measure of a table such as :func:`study.figures.attention.ssim_by_stage_table`.
    """
    students = data[data["label"] != "teacher"]
    lines = []
    for stage, rows in students.groupby("stage"):
        ranked = rows.sort_values("mean", ascending=False).to_dict("records")
        lines.append(f"* Stage {stage}: {_leaders(ranked)}")
    return "\n".join(lines)


def _leaders(ranked: list[dict[Any, Any]]) -> str:
    first = f"the highest is {name_of(ranked[0]['label'])}, {ranked[0]['mean']:.3f}"
    if len(ranked) == 1:
        return f"{first}; it is the only one."
    second = f"{first}; next is {name_of(ranked[1]['label'])}, {ranked[1]['mean']:.3f}"
    if pd.isna(ranked[0]["low"]) or pd.isna(ranked[1]["high"]):
        return f"{second}. One seed has no interval."
    overlap = "overlap" if ranked[0]["low"] <= ranked[1]["high"] else "do not overlap"
    return f"{second}. Their intervals {overlap}."


def amount(value: float, metric: str, sign: str = "+", unit: str = " points") -> str:
    """A difference as it is written: points of percent, or the measure itself (SSIM).

    Args:
        value: a fraction, as all tables have it.
        metric: what it is a difference of.
        sign: ``+`` to write the sign always.
        unit: what follows a difference of shares.
    """
    if metric in SHARES:
        return f"{100 * value:{sign}.2f}{unit}"
    return f"{value:{sign}.3f}"


def _probability(p: float) -> str:
    if pd.isna(p):
        return "–"
    return f"< {SMALL_P}" if p < SMALL_P else f"{p:.3f}"


def of_profile(
    table: pd.DataFrame, profile: str, epochs: int | None = None, images: int | None = None
) -> pd.DataFrame:
    """The runs of a profile and their teachers, whichever methods and seeds were asked for.

    Args:
        table: runs.
        profile: name of the profile.
        epochs: of students and teachers, if the profile was cut to so many.
        images: of the training set, if the profile was cut to so many.

    Raises:
        KdlibError: no such profile, or none of its runs is in the table.
    """
    chosen = _finished_of(table, profile, epochs, images)
    _check_any([chosen], profile)
    return chosen


def _finished_of(
    table: pd.DataFrame, profile: str, epochs: int | None = None, images: int | None = None
) -> pd.DataFrame:
    methods, seeds = sorted(set(table["method"])), sorted(set(table["init_seed"]))
    runs = [
        run
        for dataset in sorted(set(table["dataset"]))
        for some, of in ((None, None), (methods, seeds))
        for run in expand(profile, dataset, some, of, epochs, images)
    ]
    names = {run.run_id for run in runs}
    names |= {run.teacher_config().run_id for run in runs if run.teacher != "none"}
    return table[table["run_id"].isin(names)]


def _check_any(tables: Iterable[pd.DataFrame], profile: str) -> None:
    if all(table.empty for table in tables):
        raise KdlibError(f"No run of profile '{profile}' is finished; make reproduce runs it.")


def print_results(roots: list[Path], profile: str | None = None, **cut: int | None) -> None:
    """Print the summary of each setting and the verdicts on the claims, as markdown.

    Tasks have tables of their own: classification first, then what else the records hold.

    Args:
        roots: folders of runs or records.
        profile: show only its runs.
        **cut: epochs and images, if the profile was cut to so many.
    """
    tables = {task: load_records(*roots, task=task) for task in recorded_tasks(*roots)}
    if profile is not None:
        tables = {task: _finished_of(table, profile, **cut) for task, table in tables.items()}
        _check_any(tables.values(), profile)
    for task, chosen in tables.items():
        if len(chosen):
            print("\n".join(PRINTED.get(task, _printed)(chosen)))


def _printed(table: pd.DataFrame) -> Iterator[str]:
    yield summary_markdown(summary_table(table))
    claims = claims_table(table, (*COMPARISONS_CLAIMS, *PIXEL_CLAIMS))
    if len(claims):
        yield claims_markdown(claims)


def _printed_detectors(table: pd.DataFrame) -> Iterator[str]:
    yield summary_markdown(summary_table(table))
    for name, claims in CLAIMS_FAMILIES.items():
        judged = claims_verdicts(table, claims)
        if len(judged):
            yield f"{name}. {claims_markdown(judged)}"


def _printed_crops(table: pd.DataFrame) -> Iterator[str]:
    yield f"Classifiers that teach detectors:\n\n{teachers_markdown(table)}\n"


PRINTED = {"detection": _printed_detectors, "crops": _printed_crops}
"""What is printed of tasks that have other claims, or none."""


# Records of SRM as tables: its dictionaries, its probes, and runs by their options.
SWITCHES = ("targets", "release", "classifier")
GRID = ("mu", "sparsity")


def dictionary_table(*roots: Path) -> pd.DataFrame:
    """A row for each stage of each dictionary: what it was learned with, how well it describes.

    Columns: ``run_id``, ``dataset``, ``split``, ``teacher``, ``mu``, ``sparsity``, ``stage`` (1
    is the finest) and those of :meth:`kdlib.srm.atoms.StageTally.summary`. Empty if no
    dictionary was learned.
    """
    rows = [
        {**_identity(record), "stage": number, **_but(stage, "codings")}
        for record in _of_method("srm_dictionary", roots)
        for number, stage in enumerate(record["dictionary"]["stages"], 1)
    ]
    return pd.DataFrame(rows)


def coding_table(*roots: Path) -> pd.DataFrame:
    """A row for each way of coding that a recorded dictionary was compared with.

    Columns: as :func:`dictionary_table` up to ``stage``, then those of
    :func:`kdlib.srm.atoms.compare_with_centroids`. Empty if no record has such a comparison.
    """
    rows = [
        {**_identity(record), "stage": number, **coding}
        for record in _of_method("srm_dictionary", roots)
        for number, stage in enumerate(record["dictionary"]["stages"], 1)
        for coding in stage.get("codings", [])
    ]
    return pd.DataFrame(rows)


def shares_of(table: pd.DataFrame) -> pd.DataFrame:
    """Energy explained: a row a dictionary and way of coding, a column a stage.

    Args:
        table: of :func:`coding_table`, of one run.
    """
    return table.pivot_table("explained", ["dictionary", "code"], "stage", sort=False)


def read_codings(shares: pd.DataFrame) -> str:
    """At which stages SRM's codes, and then its atoms, do better than k-means."""
    own, centroids = shares.loc[("SRM", "its own")], shares.xs("k-means", level="dictionary")
    nearest = centroids.drop("matching pursuit").max()
    pursuit = shares.xs("matching pursuit", level="code")
    better = [str(stage) for stage in shares if own[stage] > nearest[stage]]
    also = [str(stage) for stage in shares if pursuit[stage]["SRM"] > pursuit[stage]["k-means"]]
    return (
        f"SRM's own codes explain more than the better code of the centroids at {len(better)} of "
        f"{shares.shape[1]} stages ({', '.join(better) or 'none'}). With the same search for "
        f"codes, its atoms are the better dictionary at {len(also)} ({', '.join(also) or 'none'})."
    )


def probe_table(*roots: Path) -> pd.DataFrame:
    """A row for each initialised student: its options, and the accuracy of its linear probe."""
    rows = [
        {**_identity(record), "student": record["config"]["student"],
         "init_seed": record["config"]["init_seed"], "top1": record["results"]["top1"]}
        for record in _of_method("srm_init", roots)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _of_method(method: str, roots: tuple[Path, ...]) -> Iterator[dict[str, Any]]:
    for record in find_records(*roots).values():
        if record["config"]["method"] == method:
            yield record


def _but(entries: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in entries.items() if key != name}


def _identity(record: Mapping[str, Any]) -> dict[str, Any]:
    config = record["config"]
    named = {name: config[name] for name in ("dataset", "split", "teacher")}
    return {"run_id": record["run_id"], **named, **_tables_options(config["method_options"])}


def _tables_options(given: Mapping[str, Any]) -> dict[str, Any]:
    options = asdict(SrmOptions.given(given))
    return {name: options[name] for name in (*GRID, *SWITCHES)}


def with_options(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs of SRM, with a column for each of its options, its default where none was given.

    Args:
        runs: rows of :func:`study.records.load_records`; those of other methods are left out.
    """
    own = runs[runs["method"].isin(["srm", "srm+kd"])].reset_index(drop=True)
    options = pd.DataFrame([_tables_options(json.loads(text)) for text in own["method_options"]])
    return own.join(options)


def grid_of(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean top-1 of SRM alone by ``mu`` (rows) and ``sparsity``; all else at its default."""
    return _alone(runs, SWITCHES).pivot_table("top1", *GRID)


def switches_of(runs: pd.DataFrame) -> pd.DataFrame:
    """Top-1 of SRM alone with one of its switches changed, beside its defaults.

    Only runs with the most frequent size of dictionaries and codes count.

    Returns:
        Rows are seeds, columns ``default`` and each switch that was tried, such as
        ``targets local``.
    """
    own = _alone(runs, ())
    if own.empty:
        return pd.DataFrame()
    mu, sparsity = own.groupby(list(GRID)).size().idxmax()
    own = own[(own["mu"] == mu) & (own["sparsity"] == sparsity)]
    return own.assign(switch=[_changed(row) for row in own.to_dict("records")]).pivot_table(
        "top1", "init_seed", "switch"
    )


def _alone(runs: pd.DataFrame, at_default: tuple[str, ...]) -> pd.DataFrame:
    own = with_options(runs[runs["method"] == "srm"])
    for name in at_default if len(own) else ():
        own = own[own[name] == getattr(SrmOptions(), name)]
    return own if len(own) else pd.DataFrame(columns=[*GRID, "top1"])


def _changed(row: Mapping[str, Any]) -> str:
    """The switches of a run that are not at their defaults, in words."""
    plain = SrmOptions()
    found = [f"{n} {row[n]}" for n in SWITCHES if row[n] != getattr(plain, n)]
    return ", ".join(found).replace("False", "no").replace("True", "yes") or "default"
