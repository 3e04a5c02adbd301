"""What became of each trial is counted; ``make faults`` writes and shows it."""

import os
import platform
from collections import Counter, defaultdict
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from kdlib.files import write_json
from kdlib.runs import RunConfig, provenance
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
