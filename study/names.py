"""How the label of a run is written in tables and figures, and in which order methods stand."""

import json
import re
from typing import Any

from kdlib.methods import METHODS, parse_method

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


def method_order(label: str) -> tuple[Any, ...]:
    """Sorts labels as the registry lists the methods, modified ones after plain ones."""
    method = label.split(" [")[0]
    if method == "teacher":
        return (-1,)
    parts = parse_method(method)
    return (parts.kd and parts.base != "kd", list(METHODS).index(parts.base), parts.gate, label)
