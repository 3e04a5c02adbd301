"""Committed runs come out the same when they are made again; what differs is told, and why."""

import json
import math
import re
from pathlib import Path

import pytest

from kdlib import KdlibError
from study import records, sealed, verify
from study.cli import main

SEALED = Path(__file__).with_name("sealed")
RUNS = sorted(sealed.run_ids(SEALED))
PIXELS = next(run for run in RUNS if "ssd" not in run)
AGAIN = "make them again: python tools/make_verified_records.py"


def test_two_committed_runs_are_made_again_with_the_same_numbers(capsys):
    assert len(RUNS) == 2 and not records.superseded(SEALED), AGAIN
    status, said = main(["verify", "--root", str(SEALED), *RUNS]), capsys.readouterr().out
    told = [line for line in said.splitlines() if re.match(r"[^ ]+: (the|differs)", line)]
    assert [line.split(":")[0] for line in told] == RUNS
    here = ("processor", "capability", "torch")
    elsewhere = re.findall(rf"(?:: |; )({'|'.join(here)}) ", " ".join(told))
    assert status == verify.SAME or (elsewhere and status == verify.CLOSE), said


@pytest.fixture
def forged(tmp_path):
    """Seals a run anew with changed parts of its record; returns the folder."""

    def make(top1=None, history=None, provenance=()):
        entry, _ = records.committed_part(SEALED / PIXELS)
        entry["record"] |= {"schema_version": 1}  # whose records have no checksum of their own
        del entry["record"]["checksum"]
        entry["record"]["provenance"] |= dict(provenance)
        entry["record"]["results"]["top1"] += top1 or 0.0
        entry["history"] = history or entry["history"]
        sealed.seal(tmp_path, [(entry, [])])
        return tmp_path

    return make


@pytest.mark.parametrize(("change", "status", "says"), [
    ({}, verify.SAME, "the same bits"),
    ({"top1": 0.004, "provenance": {"processor": "Another"}}, verify.CLOSE,
     r"the same within 0.01 \(results.top1 0.004\).*processor Another then"),
    ({"top1": 0.1, "provenance": {"capability": "AVX2", "threads": 7}}, verify.DIFFERS,
     r"differs \(results.top1 0.1\).*capability AVX2 then, .* now; threads 7 then, 1 now"),
    ({"history": "epoch,ce,seconds\n1,99,1\n2,99,1\n"}, verify.DIFFERS, r"differs \(history.ce 1"),
])  # fmt: skip
def test_a_verdict_tells_measures_and_conditions(change, status, says, forged, monkeypatch, capsys):
    """The run is not made again here: what it gives is what is committed."""
    root = forged(**change)
    monkeypatch.setattr(verify, "fit", lambda *args, **options: None)
    again = records.record_of(SEALED / PIXELS)["provenance"]
    monkeypatch.setattr(verify, "run_directory", lambda *args: SEALED / PIXELS)
    assert main(["verify", "--root", str(root), PIXELS]) == status
    said = capsys.readouterr().out
    assert re.search(f"{re.escape(PIXELS)}: {says}", said), said
    assert again["capability"] and again["processor"] and again["threads"] == 1


def test_runs_that_were_made_are_compared_with_what_is_committed_of_them(forged, tmp_path, capsys):
    run, root = tmp_path / "runs" / PIXELS, forged(top1=0.1, provenance={"processor": "Another"})
    assert main(["verify", "--runs", str(run.parent), "--root", str(SEALED)]) == verify.SAME
    assert "No run that was made here is among" in capsys.readouterr().out
    entry, _ = records.committed_part(SEALED / PIXELS)
    run.mkdir(parents=True)
    (run / "history.csv").write_text(entry["history"])
    (run / "record.json").write_text(json.dumps(entry["record"]))
    lines = [path.read_text().splitlines() for path in SEALED.glob("*.jsonl")]
    some = tmp_path / "some"  # without the others, as a reader leaves it who wants those again
    some.mkdir()
    (some / "few.jsonl").write_text(next(f"{x}\n" for one in lines for x in one if PIXELS in x))
    assert main(["verify", "--runs", str(run.parent), "--root", str(some)]) == verify.SAME
    assert "1 of 1 runs in" in capsys.readouterr().out
    assert main(["verify", "--runs", str(run.parent), "--root", str(root)]) == verify.DIFFERS
    told = capsys.readouterr().out
    assert re.search(r"results.top1 0.1\).*processor Another then(.|\n)*\n0 of 1 runs in", told)
    records.supersede(root, [PIXELS], "a defect")
    assert main(["verify", "--runs", str(run.parent), "--root", str(root)]) == verify.SAME


def test_what_cannot_be_verified_is_refused(forged, tmp_path_factory):
    root = forged()
    records.supersede(root, [PIXELS], "a defect")
    with pytest.raises(KdlibError, match="Name the runs"):
        verify.verify([], root, None, None, 0.01)
    (tmp_path_factory.getbasetemp() / "odd").mkdir()  # a damaged neighbour of what is no run
    (tmp_path_factory.getbasetemp() / "odd" / "record.json").write_text("[")
    refused = {PIXELS: "superseded: a defect", "x": "no run 'x'", str(root): "not a finished run"}
    for run, says in refused.items():
        with pytest.raises(KdlibError, match=says):
            verify.verify([Path(run)], root, None, None, 0.01)


def test_differences_are_shares_and_what_is_no_number_or_missing_is_infinite():
    then = {"results.a": 1.0, "results.b": None, "ssim.1": 0.5, "ssim.2": 0.5, "diverged": None}
    now = {"results.a": 1.0, "results.b": 0.0, "ssim.1": 0.25, "diverged": None, "new": 1.0}
    assert verify.differences(then, now) == {"results.b": math.inf, "ssim": math.inf}
    assert verify.differences({"history.at.1": 40.0}, {"history.at.1": 39.0}) == {
        "history.at": 1 / 40
    }
    then, now = (
        {f"confusion.0.{n}": count for n, count in enumerate(of)} for of in ((9, 1), (8, 2))
    )
    assert verify.differences(then, now) == {"confusion": 1 / 10}
