"""Whatever a user gives is taken, or refused in a line; no traceback reaches anybody."""

import contextlib
import importlib.util
import io
import json
import os
import re
import signal
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
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


def anything(numbers: st.SearchStrategy) -> st.SearchStrategy:
    """Values of any kind, one within the other; whole numbers are ``numbers`` or huge."""
    plain = st.one_of(
        st.none(), st.booleans(), numbers, st.floats(), st.text(max_size=20), HUGE,
        st.just("long" * 2000), st.binary(max_size=3), st.dates(),
    )  # fmt: skip
    return st.recursive(
        plain,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text(max_size=5) | numbers, inner, max_size=3)
            | st.tuples(inner)
        ),
        max_leaves=6,
    )


ANYTHING = anything(st.integers())
LONGEST = 4000


def budget(count: int) -> settings:
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


FEW, MANY = budget(60), budget(500)


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


def both(**strategies: st.SearchStrategy):
    """The same property with few examples, and with many in ``make faults``."""

    def decorate(check):
        def test(count, tally):
            count(given(**strategies)(lambda **drawn: check(tally, **drawn)))()

        marked = pytest.param(MANY, id="many", marks=pytest.mark.slow_faults)
        return pytest.mark.parametrize("count", [pytest.param(FEW, id="few"), marked])(test)

    return decorate


@both(values=st.dictionaries(st.sampled_from(FIELDS), ANYTHING, min_size=1, max_size=3))
def test_fields_of_a_run(tally, values):
    config = sound(lambda: RunConfig.from_dict(values), tally, "fields of a run")
    if config is not None:
        assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
        assert config.run_id and "/" not in config.run_id


@both(name=st.sampled_from(FIELDS), value=ANYTHING)
def test_one_field_of_a_run(tally, name, value):
    config = sound(lambda: RunConfig.from_dict({name: value}), tally, "fields of a run")
    assert config is None or config.config_hash


@both(methods=ANYTHING, options=ANYTHING)
def test_lists_of_methods(tally, methods, options):
    sound(lambda: configs_of(methods, options, {}), tally, "lists of methods")


WORDS = st.sampled_from([*METHODS, "kd", "gate", "", "+", "dct+", " "])


@both(text=st.one_of(st.lists(WORDS, max_size=3).map("+".join), st.text(max_size=30)))
def test_method_strings(tally, text):
    sound(lambda: parse_method(text), tally, "method strings")


OPTIONED = [(name, option) for name, line in METHODS.items() for option in line.options]
OPTION_NAMES = sorted({option for _, option in OPTIONED} | {"transform", "band", "level_weights"})
# Numbers between, such as a hundred million channels, are built as they are asked for.
LIKELY = st.one_of(
    anything(st.integers(-3, 9)), st.floats(-2, 9), st.lists(st.integers(-2, 4), max_size=3)
)


@both(
    method=st.sampled_from(sorted(METHODS)),
    options=st.dictionaries(st.sampled_from(OPTION_NAMES), LIKELY, max_size=2),
)
def test_options_of_methods(tally, method, options):
    boxes = METHODS[method].tasks == ("detection",)

    def make():
        task = "detection" if boxes else "classification"
        config = RunConfig(method=method, method_options=options, task=task)
        return create_crop_loss(config) if boxes else create_distiller(config, pair())

    sound(make, tally, "options of methods")


@both(one=st.sampled_from(OPTIONED), value=LIKELY)
def test_one_option_of_a_method(tally, one, value):
    method, option = one
    boxes = METHODS[method].tasks == ("detection",)
    create = create_crop_loss if boxes else lambda config: create_distiller(config, pair())
    task = "detection" if boxes else "classification"

    def make():
        options = {option: value}
        return create(RunConfig(method=method, method_options=options, task=task))

    sound(make, tally, "options of methods")


