"""What a run is of: files, data and conditions are compared with what they say, not believed."""

import json
import shlex
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from shutil import copy, copytree

import pytest
import torch
from data_files import photograph
from safetensors.torch import save_file
from training import TINY, check_like, stop_after_an_epoch, tiny

from kdlib import KdlibError, fit
from kdlib.evaluate import trained_network
from kdlib.files import load_tensors, save_tensors
from kdlib.process_group import ALONE
from kdlib.runs import RunConfig, is_finished, run_directory

CHECKPOINT, WEIGHTS = "checkpoint.safetensors", "weights.safetensors"
TEACHER = tiny().teacher_config()
HERE = ALONE.conditions(torch.device("cpu"))
FIRST, SECOND = tiny(method="kd"), tiny(method="kd", init_seed=1, teacher_seed=1)


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*.safetensors")}


def swap(name: str, config: RunConfig, other: RunConfig):
    """What puts a file of another run in the place of a run's own."""
    return lambda root: copy(run_directory(other, root) / name, run_directory(config, root) / name)


def told(name: str, config: RunConfig, **facts):
    """What lets a file of tensors of a run say other things of itself."""

    def change(root: Path) -> None:
        tensors, said = load_tensors(path := run_directory(config, root) / name)
        save_tensors(path, tensors, {**said, **facts})

    return change


def flip(name: str, config: RunConfig):
    """What turns a bit of a file of tensors."""

    def damage(root: Path) -> None:
        path = run_directory(config, root) / name
        path.write_bytes(path.read_bytes()[:-5] + b"\xaa" + path.read_bytes()[-4:])

    return damage


def test_a_record_of_another_run_or_without_its_checksum_is_refused(begun, tmp_path):
    root, directory = copytree(begun, tmp_path / "runs"), run_directory(FIRST, tmp_path / "runs")
    record = run_directory(TEACHER, root) / "record.json"
    for name in ("record.json", "history.csv"):
        copy(record.with_name(name), directory)
    with pytest.raises(KdlibError, match=f"record of '{TEACHER.run_id}', not of '{FIRST.run_id}'"):
        fit(FIRST, root)
    plain = {**json.loads(record.read_text()), "schema_version": 1}
    for changed, says in ((plain, "damaged"), (plain | {"checksum": None}, "damaged")):
        record.write_text(json.dumps(changed))
        with pytest.raises(KdlibError, match=says):
            fit(TEACHER, root)
    del plain["checksum"]
    record.write_text(json.dumps(plain))
    with pytest.raises(KdlibError, match="no checksum: an older kdlib wrote it, or it was changed"):
        fit(TEACHER, root)


@pytest.mark.parametrize(("confuse", "says"), [
    (swap(CHECKPOINT, FIRST, SECOND), f"is of run {SECOND.run_id}; this needs run {FIRST.run_id}"),
    (told(CHECKPOINT, FIRST, run=None), f"not say of which run it is; .*{FIRST.run_id}.*delete it"),
    (told(CHECKPOINT, FIRST, model="resnet8"), "is of model resnet8; this needs model scenes_"),
    (told(CHECKPOINT, FIRST, epoch=2), "is of epoch 2; this needs epoch 1"),
    (told(CHECKPOINT, FIRST, data="a"), "is of training data .* a; .*KDLIB_RESUME=anew"),
    (told(CHECKPOINT, FIRST, teacher="a"), "is of a teacher .* a; this needs a teacher"),
    (flip(CHECKPOINT, FIRST), f"{CHECKPOINT}.*checksum.*Delete it"),
    (flip(WEIGHTS, TEACHER), f"{WEIGHTS}.*checksum.*Delete it"),
    (lambda root: (run_directory(TEACHER, root) / WEIGHTS).unlink(), "missing|delete its folder"),
    (swap(WEIGHTS, TEACHER, SECOND.teacher_config()), f"is of run .*-s1-.*{TEACHER.run_id}"),
    (told(WEIGHTS, TEACHER, run=None), f"does not say of which run it is.*{TEACHER.run_id}"),
    (told(WEIGHTS, TEACHER, data="a"), "is of training data with the fingerprint a; this needs"),
])  # fmt: skip
def test_a_file_is_believed_for_what_it_says_and_not_for_its_place(confuse, says, begun, tmp_path):
    root = copytree(begun, tmp_path / "runs")
    assert trained_network(TEACHER, root, 16)
    confuse(root)
    before = contents(root)
    with pytest.raises(KdlibError, match=rf"{says}") as refused:
        fit(FIRST, root, progress=False)
    assert "\n" not in str(refused.value) and not is_finished(FIRST, root)
    if contents(run_directory(TEACHER, root)) != contents(run_directory(TEACHER, begun)):
        with pytest.raises(KdlibError, match=says):
            trained_network(TEACHER, root, 16)
    assert contents(root) == before, "what may be worth a look is kept"


@pytest.fixture(scope="module")
def begun(taught, tmp_path_factory) -> Path:
    """Two runs that have an epoch, of two teachers."""
    root = copytree(taught, tmp_path_factory.mktemp("begun") / "runs")
    fit(SECOND.teacher_config(), root, progress=False)
    for config in (FIRST, SECOND):
        stop_after_an_epoch(config, root)
    return root


