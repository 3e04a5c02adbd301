"""The registry: method strings, options, and a method of one's own as docs/methods.md says."""

import re
import sys
import types
from pathlib import Path

import pytest
import torch
from losses.networks import pair
from training import tiny

import kdlib
from kdlib import FrozenTeacher, KdlibError, create_distiller, create_model, fit, methods
from kdlib.data.batches import Batch
from kdlib.methods import METHODS, STAGES, Method, method_of, register_method
from kdlib.runs import RunConfig, run_directory

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", [*METHODS, *STAGES])
def test_every_entry_says_where_it_comes_from_and_refuses_unknown_options(name):
    line = method_of(name)
    assert line.source and line.formula and line.state
    assert line.weight > 0 or line.build is None
    assert {"reduction", "preset", "pair"}.isdisjoint(line.options)
    if "classification" in line.tasks:
        for option in ("transfrom", "reduction"):
            with pytest.raises(KdlibError, match=option):
                create_distiller(RunConfig(method=name, method_options={option: "mean"}), pair())


@pytest.mark.parametrize(("method", "options", "says"), [
    ("dtc", {}, "Unknown method 'dtc'.*Did you mean 'dct'"),
    ("dct+kdd", {}, "Unknown method modifier 'kdd'.*gate, kd"),
    ("student+kd", {}, "takes no modifier"),
    ("srm+gate", {}, r"takes \+kd alone"),
    ("srm_init+kd", {}, "takes no modifier"),
    ("dkd", {"temperature": True}, "'temperature' of .* should be .*a valid number"),
    ("reviewkd", {"middle": "8"}, "'middle' of .* should be .*a valid integer or None"),
    ("frskd", {"detach": "no"}, "'detach' of .* should be .*a valid boolean"),
    ("at", {"level_weights": 3}, "'level_weights' of .* should be .*list"),
    ("crd", {"dimensions": -1}, "'crd' cannot be built.*'dimensions': -1"),
    ("vid", None, "'vid' is made for two networks"),
])  # fmt: skip
def test_a_method_or_an_option_that_means_nothing_is_refused(method, options, says):
    given = pair() if options is not None else None
    with pytest.raises(KdlibError, match=says):
        create_distiller(RunConfig(method=method, method_options=options or {}), given)


def blocks(language: str) -> list[str]:
    """The code blocks of a language in docs/methods.md, in its section on a method of your own."""
    section = re.split(r"^## ", (ROOT / "docs/methods.md").read_text(), flags=re.MULTILINE)
    (text,) = (part for part in section if part.startswith("A method of your own"))
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def own(monkeypatch) -> types.ModuleType:
    """The page's file as a module; whatever a test adds to the registry is taken out again."""
    module = types.ModuleType("kdlib.losses.cosine")
    exec(blocks("python")[0], module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(METHODS, "cosine", Method())
    return module


@pytest.mark.parametrize("way", ["one line of a program", "one line of the registry"])
def test_the_method_of_the_page_is_one_file_and_one_line(way, own, root):
    if way == "one line of a program":
        exec(blocks("python")[1], {"kdlib": kdlib, **vars(own)})
    else:
        before, added = blocks("diff")[0].splitlines()
        assert before[1:] in (ROOT / "kdlib/methods.py").read_text().splitlines()
        METHODS.update(eval(f"{{{added[1:]}}}", dict(vars(methods))))
        assert METHODS["cosine"].formula == "sum 1 - cos(A_s, A_t)"
    run = tiny(method="cosine+gate+kd", epochs=1)
    fit(run, root, progress=False)
    header, row = (run_directory(run, root) / "history.csv").read_text().splitlines()
    assert header == "epoch,learning_rate,ce,cosine,kd,accuracy,seconds"
    assert float(row.split(",")[3]) > 0


class Weighted(torch.nn.Module):
    """A loss with a layer of its own and an option."""

    def __init__(self, pair, *, scale: float = 1.0):
        super().__init__()
        self.layer = torch.nn.Linear(pair.student.embedding, pair.teacher.embedding)
        self.scale = scale


def test_a_function_counts_once_by_default_and_gives_a_number_an_image(own):
    register_method("cosine", torch.nn.functional.mse_loss, of="logits")
    made, network = create_distiller(RunConfig(method="cosine")), create_model("scenes_small", 5)
    images, labels = torch.rand(3, 3, 32, 32), torch.tensor([1, 0, 2])
    with pytest.raises(KdlibError, match=r"'cosine' gives \(\); .*one number an image"):
        made(network(images), FrozenTeacher(network)(images), Batch(images, labels, labels))
    with pytest.raises(KdlibError, match="teacher returns a Tensor, not an Output"):
        FrozenTeacher(torch.nn.Flatten())(images)
    assert made.weight == 1


def test_a_class_with_layers_and_options_is_a_method_too(own):
    register_method("cosine", Weighted, fitted=True, weight=10.0)
    made = create_distiller(RunConfig(method="cosine", method_options={"scale": 2}), pair())
    assert made.weight == 10 and made.method_loss.scale == 2 and list(made.parameters())
    with pytest.raises(KdlibError, match="Option 'scale' of method 'cosine' is 'two'"):
        create_distiller(RunConfig(method="cosine", method_options={"scale": "two"}), pair())


@pytest.mark.parametrize(("name", "entry", "says"), [
    ("dct", {}, "'dct' is kdlib's own"), ("srm_init", {}, "kdlib's own"),
    ("mine+kd", {}, r"has a '\+'"), ("mine", {"wieght": 1.0}, "Did you mean 'weight'"),
])  # fmt: skip
def test_a_registration_that_would_mislead_is_refused(name, entry, says):
    with pytest.raises(KdlibError, match=says):
        register_method(name, Weighted, **entry)
    assert "mine" not in METHODS
