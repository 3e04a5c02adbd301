"""The analyses of a folder of trained runs: once each, published with their records."""

import json
from dataclasses import replace

import pytest
from training import tiny

from kdlib.errors import KdlibError
from kdlib.train import fit
from study.analyses.measure import (
    ANSWERS_FILE,
    FILES_FILE,
    MAPS_FILE,
    analyse,
    load_answers,
    read_analysis,
)
from study.records import publish


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A teacher, a student that it taught, and another that is on the dev split."""
    folder = tmp_path_factory.mktemp("runs")
    taught = tiny(method="dct")
    runs = [taught.teacher_config(), taught, tiny(method="student", split="dev")]
    for run in runs:
        fit([run], folder, progress=False)
    return folder


def test_runs_are_analysed_once_and_published(root, tmp_path):
    written = analyse(root, progress=False)
    names = {path.parent.name for path in written}
    assert len(names) == 2 and not any("-dev-" in name for name in names)
    assert analyse(root, progress=False) == []
    one = next(path for path in written if "-dct-" in path.parent.name)
    record = json.loads((one.parent / "record.json").read_text())
    found = read_analysis(one)["calibration"]
    pairs = zip(found["count"], found["accuracy"], strict=True)
    right = sum(number * share for number, share in pairs if number) / sum(found["count"])
    assert right == pytest.approx(record["results"]["top1"], abs=1e-4)
    publish(root, tmp_path)
    copies = tmp_path / one.parent.name
    for name in (FILES_FILE, MAPS_FILE, ANSWERS_FILE):
        assert (copies / name).read_bytes() == (one.parent / name).read_bytes()
    assert not (copies / "weights.safetensors").exists()


def test_a_damaged_analysis_is_made_again(root):
    path = next(root.glob("scenes-*-dct-*")) / FILES_FILE
    analyse(root, ["dct"], progress=False)
    path.write_text("{")
    assert analyse(root, ["dct"], progress=False) == [path]
    first = path.read_text().split('"provenance"')[0]
    path.unlink()
    analyse(root, ["dct"], progress=False)
    assert path.read_text().split('"provenance"')[0] == first


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"methods": ["dtc"]}, "Did you mean 'dct'"),
        ({"methods": ["at"]}, "no run of at on a test set"),
        ({"dataset": "cifar100"}, "on the test set of cifar100"),
    ],
)
def test_what_cannot_be_analysed_is_told(root, given, message):
    with pytest.raises(KdlibError, match=message):
        analyse(root, progress=False, **given)


def test_records_without_weights_cannot_be_analysed(root, tmp_path):
    publish(root, tmp_path)
    with pytest.raises(KdlibError, match=r"weights\.safetensors.*trained in"):
        analyse(tmp_path, progress=False)


def test_seeds_keep_maps_only_where_asked(root):
    directory = next(root.glob("scenes-*-dct-*"))
    assert (directory / MAPS_FILE).exists()
    other = replace(tiny(method="dct"), init_seed=1)
    fit([other], root, progress=False)
    (path,) = analyse(root, ["dct"], progress=False)
    assert not (path.parent / MAPS_FILE).exists()
    assert analyse(root, ["dct"], maps_seed=1, progress=False) == [path]
    assert (path.parent / MAPS_FILE).exists()


def test_answers_are_those_that_the_record_counts_and_the_teacher_keeps_pictures(root):
    analyse(root, progress=False)
    for path in root.glob("scenes-*-s0-*/" + ANSWERS_FILE):
        found = load_answers(path.parent)
        record = json.loads((path.parent / "record.json").read_text())
        right = (found.answers == found.labels).float().mean().item()
        assert right == pytest.approx(record["results"]["top1"], abs=1e-6)
        assert len(found.images) == (len(found.labels) if "-student-s0" in path.parent.name else 0)
