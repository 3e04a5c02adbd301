"""The runs of a comparison, for the notebooks that train several methods with shared parameters."""

from collections.abc import Mapping, Sequence
from typing import Any

from kdlib.errors import KdlibError, check_kind, shown
from kdlib.runs import RunConfig


def configs_of(
    methods: Sequence[str], options: Sequence[Mapping[str, Any]], shared: Mapping[str, Any]
) -> list[RunConfig]:
    """One run per method, with ``options`` of its own (none of them, or one per method)."""
    check_kind("methods", methods, list[str])
    check_kind("options", options, list[dict])
    if odd := [name for own in options for name in own if not isinstance(name, str)]:
        raise KdlibError(f"An option is named {shown(odd[0])}; names of options are texts.")
    if not methods:
        raise KdlibError("The list of methods is empty; give at least one, such as [student].")
    if options and len(options) != len(methods):
        raise KdlibError(
            f"There are {len(methods)} methods but {len(options)} options; give one for each "
            "method, in the same order ({} where it has none), or [] if none has any."
        )
    each = zip(methods, options or [{}] * len(methods), strict=True)
    return [RunConfig(**{**shared, "method": name, **own}).canonical() for name, own in each]
