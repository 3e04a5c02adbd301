"""Wrong arguments of make are refused by Python alone, and its names are the registries' own."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from kdlib.data import dataset_names
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


def test_the_names_are_those_of_the_registries(check):
    assert tuple(check.profiles()) == profile_names()
    assert tuple(check.DATASETS) == dataset_names()
    assert list(check.METHODS) == list(METHODS)
    assert tuple(check.MODIFIERS) == MODIFIERS


@pytest.mark.parametrize("modifier", MODIFIERS)
@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_accepted_where_the_library_accepts_it(check, method, modifier):
    for accept in (check.check_methods, lambda names: [parse_method(name) for name in names]):
        if modifier not in modifiers_of(method):
            with pytest.raises(KdlibError):
                accept([f"{method}+{modifier}"])
        else:
            accept([method, f"{method}+{modifier}"])


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"PROFILE": "qick"}, "Did you mean 'quick'?"),
        ({"DATASET": "scene"}, "Did you mean 'scenes'?"),
        ({"METHODS": "at,dtc"}, "Did you mean 'dct'?"),
        ({"METHODS": "dct+gat"}, "Did you mean 'gate'?"),
        ({"SEEDS": "0 -1"}, "whole numbers from 0"),
        ({"DATA_ROOT": "no/such/folder"}, "not a folder"),
        ({"JOBS": "0"}, "valid: all"),
        ({"EXECUTOR": "slrum"}, "Did you mean 'slurm'?"),
        ({"EPOCHS": "0"}, "EPOCHS is '0'; valid: a whole number from 1"),
        ({"EPOCHS": "1.5"}, "EPOCHS is '1.5'"),
        ({"IMAGES": "all"}, "IMAGES is 'all'; valid: a whole number from 1"),
    ],
)
def test_a_wrong_value_is_refused(check, capsys, variables, message):
    assert check.main([], variables) == 2
    assert message in capsys.readouterr().err


def test_a_misspelt_variable_is_refused(check, capsys):
    assert check.main(["PROFLE=full"], {}) == 2
    assert "Did you mean 'PROFILE'?" in capsys.readouterr().err


def test_right_values_pass_without_any_package():
    variables = {"PROFILE": "full", "METHODS": "at, dct+gate+kd", "SEEDS": "0,1", "EPOCHS": "1"}
    variables |= {"EXECUTOR": "slurm"}
    # -S and -I: as on a machine where nothing has been installed.
    command = [sys.executable, "-I", "-S", str(SCRIPT), "PROFILE=full"]
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("version", [(3, 10), (3, 14)])
def test_another_python_is_refused(check, version):
    with pytest.raises(KdlibError, match="make PYTHON="):
        check.check_version(version)
