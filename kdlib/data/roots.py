"""Where the real data sets lie, and what to tell the user when they do not."""

import os
from pathlib import Path

from kdlib.errors import KdlibError

VARIABLE = "KDLIB_DATA"


def data_root(given: Path | str | None) -> Path:
    """The folder of the real data sets: ``given``, or the variable ``KDLIB_DATA``.

    Raises:
        KdlibError: neither is set, or it is not a folder.
    """
    root = chosen_root(given)
    if not root.is_dir():
        raise KdlibError(f"The data root {root} is not a folder; give one that exists.")
    return root


def chosen_root(given: Path | str | None) -> Path:
    """As ``data_root``, but the folder need not exist yet.

    Raises:
        KdlibError: neither the argument nor the variable is set.
    """
    folder = str(given or os.environ.get(VARIABLE) or "")
    if not folder:
        raise KdlibError(
            "This data set needs a data root: the folder where the real data sets lie. Give "
            f"--data-root FOLDER (make: DATA_ROOT=FOLDER) or set the variable {VARIABLE}."
        )
    return Path(folder).expanduser()


def missing(dataset: str, lacking: Path, layout: str, remedy: str) -> KdlibError:
    """The error for a data set that is not there.

    Args:
        dataset: its name.
        lacking: the file or folder that was looked for.
        layout: the files expected, a line each.
        remedy: what to type to get them.
    """
    lines = "\n".join(f"  {line}" for line in layout.strip().splitlines())
    return KdlibError(
        f"{dataset}: {lacking} is missing. Expected:\n{lines}\nTo get it:\n  {remedy}"
    )
