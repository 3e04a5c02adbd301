"""Wrong arguments of make are refused by Python alone, and its names are the registries' own."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from kdlib.errors import KdlibError
from kdlib.methods import METHODS, MODIFIERS, modifiers_of, parse_method
from study.profiles import profile_names

SCRIPT = Path(__file__).parents[1] / "workflow" / "check_arguments.py"


@pytest.fixture(scope="module")
def check():
    spec = importlib.util.spec_from_file_location("check_arguments", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def accepts(check, method):
    try:
        check([method])
    except KdlibError:
        return False
    return True


@pytest.mark.parametrize("modifier", MODIFIERS)
def test_names_are_accepted_where_the_library_accepts_them(check, modifier):
    assert tuple(check.profiles()) == profile_names()
    for method in METHODS:
        assert accepts(check.check_methods, method)
        valid = modifier in modifiers_of(method)
        assert accepts(check.check_methods, f"{method}+{modifier}") == valid
        assert accepts(lambda names: [*map(parse_method, names)], f"{method}+{modifier}") == valid


@pytest.mark.parametrize(
    ("words", "variables", "message"),
    [
        ([], {"PROFILE": "qick"}, "Did you mean 'quick'?"),
        ([], {"DATASET": "scene"}, "Did you mean 'scenes'?"),
        ([], {"METHODS": "at,dtc"}, "Did you mean 'dct'?"),
        ([], {"METHODS": "dct+gat"}, "Did you mean 'gate'?"),
        ([], {"SEEDS": "0 -1"}, "whole numbers from 0"),
        ([], {"DATA_ROOT": "no/such/folder"}, "not a folder"),
        ([], {"JOBS": "0"}, "valid: all"),
        ([], {"EXECUTOR": "slrum"}, "Did you mean 'slurm'?"),
        ([], {"EPOCHS": "0"}, "EPOCHS is '0'; valid: a whole number from 1"),
        ([], {"EPOCHS": "1.5"}, "EPOCHS is '1.5'"),
        ([], {"IMAGES": "all"}, "IMAGES is 'all'; valid: a whole number from 1"),
        (["PROFLE=full"], {}, "Did you mean 'PROFILE'?"),
    ],
)
def test_a_wrong_value_is_refused(check, capsys, words, variables, message):
    assert check.main(words, variables) == 2
    assert message in capsys.readouterr().err


def test_right_values_pass_without_any_package_and_another_python_is_refused(check):
    variables = {"PROFILE": "full", "METHODS": "at, dct+gate+kd", "SEEDS": "0,1", "EPOCHS": "1"}
    # -S and -I: as on a machine where nothing has been installed.
    command = [sys.executable, "-I", "-S", str(SCRIPT), "PROFILE=full"]
    environment = {**variables, "EXECUTOR": "slurm"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    for version in ((3, 10), (3, 14)):
        with pytest.raises(KdlibError, match="make PYTHON="):
            check.check_version(version)
