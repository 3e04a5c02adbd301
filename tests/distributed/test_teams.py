"""What each process of a team has to do, without any process being started."""

import pytest
import torch
from training import tiny

from kdlib.data import load_data
from kdlib.data.batches import Batches
from kdlib.data.photographs import worker_count
from kdlib.detection.batches import DetectionBatches
from kdlib.errors import KdlibError
from kdlib.team import ALONE, Portion, Team
from kdlib.train import check_team


@pytest.mark.parametrize("size", [2, 3, 8])
@pytest.mark.parametrize("count", [2, 3, 5, 16, 33])
def test_every_image_of_a_batch_counts_once(count, size):
    batch = torch.randperm(count)
    parts = [Team(rank, size).own(batch) for rank in range(size)]
    counted = [part for part, portion in parts if portion.counted]
    assert torch.equal(torch.cat(counted), batch) and parts[0][1].counted
    assert all(len(part) >= 2 for part, _ in parts)
    assert sum(portion.share for _, portion in parts) == pytest.approx(1)
    assert {portion.whole for _, portion in parts} == {count}


def test_alone_a_batch_is_what_it_is():
    batch = torch.arange(5)
    assert ALONE.own(batch) == (batch, None)
    assert ALONE.in_order([1, 2]) == [1, 2] and ALONE.from_main(3) == 3


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize(
    "augmentation", [("flip", "crop"), ("flip", "mixup"), ("crop", "cutmix"), ("cutmix", "sla")]
)
def test_an_image_is_augmented_the_same_in_every_team(augmentation, size):
    scenes = load_data("scenes", "train", size=27, image_size=32)
    teams = [ALONE, *(Team(rank, size) for rank in range(size))]
    epochs = [Batches(scenes, 12, augmentation, team=team).epoch(3, 1) for team in teams]
    for batch, *shares in zip(*epochs, strict=True):
        counted = [share for share in shares if share.portion.counted]
        for position in batch.indices.unique():  # of joint labels every image is there four times
            rows = batch.indices == position
            (own,) = [share for share in counted if (share.indices == position).any()]
            mine = own.indices == position
            assert torch.equal(own.images[mine], batch.images[rows])
            assert torch.equal(own.labels[mine], batch.labels[rows])
            if batch.mixed:
                assert own.mixed.share == batch.mixed.share
                assert torch.equal(own.mixed.labels[mine], batch.mixed.labels[rows])


def test_objects_are_shared_out_with_their_images():
    scenes = load_data("scenes", "train", size=9, image_size=32, task="detection")
    teams = (ALONE, Team(0, 2), Team(1, 2))
    epochs = [DetectionBatches(scenes, 9, ("flip",), team=team).epoch(0, 0) for team in teams]
    whole, *parts = map(next, epochs)
    assert [part.portion for part in parts] == [Portion(5, 9), Portion(4, 9)]
    assert all(map(torch.equal, [image for part in parts for image in part.images], whole.images))
    targets = [target for part in parts for target in part.targets]
    boxes = [[target["boxes"] for target in some] for some in (targets, whole.targets)]
    assert all(map(torch.equal, *boxes)) and len(boxes[0]) == len(boxes[1])


@pytest.mark.parametrize(
    ("fields", "size", "fits", "says"),
    [
        ({"batch_size": 16}, 9, 8, "16 images.*9 processes.*at most 8"),
        *(
            ({"method": method}, 2, 1, "cannot be trained by 2 processes.*in one")
            for method in ("crd", "crd+kd", "srm_dictionary", "srm_init")
        ),
    ],
)
def test_what_a_team_cannot_share_is_refused(fields, size, fits, says):
    with pytest.raises(KdlibError, match=says):
        check_team([tiny(**fields)], Team(0, size))
    check_team([tiny(**fields)], Team(0, fits))


def test_processes_of_a_machine_share_the_cores_that_read_photographs(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: range(12), raising=False)
    monkeypatch.delenv("KDLIB_WORKERS", raising=False)
    for size, workers in ((4, 3), (64, 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(size))
        assert worker_count() == workers
