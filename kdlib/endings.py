"""How a command ends: an exit status, and a line for whatever went wrong."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from kdlib.errors import KdlibError, shown

EXIT_FAILED, EXIT_MISTAKE = 1, 2
DEBUG = "KDLIB_DEBUG"


def ended(command: Callable[[], int | None]) -> int:
    """Run a command; returns its exit status (2: the user's mistake, 1: a failure).

    Whatever goes wrong is told in a line; with the variable ``KDLIB_DEBUG`` set, by its traceback
    too. Asked to leave (SIGTERM), it does.
    """
    leave_when_asked()
    try:
        status = command()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        print("Interrupted; what is finished is kept.", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        if os.environ.get(DEBUG):
            traceback.print_exc()
        print(_reason(error), file=sys.stderr)
        return EXIT_MISTAKE if isinstance(error, KdlibError) else EXIT_FAILED
    return status or 0


def leave_when_asked() -> None:
    """Let SIGTERM leave through ``finally`` clauses: kernels and temporary files go too."""
    signal.signal(signal.SIGTERM, _leave)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _reason(error: Exception) -> str:
    """Why a command failed, for who gave it."""
    if isinstance(error, KdlibError):
        return str(error)
    if isinstance(error, OSError):
        return f"The system refused: {error}. What is finished is kept."
    # A GPU's has another class, by a name that tells it without PyTorch.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "Not enough memory: choose fewer or smaller images, or a smaller batch_size."
    return (
        f"Unexpected {type(error).__name__}: {shown(str(error))} This is a fault of kdlib, not "
        f"yours; {DEBUG}=1 before the command shows where. Please report it with that."
    )
