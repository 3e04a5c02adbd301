"""Images that the teacher gets right and the student alone gets wrong."""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from kdlib import figure_tables
from kdlib.analyses.answers import load_answers
from kdlib.figures.drawing import new_figure, shown
from kdlib.pictures import as_picture
from kdlib.style import NEUTRAL, PAGE, figure_style, name_of

COLUMNS = 4
LINE = 0.115  # inches of a line of answers


@figure_style()
def correct_incorrect(table: pd.DataFrame) -> Figure:
    """The first such images with every network's answer; a tick marks the right ones.

    The heading says how many of all such images each method gets right.
    """
    data = shown(figure_tables.correct_incorrect(table))
    places = list(dict.fromkeys(data.loc[data["shown"], "position"]))
    images = _images(table, data)
    rows, labels = -(-len(places) // COLUMNS), list(dict.fromkeys(data["label"]))
    side = PAGE / COLUMNS * 0.62
    height = rows * (side + LINE * (len(labels) + 1)) + 0.45
    figure, panels = new_figure(PAGE, height, COLUMNS, rows)
    for axes in panels:
        axes.set_axis_off()
    for axes, place in zip(panels, places, strict=False):
        _answered(axes, images[place], data[data["position"] == place])
    figure.suptitle(_heading(data), fontsize=7.5)
    return figure


def _images(table: pd.DataFrame, data: pd.DataFrame) -> tuple[Tensor, ...]:
    """The images that lie beside the teacher's answers."""
    run = data.loc[data["label"] == "teacher", "run_id"].iloc[0]
    return load_answers(Path(table.loc[table["run_id"] == run, "directory"].iloc[0])).images


def _answered(axes: Axes, image: Tensor, answers: pd.DataFrame) -> None:
    axes.imshow(as_picture(image))
    axes.set_title(str(answers["true"].iloc[0]), fontsize=7, pad=2)
    for line, row in enumerate(answers.to_dict("records")):
        mark = "✓" if row["right"] else f"✗ {row['answer']}"
        axes.annotate(
            f"{name_of(row['label'])}: {mark}", (0.5, 0), xycoords="axes fraction",
            xytext=(0, -8.3 * (line + 1)), textcoords="offset points", ha="center", fontsize=6.5,
            color="black" if row["right"] else NEUTRAL,
        )  # fmt: skip


def _heading(data: pd.DataFrame) -> str:
    count = data["position"].nunique()
    shares = data.groupby("label", sort=False)["right"].mean().drop(["teacher", "student"])
    read = ", ".join(f"{name_of(str(label))} {share:.0%}" for label, share in shares.items())
    return f"{count} images are right by the teacher and wrong by the student. Of these: {read}"
