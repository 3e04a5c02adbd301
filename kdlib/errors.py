"""Errors that a user can mend: what was wrong, what is valid, what to do."""

import math
import os
import re
import reprlib
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from functools import wraps
from types import FrameType, NoneType, UnionType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, Union, cast, get_args, get_origin

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Made = TypeVar("Made")

LONGEST_SHOWN = 80


class KdlibError(ValueError):
    """A mistake in what the user gave. The command line prints its text and no traceback."""


def shown(value: object) -> str:
    """A value as an error tells it: on one line, and cut where it is long."""
    try:
        text = value if isinstance(value, str) else reprlib.repr(value)
    except ValueError:  # Python writes no number of more than 4,300 digits
        return "a number of thousands of digits"
    short = text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
    return short if short.isprintable() else short.encode("unicode_escape").decode()


def unknown(kind: str, name: object, valid: Iterable[str]) -> KdlibError:
    """The error for a name that is not one of ``valid``; suggests the nearest one."""
    choices = sorted(str(choice) for choice in valid)
    close = get_close_matches(shown(name), choices, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return KdlibError(
        f"Unknown {kind} '{shown(name)}'.{hint} Valid: {', '.join(choices) or 'none'}."
    )


def kindly(cls: type[Made]) -> type[Made]:
    """Let a dataclass of pydantic say what it refuses as a :class:`KdlibError`."""
    build: Any = cls.__init__

    @wraps(build)
    def init(self: Any, *args: Any, **values: Any) -> None:
        from pydantic import ValidationError

        try:
            build(self, *args, **values)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise _refusal(first, [one.name for one in fields(cast("Any", cls))]) from error

    cls.__init__ = init  # type: ignore[method-assign]
    return cls


def _refusal(error: "ErrorDetails", valid: Iterable[str]) -> KdlibError:
    """What pydantic refuses, as a user is told it: the field, its value, what is valid."""
    name, context = ".".join(map(str, error["loc"])), error.get("ctx", {})
    if error["type"] == "unexpected_keyword_argument":
        return unknown("run parameter", name, valid)
    if error["type"] == "literal_error":
        return unknown(name, error["input"], re.findall(r"'([\w-]+)'", context["expected"]))
    says = error["msg"].replace("Input should", "it should").replace("tuple", "list")
    return KdlibError(f"{shown(name)} is {quoted(error['input'])}; {context.get('error', says)}.")


def checked_options(given: Mapping[str, object], valid: Iterable[str], owner: str) -> None:
    """Refuse an option that ``owner`` does not have.

    Raises:
        KdlibError: names the first unknown option and lists the valid ones.
    """
    choices = tuple(valid)
    for name in given:
        if name not in choices:
            raise unknown(f"option of {owner}", name, choices)


def checked_values(given: Mapping[str, object], defaults: Mapping[str, object], owner: str) -> None:
    """Refuse an option that ``owner`` does not have, and a value of another kind than its default.

    Raises:
        KdlibError: as :func:`checked_options`, or names the option, its value and its default.
    """
    checked_options(given, defaults, owner)
    for name, value in given.items():
        if not same_kind(value, defaults[name]):
            raise KdlibError(
                f"Option '{name}' of {owner} is {quoted(value)}; give a value like its default, "
                f"{defaults[name]!r}."
            )


def check_range(name: str, value: int, low: int, high: int) -> None:
    """Refuse a ``value`` that is no whole number from ``low`` to ``high``."""
    if type(value) is not int or not low <= value <= high:
        raise KdlibError(f"{name} is {value}; it must be a whole number, {low} to {high}.")


def quoted(value: object) -> str:
    """A value as :func:`shown` tells it; text in quotation marks."""
    return f"'{shown(value)}'" if isinstance(value, str) else shown(value)


def same_kind(value: object, example: object) -> bool:
    """Whether a value can stand where ``example`` does; where that is ``None``, any can."""
    if example is None:
        return True
    if isinstance(value, bool) or isinstance(example, bool):
        return isinstance(value, bool) and isinstance(example, bool)
    if isinstance(example, float):
        return isinstance(value, int | float)
    if isinstance(example, list | tuple):
        return isinstance(value, list | tuple)
    return isinstance(value, type(example))


# How a command ends: an exit status, and a line for whatever went wrong.
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
    if isinstance(error, ModuleNotFoundError):
        return f"{error}. Install what is missing: python -m pip install 'kdlib[study]'"
    if isinstance(error, OSError):
        return f"The system refused: {error}. What is finished is kept."
    # A GPU's has another class, by a name that tells it without PyTorch.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "Not enough memory: choose fewer or smaller images, or a smaller batch_size."
    return (
        f"Unexpected {type(error).__name__}: {shown(str(error))} This is a fault of kdlib, not "
        f"yours; {DEBUG}=1 before the command shows where. Please report it with that."
    )


# Of what kind a value must be, read from a type annotation: for values that a user gives.
WORDS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    NoneType: "None",
    dict: "a mapping from names",
}
SEQUENCES = (tuple, list, Sequence)


def check_kind(name: str, value: object, annotation: Any) -> None:
    """Refuse a value that is not what ``annotation`` says.

    A whole number can stand for a number, and a list for a tuple; true and false are no numbers,
    and neither infinity nor NaN is one.

    Raises:
        KdlibError: names the value and says what it must be.
    """
    if not fits(value, annotation):
        raise KdlibError(f"{name} is {quoted(value)}; it must be {describe(annotation)}.")


def fits(value: object, annotation: Any) -> bool:
    """Whether a value is what an annotation says; one that is not of ``WORDS`` takes any."""
    origin, inner = get_origin(annotation) or annotation, get_args(annotation)
    if origin in (Union, UnionType):
        return any(fits(value, one) for one in inner)
    if origin in SEQUENCES:
        return isinstance(value, list | tuple) and all(fits(one, inner[0]) for one in value)
    if origin is dict:
        return isinstance(value, Mapping) and _all_fit(value, *inner)
    if origin is float:
        return _is_number(value)
    if origin is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return origin not in WORDS or isinstance(value, origin)


def _all_fit(value: Mapping[Any, object], name: Any = str, item: Any = object) -> bool:
    return all(fits(key, name) and fits(one, item) for key, one in value.items())


def describe(annotation: Any) -> str:
    """An annotation in words: ``a whole number or None``."""
    origin, inner = get_origin(annotation) or annotation, get_args(annotation)
    if origin in (Union, UnionType):
        return " or ".join(describe(one) for one in inner)
    if origin in SEQUENCES:
        return f"a list, each item {describe(inner[0])}"
    if origin is dict and inner and inner[1] is not Any:
        return f"{WORDS[dict]}, each to {describe(inner[1])}"
    return WORDS[origin]


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond the largest float
        return False
