"""Errors that a user can mend: what was wrong, what is valid, what to do."""

import json
import os
import re
import reprlib
import signal
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from functools import wraps
from types import NoneType
from typing import Any, TypeVar, get_args

Made = TypeVar("Made")


class KdlibError(ValueError):
    """A mistake in what the user gave. The command line prints its text and no traceback."""


NUMBER = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


def shown(value: object) -> str:
    """A value as an error tells it: on one line, and cut to 80 characters."""
    try:
        text = value if isinstance(value, str) else reprlib.repr(value)
    except ValueError:  # Python writes no number of more than 4,300 digits
        return "a number of thousands of digits"
    short = text if len(text) <= 80 else f"{text[:80]}..."
    return short if short.isprintable() else short.encode("unicode_escape").decode()


def quoted(value: object) -> str:
    """A value as :func:`shown` tells it; text in quotation marks, and why a number is text."""
    if isinstance(value, str) and NUMBER.fullmatch(value):
        return f"'{value}' (text to YAML, whose numbers need a point and a sign, as in 1.0e-1)"
    return f"'{shown(value)}'" if isinstance(value, str) else shown(value)


def unknown(kind: str, name: object, valid: Iterable[str]) -> KdlibError:
    """The error for a name that is not one of ``valid``; suggests the nearest one."""
    choices = sorted(str(choice) for choice in valid)
    close = get_close_matches(shown(name), choices, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    valid = ", ".join(choices) or "none"
    return KdlibError(f"Unknown {kind} '{shown(name)}'.{hint} Valid: {valid}.")


def check_known(kind: str, name: object, valid: Collection[Any]) -> None:
    """Refuse a name that is not one of ``valid``."""
    if name not in valid:
        raise unknown(kind, name, valid)


def kindly(kind: str) -> Callable[[type[Made]], type[Made]]:
    """Let a dataclass of pydantic refuse with a :class:`KdlibError`; ``kind`` is a field's name."""

    def decorated(cls: Any) -> Any:
        build, valid = cls.__init__, [one.name for one in fields(cls)]

        @wraps(build)
        def init(self: Any, *args: Any, **values: Any) -> None:
            from pydantic import ValidationError

            try:
                build(self, *args, **values)
            except ValidationError as error:
                raise _refusal(error.errors(include_url=False)[0], kind, valid) from error

        cls.__init__ = init
        return cls

    return decorated


def _refusal(error: Any, kind: str, valid: Iterable[str]) -> KdlibError:
    name, context = ".".join(map(str, error["loc"])), error.get("ctx", {})
    if error["type"] == "unexpected_keyword_argument":
        return unknown(kind, name, valid)
    if error["type"] == "literal_error":
        return unknown(name, error["input"], re.findall(r"'([\w-]+)'", context["expected"]))
    if error["type"] == "string_pattern_mismatch":  # of names: they become parts of files' names
        context = {"error": "a name has 1 to 80 letters, digits and . _ + - alone"}
    says = error["msg"].replace("Input should", "it should").replace("tuple", "list")
    return KdlibError(f"{shown(name)} is {quoted(error['input'])}; {context.get('error', says)}.")


def checked_options(given: Iterable[str], valid: Collection[str], owner: str) -> None:
    """Refuse an option that ``owner`` does not have."""
    for name in given:
        check_known(f"option of {owner}", name, valid)


def checked_values(given: Mapping[str, object], kinds: Mapping[str, Any], owner: str) -> None:
    """Refuse an option that ``owner`` does not have, and a value that its annotation excludes."""
    checked_options(given, kinds, owner)
    for name, value in given.items():
        check_kind(f"Option '{name}' of {owner}", value, kinds[name])


def check_kind(name: str, value: object, annotation: Any) -> None:
    """Refuse what a type annotation excludes; a list fits a tuple, True and NaN are no numbers."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    kind = TypeAdapter(annotation, config=ConfigDict(strict=True, allow_inf_nan=False))
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        kind.validate_json(text)  # a strict check of JSON takes lists
    except ValidationError as error:
        inputs = [one["input"] for one in error.errors()]
        value = next((one for one in inputs if NUMBER.fullmatch(str(one))), value)
        told = [one["msg"].removeprefix("Input should be ") for one in error.errors()]
        valid = " or ".join([*dict.fromkeys(told), *["None"] * (NoneType in get_args(annotation))])
        valid = valid.replace("an object", "a mapping").replace("array", "list")
        raise KdlibError(f"{name} is {quoted(value)}; it should be {valid}.") from error
    except (TypeError, ValueError, RecursionError) as error:
        valid = "give finite numbers, texts, lists or mappings of these"
        raise KdlibError(f"{name} is {quoted(value)}, which JSON cannot hold; {valid}.") from error


def check_range(name: str, value: int, low: int, high: int) -> None:
    """Refuse a ``value`` that is no whole number from ``low`` to ``high``."""
    if type(value) is not int or not low <= value <= high:
        raise KdlibError(f"{name} is {value}; it must be a whole number, {low} to {high}.")


# How a command ends: an exit status, and a line for whatever went wrong.
EXIT_FAILED, EXIT_MISTAKE = 1, 2
DEBUG = "KDLIB_DEBUG"


def ended(command: Callable[[], int | None]) -> int:
    """Run a command; its exit status, after a line on a user's mistake (2) or a failure (1)."""
    leave_when_asked()
    if too_little := _limit(LEAST_MEMORY):  # where C++ would abort without a word of it
        print(too_little.strip(), file=sys.stderr)
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
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


# Variables that other programs read, by how their names begin.
OUTSIDE = ("MPL", "MATPLOTLIB", "OMP_", "MKL_", "OPENBLAS_", "NUMEXPR_", "TQDM_", "CUDA_", "TORCH",
           "PYTORCH", "PYTHON", "JUPYTER", "IPYTHON", "XDG_", "TMP", "TEMP", "LC_", "LANG", "TZ",
           "HOME", "KDLIB_")  # fmt: skip
LEAST_MEMORY = 4e9  # bytes of addresses that PyTorch takes, most of them never used
NO_MEMORY = ("failed to map segment", "allocate memory", "bad_alloc", "start new thread")


def circumstances(text: str) -> str:
    """What may have led to an error: a variable that it quotes, or a limit of memory; or nothing.

    A limit counts for errors that speak of memory, and of a kernel that has died.
    """
    for name, value in os.environ.items():
        if value and f"'{value}'" in text and name.startswith(OUTSIDE):
            return f" The variable {name} is '{shown(value)}': correct or unset it."
    return _limit() if any(word in text for word in (*NO_MEMORY, "memory", "died")) else ""


def _limit(below: float = float("inf")) -> str:
    """What is told of a limit of this process's memory, in bytes, where there is one."""
    if sys.platform == "win32":
        return ""
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    told = f" This shell limits memory to {limit / 1e6:,.0f} MB (ulimit -v): raise that."
    return told if limit != resource.RLIM_INFINITY and limit < below else ""


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, KdlibError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        return f"{error}. Install what is missing: python -m pip install 'kdlib[study]'"
    if isinstance(error, OSError):
        return f"The system refused: {error}. What is finished is kept.{circumstances(text)}"
    # A GPU's has another class, by a name that tells it without PyTorch.
    memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if memory or any(word in text for word in NO_MEMORY):
        advice = circumstances("memory") or " Choose fewer or smaller images, or batch_size."
        return f"Not enough memory{f' ({shown(text)})' if text else ''}.{advice}"
    if isinstance(error, UnicodeEncodeError):
        says = f"The output's encoding, {error.encoding}, has no {error.object[error.start]!a}"
        return f"{says}. Set the variable PYTHONIOENCODING=utf-8."
    if "home directory" in text:
        return f"{text} Set the variable HOME, or KDLIB_CACHE to a folder for caches."
    told = f"{type(error).__name__}: {shown(str(error))}"
    if outside := circumstances(text):
        return f"{told}.{outside}"
    fault = f"a fault of kdlib, not yours; {DEBUG}=1 before the command shows where"
    return f"Unexpected {told} This is {fault}. Please report it with that."
