"""A profile: the runs that a batch consists of, read from ``profiles/<name>.yaml``.

A profile has ``about``, ``config`` (fields of ``RunConfig``), ``methods``, ``seeds`` and, where
it needs them, ``datasets`` (fields that differ by data set), ``methods_of`` (methods that do) and
``sweeps`` (more groups of runs: ``{fields, methods, seeds}``, on all data sets or those of
``datasets``; with ``as_costly_as`` they get the epochs that this method's training would cost a
plain student). For tuning it has ``grid`` (factors of each method's default weight), ``grids`` (of
methods that need other factors, as many) and ``around`` (a data set: factors of what was chosen on
it instead). ``analyses: true`` asks for the analyses of its networks (notebook 08). Weights come
from a sweep's fields, or from ``weights`` of the profile, where these have them, else from
``profiles/tuned/<dataset>.yaml``, which the dev split has written. ``options`` are method options
that differ from a method's defaults. ``like`` names a profile whose keys this one has too, but for
those that it gives itself. ``also`` lists profiles whose runs belong to this one's as well, on some
of its data sets: ``{profile, datasets, seeds}``, the seeds in the place of that profile's own.
"""

import json
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from kdlib.data.batches import Batch
from kdlib.data.image_data import ImageData
from kdlib.distill import FrozenTeacher
from kdlib.errors import KdlibError, check_kind, checked_options, unknown
from kdlib.methods import STAGES, method_of, parse_method, tuned_field
from kdlib.models import create_model
from kdlib.runs import RunConfig, each_once, teacher_of
from kdlib.trainee import Group, Trainee
from study import of_clone

# What a training step costs in operations, and how far the same operations would take another.
NOWHERE = Path("no-runs")
DECISIVE = ("student", "teacher", "method", "method_options", "image_size", "task")
"""Fields that the operations of one image depend on."""
CLASSES = 100  # of the heads, whose operations hardly count
IMAGES = 2  # the fewest that a batch norm of single pixels takes


def training_flops(config: RunConfig) -> int:
    """Floating-point operations of one image's step: forward and backward, a teacher's forward.

    Whatever the run has: student, self-teacher, connecting layers, teacher. A multiply-add counts
    as two; norms and activations are not counted, nor are joint labels or mixtures.

    Raises:
        KdlibError: a detector, whose step depends on how many positives its images have.
    """
    if config.task == "detection":
        raise KdlibError(
            "A detector's step has as many operations as its images have positives, so no budget "
            "can be counted in advance: leave as_costly_as out of sweeps of task 'detection'."
        )
    labels = torch.arange(CLASSES)
    images = torch.zeros(IMAGES, 3, config.image_size, config.image_size)
    truth = labels[:IMAGES] if config.pixels is None else images[:, 0].long()
    batch = Batch(images, truth, labels[:IMAGES])
    teacher, names = _budget_teacher(config), tuple(map(str, range(CLASSES)))
    data = ImageData(images, labels, names, mean=(0.0,) * 3, std=(1.0,) * 3, fingerprint="")
    trainee = Trainee(config, Group(data, torch.device("cpu"), teacher), NOWHERE)
    trainee.parts.train()
    with FlopCounterMode(display=False) as counter:
        taught = None if teacher is None else teacher(images)
        terms = trainee.distiller(trainee.student(images), taught, batch)
        torch.stack(list(terms.values())).sum().backward()
    return counter.get_total_flops() // IMAGES


def _budget_teacher(config: RunConfig) -> FrozenTeacher | None:
    if config.canonical().teacher == "none":
        return None
    return FrozenTeacher(create_model(config.teacher, CLASSES))


def plain_epochs(config: RunConfig) -> int:
    """Epochs that the student alone gets out of the operations of a run's whole training."""
    own = {name: value for name, value in config.to_dict().items() if name in DECISIVE}
    return round(config.epochs * _cost_over_plain(json.dumps(own)))


@cache
def _cost_over_plain(fields: str) -> float:
    config = RunConfig.from_dict(json.loads(fields))
    plain = replace(config, method="student", method_options={})
    return training_flops(config) / training_flops(plain)


