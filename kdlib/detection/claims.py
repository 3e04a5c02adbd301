"""What the paper of KD_cls and KD_loc claims of detectors, written down before the runs.

Two families of the rule in :mod:`kdlib.comparisons`: that the terms help, in mAP; and where they
do, by TIDE's error types and by how well a box must fit. An error is told by dAP, the AP50 that its
removal would give, so less is better, and a claim of fewer errors is that the *other* has more.
"""

from collections.abc import Sequence
from functools import cache

import pandas as pd

from kdlib.comparisons import SPREADS, Claim, claims_table
from kdlib.errors import KdlibError
from kdlib.profiles import expand
from kdlib.run_table import VARIANT

PROFILE = "detection"
"""The profile of the main comparison."""
STUDENT = "student"
METHODS = ("kd_cls", "loc", "kd_loc", "kd_cls_loc")

CLAIMS = (
    Claim("KD_cls helps a detector", "kd_cls", STUDENT, "map"),
    Claim("Pixels of crops help a detector", "loc", STUDENT, "map"),
    Claim("KD_loc helps a detector", "kd_loc", STUDENT, "map"),
    Claim("KD_cls and KD_loc help a detector", "kd_cls_loc", STUDENT, "map"),
    Claim("The classifier's features add to pixels", "kd_loc", "loc", "map"),
    Claim("KD_loc adds to KD_cls", "kd_cls_loc", "kd_cls", "map"),
    Claim("KD_cls adds to KD_loc", "kd_cls_loc", "kd_loc", "map"),
)
ERROR_CLAIMS = (
    Claim("KD_cls leaves fewer classification errors", STUDENT, "kd_cls", "dap_cls"),
    Claim("KD_loc leaves fewer localisation errors", STUDENT, "kd_loc", "dap_loc"),
    Claim("Cross-check: KD_cls leaves fewer localisation errors", STUDENT, "kd_cls", "dap_loc"),
    Claim("Cross-check: KD_loc leaves fewer classification errors", STUDENT, "kd_loc", "dap_cls"),
    Claim("KD_cls gains more at IoU 0.5 than at 0.75", "kd_cls", STUDENT, "ap50_less_ap75"),
    Claim("KD_loc gains more at IoU 0.75 than at 0.5", "kd_loc", STUDENT, "ap75_less_ap50"),
)
FAMILIES = {
    "Image classifiers in detectors": CLAIMS,
    "Image classifiers in detectors: which errors they mend": ERROR_CLAIMS,
}


def verdicts(table: pd.DataFrame, claims: Sequence[Claim] = CLAIMS) -> pd.DataFrame:
    """One of ``FAMILIES`` judged in every setting of detectors.

    Args:
        table: runs of detectors, from ``load_records(..., task="detection")``.
        claims: a family; those whose methods were not run are left out.

    Returns:
        As :func:`kdlib.comparisons.claims_table` has it; empty without such runs.
    """
    return claims_table(with_spreads(main_runs(table)), claims)


def with_spreads(table: pd.DataFrame) -> pd.DataFrame:
    """The table with a column for each of :data:`kdlib.comparisons.SPREADS`."""
    return table.assign(**{name: table[a] - table[b] for name, (a, b) in SPREADS.items()})


def main_runs(table: pd.DataFrame) -> pd.DataFrame:
    """One variant of each method of a setting, ``label`` its plain name; ablations are left out.

    That of the profile ``detection``; where that has none of them, the one with the most runs; of
    equals the one with the setting's most common size of crops, then the fewest options.
    """
    kept = [
        _main(rows, setting["crop_size"])
        for _, setting in table.groupby("setting", sort=False)
        for _, rows in setting.groupby("method", sort=False)
    ]
    return pd.concat(kept).sort_index() if kept else table


def _main(rows: pd.DataFrame, crop_sizes: pd.Series) -> pd.DataFrame:
    variants = [one for _, one in rows.groupby(list(VARIANT), dropna=False, sort=False)]
    chosen = max(variants, key=lambda one: _place(one, crop_sizes))
    return chosen.assign(label=chosen["method"])


def _place(variant: pd.DataFrame, crop_sizes: pd.Series) -> tuple[int, int, int, int, bool]:
    first, ids = variant.iloc[0], set(variant["run_id"])
    planned = ids & _planned(first["dataset"])
    alike = int((crop_sizes == first["crop_size"]).sum())
    return len(planned), len(ids), alike, -len(first["method_options"]), pd.isna(first["weight"])


@cache
def _planned(dataset: str) -> frozenset[str]:
    """Names of the profile's runs; none where it lacks the data set."""
    try:
        return frozenset(run.run_id for run in expand(PROFILE, dataset))
    except KdlibError:
        return frozenset()
