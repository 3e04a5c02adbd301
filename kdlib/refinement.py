"""What self-distillation (FRSKD) gains over the plain student, from records.

Runs of ``frskd_options`` get a name that says what they change, and the plain student that was
trained for as many operations as FRSKD takes is a row of its own beside the usual one.
"""

import json
from collections.abc import Sequence

import pandas as pd

from kdlib.budget import plain_epochs
from kdlib.comparisons import Claim, Comparison, judge, paired_comparison
from kdlib.run_table import SEEDS, VARIANT
from kdlib.runs import RunConfig
from kdlib.tasks import TASKS

FRSKD, PLAIN, LONGER = "frskd", "student", "student, equal compute"
OF_PIXELS = "frskd_pixels"
JOINT = "frskd_joint"
CLAIMS = (
    Claim("FRSKD helps a student at equal epochs", FRSKD, PLAIN),
    Claim("FRSKD helps a student at equal compute", FRSKD, LONGER),
    Claim("It helps with the published weights", "frskd_published", PLAIN),
    Claim("Training the two networks together is enough", JOINT, PLAIN),
    Claim("Distilling adds to training together", FRSKD, JOINT),
    Claim("The feature term helps", FRSKD, "frskd_logits"),
    Claim("The labels felt through the self-teacher help", FRSKD, "frskd_detached"),
    Claim("The DCT term does better than the AT term", "frskd_dct", FRSKD),
)
PIXEL_CLAIMS = (
    Claim("FRSKD helps segmentation at equal epochs", OF_PIXELS, PLAIN, "miou"),
    Claim("FRSKD helps segmentation at equal compute", OF_PIXELS, LONGER, "miou"),
)
SELF_TAUGHT = {"classification": (FRSKD, CLAIMS), "segmentation": (OF_PIXELS, PIXEL_CLAIMS)}
"""By task: FRSKD there, and what is claimed of it."""


def self_taught_runs(
    table: pd.DataFrame, students: pd.DataFrame, method: str = FRSKD
) -> pd.DataFrame:
    """FRSKD's runs in a setting, its variants, and the plain students to compare them with.

    Args:
        table: all runs, from :func:`kdlib.run_table.load_records`.
        students: runs of one setting of them, from :func:`kdlib.selection.runs_of`.
        method: whose operations the longer plain students were given.

    Returns:
        Rows of ``table`` under one ``setting``, ``label`` telling them apart.
    """
    main = students[students["setting"] == students["setting"].iloc[0]]
    own = main[main["method"].str.fullmatch(r"student|kd|frskd.*")]
    own = own.assign(
        label=[_name(*pair) for pair in zip(own["method"], own["method_options"], strict=True)]
    )
    longer = longer_students(table, main, method)
    longer = longer.assign(setting=main["setting"].iloc[0], label=LONGER)
    return pd.concat([own, longer], ignore_index=True)


def _name(method: str, options: str) -> str:
    """A run's method; of ``frskd_options`` what it changes: both weights 0, or the feature."""
    if method != "frskd_options":
        return method
    changed = json.loads(options)
    if changed.get("alpha") == 0 and changed.get("beta") == 0:
        return JOINT
    return f"frskd_{changed['feature']}" if "feature" in changed else method


def longer_students(
    table: pd.DataFrame, students: pd.DataFrame, method: str = FRSKD
) -> pd.DataFrame:
    """Plain students of a setting but for the epochs, which FRSKD's operations would pay for."""
    taught = students[students["method"] == method]
    if taught.empty:
        return table.iloc[:0]
    first = taught.iloc[0]
    config = RunConfig(
        student=first["student"], method=method, image_size=int(first["image_size"]),
        task=first["task"],
        method_options=json.loads(first["method_options"]), epochs=int(first["epochs"]),
    )  # fmt: skip
    alike = akin(table, students, "epochs")
    return alike[(alike["method"] == PLAIN) & (alike["epochs"] == plain_epochs(config))]


def akin(table: pd.DataFrame, students: pd.DataFrame, field: str) -> pd.DataFrame:
    """Runs that differ from those of a setting in ``field``, method and seeds alone."""
    config = table.columns[: table.columns.get_loc("top1")]
    shared = [name for name in config if name not in {"method", field, *VARIANT, *SEEDS}]
    values = table[shared].astype(str).fillna("")  # what is missing in both is alike
    wanted = values[table["run_id"] == students["run_id"].iloc[0]].iloc[0]
    return table[values.eq(wanted).all(axis=1)]


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """A row a label: ``n``, the metric with ``std``, ``self_teacher``, ``epochs``.

    Args:
        runs: from :func:`self_taught_runs`.
    """
    metric = TASKS[runs["task"].iloc[0]].metric
    found = runs.groupby("label", sort=False).agg(
        n=(metric, "size"), **{metric: (metric, "mean")}, std=(metric, "std"),
        self_teacher=(f"self_teacher_{metric}", "mean"), epochs=("epochs", "first"),
    )  # fmt: skip
    return found.sort_index(key=lambda labels: [_place(label) for label in labels])


def _place(label: str) -> tuple[bool, str]:
    """The plain students first."""
    return label.startswith(FRSKD), label


def verdicts(runs: pd.DataFrame, claims: Sequence[Claim] = CLAIMS) -> pd.DataFrame:
    """Those of ``claims`` whose runs are there, judged as one family (see ``comparisons``)."""
    known = set(runs["label"])
    tested = [claim for claim in claims if {claim.method, claim.baseline} <= known]
    found: dict[str, Comparison] = {
        claim.text: paired_comparison(runs, claim.method, claim.baseline, claim.metric)
        for claim in tested
    }
    return judge(found) if found else pd.DataFrame()


def gains_by(
    field: str, table: pd.DataFrame, students: pd.DataFrame, methods: Sequence[str] = (FRSKD,)
) -> pd.DataFrame:
    """What methods gain over the plain student, a row a value of a field of the config.

    Args:
        field: what varies, such as ``augmentation`` or ``epochs``; all else is as in ``students``.
        table: all runs, from :func:`kdlib.run_table.load_records`.
        students: runs of one setting of them.
        methods: each is compared with the plain student of the same value and seeds.

    Returns:
        Columns ``field``, ``method``, ``student`` and ``distilled`` (mean top-1 of both),
        ``self_teacher``, ``gain`` and ``n``; seeds that both have alone are counted.
    """
    alike = akin(table, students, field)
    rows = [
        {field: value, "method": method, **_means(same, method)}
        for value, same in alike.groupby(field)
        for method in methods
    ]
    found = pd.DataFrame(rows, columns=[field, "method", PLAIN, "distilled", "self_teacher", "n"])
    found = found[found["n"] > 0].reset_index(drop=True)
    return found.assign(gain=found["distilled"] - found[PLAIN])


def _means(runs: pd.DataFrame, method: str) -> dict[str, float]:
    """Means over the seeds that a method and the plain student share."""
    plain, own = (runs[runs["method"] == name].set_index([*SEEDS]) for name in (PLAIN, method))
    both = own.join(plain[["top1"]].add_suffix("_plain"), how="inner")
    means = both[["top1_plain", "top1", "self_teacher_top1"]].mean().tolist()
    return {**dict(zip((PLAIN, "distilled", "self_teacher"), means, strict=True)), "n": len(both)}
