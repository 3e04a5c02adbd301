"""How methods are written, marked and ordered, in tables, sentences and figures."""

import json
import re
from typing import Any, NamedTuple

from kdlib.methods import METHODS, parse_method

# seaborn's "colorblind"
PALETTE = (
    "#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc",
    "#ca9161", "#fbafe4", "#949494", "#ece133", "#56b4e9",
)  # fmt: skip
NEUTRAL, TEACHER_COLOUR = "#666666", "#222222"

# Method -> its name, colour and marker; no two have both in common.
FAMILIES = {
    "teacher": ("teacher", TEACHER_COLOUR, "*"), "student": ("student", NEUTRAL, "o"),
    "kd": ("KD", PALETTE[5], "s"), "at": ("AT", PALETTE[0], "D"),
    "at_equal_scale": ("AT, balanced", PALETTE[9], "d"), "dct": ("DCT", PALETTE[1], "o"),
    "release_a": ("release A", PALETTE[3], "^"), "release_b": ("release B", PALETTE[3], "v"),
    "parseval_twin": ("Parseval twin", PALETTE[2], "X"), "newl2": ("spatial L2", PALETTE[2], "P"),
    "ours": ("ours", PALETTE[4], "p"), "fitnet": ("FitNet", PALETTE[4], "<"),
    "pkt": ("PKT", PALETTE[2], "v"), "vid": ("VID", PALETTE[8], "s"),
    "crd": ("CRD", PALETTE[0], ">"), "semckd": ("SemCKD", PALETTE[3], "P"),
    "sp": ("SP", PALETTE[9], "<"), "rkd": ("RKD", PALETTE[5], ">"),
    "dkd": ("DKD", PALETTE[4], "D"), "reviewkd": ("ReviewKD", PALETTE[8], "X"),
    "logit_std": ("Logit std", PALETTE[5], "p"), "famkd": ("FAM-KD", PALETTE[2], "*"),
    "frskd": ("FRSKD", PALETTE[4], "^"), "frskd_dct": ("FRSKD, DCT", PALETTE[4], "o"),
    "frskd_pixels": ("FRSKD", PALETTE[4], "v"), "srm": ("SRM", PALETTE[2], "D"),
    "srm_logits": ("SRM, logits", PALETTE[1], "D"), "kd_cls": ("KD_cls", PALETTE[1], "s"),
    "loc": ("pixels alone", PALETTE[9], "v"), "kd_loc": ("KD_loc", PALETTE[0], "^"),
    "kd_cls_loc": ("KD_cls + KD_loc", PALETTE[3], "o"),
}  # fmt: skip
CONTROL = (PALETTE[6], "h")  # of every other method
CONTROLS = {
    "dct_abs": "DCT, absolute", "dct_l1": "DCT, L1", "dct_low": "DCT, low",
    "dct_high": "DCT, high", "dct_options": "DCT", "frskd_published": "FRSKD, as published",
    "frskd_joint": "FRSKD, joint CE only", "frskd_logits": "FRSKD, KL alone",
    "frskd_maps": "FRSKD, AT alone", "frskd_detached": "FRSKD, detached",
    "frskd_fitnet": "FRSKD, FitNet", "frskd_overhaul": "FRSKD, overhaul",
    "frskd_options": "FRSKD",
}  # fmt: skip
NAMES = CONTROLS | {method: name for method, (name, _, _) in FAMILIES.items()}
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
