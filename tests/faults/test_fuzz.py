"""Whatever a user gives is taken, or refused in a line; no traceback reaches anybody."""

import contextlib
import importlib.util
import io
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from cyclopts import CycloptsError
from faults.processes import outcome
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from losses.networks import pair

from kdlib.detection.trainee import create_crop_loss
from kdlib.distill import create_distiller
from kdlib.errors import KdlibError
from kdlib.methods import METHODS, parse_method
from kdlib.runs import RunConfig, configs_of
from study import cli, profiles
from study import notebooks as execute
from study.cli import app, main
from study.notebooks import NOTEBOOKS, check_parameters, parameter_defaults, parse_value
from study.profiles import KEYS, PROFILES, SWEEP_KEYS, expand

FIELDS = sorted(RunConfig().to_dict())
HUGE = st.sampled_from([10**30, -(10**30), 10**400, 1e308, -0.0, 2**63, 2**63 - 1])
LONGEST = 4000


def anything(numbers: st.SearchStrategy) -> st.SearchStrategy:
    """Values of any kind, one within the other; whole numbers are ``numbers`` or huge."""
    plain = st.one_of(
        st.none(), st.booleans(), numbers, st.floats(), st.text(max_size=20), HUGE,
        st.just("long" * 2000), st.binary(max_size=3), st.dates(),
    )  # fmt: skip

    def within(inner: st.SearchStrategy) -> st.SearchStrategy:
        mappings = st.dictionaries(st.text(max_size=5) | numbers, inner, max_size=3)
        return st.lists(inner, max_size=3) | mappings | st.tuples(inner)

    return st.recursive(plain, within, max_leaves=6)


ANYTHING = anything(st.integers())
# Numbers between, such as a hundred million channels, are built as they are asked for.
LIKELY = st.one_of(
    anything(st.integers(-3, 9)), st.floats(-2, 9), st.lists(st.integers(-2, 4), max_size=3)
)
TEXTS = st.one_of(
    st.text(max_size=40),
    st.sampled_from(["[" * 3000, "2020-13-45", "1" * 5000, "&a [*a]", "!!set {a}", "5e999", "1:2",
                     "\ud800", "\x00", "? a", "{a: [b", "0o99", ".nan", "=", "<<: a"]),
    ANYTHING.map(repr),
)  # fmt: skip


def both(**strategies: st.SearchStrategy):
    """The same property with few examples, and with many in ``make faults``."""

    def decorate(check):
        def test(count, tally):
            usual = {"deadline": None, "derandomize": True, "database": None}
            budget = settings(max_examples=count, suppress_health_check=list(HealthCheck), **usual)
            budget(given(**strategies)(lambda **drawn: check(tally, **drawn)))()

        marked = pytest.param(500, id="many", marks=pytest.mark.slow_faults)
        return pytest.mark.parametrize("count", [pytest.param(60, id="few"), marked])(test)

    return decorate


def sound(act, tally, what: str) -> Any:
    """What ``act`` gives; ``None`` if it refuses in a paragraph."""
    try:
        found = act()
    except KdlibError as error:
        check_paragraph(str(error))
        tally(f"fuzz: {what}", "told")
        return None
    tally(f"fuzz: {what}", "harmless")
    return found


def check_paragraph(text: str) -> None:
    assert text.strip() and "\n" not in text.strip() and len(text) < LONGEST, text
    assert "Traceback" not in text


@both(values=st.dictionaries(st.sampled_from(FIELDS), ANYTHING, min_size=1, max_size=2))
def test_fields_of_a_run(tally, values):
    config = sound(lambda: RunConfig(**values), tally, "fields of a run")
    if config is not None:
        assert RunConfig(**json.loads(json.dumps(config.to_dict()))) == config
        assert config.run_id and "/" not in config.run_id


@both(methods=ANYTHING, options=ANYTHING)
def test_lists_of_methods(tally, methods, options):
    sound(lambda: configs_of(methods, options, {}), tally, "lists of methods")


WORDS = st.sampled_from([*METHODS, "kd", "gate", "", "+", "dct+", " "])


@both(text=st.one_of(st.lists(WORDS, max_size=3).map("+".join), st.text(max_size=30)))
def test_method_strings(tally, text):
    sound(lambda: parse_method(text), tally, "method strings")


OPTIONED = [(name, option) for name, line in METHODS.items() for option in line.options]
OPTIONS = sorted({option for _, option in OPTIONED} | {"transform", "band", "level_weights"})
CHOSEN = st.tuples(
    st.sampled_from(sorted(METHODS)), st.dictionaries(st.sampled_from(OPTIONS), LIKELY, max_size=2)
) | st.tuples(st.sampled_from(OPTIONED), LIKELY).map(lambda one: (one[0][0], {one[0][1]: one[1]}))


@both(chosen=CHOSEN)
def test_options_of_methods(tally, chosen):
    method, options = chosen
    boxes = METHODS[method].tasks == ("detection",)
    create = create_crop_loss if boxes else lambda config: create_distiller(config, pair())
    task = "detection" if boxes else "classification"

    def make():
        return create(RunConfig(method=method, method_options=options, task=task))

    sound(make, tally, "options of methods")


NOTEBOOK = NOTEBOOKS / "05_distill.ipynb"
NAMES = st.one_of(st.sampled_from([*FIELDS, "methods", "options", "runs_root"]), st.text())


