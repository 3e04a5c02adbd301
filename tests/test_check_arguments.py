"""Wrong arguments of make are refused by Python alone, and its names are the registries' own."""

import subprocess
import sys

import check_arguments
import pytest

from kdlib.errors import KdlibError
from kdlib.methods import METHODS, MODIFIERS, modifiers_of, parse_method
from study.profiles import profile_names


def accepts(check, method):
    try:
        check([method])
    except KdlibError:
        return False
    return True


@pytest.mark.parametrize("modifier", MODIFIERS)
def test_names_are_accepted_where_the_library_accepts_them(modifier):
    assert tuple(check_arguments.profiles()) == profile_names()
    for method in METHODS:
        assert accepts(check_arguments.check_methods, method)
        valid = modifier in modifiers_of(method)
        assert accepts(check_arguments.check_methods, f"{method}+{modifier}") == valid
        assert accepts(lambda names: [*map(parse_method, names)], f"{method}+{modifier}") == valid


@pytest.mark.parametrize(("words", "variables", "message"), [
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
])  # fmt: skip
def test_a_wrong_value_is_refused(capsys, words, variables, message):
    assert check_arguments.main(words, variables) == 2
    assert message in capsys.readouterr().err


def test_right_values_pass_without_any_package_and_another_python_is_refused():
    variables = {"PROFILE": "full", "METHODS": "at, dct+gate+kd", "SEEDS": "0,1", "EPOCHS": "1"}
    # -S and -I: as on a machine where nothing has been installed.
    command = [sys.executable, "-I", "-S", check_arguments.__file__, "PROFILE=full"]
    environment = {**variables, "EXECUTOR": "slurm"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    for version in ((3, 10), (3, 14)):
        with pytest.raises(KdlibError, match="make PYTHON="):
            check_arguments.check_version(version)
