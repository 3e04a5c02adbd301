"""Runs that several files' tests begin with: the tiny teacher, and ends that nobody disturbed."""

import os
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # tests compare bits of the CPU, and fork

import pytest
from training import tiny

from kdlib.models import output as cost
from kdlib.runs import RunConfig, run_directory
from kdlib.train import fit


@pytest.fixture(scope="session", autouse=True)
def untimed():
    """What a network costs is measured once, since no test reads the time."""
    cost.REPEATS = 1


@pytest.fixture(scope="session")
def taught(untimed, tmp_path_factory) -> Path:
    """A folder of runs with the tiny teacher."""
    root = tmp_path_factory.mktemp("taught")
    fit(tiny().teacher_config(), root, progress=False)
    return root


@pytest.fixture
def root(taught, tmp_path) -> Path:
    """A folder of its own with the tiny teacher."""
    return copytree(taught, tmp_path / "runs")


@pytest.fixture(scope="session")
def undisturbed(taught, tmp_path_factory) -> Callable[[RunConfig], Path]:
    """The directory of a run that nobody disturbed; each is trained once."""
    root = copytree(taught, tmp_path_factory.mktemp("undisturbed") / "runs")

    def whole(config: RunConfig) -> Path:
        fit(config, root, progress=False)
        return run_directory(config, root)

    return whole
