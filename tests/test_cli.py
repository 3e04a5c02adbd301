"""The command line answers --help at once and tells a mistake in one line, with exit code 2."""

import subprocess
import sys

import pytest

from kdlib.cli import main

COMMANDS = ("run", "results", "figures", "data", "methods")


def test_help_names_every_command_and_loads_no_torch():
    main_and_look = "try: main(['--help'])\nfinally: print('torch' in sys.modules)"
    code = f"import sys\nfrom kdlib.cli import main\n{main_and_look}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert all(command in done.stdout for command in COMMANDS)
    assert done.stdout.endswith("False\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    assert "usage: kdlib " + command in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "05_distil"], "05_distill"),
        (["run", "05_distill", "-p", "epoch", "3"], "Did you mean 'epochs'?"),
        (["results", "no/such/folder"], "no/such/folder"),
        (["figures", "no/such/folder"], "no/such/folder"),
        (["data", "check", "scene"], "Did you mean 'scenes'?"),
    ],
)
def test_a_mistake_is_told_in_one_screen_without_a_traceback(arguments, message, capsys):
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told
    assert len(told.splitlines()) < 20


def test_methods_are_listed_with_their_source(capsys):
    assert main(["methods"]) == 0
    assert "arXiv 1612.03928" in capsys.readouterr().out
