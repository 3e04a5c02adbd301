"""What became of each trial is counted; ``make faults`` writes and shows it."""

import os
import platform
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
from training import tiny

from kdlib.files import write_json
from kdlib.runs import RunConfig, provenance
from kdlib.train import fit
from study.results import markdown_table

COUNTS: dict[str, Counter[str]] = {}
OUTCOMES = ("trials", "recovered", "told", "harmless", "failed")
RECORD = "KDLIB_FAULTS_TO"
"""The variable with the path of the record; without it none is written."""


@pytest.fixture
def tally() -> Callable[[str, str], None]:
    """Count one trial of a fault, by what became of it.

    ``recovered``: the end is that of an undisturbed run. ``told``: an error names what to do.
    ``harmless``: it made no difference: what was read is what was written, say.
    """

    def count(fault: str, outcome: str) -> None:
        assert outcome in OUTCOMES[1:]
        COUNTS.setdefault(fault, Counter()).update(["trials", outcome])

    return count


@pytest.fixture(scope="session")
def taught(tmp_path_factory) -> Path:
    """A folder of runs with the tiny teacher."""
    root = tmp_path_factory.mktemp("taught")
    fit([tiny().teacher_config()], root, progress=False)
    return root


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A test that fails is a fault that was neither told nor mended."""
    report = (yield).get_result()
    if report.failed and Path(__file__).parent in item.path.parents:
        COUNTS.setdefault(item.name, Counter()).update(["trials", "failed"])


def pytest_terminal_summary(terminalreporter):
    """The table of the faults, and their record where one is asked for."""
    place = os.environ.get(RECORD)
    if not place or not COUNTS:
        return
    rows = [[name, *(str(found[o]) for o in OUTCOMES)] for name, found in sorted(COUNTS.items())]
    terminalreporter.write_line("\n" + markdown_table(["fault", *OUTCOMES], rows))
    write_json(Path(place), {"faults": _counted(), "provenance": _source()})
    terminalreporter.write_line(f"record: {place}")


def _counted() -> dict[str, dict[str, int]]:
    return {name: {o: found[o] for o in OUTCOMES} for name, found in COUNTS.items()}


def _source() -> dict[str, object]:
    source = provenance(RunConfig(), "cpu", "float32", "tiny runs of the tests")
    kept = {name: source[name] for name in ("commit", "dirty", "threads", "utc")}
    versions = {**source["versions"], "safetensors": version("safetensors")}
    return {**kept, "versions": versions, "system": platform.system(), "cores": os.cpu_count()}
