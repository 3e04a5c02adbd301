"""The one style of all figures: size, palette, and a fixed colour and marker for each method."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib as mpl
import seaborn as sns

COLUMN, PAGE = 3.5, 7.16  # widths in inches of a column and of a page of the journal
PALETTE = sns.color_palette("colorblind").as_hex()
TEACHER_COLOUR = "#222222"
NEUTRAL = "#666666"


class Look(NamedTuple):
    """How a method is drawn. Modified methods keep their family's colour and marker.

    ``filled`` is false for methods with KD added, ``line`` is dashed for gated ones.
    """

    colour: str
    marker: str
    filled: bool
    line: str

    @property
    def face(self) -> str:
        """Colour inside the marker."""
        return self.colour if self.filled else "white"


FAMILIES: dict[str, tuple[str, str]] = {
    "teacher": (TEACHER_COLOUR, "*"),
    "student": (NEUTRAL, "o"),
    "kd": (PALETTE[5], "s"),
    "at": (PALETTE[0], "D"),
    "at_equal_scale": (PALETTE[9], "d"),
    "dct": (PALETTE[1], "o"),
    "release_a": (PALETTE[3], "^"),
    "release_b": (PALETTE[3], "v"),
    "parseval_twin": (PALETTE[2], "X"),
    "newl2": (PALETTE[2], "P"),
    "ours": (PALETTE[4], "p"),
    "fitnet": (PALETTE[4], "<"),
    "pkt": (PALETTE[2], "v"),
    "vid": (PALETTE[8], "s"),
    "crd": (PALETTE[0], ">"),
    "semckd": (PALETTE[3], "P"),
    "sp": (PALETTE[9], "<"),
    "rkd": (PALETTE[5], ">"),
    "dkd": (PALETTE[4], "D"),
    "reviewkd": (PALETTE[8], "X"),
    "logit_std": (PALETTE[5], "p"),
    "famkd": (PALETTE[2], "*"),
    "frskd": (PALETTE[4], "^"),
    "frskd_dct": (PALETTE[4], "o"),
    "frskd_pixels": (PALETTE[4], "v"),
    "srm": (PALETTE[2], "D"),
    "srm_logits": (PALETTE[1], "D"),
    "kd_cls": (PALETTE[1], "s"),
    "loc": (PALETTE[9], "v"),
    "kd_loc": (PALETTE[0], "^"),
    "kd_cls_loc": (PALETTE[3], "o"),
}
CONTROL = (PALETTE[6], "h")


def look(label: str) -> Look:
    """Colour, marker, filling and line of a method's label, such as ``dct+gate [weight=3]``.

    A method without a family of its own is drawn as a control.
    """
    base, *modifiers = label.split(" [")[0].split("+")
    colour, marker = FAMILIES.get(base, CONTROL)
    return Look(colour, marker, "kd" not in modifiers, "--" if "gate" in modifiers else "-")


OPTIONS = re.compile(r"^(?:dct|frskd)_options.*method_options=(\{[^}]*\})")
OF_DETECTORS = re.compile(r"^(?:kd_cls|loc|kd_loc|kd_cls_loc) \[(.*)\]$")
CHOSEN = re.compile(r"method_options=(\{[^}]*\})")
NAMES = {
    "kd": "KD",
    "at": "AT",
    "at_equal_scale": "AT, balanced",
    "dct": "DCT",
    "release_a": "release A",
    "release_b": "release B",
    "parseval_twin": "Parseval twin",
    "newl2": "spatial L2",
    "dct_abs": "DCT, absolute",
    "dct_l1": "DCT, L1",
    "dct_low": "DCT, low",
    "dct_high": "DCT, high",
    "dct_options": "DCT",
    "fitnet": "FitNet",
    "pkt": "PKT",
    "vid": "VID",
    "crd": "CRD",
    "semckd": "SemCKD",
    "sp": "SP",
    "rkd": "RKD",
    "dkd": "DKD",
    "reviewkd": "ReviewKD",
    "logit_std": "Logit std",
    "famkd": "FAM-KD",
    "frskd": "FRSKD",
    "frskd_published": "FRSKD, as published",
    "frskd_joint": "FRSKD, joint CE only",
    "frskd_logits": "FRSKD, KL alone",
    "frskd_maps": "FRSKD, AT alone",
    "frskd_detached": "FRSKD, detached",
    "frskd_dct": "FRSKD, DCT",
    "frskd_fitnet": "FRSKD, FitNet",
    "frskd_overhaul": "FRSKD, overhaul",
    "frskd_pixels": "FRSKD",
    "frskd_options": "FRSKD",
    "srm": "SRM",
    "srm_logits": "SRM, logits",
    "kd_cls": "KD_cls",
    "loc": "pixels alone",
    "kd_loc": "KD_loc",
    "kd_cls_loc": "KD_cls + KD_loc",
}


def name_of(label: str) -> str:
    """A label as it is written in figures: ``dct+kd`` becomes ``DCT + KD``.

    Of a run of ``dct_options`` or ``frskd_options`` the options stand for its name; its weight,
    which follows from them, is left out. Of a detector's method all that tells its runs apart is
    written.
    """
    method, *rest = label.split(" [", maxsplit=1)
    words = " + ".join(NAMES.get(word, word) for word in method.split("+"))
    if found := OPTIONS.search(label):
        options = json.loads(found[1]).items()
        return ", ".join([words, *(f"{name} {_plain(value)}" for name, value in options)])
    if found := OF_DETECTORS.match(label):
        return ", ".join([words, *_choices(found[1])])
    return " [".join([words, *rest])


def _choices(text: str) -> list[str]:
    """Options and fields of a label, each as it is written."""
    options = CHOSEN.search(text)
    found = json.loads(options[1]) if options else {}
    fields = [part.split("=") for part in CHOSEN.sub("", text).split(", ") if "=" in part]
    written = {name: _plain(value) for name, value in found.items()}
    return [f"{name} {value}" for name, value in (written | _rounded(dict(fields))).items()]


def _rounded(fields: dict[str, str]) -> dict[str, str]:
    """Numbers of fields without the noise of their last digits; what was not set is left out."""
    return {name: f"{float(value):g}" for name, value in fields.items() if value != "nan"}


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value).lower()


def difference_name(method: str, baseline: str) -> str:
    """A difference as it is written: ``dct+kd`` and ``at`` become ``(DCT + KD) − AT``."""
    names = (name_of(label) for label in (method, baseline))
    return " − ".join(f"({name})" if " + " in name else name for name in names)


@contextmanager
def figure_style() -> Iterator[None]:
    """The paper style of seaborn, with type that stays legible at column width."""
    settings = {
        "font.size": 8.0, "axes.labelsize": 8, "axes.titlesize": 8, "xtick.labelsize": 7.5,
        "ytick.labelsize": 7.5, "legend.fontsize": 7, "lines.linewidth": 1.2, "axes.linewidth": 0.7,
        "grid.linewidth": 0.5, "lines.markersize": 4.5, "legend.frameon": False,
        "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 120,
        "pdf.fonttype": 42, "svg.hashsalt": "kdlib",
    }  # fmt: skip
    style = {**sns.axes_style("whitegrid"), **sns.plotting_context("paper"), **settings}
    with mpl.rc_context({k: v for k, v in style.items() if k in mpl.rcParams}):
        yield
