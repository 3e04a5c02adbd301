"""What became of each trial is counted; ``make faults`` writes and shows it."""

import os
import platform
from collections import Counter, defaultdict
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from shutil import copytree

import pytest
from training import tiny

from kdlib.files import write_json
from kdlib.models import output as cost
from kdlib.runs import RunConfig, provenance, run_directory
from kdlib.train import fit
from study.results import markdown_table

COUNTS: dict[str, Counter[str]] = defaultdict(Counter)
OUTCOMES = ("trials", "recovered", "told", "harmless", "failed")
RECORD = "KDLIB_FAULTS_TO"  # the variable with the path of the record; without it none is written


@pytest.fixture
def tally() -> Callable[[str, str], None]:
    """Count one trial of a fault, by what became of it.

    ``recovered``: the end is that of an undisturbed run. ``told``: an error names what to do.
    ``harmless``: it made no difference: what was read is what was written, say.
    """

    def count(fault: str, outcome: str) -> None:
        assert outcome in OUTCOMES[1:]
        COUNTS[fault].update(["trials", outcome])

    return count


@pytest.fixture(scope="session")
def taught(tmp_path_factory) -> Path:
    """A folder of runs with the tiny teacher."""
    cost.REPEATS = 1  # of this process, which times nothing
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


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A test that fails is a fault that was neither told nor mended."""
    report = (yield).get_result()
    if report.failed and Path(__file__).parent in item.path.parents:
        COUNTS[item.name].update(["trials", "failed"])


def pytest_terminal_summary(terminalreporter):
    """The table of the faults, and their record where one is asked for."""
    if not (place := os.environ.get(RECORD)) or not COUNTS:
        return
    rows = [[name, *(str(found[o]) for o in OUTCOMES)] for name, found in sorted(COUNTS.items())]
    terminalreporter.write_line("\n" + markdown_table(["fault", *OUTCOMES], rows))
    source = provenance(RunConfig(), "cpu", "float32", "tiny runs of the tests")
    kept = {name: source[name] for name in ("commit", "dirty", "threads", "utc")}
    kept["versions"] = {**source["versions"], "safetensors": version("safetensors")}
    kept |= {"system": platform.system(), "cores": os.cpu_count()}
    counted = {name: {o: found[o] for o in OUTCOMES} for name, found in COUNTS.items()}
    write_json(Path(place), {"faults": counted, "provenance": kept})
    terminalreporter.write_line(f"record: {place}")
