"""What would run a published number of FRSKD: runs of the profile that holds its protocol."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from kdlib.data.mixing import MIXING
from kdlib.errors import KdlibError
from kdlib.ledger.names import our_methods
from kdlib.profiles import expand
from kdlib.runs import RunConfig

PAPER = "frskd"


class Place(NamedTuple):
    """Where a published data set is run: a profile, our name of the data, and FRSKD's there."""

    profile: str
    dataset: str
    method: str


PLACES = {
    "CIFAR-100": Place("frskd", "cifar100", "frskd"),
    "VOC07 segmentation": Place("segmentation", "voc", "frskd_pixels"),
}
NETWORKS = {
    "ResNet-18": "resnet18_cifar",
    "WRN-16-2": "wrn_16_2",
    "EfficientDet-d0": "efficientdet_d0",
    "EfficientDet-d1": "efficientdet_d1",
}


def self_taught_run(row: Mapping[str, Any]) -> tuple[str, RunConfig]:
    """The profile and the first seed of the run that a row of FRSKD's paper is of.

    A row's method is such as ``FRSKD + CutMix``.

    Raises:
        KdlibError: there is no such method here, or no profile with such a run.
    """
    base, _, added = row["method"].partition(" + ")
    if row["dataset"] not in PLACES:
        raise KdlibError(f"no profile has FRSKD's protocol on {row['dataset']}")
    if not our_methods(base):
        raise KdlibError(f"method {row['method']} is not offered")
    place, student = PLACES[row["dataset"]], NETWORKS.get(row["student"])
    mixed = {added.lower()} if added else set()
    method = place.method if base == "FRSKD" else our_methods(base)[0]
    for run in expand(place.profile, place.dataset, [method]):
        if run.student == student and set(run.augmentation) & set(MIXING) == mixed:
            return place.profile, run
    wanted = f"{row['method']} of {row['student']} on {row['dataset']}"
    raise KdlibError(f"profile {place.profile} has no {wanted}")
