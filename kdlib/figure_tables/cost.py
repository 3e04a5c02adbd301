"""What a method gains, and what it costs."""

import json
from pathlib import Path

import pandas as pd

from kdlib.comparisons import paired_comparison
from kdlib.errors import KdlibError
from kdlib.figure_tables.common import students_of

# Written by `python -m benchmarks.methods`.
COSTS = Path(__file__).parents[2] / "benchmarks" / "results" / "methods" / "costs.json"


def accuracy_cost(table: pd.DataFrame, costs: Path = COSTS) -> pd.DataFrame:
    """Gain over the student alone beside the cost of a step, a row a method without ``+kd``.

    Columns: ``label``, ``gain`` with its 95 % interval ``low``, ``high`` and ``n``; ``time`` and
    ``memory``, the step's over those of its floor (a teacher's forward and a plain student's
    step), ``time_low``, ``time_high``; ``front``: no method gains more in as little time, where
    one whose interval reaches down to the floor takes no longer than it.
    """
    students = students_of(table)
    if not Path(costs).exists() or "student" not in set(students["label"]):
        return pd.DataFrame()
    rows = []
    for method, cost in read_costs(costs).items():
        if method in set(students["label"]):
            found = paired_comparison(students, method, "student")
            gain = {"gain": found.difference, "low": found.low, "high": found.high, "n": found.n}
            rows.append({"label": method, **gain, **cost})
    table = pd.DataFrame(rows)
    if table.empty or not (table["n"] > 0).any():
        return pd.DataFrame()
    return _with_front(table[table["n"] > 0])


def _with_front(table: pd.DataFrame) -> pd.DataFrame:
    """Cheapest methods first, of equally cheap ones those that gain most."""
    told = table["time"].where(table["time_low"] > 1, 1.0)
    order = pd.DataFrame({"time": told, "gain": -table["gain"]}).sort_values(["time", "gain"])
    table = table.loc[order.index].reset_index(drop=True)
    best_so_far = table["gain"].cummax().shift(fill_value=float("-inf"))
    return table.assign(front=table["gain"] > best_so_far)


def read_costs(path: Path) -> dict[str, dict[str, float]]:
    """Cost of each method's step over its floor: ``time`` with interval, ``memory``.

    Raises:
        KdlibError: the file is damaged.
    """
    try:
        methods = json.loads(Path(path).read_text(encoding="utf-8"))["methods"]
        return {
            name: {
                "time": one["time"]["median"],
                "time_low": one["time"]["low"],
                "time_high": one["time"]["high"],
                "memory": one["memory"]["ratio"],
            }
            for name, one in methods.items()
        }
    except (ValueError, KeyError, TypeError) as error:
        raise KdlibError(
            f"{path} holds no costs ({error!r}); make it anew: python -m benchmarks.methods"
        ) from error
