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
from synthetic import write_run
from training import tiny

from benchmarks.__main__ import main as benchmark
from kdlib import KdlibError, RunConfig, fit, trained_network
from kdlib.data.batches import Batches
from kdlib.runs import data_of, read_record, write_record
from study.cli import main
from study.export import FORMATS, ExportError, Plan, export_run, first_images, format_of, report
from study.pages import page

ROOT = Path(__file__).parents[1]
DCT_KD = "scenes-a2-scenes_student-dct+kd-s10-08e2ffd440"
STUDENT = tiny(epochs=1)
TEACHER = STUDENT.teacher_config()
QUICK = Plan("torch", rounds=2)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for config in (TEACHER, STUDENT):
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
        return path, export_run(root / STUDENT.run_id, Path("runs"), plan)

    return export


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_answers_as_the_network_and_says_what_it_is(name, root, exports):
    path, record = exports(name)
    data = data_of(STUDENT, "test", None)
    network = trained_network(STUDENT, root, len(data.classes))
    with torch.no_grad():
        wanted = network(next(Batches(data, len(data)).in_order()).images).logits
    answer = FORMATS[name].load(path, 1)
    for count in (1, 3, 64):  # images not normalised, to the network's of normalised ones
        logits = answer(first_images(data, count))
        assert logits.dtype == torch.float32
        same = wanted[torch.arange(count) % 32]
        torch.testing.assert_close(logits, same, rtol=1e-4, atol=1e-4)
    files = {file.name for file in path.parent.glob(f"{path.name}*")}
    assert files == {path.name, f"{path.name}.json"}
    written = path.read_bytes()
    assert str(ROOT).encode() not in written and sys.prefix.encode() not in written
    assert json.loads((path.parent / f"{path.name}.json").read_text()) == record
    assert record["facts"]["run_id"] == STUDENT.run_id and len(record["facts"]["classes"]) == 16
    assert record["networks"]["student"]["bytes"] == len(written)
    for role, config in (("student", STUDENT), ("teacher", TEACHER)):
        found = record["networks"][role]
        score = read_record(root / config.run_id / "record.json")["results"]["top1"]
        assert found["recorded"] == found["score"] == score
        assert set(found["latency_ms"]) == {"PyTorch", FORMATS[name].runtime}
        assert all(ms > 0 for times in found["latency_ms"].values() for ms in times.values())
    told = report(record)
    assert "1 thread, torch 2." in told and re.search(r"\| teacher +\|", told)


def test_the_page_of_the_docs_is_code_that_runs_without_kdlib(exports, tmp_path):
    for name in FORMATS:
        shutil.copy(exports(name)[0], tmp_path)
    pixels = first_images(data_of(STUDENT, "test", None), 1)[0].permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(tmp_path / "image.png")
    text = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    codes = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    hidden = "import sys; sys.modules['kdlib'] = None\n"
    commands = [[sys.executable, "-c", hidden + code] for code in codes]
    told = [subprocess.check_output(one, cwd=tmp_path, text=True) for one in commands]
    assert len(told) == 2 and told[0] == told[1]
    assert told[0].strip() in exports("onnx")[1]["facts"]["classes"]


def test_the_benchmark_has_each_format_and_its_page_shows_them(exports, tmp_path, monkeypatch):
    assert "python -m benchmarks deployment" in page("docs/deployment.md", tmp_path)
    name = "study.export.export_run"
    monkeypatch.setattr(name, lambda run, root, plan: exports(plan.format)[1])
    assert benchmark(["deployment", STUDENT.run_id, f"--to={tmp_path / 'deployment.json'}"]) == 0
    shown = page("docs/deployment.md", tmp_path)
    assert all(f"--format {name}" in shown for name in FORMATS) and STUDENT.run_id in shown


def test_pixels_are_classified_too_and_a_student_may_have_no_teacher(tmp_path):
    config = tiny(task="segmentation", student="scenes_segmenter_tiny", method="student", epochs=1)
    fit([config], tmp_path, progress=False, device="cpu")
    plan = replace(QUICK, batch_sizes=(1, 4))
    record = export_run(Path(config.run_id[:-4]), tmp_path, plan)
    data = data_of(config, "test", None)
    answer = FORMATS["torch"].load(tmp_path / config.run_id / "student.pt2", 1)
    assert answer(first_images(data, 3)).shape == (3, len(data.classes), 32, 32)
    score = read_record(tmp_path / config.run_id / "record.json")["results"]["miou"]
    assert record["networks"]["student"]["score"] == pytest.approx(score)
    assert set(record["networks"]) == {"student"} and "The student alone" in report(record)


