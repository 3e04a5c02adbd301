"""Parameters of notebooks: what their cell assigns, and what may be given for it.

A notebook begins by refusing what it was given under another name. papermill only warns of that.
"""

import ast
import os
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import NoneType
from typing import Any

from kdlib.errors import KdlibError, checked_values
from study import NOTEBOOKS

INJECTED = "# Parameters\n"  # how papermill begins the cell of those that it was given
PATHS = re.compile(r"\w+_(root|weights)")  # parameters that are files or folders


def assigned(source: str) -> dict[str, Any]:
    """Names that a cell assigns, and their values; of an expression ``None``."""
    found: dict[str, Any] = {}
    for statement in ast.parse(re.sub(r"(?m)^[%!].*", "", source)).body:
        if isinstance(statement, ast.Assign):
            for target in statement.targets:
                if isinstance(target, ast.Name):
                    found[target.id] = None
                    with suppress(ValueError, TypeError):
                        found[target.id] = ast.literal_eval(statement.value)
    return found


def check_given(given: Mapping[str, Any], defaults: Mapping[str, Any], name: str) -> None:
    """Refuse parameters that a notebook does not have, and values of another type than its own.

    ``None`` may stand for any value, and any value for it; of a tuple's type are lists too.
    """
    kinds = {one: list if isinstance(own, tuple) else type(own) for one, own in defaults.items()}
    valid = {one: Any if kind is NoneType else kind | None for one, kind in kinds.items()}
    checked_values(given, valid, f"notebook {name}")


def begin(notebook: str) -> None:
    """What each notebook calls after its cell of parameters, wherever it was started.

    ``notebook`` is its path in the folder of notebooks, without suffix. A KdlibError for a
    parameter that it does not have. Where its file is not in the working directory, folders are
    those of the project, and this is told; those that were given are the caller's.
    """
    home, name = (NOTEBOOKS / notebook).parent, Path(notebook).name
    given = _injected(name)
    if Path(f"{name}.ipynb").is_file():
        return
    if not home.is_dir():
        raise KdlibError(
            f"{Path.cwd()} has no {name}.ipynb, so nothing tells where its folders are. Start it "
            f"where it lies (papermill: --cwd FOLDER), or in a clone of the project."
        )
    for parameter, value in given.items():
        if isinstance(value, str) and PATHS.fullmatch(parameter):
            _kernel().user_ns[parameter] = str(Path(value).expanduser().absolute())
    os.chdir(home)
    print(f"{name} was started elsewhere; its folders are relative to {home}.", file=sys.stderr)


def _kernel() -> Any:
    return sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None


def _injected(name: str) -> dict[str, Any]:
    """What papermill has assigned last, checked by what cells before have assigned."""
    cells = _kernel().user_ns["In"][:-1] if _kernel() else []
    defaults: dict[str, Any] = {}
    given: dict[str, Any] = {}
    for cell in cells:
        with suppress(SyntaxError):
            if cell.startswith(INJECTED):
                given = assigned(cell)
            else:
                defaults |= assigned(cell)
    check_given(given, defaults, name)
    return given