TEXTS = st.one_of(
    st.text(max_size=40),
    st.sampled_from(["[" * 3000, "2020-13-45", "1" * 5000, "&a [*a]", "!!set {a}", "5e999", "1:2",
                     "\ud800", "\x00", "? a", "{a: [b", "0o99", ".nan", "=", "<<: a"]),
    ANYTHING.map(repr),
)  # fmt: skip
NOTEBOOK = NOTEBOOKS / "05_distill.ipynb"


@pytest.fixture(scope="module")
def known() -> dict[str, Any]:
    return parameter_defaults(NOTEBOOK)


@pytest.fixture
def notebook_read_once(known, monkeypatch):
    monkeypatch.setattr(execute, "parameter_defaults", lambda notebook: known)


NAMES = st.one_of(st.sampled_from([*FIELDS, "methods", "options", "runs_root"]), st.text())


@pytest.mark.usefixtures("notebook_read_once")
@both(name=NAMES, text=TEXTS)
def test_parameters_of_a_notebook(tally, name, text):
    sound(
        lambda: check_parameters(NOTEBOOK, {name: parse_value(text)}), tally, "notebook parameters"
    )


PROFILE = st.one_of(
    ANYTHING,
    st.dictionaries(st.sampled_from([*KEYS, *SWEEP_KEYS]), ANYTHING | st.just("fuzzed")),
).map(lambda value: yaml.dump(value))


@pytest.fixture
def a_profile(tmp_path, monkeypatch) -> Path:
    for path in PROFILES.glob("*.yaml"):
        (tmp_path / path.name).write_text(path.read_text())
    monkeypatch.setattr(profiles, "PROFILES", tmp_path)
    return tmp_path / "fuzzed.yaml"


@pytest.mark.parametrize(
    "count", [FEW, pytest.param(MANY, marks=pytest.mark.slow_faults)], ids=["few", "many"]
)
def test_profiles(a_profile, count, tally):
    keys = st.sampled_from([*KEYS, *SWEEP_KEYS])
    quick = yaml.safe_load((a_profile.parent / "quick.yaml").read_text())

    @count
    @given(st.dictionaries(keys, ANYTHING, max_size=2), TEXTS | PROFILE, st.booleans())
    def check(changes, text, whole):
        a_profile.write_text(
            text if whole else yaml.dump({**quick, **changes}), errors="surrogatepass"
        )
        sound(lambda: expand("fuzzed"), tally, "profiles")

    check()


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


MISTAKES = [
    (["run", "no\nnotebook"], 2), (["run", "05_distill", "-p", "epochs", "[" * 3000], 2),
    (["results", "\x00"], 2), (["data", "check", "\x00"], 2), (["results", "a" * 5000], 2),
    (["run", "05_distill", "--parameters", "[" * 100_000], 2),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "status"), MISTAKES, ids=range(len(MISTAKES)))
def test_mistakes_are_told_in_a_line(arguments, status, capsys, tally):
    try:
        found = main(arguments)
    except SystemExit as left:  # of argparse, after its usage
        found = left.code
    told = capsys.readouterr().err
    assert found in (1, status) and "Traceback" not in told and told.count("\n") < 12, told
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
    def fail(options):
        raise error

    monkeypatch.setattr(cli.commands, "list_methods", fail)
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


@cache
def make_arguments() -> ModuleType:
    """The script that ``make`` asks first."""
    script = Path(__file__).parents[2] / "workflow" / "check_arguments.py"
    found = importlib.util.spec_from_file_location("check_arguments", script)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


ARGUMENTS = ("PROFILE", "DATASET", "METHODS", "SEEDS", "EPOCHS", "IMAGES", "DATA_ROOT", "JOBS")


@both(values=st.dictionaries(st.sampled_from(ARGUMENTS), TEXTS, min_size=1, max_size=2))
def test_arguments_of_make(tally, values):
    check_arguments = make_arguments()
    with contextlib.redirect_stderr(io.StringIO()) as told:
        status = check_arguments.main([], values)
    assert status in (0, 2)
    if status:
        check_paragraph(told.getvalue())
    tally("fuzz: arguments of make", "told" if status else "harmless")
