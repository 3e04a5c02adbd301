"""Whatever a user gives is taken, or refused in a line; no traceback reaches anybody."""

import json
import os
import re
import signal
import sys
from collections.abc import Callable
from shutil import copytree
from typing import Any

import pytest
import yaml
from cyclopts import CycloptsError
from grids import configs_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from losses.networks import pair
from processes import ROOT, make, outcomes

from kdlib import METHODS, KdlibError, RunConfig, create_distiller
from kdlib.detection.train_state import create_crop_loss
from kdlib.methods import parse_method
from study import cli, profiles
from study import notebooks as execute
from study.cli import app, main
from study.notebooks import NOTEBOOKS, check_parameters, parameter_defaults, parse_value
from study.profiles import KEYS, PROFILES, SWEEP_KEYS, expand

FIELDS = sorted(RunConfig().to_dict())
NAMES = st.sampled_from([*FIELDS, "methods", "options", "runs_root"]) | st.text()
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
WORDS = st.sampled_from([*METHODS, "kd", "gate", "", "+", "dct+", " "])
OPTIONED = [(name, option) for name, line in METHODS.items() for option in line.options]
OPTIONS = sorted({option for _, option in OPTIONED} | {"transform", "band", "level_weights"})
CHOSEN = st.tuples(
    st.sampled_from(sorted(METHODS)), st.dictionaries(st.sampled_from(OPTIONS), LIKELY, max_size=2)
) | st.tuples(st.sampled_from(OPTIONED), LIKELY).map(lambda one: (one[0][0], {one[0][1]: one[1]}))
NOTEBOOK = NOTEBOOKS / "05_distill.ipynb"
PROFILE_KEYS = [*KEYS, *SWEEP_KEYS]
PROFILES_MADE = ANYTHING | st.dictionaries(st.sampled_from(PROFILE_KEYS), ANYTHING)
PROFILE = TEXTS | PROFILES_MADE.map(yaml.dump)
COMMANDS = st.sampled_from([
    ["run"], ["run", "-p"], ["run", "05_distill", "--parameters"], ["results"], ["results", "-x"],
    ["results", "--epochs"], ["figures"], ["ledger", "--to"], ["analyse"], ["data"],
    ["data", "check"], ["data", "cache", "--workers"], ["methods"], ["export"], [],
])  # fmt: skip
VARIABLES = ("PROFILE", "DATASET", "METHODS", "SEEDS", "EPOCHS", "IMAGES", "DATA_ROOT", "JOBS")
SHELL = st.text(st.sampled_from("0a1 ;&|<>()`$'\"\\#~*?![]{}=%\n\té-"), max_size=12)
PWNED = "touch PWNED"
RUN = SHELL | st.sampled_from([f"0;{PWNED}", f"`{PWNED}`", f"$({PWNED})", f"$(shell {PWNED})"])


def check_fields(values: dict[str, Any]) -> None:
    config = RunConfig(**values)
    assert RunConfig(**json.loads(json.dumps(config.to_dict()))) == config
    assert config.run_id and "/" not in config.run_id


def check_options(chosen: tuple[str, dict[str, Any]]) -> None:
    method, options = chosen
    task = "detection" if METHODS[method].tasks == ("detection",) else "classification"
    config = RunConfig(method=method, method_options=options, task=task)
    create_crop_loss(config) if task == "detection" else create_distiller(config, pair())


def check_profile(given: tuple[dict[str, Any], str, bool]) -> None:
    changes, text, whole = given
    quick = yaml.safe_load((profiles.PROFILES / "quick.yaml").read_text())
    content = text if whole else yaml.dump({**quick, **changes})
    (profiles.PROFILES / "fuzzed.yaml").write_text(content, errors="surrogatepass")
    expand("fuzzed")


