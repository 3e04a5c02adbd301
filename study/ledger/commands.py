"""The one command that runs what a published number is of, or why there is none.

A command is built from a :class:`kdlib.runs.RunConfig`, so it cannot name what does not exist.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

from kdlib.data import DATASETS
from kdlib.errors import KdlibError
from kdlib.methods import METHODS
from kdlib.models import MODELS
from kdlib.runs import RunConfig
from kdlib.tasks import MIXING
from study.jobs import notebook_command
from study.ledger import rows
from study.profiles import expand
from study.statistics import FRSKD, OF_PIXELS
from study.statistics import PROFILE as DETECTION

PROFILE = "paper"
SELF_TAUGHT = {
    "CIFAR-100": ("frskd", "cifar100", FRSKD),
    "VOC07 segmentation": ("segmentation", "voc", OF_PIXELS),
}
"""FRSKD's data sets: the profile with its protocol, our name of the data, and FRSKD's there."""
PUBLISHED = rows.NAMED["protocols"]  # that no profile has
SLOW = {"mobilenet_v2_cifar", "shuffle_v1", "shuffle_v2"}


class Recipe(NamedTuple):
    """How a published number is run, from the project's root; or a ``reason`` why it is not.

    ``run`` is the configuration of its first seed, or its teacher's.
    """

    command: str = ""
    reason: str = ""
    run: RunConfig | None = None


def recipe_of(row: Mapping[str, Any]) -> Recipe:
    """The command of a row of :func:`study.ledger.rows.published_numbers`."""
    try:
        run, profile = PROTOCOLS[row["paper"]](row)
    except KdlibError as error:
        return Recipe(reason=str(error))
    batch = f"make reproduce PROFILE={profile} DATASET={run.dataset} METHODS={run.method}"
    command = batch if profile else notebook_command(run)
    wanted = run.teacher_config() if row["method"] == "teacher" else run.canonical()
    return Recipe(command, run=wanted)


# Of each paper: the first seed of a row's run, and the profile that has it; empty if none has. A
# KdlibError says what of the row there is not.
Planned = tuple[RunConfig, str]


def _of_the_paper(row: Mapping[str, Any]) -> Planned:
    own, alpha = _offered(row), rows.alpha_of(row["method"])
    teacher, student, dataset, method = own.values()
    # A student alone does not say which teacher it is compared with: ask for a taught one.
    for run in _planned(PROFILE, dataset, "kd" if method == "student" else method):
        if (run.teacher, run.student) == (teacher, student):
            run = replace(run, method=method, weight=run.weight if alpha is None else alpha)
            return run, PROFILE if alpha is None else ""
    raise KdlibError(f"profile {PROFILE} has no {teacher} with {student} on {dataset}")


def _of_benchmark(row: Mapping[str, Any]) -> Planned:
    own = _offered(row)
    kd = {"kd_weight": 0.9} if own["method"] == "kd" else {}  # alone: and 0.1 of cross-entropy
    rates = PUBLISHED["slow"] if own["student"] in SLOW else {}
    return RunConfig(**{**PUBLISHED["benchmark"], **rates, **kd, **own}), ""


def _of_srm(row: Mapping[str, Any]) -> Planned:
    return RunConfig(**{**PUBLISHED["srm"], **_offered(row)}), ""


def _of_frskd(row: Mapping[str, Any]) -> Planned:
    """Of a row whose method is such as ``FRSKD + CutMix``."""
    base, _, added = row["method"].partition(" + ")
    if row["dataset"] not in SELF_TAUGHT:
        raise KdlibError(f"no profile has FRSKD's protocol on {row['dataset']}")
    profile, dataset, frskd = SELF_TAUGHT[row["dataset"]]
    student, mixed = (
        rows.NETWORKS.get(row["student"], row["student"]),
        {added.lower()} if added else set(),
    )
    for run in _planned(profile, dataset, frskd if base == "FRSKD" else _runnable(base)):
        own = run.student in (student, f"{student}_cifar")
        if own and set(run.augmentation) & set(MIXING) == mixed:
            return run, profile
    wanted = f"{row['method']} of {row['student']} on {row['dataset']}"
    raise KdlibError(f"profile {profile} has no {wanted}")


def _of_detectors(row: Mapping[str, Any]) -> Planned:
    teacher, student, dataset, method = _offered(row).values()
    runs = [run for run in _planned(DETECTION, dataset, method) if run.student == student]
    if not runs:
        raise KdlibError(f"profile {DETECTION} has no {student} on {dataset}")
    run = runs[0] if runs[0].teacher == "none" else replace(runs[0], teacher=teacher)
    if swept := rows.swept_detector(row["method"]):
        options = {**run.method_options, "temperature": swept[1]}
        run = replace(run, weight=swept[0], method_options=options)
    return run, DETECTION if run == runs[0] else ""


PROTOCOLS = {
    "dct": _of_the_paper, "benchmark": _of_benchmark, "srm": _of_srm, "frskd": _of_frskd,
    rows.DETECTORS: _of_detectors,
}  # fmt: skip


def _offered(row: Mapping[str, Any]) -> dict[str, str]:
    """Our names of a row's networks, data set and method; a KdlibError names what there is not."""
    method, dataset = _runnable(row["method"]), rows.NAMED["datasets"].get(row["dataset"], "")
    if dataset not in DATASETS:
        raise KdlibError(f"data set {row['dataset']} is not offered")
    own = {role: rows.NETWORKS.get(row[role], row[role]) for role in ("teacher", "student")}
    for role, network in own.items():
        if network not in MODELS:
            raise KdlibError(f"network {row[role]} is not offered")
    return {**own, "dataset": dataset, "method": method}


def _runnable(published: str) -> str:
    """The method string that a command runs; a teacher is trained for its student."""
    wanted = ("kd",) if published == "teacher" else rows.our_methods(published)
    for name in wanted:
        if name.split("+")[0] in METHODS:
            return name
    raise KdlibError(f"method {published} is not offered")


@cache
def _planned(profile: str, dataset: str, method: str) -> tuple[RunConfig, ...]:
    """A method's runs in a profile; kept, for every row of a data set asks."""
    return tuple(expand(profile, dataset, [method]))
