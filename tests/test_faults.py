"""A mistake in a batch run: one screen that names what is valid, a failure, and no record."""

from pathlib import Path

import pytest
from data_files import FASHION, write_fashion
from training import TINY

from kdlib.files import save_tensors
from kdlib.models import create_model
from study.cli import main

SCREEN = 24  # lines of a terminal
KEPT = ("teacher", "student", "train_size", "test_size", "image_size", "epochs", "teacher_epochs")


def damaged_fashion(folder: Path) -> dict[str, object]:
    path = write_fashion(folder) / FASHION / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1000])
    return {"dataset": "fashion_mnist", "data_root": str(folder)}


def teacher_of_seven_classes(folder: Path) -> dict[str, object]:
    path = folder / "seven.safetensors"
    save_tensors(path, create_model(TINY["teacher"], 7).state_dict(), {"classes": 7})
    return {"teacher_weights": str(path)}


FAULTS = {
    "parameter": (lambda folder: {"epoch": 3}, ["epoch", "epochs", "learning_rate"]),
    "method": (lambda folder: {"methods": ["student", "dtc", "at"]}, ["dtc", "dct", "parseval"]),
    "data set": (lambda folder: {"dataset": "scene"}, ["scene", "scenes", "imagefolder"]),
    "data root": (
        lambda folder: {"dataset": "fashion_mnist", "data_root": str(folder / "nowhere")},
        ["nowhere", "not a folder"],
    ),
    "empty data root": (
        lambda folder: {"dataset": "fashion_mnist", "data_root": str(folder)},
        ["train-images-idx3-ubyte", "To get it", "dataset-fashion-mnist"],
    ),
    "corrupt file": (damaged_fashion, ["train-images-idx3-ubyte"]),
    "number of classes": (teacher_of_seven_classes, ["seven.safetensors", "7 classes", "16"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_in_one_screen_and_leaves_no_record(fault, tmp_path, capsys):
    make, words = FAULTS[fault]
    runs = tmp_path / "runs"
    given = {**{name: TINY[name] for name in KEPT}, "runs_root": str(runs), **make(tmp_path)}
    command = ["run", "05_distill", "--output", str(tmp_path / "out.ipynb")]
    for name, value in given.items():
        command += ["-p", name, str(value)]
    try:
        status = main(command)
    except SystemExit as left:
        status = left.code
    told = capsys.readouterr().err
    assert status not in (0, None)
    assert all(word in told for word in words), told
    assert "Traceback" not in told and len(told.splitlines()) <= SCREEN
    assert not list(runs.glob("*/record.json")) and not (tmp_path / "out.ipynb").exists()
