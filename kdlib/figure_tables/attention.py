"""What networks attend to: likeness, relevance, spectra, and the maps themselves."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from kdlib.analyses.files import FILE, MAPS_FILE, analyses_of
from kdlib.analyses.maps import load_maps
from kdlib.figure_tables.common import (
    KEY_METHODS,
    students_of,
    with_interval,
    with_teacher_label,
)
from kdlib.run_table import stage_table

MAPS_OF = ("teacher", "student", "at", "dct")
SPECTRA_OF = ("teacher", "student", "kd", "at", "release_a", "dct")


def ssim_by_stage(table: pd.DataFrame, methods: Sequence[str] = KEY_METHODS) -> pd.DataFrame:
    """SSIM to the teacher's map: ``label``, ``stage``, ``mean``, ``low``, ``high``, ``n``."""
    return _by_stage(table, methods, ("ssim",))


def relevance_by_stage(table: pd.DataFrame, methods: Sequence[str] = KEY_METHODS) -> pd.DataFrame:
    """As :func:`ssim_by_stage`, for both relevance measures, the teacher's too, with ``chance``."""
    return _by_stage(table, methods, ("energy_share", "pointing"))


def map_spectra(table: pd.DataFrame, methods: Sequence[str] = SPECTRA_OF) -> pd.DataFrame:
    """Share of the maps' AC energy at each radial frequency, of students and teacher.

    Columns: ``stage``, ``label``, ``frequency`` (half periods an image), ``mean``, ``low``,
    ``high`` (95 % interval over seeds), ``n``.
    """
    rows = [
        {"stage": stage, "label": row["label"], "frequency": frequency, "share": share}
        for row, analysis in analyses_of(with_teacher_label(table, methods, FILE))
        for stage, shares in enumerate(analysis["spectra"], 1)
        for frequency, share in enumerate(shares, 1)
    ]
    keys = ["stage", "label", "frequency"]
    return with_interval(pd.DataFrame(rows), keys, "share") if rows else pd.DataFrame()


def attention_maps(table: pd.DataFrame, methods: Sequence[str] = MAPS_OF) -> pd.DataFrame:
    """Which maps there are to show: a row a network and image, of one run a network.

    Columns: ``label``, ``run_id``, ``position`` (in the test set), ``true`` and ``predicted``
    class, ``digest`` of the maps' file. Empty without the teacher's maps.
    """
    runs = with_teacher_label(table, methods, MAPS_FILE)
    rows = []
    for label in methods:
        own = runs[runs["label"] == label].sort_values("init_seed") if len(runs) else runs
        paths = [Path(one) for one in own.get("directory", ())]
        kept = next((path for path in paths if (path / MAPS_FILE).exists()), None)
        if kept is not None:
            rows += _images(label, kept)
    shown = pd.DataFrame(rows)
    return shown if len(shown) and "teacher" in set(shown["label"]) else pd.DataFrame()


def _images(label: str, directory: Path) -> list[dict[str, object]]:
    maps = load_maps(directory)
    digest = hashlib.sha256((directory / MAPS_FILE).read_bytes()).hexdigest()[:12]
    identity = {"label": label, "run_id": directory.name}
    return [
        {**identity, "position": place, "true": true, "predicted": answer, "digest": digest}
        for place, true, answer in zip(maps.positions, maps.labels, maps.predicted, strict=True)
    ]


def _by_stage(table: pd.DataFrame, methods: Sequence[str], measures: Sequence[str]) -> pd.DataFrame:
    stages = stage_table(students_of(table))
    chosen = stages[stages["measure"].isin(measures) & stages["label"].isin(methods)]
    # Every student's record repeats its teacher's measures; one run's are enough.
    theirs = chosen[chosen["network"] == "teacher"].assign(label="teacher")
    theirs = theirs.drop_duplicates(["measure", "stage", "value"])
    rows = pd.concat([chosen[chosen["network"] == "student"], theirs])
    if rows.empty:
        return pd.DataFrame()
    keys = ["measure", "label", "stage"]
    return with_interval(rows, keys, "value").assign(chance=rows["chance"].mean())
