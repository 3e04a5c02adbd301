"""Ours beside the released programs' numbers: cases, and their comparison.

A function entered by :func:`of` takes a case and returns our values: ``loss`` for ``out.loss``, and
so on. Gradients are taken of these by the case's inputs; what cannot be had so is returned under
its own name, such as ``grad.student.stage0.norms``. README.md says how files are to be read.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kdlib.models.output import NetworkPair, Output, Shapes

FOLDER = Path(os.environ.get("KDLIB_GOLDEN", Path(__file__).parent))
FILES = sorted(FOLDER.glob("*.npz"))
TOLERANCE = 1e-6
NOISE = 1e-9  # of a file's largest gradient: what is below, such as a bias before a norm's, is 0


LOOSER = {"crd": 1e-5}  # of values: the release adds 1e-7 to denominators
Values = dict[str, Tensor]
OURS: dict[str, Callable[["Case"], Values]] = {}


def of(*methods: str):
    """Enter a function for these methods, or patterns of them."""

    def enter(function):
        OURS.update(dict.fromkeys(methods, function))
        return function

    return enter


class Case(dict):
    """A file's arrays as tensors; ``leaves`` are those that it holds gradients of, by name.

    Further leaves, such as a network's own parameters, may be added under the file's names.
    """

    def __init__(self, path: Path) -> None:
        with np.load(path) as arrays:
            self.meta = json.loads(str(arrays["meta"]))
            read = {name: arrays[name] for name in arrays.files if name != "meta"}
        words = {name: array for name, array in read.items() if array.dtype.kind == "U"}
        super().__init__({name: torch.from_numpy(read[name]) for name in read if name not in words})
        self.update(words)
        self.name, self.method, self.options = path.stem, self.meta["method"], self.meta["options"]
        slopes = tuple(name for name in self if name.startswith("grad."))
        self.results = [name for name in self if name.startswith(("out.", "grad."))]
        inputs = [name for name in self if name not in self.results]
        wanted = [name for name in inputs if any(name in slope for slope in slopes)]
        self.leaves = {name: self[name].requires_grad_() for name in wanted}

    def listed(self, start: str) -> tuple[Tensor, ...]:
        """Arrays called ``start`` and a number, in order."""
        names = [name for name in self if re.fullmatch(rf"{re.escape(start)}\d+", name)]
        return tuple(self[name] for name in sorted(names, key=lambda name: int(name[len(start) :])))

    def output(self, who: str) -> Output:
        """A network's output; parts that the file does not have are None, or no stages."""
        logits, embedding = self.get(f"{who}.logits"), self.get(f"{who}.embedding")
        return Output(logits, self.listed(f"{who}.stage"), embedding)

    def shapes(self, who: str) -> Shapes:
        """Sizes of a network's output."""
        made = self.output(who)
        width = 1 if made.embedding is None else made.embedding.shape[1]
        return Shapes(tuple(tuple(stage.shape[1:]) for stage in made.stages), width)

    def pair(self, **changes) -> NetworkPair:
        """What a fitted method is built from."""
        stages = self.listed("student.stage")
        given = {"batch_size": len(stages[0]) if stages else 1, "seed": 0, "classes": 2}
        given |= {"labels": torch.arange(4) % 2, **changes}
        return NetworkPair(self.shapes("student"), self.shapes("teacher"), **given)

    def fill(self, module: nn.Module, *roles: tuple[str, str]) -> nn.Module:
        """Give a module, in float64, the file's parameters; ``roles`` turn names into its own."""
        state = module.double().state_dict(keep_vars=True)
        left = {name for name, _ in module.named_parameters()}
        for name in [name for name in self if name.startswith("param.")]:
            own = name.removeprefix("param.")
            for pattern, put in (*roles, *LAYERS):
                own = re.sub(pattern, put, own)
            assert own in state, f"{self.name}: '{name}' is '{own}' here, and we have {[*state]}"
            state[own].data.copy_(self[name].view_as(state[own]))
            self.leaves[name] = state[own]
            left.discard(own)
        assert not left, f"{self.name} has no values for our parameters {sorted(left)}"
        return module


LAYERS = [  # of convolutions with a norm behind them
    (r"\bconv\.", "0."),
    (r"\bnorm\.scale", "1.weight"),
    (r"\bnorm\.shift", "1.bias"),
    (r"\bnorm\.running", "1.running"),
]


def compute(case: Case) -> Values:
    """Our values for a case."""
    for pattern in (case.method, *OURS):
        if pattern in OURS and fnmatch(case.method, pattern):
            return OURS[pattern](case)
    raise AssertionError(
        f"method '{case.method}' is unknown: enter a function for it in losses.py or papers.py"
    )


def slope_of(name: str, case: Case, found: Values) -> Tensor | None:
    """Our gradient for ``grad.<input>``, of the loss, or ``grad.<value>.<input>``."""
    kept = {"retain_graph": True, "materialize_grads": True, "allow_unused": True}
    for value in found:
        put = name.removeprefix("grad." if value == "loss" else f"grad.{value}.")
        leaf = case.leaves.get(put, case.leaves.get(f"param.{put}"))
        if leaf is not None and found[value].requires_grad:
            return torch.autograd.grad(found[value].sum(), leaf, **kept)[0]
    return None


def differences(case: Case, found: Values) -> Iterator[tuple[str, float | None]]:
    """The relative difference of every result of a file; None where ours has no such value."""
    slopes = [case[name].abs().max().item() for name in case.results if name.startswith("grad.")]
    more = [name for name in found if name in case and f"out.{name}" not in case]
    for name in dict.fromkeys([*case.results, *more]):
        slope, wanted = name.startswith("grad."), case[name]
        ours = found.get(name, found.get(name.removeprefix("out.")))
        ours = slope_of(name, case, found) if slope and ours is None else ours
        if ours is None:
            yield name, None
        elif isinstance(wanted, np.ndarray):
            yield name, 0.0 if list(ours) == list(wanted) else np.inf
        else:
            yield name, apart(ours, wanted, NOISE * max(slopes) if slope else 0.0)


def apart(ours: Tensor, wanted: Tensor, least: float) -> float:
    """``max |ours - wanted| / max |wanted|``, or over ``least`` if that is more."""
    if ours.shape != wanted.shape:
        return np.inf
    ours, wanted = ours.detach().double(), wanted.detach().double()
    scale = max(wanted.abs().max().item(), least)
    return (ours - wanted).abs().max().item() / (scale or 1)


def check(path: Path) -> None:
    """Compare ours with a file; print the largest differences, of values and of gradients."""
    case = Case(path)
    found = dict(differences(case, compute(case)))
    known = {array: size for array, size in found.items() if size is not None}
    for slope in (False, True):
        sizes = [size for array, size in known.items() if array.startswith("grad.") is slope]
        print(f"{'gradients' if slope else 'values'} differ by {max(sizes, default=0):.1e} at most")
    faults = [says for array, size in found.items() if (says := fault(case.method, array, size))]
    assert known and not faults, faults or "nothing is compared"


def fault(method: str, array: str, size: float | None) -> str | None:
    """What is wrong with an array, in words; nothing where the difference is small."""
    if size is None:
        return f"{array} is not computed"
    allowed = LOOSER.get(method, TOLERANCE) if array.startswith("out.") else TOLERANCE
    return None if size <= allowed else f"{array} differs by {size:.1e}"
