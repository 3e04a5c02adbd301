"""A profile: the runs that a batch consists of, read from ``profiles/<name>.yaml``.

Its keys are:

* ``about``: what it is for. ``analyses: true`` measures its networks too (notebook 08).
* ``config``: fields of :class:`~kdlib.runs.RunConfig`, with ``dataset`` where there is but one;
  ``datasets``: fields that differ on a data set.
* ``methods``, and ``methods_of`` a data set where they differ; ``seeds``.
* ``teachers``: seeds of teachers. With them each seed has a training set of its own, and each of
  these a teacher with its own; all of both are crossed. Of photographs there is one training set.
* ``sweeps``: more groups of runs, each with ``fields``, ``methods`` and ``seeds`` (the profile's
  where it gives none), on all data sets or on those of ``datasets``.
* ``options`` of a method, with KD and without.
* ``weights`` of a method: numbers, or a list of them to try. Without, it has those that the dev
  split has chosen (``profiles/tuned/<dataset>.yaml``), or its default.
* ``grid``, for tuning: each weight, or default, is multiplied by each of these factors.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from kdlib.data import is_composed
from kdlib.errors import KdlibError, check_kind, check_known, checked_values
from kdlib.methods import STAGES, method_of, parse_method, tuned_field
from kdlib.runs import OWN_FIELDS, RunConfig, each_once, earlier, is_finished, teacher_of
from study import of_clone

PROFILES = Path(__file__).parents[1] / "profiles"
Fields: TypeAlias = dict[str, Any]
KEYS: dict[str, Any] = {
    "about": str, "config": Fields, "datasets": dict[str, Fields], "methods": list[str],
    "methods_of": dict[str, list[str]], "seeds": list[int], "sweeps": list[Fields],
    "teachers": list[int],
    "weights": dict[str, dict[str, float | list[float] | None]], "grid": list[float],
    "analyses": bool, "options": dict[str, Fields],
}  # fmt: skip
SWEEP_KEYS: dict[str, Any] = {
    "datasets": list[str], "fields": Fields, "methods": list[str], "seeds": list[int],
    "teachers": list[int],
}  # fmt: skip
REQUIRED = ("config", "methods", "seeds")
SAME_WEIGHT = {
    **dict.fromkeys(("parseval_twin", "dct_low", "dct_high"), "dct"),
    **dict.fromkeys(("frskd_logits", "frskd_maps", "frskd_detached", "frskd_options"), "frskd"),
    "ours": "dct_abs",
}


def profile_names() -> tuple[str, ...]:
    """Names of the profiles that exist."""
    return tuple(sorted(path.stem for path in of_clone(PROFILES).glob("[!.]*.yaml")))


def read_profile(name: str) -> dict[str, Any]:
    """Read a profile; a KdlibError says which, which key or which value is wrong."""
    check_known("profile", name, profile_names())
    path = PROFILES / f"{name}.yaml"
    return _read(path, path.stat().st_mtime_ns)


@cache
def _read(path: Path, modified: int) -> dict[str, Any]:
    """A profile, read once in each state of its file."""
    owner = f"profile '{path.stem}'"
    try:
        profile = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise KdlibError(f"The {owner} is not YAML: {' '.join(str(error).split())}") from error
    check_kind(owner, profile, Fields)
    if json.loads(json.dumps(profile)) != profile:
        raise KdlibError(f"The {owner} has a key that is no text, or a value that is no number.")
    checked_values(profile, KEYS, owner)
    for sweep in profile.get("sweeps", []):
        checked_values(sweep, SWEEP_KEYS, f"a sweep of {owner}")
    for key in REQUIRED:
        if key not in profile:
            raise KdlibError(f"The {owner} has no '{key}'; give it.")
    return profile


def expand(
    name: str,
    dataset: str = "scenes",
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    epochs: int | None = None,
    images: int | None = None,
) -> list[RunConfig]:
    """All runs of a profile on a data set, each one once; a KdlibError for any unknown word.

    ``methods``, ``seeds``, ``epochs`` (of students and teachers) and ``images`` (of the training
    set) replace the profile's own. A sweep that has methods of its own runs those of them that
    are wanted, and these run nowhere else. A seed sets data order and student alike.
    """
    profile = read_profile(name)
    dataset = profile["config"].get("dataset", dataset)
    own = profile.get("methods_of", {}).get(dataset, profile["methods"])
    shared = {**profile["config"], **profile.get("datasets", {}).get(dataset, {})}
    cut = {"epochs": epochs, "teacher_epochs": epochs, "train_size": images}
    cut = {field: value for field, value in cut.items() if value is not None}
    if images and shared.get("teacher_train_size"):
        cut["teacher_train_size"] = images
    sweeps, own_seeds = profile.get("sweeps", []), profile["seeds"]
    groups = [{}, *(one for one in sweeps if dataset in one.get("datasets", [dataset]))]
    elsewhere = {method for group in groups for method in group.get("methods", ())} - set(own)
    runs: list[RunConfig] = []
    for group in groups:
        wanted = group.get("methods", own)
        if methods is not None and "methods" in group:
            wanted = [one for one in wanted if one in methods]
            # The plain network of another task is wanted beside its methods, never for itself.
            if wanted == ["student"] and "task" in group.get("fields", {}):
                continue
        elif methods is not None:
            wanted = [one for one in methods if one not in elsewhere]
        fields = {**group.get("fields", {}), **cut, "dataset": dataset}
        crossed = group.get("teachers") or profile.get("teachers") or [None]
        pairs = product(seeds or group.get("seeds") or own_seeds, crossed)
        drawn = [_seeded(*pair, is_composed(dataset)) for pair in pairs]
        runs += _group(shared, fields, profile, wanted, drawn)
    return each_once(runs)


def _seeded(seed: int, teacher: int | None, composed: bool) -> Fields:
    own = {"data_seed": seed, "init_seed": seed}
    if teacher is None:
        return own
    samples = {"sample": seed, "teacher_sample": teacher} if composed else {}
    return {**own, "teacher_seed": teacher, **samples}


def _group(
    shared: Fields, fields: Fields, profile: Fields, methods: Sequence[str], seeds: Sequence[Fields]
) -> Iterator[RunConfig]:
    for seed in seeds:
        for method in methods:
            base = parse_method(method).base
            if base in STAGES:  # which is planned with what starts from it
                raise KdlibError(
                    f"'{method}' is what other runs start from; ask for a method that does, and it "
                    "is trained first."
                )
            own = profile.get("options", {}).get(base, {})
            options = {
                **own,
                **shared.get("method_options", {}),
                **fields.get("method_options", {}),
            }
            for chosen in _weights(fields["dataset"], method, profile):
                values = {**shared, **chosen, **fields, **seed, "method": method}
                yield RunConfig(**{**values, "method_options": options}).canonical()


def _weights(dataset: str, method: str, profile: Fields) -> list[Fields]:
    """The weights to run a method with: several while tuning, else the published or tuned one."""
    field = tuned_field(method)
    if field is None:
        return [{}]
    own = _chosen(profile.get("weights", {}), method)
    if isinstance(own.get(field), list):
        return [{**own, field: weight} for weight in own[field]]
    if "grid" not in profile:
        return [own or tuned_weights(dataset, method)]
    default = RunConfig().kd_weight if field == "kd_weight" else method_of(method).weight
    return [{**own, field: factor * (own.get(field) or default)} for factor in profile["grid"]]


def tuned_weights(dataset: str, method: str) -> Fields:
    """What the dev split chose for a method, if anything.

    A gated method takes the weight without gate, a twin or a band that of the whole DCT loss, so
    that nothing but the one property under study differs.
    """
    path = PROFILES / "tuned" / f"{dataset}.yaml"
    return _chosen(_read_weights(path, path.stat().st_mtime_ns) if path.exists() else {}, method)


@cache
def _read_weights(path: Path, modified: int) -> dict[str, Fields]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _chosen(weights: Mapping[str, Fields], method: str) -> Fields:
    parts = parse_method(method)
    base = SAME_WEIGHT.get(parts.base, parts.base)
    name = f"{base}+kd" if parts.kd and base != "kd" else base
    return weights.get(name, weights.get(base, {}))


def teachers(runs: Iterable[RunConfig]) -> list[RunConfig]:
    """The runs that train the teachers of ``runs``, each once."""
    return each_once(teacher for run in runs for teacher in teacher_of(run))


def finished(profile: str, root: Path) -> set[str]:
    """Those of a profile's runs, and of what they need, that are finished in a folder of runs."""
    runs = expand(profile)
    return {run.run_id for run in (*earlier(runs), *runs) if is_finished(run, root)}


