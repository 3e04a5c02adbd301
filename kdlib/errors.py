"""Errors that a user can mend: what was wrong, what is valid, what to do."""

import reprlib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

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