# What stands in the way of a file, and what is left then.
def test_a_file_that_answers_otherwise_is_not_left(root, tmp_path, monkeypatch):
    def load(path, threads):
        answer = right.load(path, threads)
        return lambda images: answer(images) + 0.01

    right = FORMATS["torch"]
    monkeypatch.setitem(FORMATS, "torch", right._replace(load=load))
    new, earlier = tmp_path / "new" / "student.pt2", tmp_path / "student.pt2"
    earlier.write_text("earlier")
    command = ["export", STUDENT.run_id, f"--runs={root}", "--format=torch", "--no-measure"]
    command += ["--batch-sizes", "1", "4"]
    for path in (new, earlier):
        with pytest.raises(SystemExit) as failure:
            main([*command, "--to", str(path)])
        said = str(failure.value)  # which Python prints, and exits with 1
        assert "differ from PyTorch's by up to 0.01" in said and "Nothing was written" in said
    assert [file.name for file in tmp_path.rglob("*.*")] == ["student.pt2"]
    assert earlier.read_text() == "earlier"


def test_what_cannot_be_exported_is_refused_in_words(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    write_run(tmp_path, dictionary := RunConfig(method="srm_dictionary").canonical(), 0.5)
    for words, message in (
        (["scenes-a2-scenes_student-dct+kd-s10-8e2f"], f"Did you mean '{DCT_KD}'"),
        (["scenes-a2-scenes_student-at-s"], "which?"),
        (["records/scenes-a2-scenes_ssd-kd_cls-s0-1321071c70"], "is a detector"),
        ([dictionary.run_id, f"--runs={tmp_path}"], "it has no network"),
        (["records"], "is no run"),
        ([DCT_KD, "--format", "onx"], "Valid: onnx, torch"),
        ([DCT_KD], "has a record but no weights.safetensors"),
    ):
        assert main(["export", *words, *["--runs=records"] * ("--runs" not in words[-1])]) == 2
        told = capsys.readouterr().err
        assert message in told and len(told) < 1800
    assert re.search(r"kdlib run batch/train -p runs '\[\{.*method: dct\+kd", told)


def test_damaged_runs_and_plans_without_packages_or_work_are_refused(root, tmp_path, monkeypatch):
    copied = shutil.copytree(root, tmp_path / "copied")
    run, nowhere = Path(STUDENT.run_id), tmp_path / "nowhere"
    (copied / TEACHER.run_id / "weights.safetensors").unlink()
    found = export_run(run, copied, QUICK)
    assert set(found["networks"]) == {"student"}  # a teacher without weights is left out
    record = read_record(copied / run / "record.json")
    record["results"]["top1"] += 0.5
    write_record(copied / run, record)
    with pytest.raises(ExportError, match="not the weights of that record"):
        export_run(run, copied, replace(QUICK, to=nowhere))
    assert not nowhere.exists()
    with pytest.raises(KdlibError, match="no folder .*nowhere to look for it in"):
        export_run(run, nowhere, QUICK)
    with pytest.raises(KdlibError, match="is a folder"):
        export_run(Path(STUDENT.run_id[:-5]), copied, Plan(to=copied))
    (copied / run / "record.json").unlink()
    with pytest.raises(KdlibError, match="is not a finished run"):
        export_run(run, copied, QUICK)
    monkeypatch.setattr("study.export.find_spec", lambda name: None)
    with pytest.raises(KdlibError, match="pip install onnx onnxscript onnxruntime"):
        format_of("onnx")
    assert format_of("torch").suffix == ".pt2"
    for fields in ({"threads": 0}, {"rounds": 0}, {"batch_sizes": (0,)}, {"batch_sizes": ()}):
        with pytest.raises(KdlibError, match="is 0; it should be greater.*to 1|least 1"):
            Plan(**fields)
