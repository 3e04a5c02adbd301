"""Of what kind a value must be, read from a type annotation: for values that a user gives."""

import math
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from kdlib.errors import KdlibError, quoted

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
