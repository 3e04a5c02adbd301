"""The classifiers that teach detectors: a line each, for there is nothing to compare them with."""

import pandas as pd

from kdlib.markdown import number


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
    return "\n".join(_line(rows) for _, rows in crops.groupby(order, sort=True))


def _line(rows: pd.DataFrame) -> str:
    first, top1 = rows.iloc[0], 100 * rows["top1"]
    spread = f" ± {number(top1.std(), '.2f')}" if len(rows) > 1 else ""
    where = ", dev split" if first["split"] == "dev" else ""
    side = first["crop_size"]
    return (
        f"* {first['student']}, which learnt the objects of {first['dataset']}{where} cut out and "
        f"made {side} x {side} pixels, names {top1.mean():.1f}{spread} % of them rightly, "
        f"n {len(rows)}."
    )
