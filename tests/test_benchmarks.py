"""The benchmarks' arithmetic, and that a tiny run measures, prints and writes all of it."""

import io
import json
from contextlib import redirect_stdout
from itertools import count
from math import isnan

import pytest
import torch
from training import tiny

from benchmarks.__main__ import main
from benchmarks.measure import report
from benchmarks.steps import Bench, endless, same_weights
from benchmarks.timing import Ratio, clock_of, median_ratio, ratios
from kdlib.data import load_data
from kdlib.data.batches import Batches
from study.export import machine_name

METHODS = ["kd", "dct"]
TINY = [
    "--teacher=scenes_small", "--student=scenes_small", "--image-size=32", "--batch-size=8",
    "--rounds=2", "--precision=float32", "--only=steps",
]  # fmt: skip


class Drifting:
    """A machine that gets slower from call to call, and its clock."""

    def __init__(self):
        self.now, self.slowness = 0.0, 1.0

    def works(self, cost: float):
        def work():
            self.now += cost * self.slowness
            self.slowness += 0.01

        return work


def test_paired_ratios_do_not_see_a_machine_that_gets_slower():
    machine, ticks = Drifting(), count()
    others = {"same": machine.works(2.0), "dearer": machine.works(3.0)}
    found = ratios(machine.works(2.0), others, 9, lambda: machine.now, ticks.__next__)
    assert found["same"].median == pytest.approx(1.0, abs=1e-3)
    assert found["dearer"].median == pytest.approx(1.5, abs=1e-3)
    assert next(ticks) == 9


def test_the_interval_of_a_median_is_the_sign_test_s():
    found = median_ratio([float(value) for value in range(1, 21)])
    assert found == Ratio(10.5, 6.0, 15.0)  # 20 values: the 6th and the 15th
    few = median_ratio([1.0, 2.0, 3.0])
    assert few.median == 2 and isnan(few.low) and isnan(few.high)


def test_a_speed_up_is_the_inverse_of_a_ratio_of_times():
    assert Ratio(0.5, 0.4, 0.8).inverse() == Ratio(2.0, 1.25, 2.5)


def test_one_thread_of_the_processor_is_timed_by_its_own_time():
    cpu = torch.device("cpu")
    assert clock_of(cpu, 1)[0] == "processor time" and clock_of(cpu, 2)[0] == "wall time"
    assert clock_of(cpu, 2)[1]() > 0


@pytest.fixture(scope="module")
def data():
    return load_data("scenes", "train", size=20, image_size=32)


def bench(data, learning_from=0):
    config = tiny(method="dct", batch_size=8, data_seed=learning_from)
    return Bench(config, METHODS, data, device=torch.device("cpu"), precision="float32")


def test_lock_step_ends_with_the_weights_of_separate_steps(data):
    assert same_weights(bench(data), bench(data), METHODS, 3)
    other = bench(data)
    other.step(other.batch(), "dct")
    assert not same_weights(bench(data), other, METHODS, 1)


def test_batches_are_whole_and_never_end(data):
    batches = endless(Batches(data, 8), seed=0)
    assert [len(next(batches).labels) for _ in range(5)] == [8] * 5


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The file that a tiny run wrote, and what it printed."""
    folder, printed = tmp_path_factory.mktemp("results"), io.StringIO()
    with redirect_stdout(printed):
        assert main([*TINY, "--to", str(folder)]) == 0
    (path,) = folder.iterdir()
    return path, printed.getvalue()


def test_a_tiny_run_prints_and_writes_what_it_measured(measured):
    path, printed = measured
    record = json.loads(path.read_text())
    assert set(record["overhead"]) == {"kd", "at", "dct", "dct+kd"}
    assert record["lock_step"]["identical"] is True
    assert list(record["lock_steps"]) == ["1", "2", "4", "8"]
    assert record["lock_steps"]["4"] == record["lock_step"]["speedup"]
    assert record["images_per_second"]["composing"] > 0 < record["images_per_second"]["reading"]
    assert record["provenance"]["machine"] == machine_name(torch.device("cpu"))
    assert record["provenance"]["threads"] == 1 and record["provenance"]["versions"]["torch"]
    assert report(record) in printed and str(path) in printed
    assert all(word in printed for word in ("dct+kd", "Lock-step", "torchdistill", "images/s"))


def test_a_record_without_torchdistill_says_how_to_get_it(measured):
    record = json.loads(measured[0].read_text())
    assert "make bench" in report({**record, "torchdistill": None})


def test_targets_are_judged(measured):
    record = json.loads(measured[0].read_text())
    record["overhead"]["dct"]["median"], record["lock_step"]["speedup"]["median"] = 0.03, 1.5
    lines = report(record).splitlines()
    assert any("dct " in line and "at most 3%, met" in line for line in lines)
    assert any("at least 1.7, MISSED" in line for line in lines)


@pytest.mark.parametrize(
    ("option", "message"),
    [("--teacher=scenes_lage", "scenes_large"), ("--batch-size=0", "batch_size")],
)
def test_a_mistake_is_told_without_a_traceback(tmp_path, capsys, option, message):
    others = [word for word in TINY if not word.startswith(option.split("=")[0])]
    assert main([*others, option, "--to", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_torchdistill_computes_our_losses(data):
    pytest.importorskip("torchdistill", reason="`make bench` installs it")
    from benchmarks.measure import SHARED_METHODS
    from benchmarks.pairs import torchdistill_step

    for method in SHARED_METHODS:
        config = tiny(method=method, batch_size=8)
        ours = Bench(config, [method], data, device=torch.device("cpu"), precision="float32")
        batch, theirs = ours.batch(), torchdistill_step(ours, method)
        for _ in range(2):  # the second step shows that the first made the same update
            assert theirs(batch).item() == pytest.approx(
                ours.step(batch, method)[method].item(), rel=1e-4
            )