@pytest.fixture
def notebook_read_once(monkeypatch):
    known = parameter_defaults(NOTEBOOK)
    monkeypatch.setattr(execute, "parameter_defaults", lambda notebook: known)


@pytest.mark.usefixtures("notebook_read_once")
@both(name=NAMES, text=TEXTS)
def test_parameters_of_a_notebook(tally, name, text):
    def check():
        check_parameters(NOTEBOOK, {name: parse_value(text)})

    sound(check, tally, "notebook parameters")


PROFILE_KEYS = st.sampled_from([*KEYS, *SWEEP_KEYS])
PROFILE = st.one_of(ANYTHING, st.dictionaries(PROFILE_KEYS, ANYTHING | st.just("fuzzed")))


@pytest.fixture
def profiles_of_ours(tmp_path, monkeypatch):
    for path in PROFILES.glob("*.yaml"):
        (tmp_path / path.name).write_text(path.read_text())
    monkeypatch.setattr(profiles, "PROFILES", tmp_path)


@pytest.mark.usefixtures("profiles_of_ours")
@both(
    changes=st.dictionaries(PROFILE_KEYS, ANYTHING, max_size=2),
    text=TEXTS | PROFILE.map(yaml.dump),
    whole=st.booleans(),
)
def test_profiles(tally, changes, text, whole):
    folder = profiles.PROFILES
    quick = yaml.safe_load((folder / "quick.yaml").read_text())
    content = text if whole else yaml.dump({**quick, **changes})
    (folder / "fuzzed.yaml").write_text(content, errors="surrogatepass")
    sound(lambda: expand("fuzzed"), tally, "profiles")


COMMANDS = [
    ["run"], ["run", "-p"], ["run", "05_distill", "--parameters"], ["results"], ["results", "-x"],
    ["results", "--epochs"], ["figures"], ["ledger", "--to"], ["analyse"], ["data"],
    ["data", "check"], ["data", "cache", "--workers"], ["methods"], ["export"], [],
]  # fmt: skip


@both(command=st.sampled_from(COMMANDS), rest=st.lists(TEXTS, max_size=3))
def test_the_command_line(tally, command, rest):
    try:
        app.parse_args([*command, *rest], exit_on_error=False, print_error=False)
        told = False
    except CycloptsError as error:
        told = bool(str(error))
        assert told
    tally("fuzz: command line", "told" if told else "harmless")


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "no\nnotebook"], ["run", "05_distill", "-p", "epochs", "[" * 3000],
        ["results", "\x00"], ["data", "check", "\x00"], ["results", "a" * 5000],
        ["run", "05_distill", "--parameters", "[" * 100_000],
    ],
    ids=range(6),
)  # fmt: skip
def test_mistakes_are_told_in_a_line(arguments, capsys, tally):
    assert main(arguments) in (1, 2)
    told = capsys.readouterr().err
    assert "Traceback" not in told and told.count("\n") < 12, told
    tally("fuzz: command line", "told")


@pytest.mark.parametrize(
    ("error", "says", "status"),
    [
        (OSError(28, "No space left on device"), "system refused.*No space left", 1),
        (MemoryError(), "Not enough memory", 1),
        (ZeroDivisionError("by\nnothing"), "Unexpected ZeroDivisionError.*KDLIB_DEBUG=1", 1),
        (KdlibError("what to do"), "^what to do$", 2),
    ],
    ids=["disk", "memory", "fault", "mistake"],
)
def test_any_failure_of_a_command_is_told_in_a_line(error, says, status, monkeypatch, capsys):
    def fail(*given, **more):
        raise error

    monkeypatch.setattr(cli, "called", fail)
    monkeypatch.delenv("KDLIB_DEBUG", raising=False)
    assert main(["methods"]) == status
    told = capsys.readouterr().err
    assert re.search(says, told) and len(told.splitlines()) == 1, told
    monkeypatch.setenv("KDLIB_DEBUG", "1")
    main(["methods"])
    assert "Traceback" in capsys.readouterr().err


def test_who_reads_the_output_may_leave():
    def command() -> int:
        ends = os.pipe()
        os.close(ends[0])
        with os.fdopen(ends[1], "w") as sys.stdout:
            return main(["methods"])

    assert outcome(command) == 128 + signal.SIGPIPE


@pytest.fixture(scope="module")
def check_arguments() -> Any:
    """The script that ``make`` asks first."""
    script = Path(__file__).parents[2] / "workflow" / "check_arguments.py"
    found = importlib.util.spec_from_file_location("check_arguments", script)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    sys.modules["check_arguments"] = module
    yield module
    del sys.modules["check_arguments"]


ARGUMENTS = ("PROFILE", "DATASET", "METHODS", "SEEDS", "EPOCHS", "IMAGES", "DATA_ROOT", "JOBS")


@pytest.mark.usefixtures("check_arguments")
@both(values=st.dictionaries(st.sampled_from(ARGUMENTS), TEXTS, min_size=1, max_size=2))
def test_arguments_of_make(tally, values):
    with contextlib.redirect_stderr(io.StringIO()) as told:
        status = sys.modules["check_arguments"].main([], values)
    assert status in (0, 2)
    if status:
        check_paragraph(told.getvalue())
    tally("fuzz: arguments of make", "told" if status else "harmless")
