"""An exported student answers like PyTorch's, without kdlib, or there is no file at all."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from PIL import Image
from training import tiny

from benchmarks.__main__ import main as benchmark
from kdlib.data.batches import Batches
from kdlib.errors import KdlibError
from kdlib.evaluate import trained_network
from kdlib.runs import evaluation_data, read_record, write_record
from kdlib.train import fit
from study.cli import main
from study.export import (
    FORMATS,
    ExportError,
    Plan,
    export_run,
    find_student,
    first_images,
    format_of,
    report,
)
from study.pages import page

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "records"
DCT_KD = "scenes-a2-scenes_student-dct+kd-s0-1e43c342a2"
STUDENT = tiny(epochs=1)
QUICK = Plan(rounds=2)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for config in (STUDENT.teacher_config(), STUDENT):
        fit([config], root, progress=False, device="cpu")
    return root


@pytest.fixture(scope="module")
def exports(root, tmp_path_factory):
    """Of a format's name: its file and its record; each exported once."""
    folder = tmp_path_factory.mktemp("exports")

    @cache
    def export(name):
        path = folder / f"student{FORMATS[name].suffix}"
        plan = replace(QUICK, format=name, to=path)
        return path, export_run(root / STUDENT.run_id, Path("runs"), plan, progress=False)

    return export


@pytest.fixture
def copied(root, tmp_path):
    """The runs, to be damaged."""
    return shutil.copytree(root, tmp_path / "copied")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("count", [1, 3, 64])
def test_a_file_answers_to_pixels_as_the_network_does_to_normalised_images(
    name, count, root, exports
):
    data = evaluation_data(STUDENT, None)
    answer = FORMATS[name].load(exports(name)[0], 1)
    logits = answer(first_images(data, count))
    network = trained_network(STUDENT, root, len(data.classes))
    with torch.no_grad():
        wanted = network(next(Batches(data, len(data)).in_order()).images).logits
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, wanted[torch.arange(count) % 32], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_is_one_file_and_says_what_it_is_but_not_where_it_was_made(name, exports):
    path, record = exports(name)
    assert {file.name for file in path.parent.glob(f"{path.name}*")} == {
        path.name,
        f"{path.name}.json",
    }
    written = path.read_bytes()
    assert str(ROOT).encode() not in written
    assert sys.prefix.encode() not in written
    assert json.loads((path.parent / f"{path.name}.json").read_text()) == record
    assert record["facts"]["run_id"] == STUDENT.run_id
    assert len(record["facts"]["classes"]) == 16
    student = record["networks"]["student"]
    assert student["bytes"] == len(written)


@pytest.mark.parametrize("name", FORMATS)
def test_student_and_teacher_are_scored_and_timed_beside_their_records(name, root, exports):
    _, record = exports(name)
    for network, config in (("student", STUDENT), ("teacher", STUDENT.teacher_config())):
        found = record["networks"][network]
        score = read_record(root / config.run_id / "record.json")["results"]["top1"]
        assert found["recorded"] == found["score"] == score
        assert set(found["latency_ms"]) == {"PyTorch", FORMATS[name].runtime}
        assert all(ms > 0 for times in found["latency_ms"].values() for ms in times.values())
    told = report(record)
    assert "1 thread, torch 2." in told
    assert re.search(r"\| teacher +\|", told)


def test_the_page_of_the_docs_is_code_that_runs_without_kdlib(exports, tmp_path):
    for name in FORMATS:
        shutil.copy(exports(name)[0], tmp_path)
    pixels = first_images(evaluation_data(STUDENT, None), 1)[0].permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(tmp_path / "image.png")
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    codes = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    hidden = "import sys; sys.modules['kdlib'] = None\n"
    told = [_run(hidden + code, tmp_path) for code in codes]
    assert len(told) == 2
    assert told[0] == told[1]
    assert told[0].strip() in exports("onnx")[1]["facts"]["classes"]


def test_the_benchmark_has_each_format_and_its_page_shows_them(exports, tmp_path, monkeypatch):
    monkeypatch.setattr("study.export.export_run", lambda run, root, plan: exports(plan.format)[1])
    assert benchmark(["deployment", STUDENT.run_id, f"--to={tmp_path / 'deployment.json'}"]) == 0
    shown = page("docs/deployment.md", tmp_path)
    assert all(f"--format {name}" in shown for name in FORMATS)
    assert STUDENT.run_id in shown


def test_a_page_without_measurements_says_how_to_make_them(tmp_path):
    assert "python -m benchmarks deployment" in page("docs/deployment.md", tmp_path)


