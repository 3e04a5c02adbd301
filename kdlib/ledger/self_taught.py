"""What would run a published number of FRSKD: runs of the profile that holds its protocol."""

from collections.abc import Mapping
from typing import Any

from kdlib.data.mixing import MIXING
from kdlib.errors import KdlibError
from kdlib.ledger.names import DATASETS_OF, our_methods
from kdlib.profiles import expand
from kdlib.runs import RunConfig

PAPER = PROFILE = "frskd"
NETWORKS = {"ResNet-18": "resnet18_cifar", "WRN-16-2": "wrn_16_2"}


def self_taught_run(row: Mapping[str, Any]) -> RunConfig:
    """The first seed of the run that a row of FRSKD's paper is of, such as ``FRSKD + CutMix``.

    Raises:
        KdlibError: there is no such data set, method or network here, or not in the profile.
    """
    base, _, added = row["method"].partition(" + ")
    dataset, student = DATASETS_OF.get(row["dataset"]), NETWORKS.get(row["student"])
    if dataset is None:
        raise KdlibError(f"data set {row['dataset']} is not offered")
    if not our_methods(base):
        raise KdlibError(f"method {row['method']} is not offered")
    mixed = {added.lower()} if added else set()
    for run in expand(PROFILE, dataset, our_methods(base)):
        if run.student == student and set(run.augmentation) & set(MIXING) == mixed:
            return run
    raise KdlibError(f"profile {PROFILE} has no {row['method']} of {row['student']} on {dataset}")
