"""Arguments of make: wrong ones are refused by Python alone, none is read by a shell or by make."""

import os
import re
import subprocess
import sys

import check_arguments
import pytest
from processes import ROOT, make

from kdlib.errors import KdlibError
from kdlib.methods import METHODS, MODIFIERS, modifiers_of
from study.profiles import profile_names


@pytest.mark.parametrize("modifier", MODIFIERS)
def test_names_are_accepted_where_the_library_accepts_them(modifier):
    assert tuple(check_arguments.profiles()) == profile_names()
    for method in METHODS:
        assert check_arguments.main([], {"METHODS": method}) == 0
        status = check_arguments.main([], {"METHODS": f"{method}+{modifier}"})
        assert status == (0 if modifier in modifiers_of(method) else 2)


@pytest.mark.parametrize(("words", "variables", "message"), [
    ([], {"PROFILE": "qick"}, "Did you mean 'quick'?"),
    ([], {"DATASET": "scene"}, "Did you mean 'scenes'?"),
    ([], {"METHODS": "at,dtc"}, "Did you mean 'dct'?"),
    ([], {"METHODS": "dct+gat"}, "METHODS has 'dct+gat'. Unknown"),
    ([], {"SEEDS": "0 -1"}, "whole numbers from 0"),
    ([], {"DATA_ROOT": "no/such/folder"}, "not a folder"),
    ([], {"JOBS": "0"}, "valid: all"),
    ([], {"PARTS": "tune, confrm"}, "Unknown part in PARTS 'confrm'. Did you mean 'confirm'?"),
    ([], {"EXECUTOR": "slrum"}, "Did you mean 'slurm'?"),
    ([], {"EPOCHS": "0"}, "EPOCHS is '0'; valid: a whole number from 1"),
    ([], {"EPOCHS": "1.5"}, "EPOCHS is '1.5'"),
    ([], {"IMAGES": "1"}, "IMAGES is '1'; valid: a whole number from 2"),
    (["PROFLE=full"], {}, "Did you mean 'PROFILE'?"), ([], {"UNKNOWN": "PROFLE"}, "'PROFILE'?"),
])  # fmt: skip
def test_a_wrong_value_is_refused(capsys, words, variables, message):
    assert check_arguments.main(words, variables) == 2
    assert message in capsys.readouterr().err


def test_right_values_pass_without_any_package_and_another_python_is_refused():
    variables = {"PROFILE": "standard", "METHODS": "at, dct+gate+kd", "SEEDS": "0,1", "EPOCHS": "1"}
    # -S and -I: as on a machine where nothing has been installed.
    command = [sys.executable, "-I", "-S", check_arguments.__file__, "PROFILE=standard"]
    environment = {**variables, "EXECUTOR": "slurm"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    for version in ((3, 10), (3, 14)):
        with pytest.raises(KdlibError, match="make PYTHON="):
            check_arguments.check_version(version)


NAMES = (
    "Anna's data", "Photos (2024)", "R&D", "a;touch PWNED", "`touch PWNED`", "$(touch PWNED)",
    "$(shell touch PWNED)", "$$HOME ${HOME}", 'with "quotes" #1', "été 写真", "two\nlines", "-x",
    "a\\b", "*", "| touch PWNED", "> PWNED", "blank ", "100% {x}", "007", "[1, 2]", "key: value",
)  # fmt: skip


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A tree for make, itself named oddly, with programs that write down what they are given."""
    folder = tmp_path_factory.mktemp("tree") / "it's `touch PWNED` $(touch PWNED)"
    (folder / ".venv" / "bin").mkdir(parents=True)
    for name in ("Makefile", "workflow", "profiles", "kdlib", "requirements", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    (folder / ".venv" / ".installed").touch()
    for name in ("python", "snakemake"):
        program = folder / ".venv" / "bin" / name
        given = '"DATA_ROOT=$DATA_ROOT" "$PYTHONPATH" "$@"'
        program.write_text(f'#!/bin/sh\nprintf "%s\\0" {given} >> words\n')
        program.chmod(0o755)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_make_takes_any_folder_and_executes_nothing_of_its_name(name, tree):
    (tree / name).mkdir()
    for given in (f"DATA_ROOT={name}",), ():
        variables = {"DATA_ROOT": name, "PYTHONPATH": "other"}
        done = make("reproduce", "SEEDS=0,1", *given, where=tree, **variables)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        words = (tree / "words").read_bytes().decode().split("\0")
        assert words.count(f"DATA_ROOT={name}") == 4  # in the environment of each program
        assert words.count(f"{tree}:other") == 4  # whoever's code is on the path, this comes first
        assert f"--data-root={name}" in words and "seeds=0,1" in words
        (tree / "words").unlink()
    assert not [*tree.rglob("PWNED*"), *tree.parent.glob("PWNED*")]


@pytest.mark.parametrize(("given", "says"), [
    *((f"{name}={value}", f"{name}.*'0{re.escape(value[1:4])}")
      for name in check_arguments.VARIABLES if name != "PYTHON"
      for value in ("0;touch PWNED", "0`touch PWNED`", "0$(shell touch PWNED)")),
    ("PYTHON=python3;touch PWNED", "No program 'python3;touch PWNED'"),
    ("PYTHON=$(shell touch PWNED)", r"No program '\$\(shell touch"),
    ("PYTHON=-c", "No program '-c'"), ("PYTHON=", "No program ''"),
    ("PYTHON=~/no such", "No program '/.*/no such'"), ("PROFLE=full", "Did you mean 'PROFILE'"),
    ("IN_VENV=touch PWNED;", "Unknown variable 'IN_VENV'"),
    ("BOGUS=$(shell touch PWNED)", "Unknown variable 'BOGUS'"),
    ("DATA_ROOT=~/no", "DATA_ROOT is '~/no', which is not a folder"),
])  # fmt: skip
def test_what_make_refuses_is_told_in_a_line_and_not_executed(given, says, tmp_path):
    name, _, value = given.partition("=")
    for words, variables in (((given,), {}), ((), {name: value})):
        if not words and name not in check_arguments.VARIABLES:
            continue  # a variable of the environment may be another program's
        done = make("check", *words, **variables)
        told = [line for line in done.stderr.splitlines() if not line.startswith("make: ***")]
        assert done.returncode == 2 and len(told) == 1 and re.search(says, told[0]), done.stderr
    assert not [*ROOT.glob("PWNED*")]
    assert make("check", "DATA_ROOT=~", HOME=str(tmp_path)).returncode == 0


@pytest.mark.parametrize(("given", "says"), [
    ("profil=smoke", "Unknown option of --config 'profil'. Did you mean 'profile'?"),
    ("part=confrm", "Did you mean 'study_confirm'"),
    ("epochs=few", "--config epochs is 'few'; valid: a whole number"),
    ("seeds=9", "R&D #1: [x]/{y}"),
])  # fmt: skip
def test_what_snakemake_is_given_is_known_or_refused(given, says, tmp_path):
    words = ["--cores", "1", "--dry-run", "--nolock", "--printshellcmds", "--config", given]
    variables = {"PYTHONPATH": str(ROOT), "DATA_ROOT": str(tmp_path / "R&D #1: [x]/{y}")}
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--snakefile", "workflow/Snakefile", *words],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, **variables},
    )  # fmt: skip
    assert says in done.stdout + done.stderr and bool(done.returncode) == ("R&D" not in says)