PROFILES = Path(__file__).parents[1] / "profiles"
Fields: TypeAlias = dict[str, Any]
KEYS: dict[str, Any] = {
    "about": str, "config": Fields, "datasets": dict[str, Fields], "methods": list[str],
    "methods_of": dict[str, list[str]], "seeds": list[int], "sweeps": list[Fields],
    "weights": dict[str, dict[str, float | None]], "grid": list[float],
    "grids": dict[str, list[float]], "around": str, "analyses": bool,
    "options": dict[str, Fields], "like": str, "also": list[Fields],
}  # fmt: skip
ALSO_KEYS: dict[str, Any] = {"profile": str, "datasets": list[str], "seeds": list[int]}
SWEEP_KEYS: dict[str, Any] = {
    "datasets": list[str], "fields": Fields, "methods": list[str], "seeds": list[int],
    "as_costly_as": str,
}  # fmt: skip
REQUIRED = ("config", "methods", "seeds")
SAME_WEIGHT = {
    **dict.fromkeys(("parseval_twin", "dct_low", "dct_high"), "dct"),
    **dict.fromkeys(("frskd_logits", "frskd_maps", "frskd_detached", "frskd_options"), "frskd"),
    "ours": "dct_abs",
}


def profile_names() -> tuple[str, ...]:
    """Names of the profiles that exist."""
    return tuple(sorted(path.stem for path in of_clone(PROFILES).glob("*.yaml")))


def read_profile(name: str) -> dict[str, Any]:
    """Read a profile.

    Raises:
        KdlibError: no such profile, one that is not YAML, a key that profiles do not have, or a
            value of another kind than the key's.
    """
    profile = _with_likeness(name, ())
    for key in REQUIRED:
        if key not in profile:
            raise KdlibError(f"Profile '{name}' has no '{key}'; give it, or a profile to be like.")
    return profile


def _with_likeness(name: str, seen: tuple[str, ...]) -> dict[str, Any]:
    """A profile with the keys of the one that it is like, which is like none of ``seen``."""
    if name not in profile_names():
        raise unknown("profile", name, profile_names())
    if name in seen:
        raise KdlibError(f"Profile '{name}' is like itself: {' like '.join((*seen, name))}.")
    profile = _read(name)
    other = _with_likeness(profile["like"], (*seen, name)) if profile.get("like") else {}
    return {**other, **profile}


