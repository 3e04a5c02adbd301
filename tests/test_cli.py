"""The command line answers --help at once and tells a mistake in one line, with exit code 2."""

import os
import re
import resource
import subprocess
import sys

import pytest

from kdlib.data import dataset_names
from study.cli import main

COMMANDS = ("run", "results", "figures", "ledger", "analyse", "export", "data", "methods")


def test_help_lists_and_an_unknown_command_need_no_pytorch():
    words = [["nope"], ["data", "nope"], ["methods"], ["data", "list"], *(
        [*one.split(), "--help"]
        for one in ("", "export", "analyse", "data check", "data cache", "run", "results")
    )]  # fmt: skip
    code = f"import sys\nfrom study.cli import main\nfor one in {words}: main(one)\n"
    check = "sys.exit(bool({'torch', 'numpy', 'pandas', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code + check], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("variables", "limit", "command", "says"), [
    ({"MPLBACKEND": "odd"}, -1, "figures nowhere", r"variable MPLBACKEND is 'odd'"),
    ({"TQDM_MININTERVAL": "odd"}, -1, "run 05_distill", r"variable TQDM_MININTERVAL is 'odd'"),
    ({"KDLIB_CACHE": "/proc/x"}, -1, "data check scenes", "set KDLIB_CACHE to another folder"),
    ({}, 700 << 20, "data check scenes", r"(?s)memory to 734 MB .*Not enough memory"),
])  # fmt: skip
def test_what_the_environment_does_is_named(variables, limit, command, says):
    done = subprocess.run(
        [sys.executable, "-m", "kdlib", *command.split()], capture_output=True, text=True,
        env={**os.environ, **variables},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, -1)),
    )  # fmt: skip
    assert done.returncode in (1, 2) and re.search(says, done.stderr), done.stderr
    assert "fault of kdlib" not in done.stderr


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    assert all(command in told for command in COMMANDS)
    for command in COMMANDS:
        assert main([command, "--help"]) == 0
        assert f"Usage: kdlib {command}" in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "message"), [
    (["run", "05_distil"], "05_distill"),
    (["run", "05_distill", "-p", "epoch", "3"], "Did you mean 'epochs'?"),
    (["run", "05_distill", "--store", "-p", "epochs", "3"], "give it no parameters"),
    (["reslts"], "Unknown command 'reslts'. Did you mean 'results'?"),
    *((["run", "05_distill", *twice, "-p", "epochs", "4"], "'epochs' is given twice")
      for twice in (["-p", "epochs", "3"], ["--parameters", '{"epochs": 3}'])),
    (["export", "a", "--format", "onnx", "--format", "torch"], "--format"),
    (["results", "--readme", "docs/data.md"], "'docs/data.md' is not the README.md"),
    (["results", "no/such/folder"], "no/such/folder"),
    (["results", "--publish", "a", "--tune", "b"], "Give one of"),
    (["results", "--epochs", "0"], "--epochs"),
    (["data", "check", "scene"], "Did you mean 'scenes'?"),
    (["data", "cache", "scenes"], "mit67, sun397"),
    (["methods", "dtc"], "Did you mean 'dct'"),
    (["run", "no\nnotebook"], "Unknown notebook"), (["results", "\x00"], "There is no folder"),
    (["run", "05_distill", "-p", "epochs", "[" * 3000], "is not YAML"),
    (["run", "05_distill", "--parameters", "[" * 100_000], "is not a JSON object"),
])  # fmt: skip
def test_a_mistake_is_told_in_one_screen_without_a_traceback(arguments, message, capsys):
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert message in told and "Traceback" not in told and len(told.splitlines()) < 12


def test_parameters_methods_and_data_sets_are_listed_with_what_they_are(capsys):
    assert main(["run", "05_distill", "--list"]) == 0
    assert "data_seed = 0\n" in capsys.readouterr().out
    assert main(["methods"]) == main(["methods", "kd_cls"]) == 0
    told = capsys.readouterr().out
    assert "arXiv 1612.03928" in told and "temperature 2.0" in told
    assert main(["data", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(dataset_names())
    assert all(20 < len(line) <= 100 for line in lines)
