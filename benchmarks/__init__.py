"""What this machine takes, measured when asked for; ``results`` holds what was found."""

from collections.abc import Callable, Sequence
from pathlib import Path

from cyclopts import App

from kdlib.errors import ended
from study.cli import QUIET, called

RESULTS = Path(__file__).parent / "results"


def command(module: str) -> Callable[[Callable], Callable[[Sequence[str] | None], int]]:
    """Make a function the command line of a module: its signature is what that takes.

    What it makes returns the exit status (2: the user's mistake, told in a line).
    """

    def make(function: Callable) -> Callable[..., int]:
        app = App(f"python -m {module}", **QUIET)
        app.default(function)
        return lambda arguments=None: ended(lambda: called(app, arguments))

    return make
