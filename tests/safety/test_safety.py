"""The numbers stay: the same configurations, and the same bits in every kind of run."""

import json
from pathlib import Path

import pytest
from synthetic import write_run

from kdlib import KdlibError, RunConfig, distill

HERE = Path(__file__).parent


def test_every_profile_has_the_configurations_that_it_had(monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    from configurations import lines

    now, kept = lines(), (HERE / "configurations.txt").read_text().splitlines()
    assert (sorted({*now} - {*kept}), sorted({*kept} - {*now})) == ([], [])
    assert now == kept


@pytest.fixture(scope="module")
def guard():
    """The module of the fingerprints; compared by all, for it has a list of kinds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HERE)
        import fingerprints

        yield fingerprints


def test_no_number_of_any_kind_of_run_has_moved(guard):
    moved, now, _ = guard.compared()
    assert len(now) > 100
    assert not moved, (
        "Numbers moved, so records of before are no longer what this code gives. Take the change "
        "back; or raise the revision of the method or network that changed, which takes its "
        "records out of all tables, and then: python tests/safety/fingerprints.py --renew"
    )


def test_a_moved_number_is_seen_here_and_elsewhere_and_not_renewed_while_records_count(
    guard, monkeypatch, tmp_path
):
    """As in November 2026: gradients of labels and of KD met in bfloat16."""
    whole = distill.label_loss
    rounded = lambda logits, batch: whole(logits.bfloat16().float(), batch)  # noqa: E731
    monkeypatch.setattr(distill, "label_loss", rounded)
    monkeypatch.setattr(guard, "FILE", tmp_path / "kept.json")
    monkeypatch.setattr(guard, "RECORDS", tmp_path / "records")
    write_run(tmp_path / "records", RunConfig(method="kd"))
    (tmp_path / "kept.json").write_text((HERE / "fingerprints.json").read_text())
    moved, now, file = guard.compared("kd bfloat16")
    assert len(moved) == 1 and "kd bfloat16: " in moved[0]
    assert list(guard.differing(file["kinds"], now, exact=False)) != []
    with pytest.raises(KdlibError, match="kd bfloat16: numbers moved.*raise the revision"):
        guard.renew(now, file, moved)
    now["kd bfloat16"]["revision"] += 1  # then they no longer count
    guard.renew(now, file, moved)
    renewed = json.loads((tmp_path / "kept.json").read_text())["kinds"]
    assert renewed == {**file["kinds"], **now}
