"""Errors that a user can mend: what was wrong, what is valid, what to do."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches


class KdlibError(ValueError):
    """A mistake in what the user gave. The command line prints its text and no traceback."""


def unknown(kind: str, name: object, valid: Iterable[str]) -> KdlibError:
    """The error for a name that is not one of ``valid``; suggests the nearest one."""
    choices = sorted(str(choice) for choice in valid)
    close = get_close_matches(str(name), choices, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return KdlibError(f"Unknown {kind} '{name}'.{hint} Valid: {', '.join(choices)}.")


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
                f"Option '{name}' of {owner} is {value!r}; give a value like its default, "
                f"{defaults[name]!r}."
            )


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
