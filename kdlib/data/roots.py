"""Where real data sets lie, and what to say when one does not."""

import os
from pathlib import Path

from kdlib.errors import KdlibError


def data_root(given: Path | None) -> Path:
    """The folder of the real data sets: the argument, or the variable ``KDLIB_DATA``.

    Raises:
        KdlibError: neither is set, or there is no such folder.
    """
    named = given or os.environ.get("KDLIB_DATA")
    if not named:
        raise KdlibError(
            "This data set needs files. Say where they are with --data-root FOLDER, "
            "data_root=FOLDER or the variable KDLIB_DATA."
        )
    if not Path(named).is_dir():
        raise KdlibError(f"The data root {named} is not a folder; create it or name another.")
    return Path(named)


def missing(name: str, root: Path, layout: str, command: str) -> KdlibError:
    """The error for a data set that is not where it should be.

    Args:
        name: of the data set.
        root: the data root that was searched.
        layout: the files expected, relative to ``root``, one a line.
        command: what puts them there.
    """
    lines = "\n".join(f"  {root}/{line}" for line in layout.splitlines())
    return KdlibError(
        f"The data set '{name}' was not found. Expected:\n{lines}\nTo get it: {command}"
    )
