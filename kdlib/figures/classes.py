"""Which classes gain by a method, and which lose."""

import pandas as pd
from matplotlib.figure import Figure

from kdlib import figure_tables
from kdlib.figures.drawing import named_rows, new_figure, no_difference, rows_height, shown
from kdlib.style import COLUMN, difference_name, figure_style, look

MOST = 40  # classes in one figure; of more, those that change most in either direction


@figure_style()
def class_changes(table: pd.DataFrame) -> Figure:
    """Difference in accuracy of each class with 95 % interval, those that gain most on top."""
    data = shown(figure_tables.class_changes(table))
    order = list(dict.fromkeys(data["class"]))
    if len(order) > MOST:
        order = order[: MOST // 2] + order[-MOST // 2 :]
    figure, (axes,) = new_figure(COLUMN, 0.9 + rows_height(len(order)))
    no_difference(axes)
    baselines = list(dict.fromkeys(data["baseline"]))
    for number, baseline in enumerate(baselines):
        own = data[data["baseline"] == baseline].set_index("class")
        style, shift = look(baseline), 0.2 - 0.4 * number / max(1, len(baselines) - 1)
        label = difference_name(own["method"].iloc[0], baseline)
        for row, name in enumerate(order):
            if name in own.index:
                mean, low, high = 100 * own.loc[name, ["difference", "low", "high"]].astype(float)
                axes.plot([low, high], [row + shift] * 2, c=style.colour, lw=1)
                axes.plot(mean, row + shift, style.marker, c=style.colour, ms=3.5, label=label)
                label = ""
    named_rows(axes, order)
    axes.set_xlabel("difference in the class's accuracy (points)")
    figure.legend(loc="outside upper center", ncols=2)
    return figure
