"""Every file of the folder: values and gradients are those of the released programs."""

import json
from pathlib import Path

import numpy as np
import pytest
from golden import losses, papers  # noqa: F401 - which enter their functions
from golden.cases import FILES, FOLDER, check

from kdlib.methods import METHODS

OWN = sorted(Path(__file__).parent.glob("*.npz"))
CONTROLS = ("control: ", "any options")  # of this project, as their sources say
WITHOUT = {
    "student": "PyTorch's cross-entropy",
    "dct": "no program computes a true DCT-II: scipy's is compared in losses/test_dct.py",
    "ours": "the dev split's choice of options of dct",
    "srm_logits": "srm with other logits, which no program has",
    "frskd_published": "frskd with other weights",
    "loc": "the first layer of kd_loc",
    "kd_cls_loc": "the sum of kd_cls and kd_loc",
}


@pytest.mark.parametrize("path", FILES or [FOLDER / "*.npz"], ids=lambda path: path.stem)
def test_values_and_gradients_are_the_released_ones(path):
    check(path)


def test_no_method_of_a_paper_is_without_a_file_or_a_reason():
    held = {path.stem.split("-")[0] for path in OWN}
    left = {name for name, line in METHODS.items() if not line.source.startswith(CONTROLS)} - held
    assert left == WITHOUT.keys()


def renamed(meta):
    return json.dumps({**json.loads(str(meta)), "method": "new"})


@pytest.mark.parametrize(("name", "change", "says"), [
    ("meta", renamed, "'new' is unknown"),
    ("out.loss", lambda loss: loss * (1 + 2e-6), "out.loss differs by 2.0e-06"),
    ("out.loss", lambda loss: loss[None], "out.loss differs by inf"),
    ("out.more", lambda _: np.zeros(2), "out.more is not computed"),
    ("grad.student.logits", np.negative, "grad.student.logits differs by 2.0"),
    ("grad.other.logits", lambda _: np.zeros(2), "grad.other.logits is not computed"),
    ("student.logits", lambda logits: logits * np.nan, "out.loss differs by nan"),
])  # fmt: skip
def test_what_is_not_met_is_a_fault(name, change, says, tmp_path):
    with np.load(Path(__file__).with_name("kd-t2.npz")) as arrays:
        held = dict(arrays)
    np.savez(tmp_path / "kd-other.npz", **{**held, name: change(held.get(name))})
    with pytest.raises(AssertionError, match=says):
        check(tmp_path / "kd-other.npz")
