"""The one command that runs what a published number is of, or why there is none.

A command is built from a :class:`kdlib.runs.RunConfig`, so it cannot name what does not exist.
The scene data sets take theirs from the profile ``paper``. The benchmark of CIFAR-100 has another
protocol than the paper (batch 64), so its runs are spelt out as parameters of notebook 05.
"""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import yaml

from kdlib.data import DATASETS
from kdlib.errors import KdlibError
from kdlib.methods import METHODS
from kdlib.models import MODELS
from kdlib.runs import RunConfig
from study.jobs import STUDENTS_NOTEBOOK, students_job
from study.ledger.rows import (
    DATASETS_OF,
    DETECTORS,
    PAPER,
    alpha_of,
    detector_run,
    our_methods,
    our_network,
    self_taught_run,
)
from study.notebooks import find_notebook, parameter_defaults
from study.profiles import expand
from study.statistics import PROFILE as statistics_PROFILE

PROFILE = "paper"
# The protocol of the benchmark (arXiv 1910.10699, appendix): its batch, its schedule, and the
# lower rate of the networks that 0.05 is too high for.
BENCHMARK = {
    "dataset": "cifar100", "image_size": 32, "epochs": 240, "teacher_epochs": 240,
    "batch_size": 64, "learning_rate": 0.05, "schedule": "step", "milestones": (150, 180, 210),
    "augmentation": ("flip", "crop"), "weight_decay": 5e-4,
}  # fmt: skip
SLOW = {"mobilenet_v2_cifar", "shuffle_v1", "shuffle_v2"}
SLOW_RATE = 0.01
# SRM on ImageNet: the sizes of its dictionaries and codes, and Adam, are published. Its epochs
# there are in nothing that could be sourced, so they are those of CIFAR-100.
SRM: dict[str, Any] = {
    "image_size": 224, "epochs": 360, "teacher_epochs": 1, "teacher_start": "IMAGENET1K_V1",
    "teacher_learning_rate": 1e-5, "learning_rate": 1e-3, "optimiser": "adam", "schedule": "step",
    "milestones": (30, 130), "weight_decay": 1e-4, "augmentation": ("flip", "random_crop"),
    "kd_weight": 0.5, "ce_weight": 0.5, "method_options": {"mu": 4.0, "sparsity": 0.02},
}  # fmt: skip
# KD alone: 0.9 of it and 0.1 of cross-entropy.
BENCHMARK_KD = {"kd_weight": 0.9}


@dataclass(frozen=True)
class Recipe:
    """How a published number is run here.

    Attributes:
        command: runs it, from the project's root; empty if there is a ``reason``.
        reason: why there is no command.
        run: the configuration of its first seed, or its teacher's; ``None`` without command.
    """

    command: str = ""
    reason: str = ""
    run: RunConfig | None = None


def recipe_of(row: Mapping[str, Any]) -> Recipe:
    """The command of a row of :func:`study.ledger.rows.published_numbers`."""
    if row["paper"] == PAPER:
        return _of_self_taught(row)
    if row["paper"] == DETECTORS:
        return _of_detectors(row)
    missing = _missing(row)
    if missing:
        return Recipe(reason=missing)
    try:
        build = PROTOCOLS.get(row["paper"], _published_protocol)
        run = build(row, runnable_method(row["method"]))
    except KdlibError as error:
        return Recipe(reason=str(error))
    wanted = run.teacher_config() if row["method"] == "teacher" else run.canonical()
    alone = row["paper"] in PROTOCOLS or alpha_of(row["method"]) is not None
    return Recipe(notebook_command(run) if alone else make_command(run), run=wanted)


def _of_self_taught(row: Mapping[str, Any]) -> Recipe:
    try:
        profile, run = self_taught_run(row)
    except KdlibError as error:
        return Recipe(reason=str(error))
    return Recipe(make_command(run, profile), run=run)


def _of_detectors(row: Mapping[str, Any]) -> Recipe:
    try:
        run, planned = detector_run(row)
    except KdlibError as error:
        return Recipe(reason=str(error))
    command = make_command(run, statistics_PROFILE) if planned else notebook_command(run)
    return Recipe(command, run=run)


