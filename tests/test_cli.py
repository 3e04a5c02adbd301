"""The command line answers --help at once and tells a mistake in one line, with exit code 2."""

import subprocess
import sys

import pytest
from data_files import write_mit67

from kdlib.data import dataset_names
from study.cli import main

COMMANDS = ("run", "results", "figures", "ledger", "analyse", "export", "data", "methods")


def test_help_names_every_command_and_loads_no_torch():
    main_and_look = "try: main(['--help'])\nfinally: print('torch' in sys.modules)"
    code = f"import sys\nfrom study.cli import main\n{main_and_look}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert all(command in done.stdout for command in COMMANDS)
    assert done.stdout.endswith("False\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command, capsys):
    assert main([command, "--help"]) == 0
    assert "Usage: kdlib " + command in capsys.readouterr().out


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


def test_every_data_set_is_listed_with_what_it_is(capsys):
    assert main(["data", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(dataset_names())
    assert all(20 < len(line) <= 100 for line in lines)


def test_photographs_are_checked_and_cached(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "cache"))
    root = ["--data-root", str(write_mit67(tmp_path))]
    assert main(["data", "check", "mit67", *root]) == 0
    assert (
        "mit67, train: readable; 8 images (published: 5,360), 2 classes" in capsys.readouterr().out
    )
    size = ["--image-size", "32", "--workers", "1"]
    assert main(["data", "cache", "mit67", *size, *root]) == 0
    assert "mit67, test: 8 photographs, 0.00 GB" in capsys.readouterr().out


def test_what_needs_no_cache_says_so(capsys):
    assert main(["data", "cache", "scenes"]) == 2
    assert "mit67, sun397" in capsys.readouterr().err
    assert main(["data", "cache", "mit76"]) == 2
    assert "Did you mean 'mit67'" in capsys.readouterr().err