def check_command(words: tuple[list[str], list[str]]) -> None:
    try:
        app.parse_args([*words[0], *words[1]], exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise KdlibError(" ".join(str(error).split())[:200]) from error


def check_make(values: dict[str, str]) -> None:
    """``make`` itself, given words of a command line that no shell or make may read."""
    words = [f"{name}={value}".replace("\0", "") for name, value in values.items()]
    done = make("check", *(word.encode(errors="replace").decode() for word in words))
    told = "".join(line for line in done.stderr.splitlines(True) if not line.startswith("make: *"))
    assert (done.returncode, bool(told)) in ((0, False), (2, True)) and not done.stdout
    assert not [*ROOT.glob("PWNED*")], words
    if told:
        raise KdlibError(told)


def some(names: Any, values: st.SearchStrategy) -> st.SearchStrategy:
    return st.dictionaries(st.sampled_from(names), values, min_size=1, max_size=2)


FUZZED: dict[str, tuple[st.SearchStrategy, Callable[[Any], object]]] = {
    "fields of a run": (some(FIELDS, ANYTHING), check_fields),
    "lists of methods": (st.tuples(ANYTHING, ANYTHING), lambda both: configs_of(*both, {})),
    "method strings": (st.lists(WORDS).map("+".join) | st.text(max_size=30), parse_method),
    "options of methods": (CHOSEN, check_options),
    "notebook parameters": (
        st.tuples(NAMES, TEXTS),
        lambda one: check_parameters(NOTEBOOK, {one[0]: parse_value(one[1])}),
    ),
    "profiles": (st.tuples(some(PROFILE_KEYS, ANYTHING), PROFILE, st.booleans()), check_profile),
    "command line": (st.tuples(COMMANDS, st.lists(TEXTS, max_size=3)), check_command),
    "arguments of make": (some(VARIABLES, RUN | TEXTS), check_make),
}


@pytest.mark.parametrize("count", [40, pytest.param(500, marks=pytest.mark.slow_faults)])
@pytest.mark.parametrize("what", FUZZED)
def test_what_is_given_is_taken_or_told_in_a_paragraph(what, count, tally, tmp_path, monkeypatch):
    (strategy, act), known = FUZZED[what], parameter_defaults(NOTEBOOK)  # read once
    monkeypatch.setattr(execute, "parameter_defaults", lambda notebook: known)
    monkeypatch.setattr(profiles, "PROFILES", copytree(PROFILES, tmp_path / "profiles"))

    def check(value: Any) -> None:
        try:
            act(value)
            tally(f"fuzz: {what}", "harmless")
        except KdlibError as error:
            text = str(error).strip()
            assert text and "\n" not in text and len(text) < LONGEST, text
            assert "Traceback" not in text
            tally(f"fuzz: {what}", "told")

    usual = {"deadline": None, "derandomize": True, "database": None}
    budget = settings(max_examples=count, suppress_health_check=list(HealthCheck), **usual)
    budget(given(strategy)(check))()


@pytest.mark.parametrize(("error", "says", "status"), [
    (OSError(28, "No space left on device"), "system refused.*No space left", 1),
    (MemoryError(), "Not enough memory", 1),
    (ImportError("x.so: failed to map segment from shared object"), "Not enough memory .x.so", 1),
    (ValueError("Key backend: 'odd' is not valid"), "The variable MPLBACKEND is 'odd': correct", 1),
    (UnicodeEncodeError("ascii", "–", 0, 1, "no"), "ascii, has no .*PYTHONIOENCODING=utf-8", 1),
    (RuntimeError("Could not determine home directory."), "Set the variable HOME", 1),
    (ModuleNotFoundError("No module named 'x'"), "Install what is missing.*kdlib.study", 1),
    (ZeroDivisionError("by\nnothing"), "Unexpected ZeroDivisionError.*KDLIB_DEBUG=1", 1),
    (KdlibError("what to do"), "^what to do$", 2),
    (KeyboardInterrupt(), "Interrupted; what is finished is kept", 130),
])  # fmt: skip
def test_any_failure_of_a_command_is_told_in_a_line(error, says, status, monkeypatch, capsys):
    def fail(*given, **more):
        raise error

    monkeypatch.setattr(cli, "called", fail)
    monkeypatch.setenv("MPLBACKEND", "odd")
    monkeypatch.delenv("KDLIB_DEBUG", raising=False)
    assert main(["methods"]) == status
    told = capsys.readouterr().err
    assert re.search(says, told) and len(told.splitlines()) == 1, told
    monkeypatch.setenv("KDLIB_DEBUG", "1")
    main(["methods"])
    assert ("Traceback" in capsys.readouterr().err) == isinstance(error, Exception)


def test_who_reads_the_output_may_leave():
    def command() -> int:
        ends = os.pipe()
        os.close(ends[0])
        with os.fdopen(ends[1], "w") as sys.stdout:
            return main(["methods"])

    assert outcomes(command) == [128 + signal.SIGPIPE]
