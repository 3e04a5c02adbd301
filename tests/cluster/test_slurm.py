"""A grid on SLURM loses nothing, whatever is killed. `pytest -m cluster`; skipped without SLURM."""

import pytest

from cluster.__main__ import measure
from cluster.grid import RECORDS
from cluster.slurm import missing_programs

MISSING = ", ".join(missing_programs())


@pytest.mark.cluster
@pytest.mark.skipif(bool(MISSING), reason=f"no {MISSING} here; see tests/cluster/run.sh --help")
def test_every_record_is_there_and_equal_to_that_of_a_grid_left_alone():
    figures = measure()
    assert len(figures["kills"]) == 4
    assert figures["jobs_submitted"] > 4
    assert figures["records"] == figures["equal"] == RECORDS