@pytest.mark.parametrize("name", HERE)
def test_in_other_conditions_a_run_is_begun_anew_if_one_asks_for_it(
    name, begun, tmp_path, monkeypatch, undisturbed, capsys
):
    root = copytree(begun, tmp_path / "runs")
    told(CHECKPOINT, FIRST, way={**HERE, name: "other"})(root)
    with pytest.raises(KdlibError, match=f"is of {name} other; .* {name} .*anew"):
        fit(FIRST, root, progress=False)
    monkeypatch.setenv("KDLIB_RESUME", "new")
    with pytest.raises(KdlibError, match="KDLIB_RESUME 'new'.*Valid: anew"):
        fit(FIRST, root, progress=False)
    monkeypatch.setenv("KDLIB_RESUME", "anew")
    fit(FIRST, root, progress=False)
    assert f"{name} other" in capsys.readouterr().err
    check_like(run_directory(FIRST, root), undisturbed(FIRST))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_run_with_other_threads_is_no_end_of_one(threads, taught, tmp_path):
    root, before = copytree(taught, tmp_path / "runs"), torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        stop_after_an_epoch(FIRST, root)
        torch.set_num_threads(3 - threads)
        says = f"is of threads {threads}; this needs threads {3 - threads}"
        with pytest.raises(KdlibError, match=says):
            fit(FIRST, root, progress=False)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("changed", ["train", "test", "more classes"])
def test_a_run_is_one_of_its_data_too(changed, tmp_path):
    data, root = tmp_path / "data", tmp_path / "runs"
    for part, kind in product(("train", "test"), ("a", "b")):
        photograph(data / part / kind / "0.png", ord(kind))
    own = {"dataset": "imagefolder", "train_size": None, "test_size": None, "epochs": 2}
    config = tiny(method="kd", **own)
    first = fit(config.teacher_config(), root, data_root=data, progress=False)
    record = fit(config, root, data_root=data, progress=False)
    old = record["provenance"]["data_fingerprint"]
    assert old == first["provenance"]["data_fingerprint"]
    assert record["provenance"]["evaluation_fingerprint"] not in ("", None)
    for part in ("train", "test") if changed == "more classes" else [changed]:
        photograph(data / part / ("c" if changed == "more classes" else "a") / "0.png", 99)
    for one in (config, config.teacher_config()):
        with pytest.raises(KdlibError, match=r"is of .*fingerprint \w+; this needs .*\w+"):
            fit(one, root, data_root=data, progress=False)
    lost = copytree(root, tmp_path / "lost")
    if changed != "test":
        for path in lost.glob("*/record.json"):
            path.unlink()
        with pytest.raises(KdlibError, match=f"{WEIGHTS} is of training data .* {old}; this needs"):
            fit(config, lost, data_root=data, progress=False)
    assert fit(config, root, data_root=tmp_path / "none", progress=False) == record


def test_a_student_alone_depends_on_no_teacher(root, undisturbed):
    alone = tiny(method="student")
    fit(RunConfig(**{**TINY, "method": "student", "teacher": "resnet8"}), root, progress=False)
    check_like(run_directory(alone, root), undisturbed(alone))


@pytest.mark.parametrize(("name", "make", "says"), [
    ("x.pth", lambda path, own: torch.save(own, path), "python -c .*load.*save_file"),
    ("x.safetensors", lambda path, own: torch.save(own, path), "python -c .*x.new.safetensors"),
    ("folder", lambda path, own: path.mkdir(), "It is a folder: name a file of weights"),
    ("nan.safetensors", lambda path, own: save_file({**own, "classifier.bias":
     torch.full((16,), torch.nan)}, path), "'classifier.bias' has values that are not finite"),
    ("few.safetensors", lambda path, own: save_file({"a": torch.zeros(1)}, path),
     r"do not fit this network: \S+ is missing.*\d+ such"),
    ("shape.safetensors", lambda path, own: save_file({**own, "classifier.bias": torch.zeros(7)},
     path), r"classifier.bias is \[7\]"),
    ("old.safetensors", lambda path, own: save_file({name: own[name] for name in own if "num_b"
     not in name}, path), r"num_batches_tracked is missing"),
    ("empty.safetensors", lambda path, own: save_file({}, path), "holds no weights"),
    ("list.safetensors", lambda path, own: save_file(own, path, {"facts": "[1]"}), "python -c"),
    ("lacking.safetensors", lambda path, own: None, "weights are missing"),
])  # fmt: skip
def test_a_teacher_s_file_that_the_user_names_is_read_or_told_and_never_to_be_deleted(
    name, make, says, root
):
    own, _ = load_tensors(run_directory(TEACHER, root) / WEIGHTS)
    make(root / name, own)
    with pytest.raises(KdlibError, match=says) as refused:
        fit(replace(FIRST, teacher_weights=str(root / name)), root, progress=False)
    assert "elete" not in str(refused.value) and "\n" not in str(refused.value)
    if name == "x.pth":  # what the message says is done
        words = shlex.split(str(refused.value).split("state_dict: ")[1])
        subprocess.run([sys.executable, *words[1:]], check=True)
        config = replace(FIRST, teacher_weights=str(root / "x.safetensors"), epochs=1)
        record = fit(config, root, progress=False)
        save_file({n: t + 1 for n, t in own.items()}, root / "x.safetensors")
        known = record["provenance"]["teacher_fingerprint"]
        with pytest.raises(KdlibError, match=f"is of a teacher .* {known}; this needs"):
            fit(config, root, progress=False)
