"""How methods are written, marked and ordered, in tables, sentences and figures."""

import json
import re
from typing import Any, NamedTuple

from kdlib.methods import METHODS, parse_method
from study import named

NAMED = named("names.yaml")
COLOURS: dict[str, str] = NAMED["colours"]
NEUTRAL, TEACHER_COLOUR = COLOURS["grey"], COLOURS["black"]
PALETTE = tuple(colour for colour in COLOURS.values() if colour not in (NEUTRAL, TEACHER_COLOUR))
FAMILIES = {
    method: (name, COLOURS[colour], marker)
    for method, (name, colour, marker) in NAMED["methods"].items()
}
CONTROL = (COLOURS["rose"], "h")  # of every other method
NAMES = NAMED["controls"] | {method: name for method, (name, _, _) in FAMILIES.items()}
OF_DETECTORS = ("kd_cls", "loc", "kd_loc", "kd_cls_loc")


class Look(NamedTuple):
    """How a method is drawn: with KD its marker is ``face``d white, with the gate dashed."""

    colour: str
    marker: str
    face: str
    line: str


def look(label: str) -> Look:
    """Colour, marker, face and line of a method's label, such as ``dct+gate [weight=3]``."""
    base, *modifiers = label.split(" [")[0].split("+")
    colour, marker = FAMILIES[base][1:] if base in FAMILIES else CONTROL
    face = "white" if "kd" in modifiers else colour
    return Look(colour, marker, face, "--" if "gate" in modifiers else "-")


def name_of(label: str) -> str:
    """A label as it is written in figures: ``dct+kd`` becomes ``DCT + KD``.

    Runs of ``dct_options`` or ``frskd_options`` are named by their options, without the weight
    that follows from them; a detector's method by all that distinguishes its runs.
    """
    method, *rest = label.split(" [", maxsplit=1)
    base, *_ = parts = method.split("+")
    words = " + ".join(NAMES.get(one, one) for one in parts)
    found = re.search(r"method_options=(\{[^}]*\})", label)
    options = json.loads(found[1]) if found else {}
    if rest and base in OF_DETECTORS:
        pairs = [one.split("=") for one in re.findall(r"\w+=[^,\]{]+", rest[0])]
        options |= {name: f"{float(value):g}" for name, value in pairs if value != "nan"}
    elif not (found and base in ("dct_options", "frskd_options")):
        return " [".join([words, *rest])
    return ", ".join([words, *(f"{name} {as_text(value)}" for name, value in options.items())])


def as_text(value: Any) -> str:
    """An option's value as it is written: a list by its items, true and false as they are."""
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value).lower()


def difference_name(method: str, baseline: str) -> str:
    """A difference as it is written: ``dct+kd`` and ``at`` become ``(DCT + KD) − AT``."""
    names = (name_of(label) for label in (method, baseline))
    return " − ".join(f"({name})" if " + " in name else name for name in names)


def method_order(label: str) -> tuple[Any, ...]:
    """Sorts labels as the registry lists the methods, modified ones after plain ones."""
    method = label.split(" [")[0]
    if method == "teacher":
        return (-1,)
    parts = parse_method(method)
    return (parts.kd and parts.base != "kd", list(METHODS).index(parts.base), parts.gate, label)
