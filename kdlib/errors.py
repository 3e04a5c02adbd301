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