def lockstep_groups(runs: Iterable[RunConfig]) -> list[list[RunConfig]]:
    """Runs that can share batches and teacher, one job each; none with what starts from it."""
    groups: dict[str, list[RunConfig]] = {}
    for run in runs:
        shared = {n: value for n, value in run.to_dict().items() if n not in OWN_FIELDS}
        stage = run.method if run.method in STAGES else ""
        groups.setdefault(json.dumps([shared, stage]), []).append(run)
    return list(groups.values())


def parse_list(text: str, kind: str) -> list[str]:
    """Items of a comma- or space-separated list; a KdlibError where there is none."""
    items = text.replace(",", " ").split()
    if not items:
        raise KdlibError(f"The list of {kind} is empty; give at least one, such as '0,1,2'.")
    return items


# Fields that the operations of one image depend on.
DECISIVE = ("student", "teacher", "method", "method_options", "image_size", "task")
CLASSES = 100  # of the heads, whose operations hardly count
IMAGES = 2  # the fewest that a batch norm of single pixels takes


def training_flops(config: RunConfig) -> int:
    """Floating-point operations of one image's step: forward and backward, a teacher's forward.

    Whatever the run has: student, self-teacher, connecting layers, teacher. A multiply-add counts
    as two; norms and activations are not counted, nor are joint labels or mixtures.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from kdlib.data.batches import Batch
    from kdlib.data.image_data import ImageData
    from kdlib.distill import FrozenTeacher
    from kdlib.models import create_model
    from kdlib.train_state import Group, TrainState

    if config.task == "detection":
        raise KdlibError(
            "A detector's step has as many operations as its images have positives, so no budget "
            "can be counted in advance."
        )
    labels = torch.arange(CLASSES)
    images = torch.zeros(IMAGES, 3, config.image_size, config.image_size)
    truth = labels[:IMAGES] if config.pixels is None else images[:, 0].long()
    untaught = config.canonical().teacher == "none"
    teacher = None if untaught else FrozenTeacher(create_model(config.teacher, CLASSES))
    names = tuple(map(str, range(CLASSES)))
    data = ImageData(images, labels, names, mean=(0.0,) * 3, std=(1.0,) * 3, fingerprint="")
    state = TrainState(config, Group(data, torch.device("cpu"), teacher), Path("no-runs"))
    state.parts.train()
    with FlopCounterMode(display=False) as counter:
        taught = None if teacher is None else teacher(images)
        batch = Batch(images, truth, labels[:IMAGES])
        terms = state.distiller(state.student(images), taught, batch)
        torch.stack(list(terms.values())).sum().backward()
    return counter.get_total_flops() // IMAGES


def plain_epochs(config: RunConfig) -> int:
    """Epochs that the student alone gets out of the operations of a run's whole training."""
    own = {name: value for name, value in config.to_dict().items() if name in DECISIVE}
    return round(config.epochs * _cost_over_plain(json.dumps(own)))


@cache
def _cost_over_plain(fields: str) -> float:
    config = RunConfig(**json.loads(fields))
    plain = replace(config, method="student", method_options={})
    return training_flops(config) / training_flops(plain)
