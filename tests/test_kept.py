"""Kept answers and guides: a teacher's answers from a file are those that it gives."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from training import check_like, tiny

from kdlib import KdlibError, fit, kept, load_data
from kdlib.data.batches import Batches
from kdlib.distill import FrozenTeacher
from kdlib.evaluate import channels_last
from kdlib.files import UnwritableError, cache_root
from kdlib.kept import KeptTeacher
from kdlib.models import create_model
from kdlib.runs import earlier, run_directory
from study.cli import main

DATA = load_data("scenes", "train", size=300, image_size=32)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own, but for the scenes."""
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "cache"))


def teacher(seed: int = 0, precision: str = "float32", mirrored: bool = True) -> KeptTeacher:
    torch.manual_seed(seed)
    network = create_model("scenes_small", 16).to(memory_format=torch.channels_last)
    return KeptTeacher(network, DATA, mirrored, precision, {})


def batches(*augmentation: str) -> list:
    return [*map(channels_last, Batches(DATA, 32, augmentation).epoch(0, 0))]


def folders(part: str = "answers") -> list[Path]:
    return sorted(path for path in cache_root().glob(f"{part}-*") if path.is_dir())


def check_equal(ours, theirs) -> None:
    assert torch.equal(ours.logits, theirs.logits) and torch.equal(ours.embedding, theirs.embedding)
    for name in ("maps", "stages", "before"):
        pairs = zip(getattr(ours, name), getattr(theirs, name), strict=True)
        assert all(torch.equal(one, other) and one.dtype == other.dtype for one, other in pairs)


@pytest.mark.parametrize("augmentation", [(), ("flip",)])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_is_kept_is_what_the_live_teacher_says(precision, augmentation):
    keeper = teacher(precision=precision, mirrored=bool(augmentation))
    for batch in batches(*augmentation)[:3]:
        with torch.autocast("cpu", torch.bfloat16, precision == "bfloat16"):
            live = FrozenTeacher(keeper.network).teach(batch)
            for again in (keeper, teacher(precision=precision, mirrored=bool(augmentation))):
                check_equal(again.teach(batch), live)


def test_files_are_read_by_all_and_made_again_where_they_are_damaged(monkeypatch):
    (batch, *_), asked = batches("flip"), []
    whole = teacher().teach(batch).logits
    forward = FrozenTeacher.forward
    monkeypatch.setattr(
        FrozenTeacher, "forward", lambda self, images: asked.append(1) or forward(self, images)
    )
    assert torch.equal(teacher().teach(batch).logits, whole) and not asked
    (folder,) = folders()
    for name in ("logits", "0", kept.FACTS):
        content = (folder / name).read_bytes()
        for damaged in (content[:-4], content[:9] + b"ab" + content[11:], None):
            asked.clear()
            (folder / name).unlink() if damaged is None else (folder / name).write_bytes(damaged)
            assert torch.equal(teacher().teach(batch).logits, whole) and asked
    facts = json.loads((folder / kept.FACTS).read_text())
    facts["of"]["teacher"] = "01234567"  # the file of another teacher in this one's place
    (folder / kept.FACTS).write_text(json.dumps(facts))
    asked.clear()
    assert torch.equal(teacher().teach(batch).logits, whole) and asked


def test_other_teachers_data_and_precisions_have_files_of_their_own():
    (batch, *_) = batches("flip")
    for other in (teacher(), teacher(1), teacher(precision="bfloat16"), teacher(mirrored=False)):
        other.teach(batch._replace(mirrored=batch.mirrored & (other.views > 1)))
    part = KeptTeacher(teacher().network, DATA.first(200), True, "float32", {})
    part.teach(next(Batches(DATA.first(200), 32, ("flip",)).epoch(0, 0)))
    assert len(folders()) == 5


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_stops_the_writing_leaves_nothing_that_is_believed(monkeypatch, error):
    (batch, *_), keeper, write = batches("flip"), teacher(), kept.write_json

    def fail(*args):
        raise error

    monkeypatch.setattr(kept, "write_json", fail)
    with pytest.raises(UnwritableError if isinstance(error, OSError) else KeyboardInterrupt):
        keeper.teach(batch)
    monkeypatch.setattr(kept, "write_json", write)
    check_equal(teacher().teach(batch), FrozenTeacher(keeper.network).teach(batch))


def test_features_that_are_too_large_are_asked_for_batch_by_batch(monkeypatch):
    monkeypatch.setattr(kept, "LARGEST", 1e6)
    (batch, *_) = batches("flip")
    check_equal(teacher().teach(batch), FrozenTeacher(teacher().network).teach(batch))
    assert folders() and not folders("stages")


@pytest.mark.parametrize("method", ["dct+kd", "sp", "reviewkd", "at_equal_scale"])
def test_a_run_ends_with_the_same_bits_as_with_the_live_teacher(tmp_path, monkeypatch, method):
    config = tiny(method=method)
    for root in (tmp_path / "kept", tmp_path / "live"):
        for one in [*earlier([config]), config]:
            fit(one, root, progress=False)
        monkeypatch.setattr(Batches, "has_views", False, raising=False)
    check_like(*(run_directory(config, tmp_path / one) for one in ("kept", "live")))


GUIDED = {
    "dct": ("other_image", "untrained", "mean", "relevant", "objects"), "kd": ("noise",),
}  # fmt: skip


def test_guides_stand_in_a_teachers_place(tmp_path):
    runs = [tiny(method=name, guide=g) for name, own in GUIDED.items() for g in ("teacher", *own)]
    for one in earlier(runs):
        fit(one, tmp_path, progress=False)
    records = fit(runs, tmp_path, progress=False)
    assert len({json.dumps(record["results"]["confusion"]) for record in records}) == len(runs)
    alone = dataclasses.replace(runs[-1])
    assert fit(alone, tmp_path, progress=False)["results"] == records[-1]["results"]


@pytest.mark.parametrize(
    "fields",
    [
        {"method": "dct", "guide": "noise"}, {"method": "kd", "guide": "mean"},
        {"method": "dct+kd", "guide": "mean"}, {"method": "sp", "guide": "relevant"},
        {"method": "dct", "guide": "mean", "augmentation": ("crop",)},
    ],
)  # fmt: skip
def test_a_guide_that_a_method_cannot_follow_is_refused(tmp_path, fields):
    config = tiny(**fields)
    for one in earlier([config]):
        fit(one, tmp_path, progress=False)
    with pytest.raises(KdlibError, match="guide"):
        fit(config, tmp_path, progress=False)


def test_they_are_listed_and_removed_as_the_rest_of_the_cache(capsys):
    teacher().all_maps()
    assert main(["data", "clean"]) == 0 and folders()
    assert main(["data", "clean", "answers"]) == 0 and not folders()
    told = capsys.readouterr().out
    assert re.search(r"answers: \d+ files, 0\.\d MB\n(?s:.*)answers: .* MB, removed", told)
    assert main(["data", "clean", "answer"]) == 2