def _run(code, folder):
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_pixels_are_classified_too_and_a_student_may_have_no_teacher(tmp_path):
    config = tiny(task="segmentation", student="scenes_segmenter_tiny", method="student", epochs=1)
    fit([config], tmp_path, progress=False, device="cpu")
    plan = replace(QUICK, format="torch", batch_sizes=(1, 4))
    record = export_run(Path(config.run_id[:-4]), tmp_path, plan, progress=False)
    path = tmp_path / config.run_id / "student.pt2"
    data = evaluation_data(config, None)
    logits = FORMATS["torch"].load(path, 1)(first_images(data, 3))
    assert logits.shape == (3, len(data.classes), 32, 32)
    assert record["networks"]["student"]["score"] == pytest.approx(
        read_record(tmp_path / config.run_id / "record.json")["results"]["miou"]
    )
    assert set(record["networks"]) == {"student"}
    assert "The student alone" in report(record)


@pytest.fixture
def wrong(monkeypatch):
    """A format whose files answer a little more than was written to them."""
    right = FORMATS["torch"]

    def load(path, threads):
        answer = right.load(path, threads)
        return lambda images: answer(images) + 0.01

    monkeypatch.setitem(FORMATS, "torch", right._replace(load=load))


def test_a_file_that_answers_otherwise_is_not_left(wrong, root, tmp_path, capsys):
    path = tmp_path / "out" / "student.pt2"
    command = ["export", STUDENT.run_id, "--runs", str(root), "--format", "torch"]
    with pytest.raises(SystemExit) as left:
        main([*command, "--to", str(path), "--no-measure"])
    assert left.value.code == 1
    assert "differ from PyTorch's by up to 0.01" in capsys.readouterr().err
    assert not path.parent.exists() or not list(path.parent.iterdir())


def test_a_failed_export_leaves_an_earlier_file_as_it_was(wrong, root, tmp_path):
    path = tmp_path / "student.pt2"
    path.write_text("earlier")
    with pytest.raises(ExportError, match="Nothing was written"):
        export_run(Path(STUDENT.run_id), root, Plan("torch", path, measure=False), progress=False)
    assert path.read_text() == "earlier"
    assert [file.name for file in tmp_path.iterdir()] == ["student.pt2"]


def test_weights_that_do_not_score_what_their_record_says_are_not_exported(copied):
    directory = copied / STUDENT.run_id
    record = read_record(directory / "record.json")
    record["results"]["top1"] += 0.5
    write_record(directory, record)
    with pytest.raises(ExportError, match="not the weights of that record"):
        export_run(directory, copied, replace(QUICK, format="torch"), progress=False)
    assert not list(directory.glob("student*"))


def test_a_teacher_without_weights_is_left_out(copied):
    (copied / STUDENT.teacher_config().run_id / "weights.safetensors").unlink()
    plan = replace(QUICK, format="torch")
    record = export_run(copied / STUDENT.run_id, copied, plan, progress=False)
    assert set(record["networks"]) == {"student"}


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("scenes-a2-scenes_student-dct+kd-s0-2e43", f"Did you mean '{DCT_KD}'"),
        ("scenes-a2-scenes_student-dct+kd-s", "which?"),
        ("records/scenes-a2-scenes_ssd-kd_cls-s0-1321071c70", "is a detector"),
        ("scenes-a2-scenes_teacher-srm_dictionary-s0-4c", "it has no network"),
    ],
)
def test_a_run_that_cannot_be_exported_is_refused_in_words(run, message, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main(["export", run, "--runs", "records"]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert len(told) < 1500


def test_a_record_without_weights_says_how_to_train_them(capsys):
    assert main(["export", DCT_KD, "--runs", str(RECORDS)]) == 2
    told = capsys.readouterr().err
    teacher, student = re.findall(r"kdlib run (\S+) --parameters '(.*)'", told)
    assert (teacher[0], student[0]) == ("02_teacher", "05_distill")
    assert json.loads(teacher[1])["teacher"] == "scenes_large"
    assert json.loads(student[1])["methods"] == ["dct+kd"]


def test_an_unfinished_run_is_refused(copied):
    (copied / STUDENT.run_id / "record.json").unlink()
    with pytest.raises(KdlibError, match="not finished"):
        find_student(Path(STUDENT.run_id), copied)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(KdlibError, match="not the directory of a run"):
        find_student(tmp_path, tmp_path)


def test_a_run_is_found_by_the_beginning_of_its_id(root):
    assert find_student(Path(STUDENT.run_id[:-5]), root).config == STUDENT


def test_a_run_in_no_folder_is_refused(tmp_path):
    with pytest.raises(KdlibError, match="no folder"):
        find_student(Path("some-run"), tmp_path / "none")


def test_formats_are_named_and_their_packages_too(monkeypatch):
    with pytest.raises(KdlibError, match="Valid: onnx, torch"):
        format_of("onx")
    monkeypatch.setattr("study.export.find_spec", lambda name: None)
    with pytest.raises(KdlibError, match="pip install onnx onnxscript onnxruntime"):
        format_of("onnx")
    assert format_of("torch").suffix == ".pt2"


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"rounds": 0}, {"batch_sizes": ()}])
def test_a_plan_without_work_is_refused(wrong):
    with pytest.raises(KdlibError, match="at least 1"):
        Plan(**wrong)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(KdlibError, match="is a folder"):
        Plan(to=tmp_path)