def _missing(row: Mapping[str, Any]) -> str:
    """What kdlib lacks of a row, in words; empty if nothing."""
    if runnable_method(row["method"]) == "":
        return f"method {row['method']} is not offered"
    if DATASETS_OF.get(row["dataset"]) not in DATASETS:
        return f"data set {row['dataset']} is not offered"
    networks = (row["teacher"], row["student"])
    lacking = [name for name in networks if our_network(name) not in MODELS]
    return f"network {lacking[0]} is not offered" if lacking else ""


def runnable_method(published: str) -> str:
    """The method string that a command runs; a teacher is trained for its student.

    Empty where the registry has none.
    """
    wanted = ("kd",) if published == "teacher" else our_methods(published)
    known = [name for name in wanted if name.split("+")[0] in METHODS]
    return known[0] if known else ""


def _published_protocol(row: Mapping[str, Any], method: str) -> RunConfig:
    """The run of the profile ``paper`` that has this row's networks.

    Raises:
        KdlibError: the profile has no such pair.
    """
    dataset, teacher = DATASETS_OF[row["dataset"]], our_network(row["teacher"])
    student, alpha = our_network(row["student"]), alpha_of(row["method"])
    # A student alone does not say which teacher it is compared with: ask for a taught one.
    taught = _of_profile(dataset, "kd" if method == "student" else method)
    found = [run for run in taught if (run.teacher, run.student) == (teacher, student)]
    if not found:
        raise KdlibError(f"profile {PROFILE} has no {teacher} with {student} on {dataset}")
    return replace(found[0], method=method, weight=found[0].weight if alpha is None else alpha)


@cache
def _of_profile(dataset: str, method: str) -> tuple[RunConfig, ...]:
    """A method's runs in the profile ``paper``; kept, for every row of a data set asks."""
    return tuple(expand(PROFILE, dataset, [method]))


def _benchmark(row: Mapping[str, Any], method: str) -> RunConfig:
    teacher, student = our_network(row["teacher"]), our_network(row["student"])
    own: dict[str, Any] = BENCHMARK_KD if method == "kd" else {}
    slow = {"learning_rate": SLOW_RATE, "teacher_learning_rate": BENCHMARK["learning_rate"]}
    rate = slow if student in SLOW else {}
    pair = {"teacher": teacher, "student": student, "method": method}
    return RunConfig(**{**BENCHMARK, **rate, **own, **pair})


def _srm(row: Mapping[str, Any], method: str) -> RunConfig:
    teacher, student = our_network(row["teacher"]), our_network(row["student"])
    pair = {"teacher": teacher, "student": student, "method": method}
    return RunConfig(**{**SRM, "dataset": DATASETS_OF[row["dataset"]], **pair})


PROTOCOLS = {"benchmark": _benchmark, "srm": _srm}
"""Of papers whose runs are no profile's."""


def make_command(run: RunConfig, profile: str = PROFILE) -> str:
    """The batch of a profile that has a run, with its other pairs and seeds."""
    return f"make reproduce PROFILE={profile} DATASET={run.dataset} METHODS={run.method}"


def notebook_command(run: RunConfig) -> str:
    """One run, with its teacher, as an execution of notebook 05."""
    defaults = _notebook_defaults()
    given = students_job([run]).parameters
    own = {name: value for name, value in given.items() if _shown(name, value, defaults)}
    words = [
        word
        for name, value in own.items()
        for word in ("-p", name, value if isinstance(value, str) else _yaml(value))
    ]
    return shlex.join(["python", "-m", "kdlib", "run", STUDENTS_NOTEBOOK, *words])


@cache
def _notebook_defaults() -> dict[str, Any]:
    return parameter_defaults(find_notebook(STUDENTS_NOTEBOOK))


def _shown(name: str, value: Any, defaults: Mapping[str, Any]) -> bool:
    """Whether a parameter must be given; what concerns scenes alone need not."""
    empty = name == "options" and not any(value)
    scenes_only = name in ("attentions", "distractors")
    return not (empty or scenes_only or value == defaults[name])


def _yaml(value: Any) -> str:
    flow = isinstance(value, list)
    return yaml.safe_dump(value, default_flow_style=True).strip() if flow else json.dumps(value)
