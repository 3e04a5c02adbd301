"""The registry: method strings, options, and a method of one's own as docs/methods.md says."""

import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from losses.networks import pair
from training import tiny

import kdlib
from kdlib import methods
from kdlib.distill import create_distiller
from kdlib.errors import KdlibError
from kdlib.methods import METHODS, STAGES, Method, method_of, parse_method, register_method
from kdlib.runs import RunConfig, run_directory
from kdlib.train import fit

ROOT = Path(__file__).parents[1]
IMAGES = [name for name, line in METHODS.items() if "classification" in line.tasks and line.build]


@pytest.mark.parametrize("name", [*METHODS, *STAGES])
def test_every_entry_has_a_loss_a_trainee_and_says_where_it_comes_from(name):
    line = method_of(name)
    assert line.source and line.formula
    assert line.weight > 0 or line.build is None
    assert line.maker is None or callable(line.maker)
    assert {"reduction", "preset"}.isdisjoint(line.options)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("dtc", "Unknown method 'dtc'.*Did you mean 'dct'"),
        ("dct+kdd", "Unknown method modifier 'kdd'.*gate, kd"),
        ("student+kd", "takes no modifier"),
        ("kd+gate", "takes no modifier"),
        ("srm+gate", r"takes \+kd alone"),
        ("srm_init+kd", "takes no modifier"),
    ],
)
def test_a_method_string_that_means_nothing_is_refused(method, message):
    with pytest.raises(KdlibError, match=message):
        parse_method(method)


@pytest.mark.parametrize("method", IMAGES)
def test_an_unknown_option_is_refused(method):
    for option in ("transfrom", "reduction"):
        with pytest.raises(KdlibError, match=option):
            create_distiller(RunConfig(method=method, method_options={option: "mean"}), pair())


@pytest.mark.parametrize(
    ("method", "option", "value", "valid"),
    [
        ("rkd", "angle_weight", "50", "a valid number"),
        ("dkd", "temperature", True, "a valid number"),
        ("crd", "negatives", 1.5, "a valid integer"),
        ("reviewkd", "middle", "8", "a valid integer or None"),
        ("frskd", "width", None, "a valid integer"),
        ("frskd", "detach", "no", "a valid boolean"),
        ("at", "level_weights", 3, "list"),
        ("srm", "mu", "big", "a valid number"),
        ("srm_logits", "dictionary_steps", 3, "a valid list"),
    ],
)
def test_an_option_of_another_kind_is_refused(method, option, value, valid):
    config = RunConfig(method=method, method_options={option: value})
    with pytest.raises(KdlibError, match=f"Option '{option}' of .* should be .*{valid}"):
        create_distiller(config, pair())


def test_what_cannot_be_built_is_told_with_its_options():
    config = RunConfig(method="crd", method_options={"dimensions": -1})
    with pytest.raises(KdlibError, match="'crd' cannot be built.*'dimensions': -1"):
        create_distiller(config, pair())


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


def trained(method: str, root: Path) -> list[str]:
    run = tiny(method=method, epochs=1)
    fit([run.teacher_config()], root, progress=False)
    fit([run], root, progress=False)
    return (run_directory(run, root) / "history.csv").read_text().splitlines()


@pytest.mark.parametrize("way", ["one line of a program", "one line of the registry"])
def test_the_method_of_the_readme_is_one_file_and_one_line(way, own, tmp_path):
    if way == "one line of a program":
        exec(blocks("python")[1], {"kdlib": kdlib, **vars(own)})
    else:
        before, added = blocks("diff")[0].splitlines()
        source = (ROOT / "kdlib/methods.py").read_text()
        assert before[1:] in source.splitlines()
        METHODS.update(eval(f"{{{added[1:]}}}", dict(vars(methods))))
        assert METHODS["cosine"].formula == "sum 1 - cos(A_s, A_t)"
    header, row = trained("cosine+gate+kd", tmp_path)
    assert header == "epoch,learning_rate,ce,cosine,kd,accuracy,seconds"
    assert float(row.split(",")[3]) > 0


def test_the_readme_keeps_the_project_s_style():
    name = "kdlib/losses/cosine.py"
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--stdin-filename", name, "-"],
            input=blocks("python")[0], text=True, cwd=ROOT, capture_output=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


class Weighted(torch.nn.Module):
    """A loss with a layer of its own and an option."""

    def __init__(self, pair, *, scale: float = 1.0):
        super().__init__()
        self.layer = torch.nn.Linear(pair.student.embedding, pair.teacher.embedding)
        self.scale = scale

    def forward(self, student, teacher, batch):
        difference = self.layer(student.embedding) - teacher.embedding
        return self.scale * difference.square().mean(dim=1)


def test_a_class_with_layers_and_options_is_a_method_too(own, tmp_path):
    register_method("cosine", Weighted, fitted=True, weight=10.0)
    made = create_distiller(RunConfig(method="cosine", method_options={"scale": 2}), pair())
    assert made.weight == 10 and made.method_loss.scale == 2
    with pytest.raises(KdlibError, match="Option 'scale' of method 'cosine' is 'two'"):
        create_distiller(RunConfig(method="cosine", method_options={"scale": "two"}), pair())


@pytest.mark.parametrize(
    ("name", "entry", "says"),
    [
        ("dct", {}, "'dct' is kdlib's own"),
        ("srm_init", {}, "kdlib's own"),
        ("mine+kd", {}, r"has a '\+'"),
        ("mine", {"wieght": 1.0}, "Did you mean 'weight'"),
    ],
)
def test_a_registration_that_would_mislead_is_refused(name, entry, says):
    with pytest.raises(KdlibError, match=says):
        register_method(name, Weighted, **entry)
    assert "mine" not in METHODS