def _read(name: str) -> dict[str, Any]:
    try:
        profile = yaml.safe_load((PROFILES / f"{name}.yaml").read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise KdlibError(f"Profile '{name}' is not YAML: {reason}") from error
    _check_part(profile, KEYS, f"profile '{name}'")
    for sweep in profile.get("sweeps", []):
        _check_part(sweep, SWEEP_KEYS, f"a sweep of profile '{name}'")
    for other in profile.get("also", []):
        _check_part(other, ALSO_KEYS, f"'also' of profile '{name}'")
        for key in ("profile", "datasets"):
            if key not in other:
                raise KdlibError(f"'also' of profile '{name}' has no '{key}'.")
    return profile


def _check_part(part: Any, kinds: Mapping[str, Any], owner: str) -> None:
    check_kind(owner, part, dict[str, Any])
    checked_options(part, kinds, owner)
    for key, value in part.items():
        check_kind(f"'{key}' of {owner}", value, kinds[key])


def expand(
    name: str,
    dataset: str = "scenes",
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    epochs: int | None = None,
    images: int | None = None,
) -> list[RunConfig]:
    """All runs of a profile, students first; each one once.

    Args:
        name: the profile.
        dataset: the data set to run it on.
        methods: method strings instead of the profile's own; a sweep that has methods of its own
            runs those of them that are asked for, and these run nowhere else.
        seeds: seeds instead of the profile's own; a seed sets data order and student alike.
        epochs: of students and teachers, instead of the profile's own.
        images: of the training set, instead of the profile's own.

    Raises:
        KdlibError: an unknown profile, field, method or modifier.
    """
    profile = read_profile(name)
    own = profile.get("methods_of", {}).get(dataset) or profile["methods"]
    cut = {"epochs": epochs, "teacher_epochs": epochs, "train_size": images}
    trial = {field: value for field, value in cut.items() if value is not None}
    groups = [{}, *profile.get("sweeps", [])]
    others = [other for other in profile.get("also", []) if dataset in other["datasets"]]
    known = [read_profile(other["profile"])["methods"] for other in others]
    swept = (group.get("methods", ()) for group in groups)
    elsewhere = {method for some in (*swept, *known) for method in some} - set(own)
    runs: list[RunConfig] = []
    for group in groups:
        if dataset in group.get("datasets", [dataset]):
            fields = _fields(profile, dataset, group, trial)
            wanted = _wanted(methods, group.get("methods"), own, elsewhere)
            runs += _group(fields, profile, wanted, seeds or group.get("seeds") or profile["seeds"])
    for other, theirs in zip(others, known, strict=True):
        # The plain network of another task is wanted beside its methods, never for itself.
        if methods is None or set(methods) & (set(theirs) - set(own)):
            some = methods and [method for method in theirs if method in methods]
            of_seeds = seeds or other.get("seeds")
            runs += expand(other["profile"], dataset, some, of_seeds, epochs, images)
    return each_once(runs)


def _wanted(
    asked: Sequence[str] | None,
    swept: Sequence[str] | None,
    own: Sequence[str],
    elsewhere: Container[str],
) -> Sequence[str]:
    """Those of a group: a sweep's options may mean nothing to methods that it does not name."""
    if asked is None:
        return swept or own
    if swept is None:
        return [method for method in asked if method not in elsewhere]
    return [method for method in swept if method in asked]


def _fields(profile: Fields, dataset: str, group: Fields, trial: Fields) -> Fields:
    """What all runs of a group share; a later source wins.

    With ``as_costly_as`` they have the epochs that this method's operations buy a plain student.
    """
    of_dataset = profile.get("datasets", {}).get(dataset, {})
    own = {**profile["config"], **of_dataset, **group.get("fields", {}), **trial}
    fields = {"dataset": dataset, **own}
    if method := group.get("as_costly_as"):
        costly = {"method": method, "method_options": _options(profile, method)}
        fields["epochs"] = plain_epochs(RunConfig.from_dict({**fields, **costly}))
    return fields


def _group(
    fields: Fields, profile: Fields, methods: Sequence[str], seeds: Sequence[int]
) -> Iterable[RunConfig]:
    for seed in seeds:
        for method in methods:
            if parse_method(method).base in STAGES:  # which is planned with what starts from it
                raise KdlibError(
                    f"'{method}' is what other runs start from; ask for a method that does, and it "
                    "is trained first."
                )
            for chosen in _weights(fields["dataset"], method, profile):
                options = {**_options(profile, method), **fields.get("method_options", {})}
                values = {**chosen, **fields, "method": method, "method_options": options}
                config = RunConfig.from_dict({**values, "data_seed": seed, "init_seed": seed})
                yield config.canonical()


def _options(profile: Fields, method: str) -> Fields:
    """A method's options in this profile, with and without KD alike."""
    return profile.get("options", {}).get(parse_method(method).base, {})


def _weights(dataset: str, method: str, profile: Fields) -> list[dict[str, float | None]]:
    """The weights to run a method with: a grid while tuning, else the published or tuned one."""
    field = tuned_field(method)
    if field is None:
        return [{}]
    if "grid" not in profile:
        published = _chosen(profile.get("weights", {}), method)
        return [published or tuned_weights(dataset, method)]
    default = RunConfig().kd_weight if field == "kd_weight" else method_of(method).weight
    around = tuned_weights(profile["around"], method) if profile.get("around") else {}
    middle = around.get(field) or default
    factors = profile.get("grids", {}).get(method, profile["grid"])
    return [{field: factor * middle} for factor in factors]


def tuned_weights(dataset: str, method: str) -> dict[str, float | None]:
    """What the dev split chose for a method; its default where nothing was chosen.

    A gated method takes the weight of the same method without gate, and a twin or a band that of
    the whole DCT loss, so that nothing but the one property under study differs.
    """
    path = PROFILES / "tuned" / f"{dataset}.yaml"
    return _chosen(_read_weights(path, path.stat().st_mtime_ns) if path.exists() else {}, method)


@cache
def _read_weights(path: Path, modified: int) -> dict[str, dict[str, float | None]]:
    """Chosen weights, read once in each state of their file: a grid asks for every run."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _chosen(weights: Mapping[str, dict[str, float | None]], method: str) -> dict[str, float | None]:
    parts = parse_method(method)
    base = SAME_WEIGHT.get(parts.base, parts.base)
    name = f"{base}+kd" if parts.kd and base != "kd" else base
    return weights.get(name, weights.get(base, {}))


def teachers(runs: Iterable[RunConfig]) -> list[RunConfig]:
    """The runs that train the teachers of ``runs``, each once."""
    return each_once(teacher for run in runs for teacher in teacher_of(run))


def lockstep_groups(runs: Iterable[RunConfig]) -> list[list[RunConfig]]:
    """Runs that can share batches and teacher: one job each.

    A run that others start from is never in one group with them.
    """
    groups: dict[tuple[Any, ...], list[RunConfig]] = {}
    for run in runs:
        key = (run.dataset, run.attentions, run.distractors, run.image_size, run.data_seed)
        own = (run.teacher, run.epochs, run.batch_size, run.split, run.train_size, run.augmentation)
        stage = run.method if run.method in STAGES else ""
        groups.setdefault((*key, *own, run.task, run.crop_size, stage), []).append(run)
    return list(groups.values())


def parse_list(text: str, kind: str) -> list[str]:
    """Items of a comma- or space-separated list.

    Raises:
        KdlibError: the list is empty.
    """
    items = text.replace(",", " ").split()
    if not items:
        raise KdlibError(f"The list of {kind} is empty; give at least one, such as '0,1,2'.")
    return items
