"""A job of a batch: a failure is tried again, a mistake is not."""

import json

import nbformat
import pytest

from kdlib.errors import EXIT_FAILED, EXIT_MISTAKE, KdlibError
from study.cli import main
from study.jobs import VISIBLE, is_mistake

HEAD = "import pathlib, os\ncount = pathlib.Path(place) / 'tries'\n"
HEAD += "count.write_text(count.read_text() + '|' if count.exists() else '|')\n"
ENDINGS = {
    "well": "",
    "fails": "raise RuntimeError('the machine died')",
    "mistaken": "from kdlib.errors import KdlibError\nraise KdlibError('no such method')",
}


@pytest.fixture
def job(tmp_path):
    """Run a notebook that counts its tries, and ends as told."""

    def run(ending: str, attempt: int, gpus: int = 0, place: str = "place") -> tuple[int, int]:
        parameters = nbformat.v4.new_code_cell("place = ''", metadata={"tags": ["parameters"]})
        cells = [parameters, nbformat.v4.new_code_cell(HEAD + ENDINGS[ending])]
        path = tmp_path / "job.ipynb"
        kernel = {"kernelspec": {"name": "python3", "display_name": "", "language": "python"}}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
        given = ["--parameters", json.dumps({place: str(tmp_path)}), "--attempt", str(attempt)]
        output = ["--output", str(tmp_path / "out" / "job.ipynb")]
        status = main(["run", str(path), *output, *given, "--gpus", str(gpus)])
        tries = tmp_path / "tries"
        return status, len(tries.read_text()) if tries.exists() else 0

    return run


def test_a_failure_is_tried_again_and_leaves_nothing_when_it_ends_well(job, tmp_path):
    assert job("fails", 1) == (EXIT_FAILED, 1)
    assert job("well", 2) == (0, 2)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["job.ipynb"]


def test_a_mistake_is_made_once_a_batch(job, capsys):
    assert job("mistaken", 1) == (EXIT_MISTAKE, 1)
    assert job("mistaken", 2) == (EXIT_MISTAKE, 1)
    assert "no such method" in capsys.readouterr().err.split("Not tried again:")[1]
    assert job("well", 1) == (0, 2)


def test_a_wrong_parameter_and_too_few_gpus_are_mistakes_and_a_full_disk_is_none(
    job, monkeypatch, capsys
):
    monkeypatch.setenv(VISIBLE, "0")
    assert job("well", 1, place="plaec") == job("well", 1, gpus=2) == (EXIT_MISTAKE, 0)
    told = capsys.readouterr().err
    assert "Did you mean 'place'" in told and "gpus_per_job=1" in told
    assert not is_mistake(type("FullDiskError", (KdlibError,), {})("no room"))
