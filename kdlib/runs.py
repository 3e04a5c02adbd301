"""A run: its configuration, its directory, its record, and where it came from."""

import hashlib
import json
import platform
import re
import subprocess
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import torch

from kdlib.data import load_data
from kdlib.data.image_data import ImageData
from kdlib.errors import KdlibError, check_kind, quoted, shown, unknown
from kdlib.files import checksum, locked, remove_remains, write_json
from kdlib.methods import is_self_taught
from kdlib.models import FIRST_NAMES, current_name
from kdlib.tasks import AUGMENTATIONS, MIXING, TASKS

if TYPE_CHECKING:
    from kdlib.trainee import Trainee


# What the fields of a run may be, as far as it can be told without data or networks.
CHOICES = {
    "precision": ("float32", "bfloat16", "auto"),
    "schedule": ("one_cycle", "step", "constant"),
    "split": ("train", "dev"),
    "optimiser": ("sgd", "adam"),
    "task": tuple(TASKS),
}
NAMES = ("dataset", "teacher", "student", "method")
ABOVE_0 = ("learning_rate", "temperature", "teacher_learning_rate", "gradient_clip")
FROM_1 = (
    "attentions", "image_size", "train_size", "test_size", "epochs", "teacher_epochs",
    "batch_size", "milestones", "crop_size",
)  # fmt: skip
FROM_0 = ("distractors", "data_seed", "init_seed", "teacher_seed")
WEIGHTS = ("weight", "ce_weight", "kd_weight", "momentum", "weight_decay")
LARGEST = 2**63 - 1
"""Of a whole number, where arrays and random streams can still count with it."""
LIMITS: tuple[tuple[tuple[str, ...], Callable[[float], bool], str], ...] = (
    (ABOVE_0, lambda number: number > 0, "greater than 0"),
    (FROM_1, lambda number: number >= 1, "1 or more"),
    ((*FROM_0, *WEIGHTS), lambda number: number >= 0, "0 or more"),
    (("momentum",), lambda number: number < 1, "less than 1"),
    ((*FROM_1, *FROM_0), lambda number: number <= LARGEST, f"at most {LARGEST}"),
)


def check_values(values: Mapping[str, Any], annotations: Mapping[str, Any]) -> None:
    """Refuse values of another kind than their annotations', unknown names, and odd numbers.

    Raises:
        KdlibError: names the field, its value and what is valid.
    """
    for name, annotation in annotations.items():
        check_kind(name, values[name], annotation)
    for name, valid in CHOICES.items():
        if values[name] not in valid:
            raise unknown(name, values[name], valid)
    for name in NAMES:
        _check_name(name, values[name])
    _check_numbers(values)
    _check_json("method_options", values["method_options"])


def _check_name(field: str, name: str) -> None:
    """Names are parts of that of a run's directory: none may lead out of it."""
    if not re.fullmatch(r"[\w.+-]{1,80}", name, re.ASCII):
        raise KdlibError(
            f"{field} is {quoted(name)}; a name has 1 to 80 letters, digits and . _ + - alone."
        )


def _check_numbers(values: Mapping[str, Any]) -> None:
    for names, holds, words in LIMITS:
        for name in names:
            for number in _numbers(values[name]):
                if not holds(number):
                    raise KdlibError(f"{name} is {shown(number)}; it must be {words}.")


def _numbers(value: Any) -> tuple[float, ...]:
    """Those of a field: none, one or several."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _check_json(field: str, value: Any) -> None:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise KdlibError(
            f"{field} is {shown(value)}; give numbers, texts, lists and mappings of these "
            f"({shown(str(error))})."
        ) from error


SCHEMA_VERSION = 2
"""Of records; version 1 is from before records had checksums, and is read as well."""
HISTORY = "history.csv"
ADDED_LATER = (
    "start", "teacher_start", "teacher_learning_rate", "task", "gradient_clip", "crop_size",
)  # fmt: skip
"""Fields younger than the first records. At their defaults they are left out of what is hashed,
so that a run from before a field existed keeps its name, its hash and its setting."""
OF_DISTILLATION = ("method_options", "weight", "ce_weight", "kd_weight", "temperature")
OF_KD = ("kd_weight", "temperature")
NETWORKS = ("teacher", "student")


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run; the notebooks' parameters have the same names.

    ``weight``, ``ce_weight`` and ``method_options`` left at ``None`` / empty take the method's
    own defaults. ``split="train"`` trains on the training set and evaluates on the test set;
    ``split="dev"`` holds a fifth of the training set out, trains on the rest and evaluates on
    what was held out: the only split on which anything may be chosen. ``start`` and
    ``teacher_start`` name torchvision's weights (``IMAGENET1K_V1``, ``DEFAULT``) that training
    begins with; ``None`` is a random start. ``teacher_learning_rate=None`` is ``learning_rate``.
    ``task`` is ``classification`` (of images), ``segmentation`` (of pixels), ``detection`` (of
    objects) or ``crops`` (classification of objects that are cut out, ``crop_size`` pixels a side:
    what the teacher of a detector has learnt). Gradients whose norm exceeds ``gradient_clip`` are
    scaled down to it; ``None`` leaves all as they are.
    """

    dataset: str = "scenes"
    attentions: int = 2
    distractors: int = 4
    image_size: int = 64
    train_size: int | None = None
    test_size: int | None = None
    teacher: str = "scenes_large"
    student: str = "scenes_medium"
    method: str = "student"
    method_options: dict[str, Any] = field(default_factory=dict)
    weight: float | None = None
    ce_weight: float | None = None
    kd_weight: float = 1.0
    temperature: float = 4.0
    epochs: int = 15
    teacher_epochs: int = 15
    teacher_weights: str | None = None
    start: str | None = None
    teacher_start: str | None = None
    teacher_learning_rate: float | None = None
    batch_size: int = 128
    optimiser: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "one_cycle"
    milestones: tuple[int, ...] = ()
    augmentation: tuple[str, ...] = ("flip",)
    data_seed: int = 0
    init_seed: int = 0
    teacher_seed: int = 0
    precision: str = "float32"
    split: str = "train"
    task: str = "classification"
    gradient_clip: float | None = None
    crop_size: int = 32

    def __post_init__(self) -> None:
        """Check every value that can be checked without data or networks."""
        check_values(vars(self), _annotations())
        for name in ("milestones", "augmentation"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in NETWORKS:
            object.__setattr__(self, name, current_name(getattr(self, name)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RunConfig":
        """Build from parameters; an unknown name is an error that lists the valid ones."""
        valid = [item.name for item in fields(cls)]
        for name in values:
            if name not in valid:
                raise unknown("run parameter", name, valid)
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The configuration as JSON-ready values."""
        return json.loads(json.dumps(asdict(self)))

    def to_file(self) -> dict[str, Any]:
        """The same as files hold it, old and new ones alike: networks by their first names."""
        return _renamed(self.to_dict(), lambda name: FIRST_NAMES.get(name, name))

    def canonical(self) -> "RunConfig":
        """The same run without what it does not depend on: no teacher, no distillation options."""
        if self.method != "student" and not is_self_taught(self.method):
            return self
        blank, unused = RunConfig(), OF_DISTILLATION if self.method == "student" else OF_KD
        of_teacher = [item.name for item in fields(self) if item.name.startswith("teacher_")]
        cropless = ("crop_size",) if self.method == "student" and self.task != "crops" else ()
        neutral = {name: getattr(blank, name) for name in (*unused, *of_teacher, *cropless)}
        return replace(self, teacher="none", **neutral)

    @property
    def pixels(self) -> int | None:
        """A side of the answer where each pixel gets a class; ``None`` where an image gets one."""
        return self.image_size if self.task == "segmentation" else None

    @property
    def input_size(self) -> int:
        """Pixels a side of what the network sees."""
        return self.crop_size if self.task == "crops" else self.image_size

    @cached_property
    def config_hash(self) -> str:
        """SHA-256 of the canonical configuration, in hexadecimal."""
        text = json.dumps(as_hashed(self.canonical().to_dict()), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def run_id(self) -> str:
        """A readable slug and ten digits of the hash: the name of the run's directory."""
        student = FIRST_NAMES.get(self.student, self.student)
        parts = (self.dataset, f"a{self.attentions}", student, self.method)
        suffix = "" if self.split == "train" else f"-{self.split}"
        return f"{'-'.join(parts)}-s{self.init_seed}{suffix}-{self.config_hash[:10]}"

    def teacher_config(self) -> "RunConfig":
        """The run whose weights teach this one: the teacher network, trained plainly.

        Students of mixed images have the teacher of all others; a detector's teacher has learnt
        its objects, cut out.
        """
        seeds: dict[str, Any] = {"data_seed": self.teacher_seed, "init_seed": self.teacher_seed}
        rate = self.teacher_learning_rate or self.learning_rate
        schedule: dict[str, Any] = {"epochs": self.teacher_epochs, "learning_rate": rate}
        whole: dict[str, Any] = {"augmentation": [a for a in self.augmentation if a not in MIXING]}
        if self.task == "detection":
            crops = [name for name in self.augmentation if name in AUGMENTATIONS]
            whole = {"augmentation": crops, "task": "crops"}
        plain = replace(self, student=self.teacher, start=self.teacher_start, method="student")
        return replace(plain, **seeds, **schedule, **whole).canonical()


def _renamed(config: Mapping[str, Any], rename: Callable[[str], str]) -> dict[str, Any]:
    """A configuration with its networks' names given by ``rename``."""
    return {**config, **{name: rename(config[name]) for name in NETWORKS if name in config}}


def as_hashed(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the hash of a configuration is of, so that a run keeps its name as kdlib grows.

    The fields of ``ADDED_LATER`` that are at their defaults are left out; networks have the names
    that they had first.
    """
    config = _renamed(config, lambda name: FIRST_NAMES.get(name, name))
    defaults = {item.name: item.default for item in fields(RunConfig)}
    neutral = {name for name in ADDED_LATER if config.get(name) == defaults[name]}
    return {name: value for name, value in config.items() if name not in neutral}


@cache
def _annotations() -> dict[str, Any]:
    return get_type_hints(RunConfig)


def configs_of(
    methods: Sequence[str], options: Sequence[Mapping[str, Any]], shared: Mapping[str, Any]
) -> list[RunConfig]:
    """One run a method.

    Args:
        methods: method strings.
        options: fields of its own for each method, in the same order; empty if none has any.
        shared: the fields that all have in common.

    Raises:
        KdlibError: no methods, not as many options, or an unknown field.
    """
    check_kind("methods", methods, list[str])
    check_kind("options", options, list[dict])
    if not methods:
        raise KdlibError("The list of methods is empty; give at least one, such as [student].")
    own = options or [{}] * len(methods)
    if len(own) != len(methods):
        raise KdlibError(
            f"There are {len(methods)} methods but {len(own)} options; give one for each method, "
            "in the same order ({} where it has none), or [] if none has any."
        )
    runs = zip(methods, own, strict=True)
    return [RunConfig.from_dict({**shared, "method": m, **o}).canonical() for m, o in runs]


def run_directory(config: RunConfig, root: Path) -> Path:
    """Where a run's files live: ``root/<run_id>``."""
    return Path(root) / config.run_id


@contextmanager
def run_lock(directory: Path) -> Iterator[None]:
    """Hold the lock of a run's directory: two processes never train the same run at once.

    Raises:
        UnwritableError: there can be no lock, because the folder cannot be written to.
    """
    with locked(directory.parent / f".{directory.name}.lock"):
        yield


def is_finished(config: RunConfig, root: Path) -> bool:
    """A run is finished when, and only when, its record exists."""
    return (run_directory(config, root) / "record.json").exists()


def write_record(directory: Path, record: Mapping[str, Any]) -> Path:
    """Write ``record.json``, last of all a run's files, under its final name or not at all.

    It holds checksums of itself and of the history, and what killed processes left beside it goes:
    who writes it has the run's lock.
    """
    path = Path(directory) / "record.json"
    remove_remains(Path(directory))
    write_json(path, sealed(record, Path(directory)))
    return path


def sealed(record: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """A record with the checksums by which :func:`read_record` knows that nothing has changed."""
    if record["schema_version"] != SCHEMA_VERSION:
        return dict(record)
    history = Path(directory) / HISTORY
    sums = {HISTORY: checksum(history)} if history.exists() else {}
    return {**record, "checksums": {**sums, "record": _checksum(record)}}


def _checksum(record: Mapping[str, Any]) -> int:
    """Of what a record says, however it is written; its checksums left out."""
    said = {name: value for name, value in record.items() if name != "checksums"}
    plain = json.loads(json.dumps(said, allow_nan=False))  # keys that are numbers become text
    return zlib.crc32(json.dumps(plain, sort_keys=True).encode())


def read_record(path: Path) -> dict[str, Any]:
    """Read one ``record.json``, without its checksums, networks by the names of today.

    Raises:
        KdlibError: the file is missing, damaged, or of another schema version; or the history
            beside it is not the one that it was written with.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise KdlibError(
            f"{path} is not a readable record ({error}); delete it and run again."
        ) from error
    found = record.get("schema_version") if isinstance(record, dict) else None
    if found not in (1, SCHEMA_VERSION):
        raise KdlibError(
            f"{path} has schema version {found}; this kdlib reads 1 and {SCHEMA_VERSION}. "
            "Delete it and run again, or read it with the kdlib that wrote it."
        )
    if found == SCHEMA_VERSION:
        _check_sums(record, Path(path))
    read = {name: value for name, value in record.items() if name != "checksums"}
    return {**read, "config": _renamed(read["config"], current_name)} if "config" in read else read


def _check_sums(record: Mapping[str, Any], path: Path) -> None:
    """Compare a record, and the history beside it, with the record's checksums."""
    known = record.get("checksums")
    sums = known if isinstance(known, dict) else {}
    if sums.get("record") != _checksum(record):
        raise KdlibError(
            f"{path} is damaged: its checksum differs. Delete it and run again, or put back a copy."
        )
    history = path.parent / HISTORY
    if HISTORY in sums and history.exists() and checksum(history) != sums[HISTORY]:
        raise KdlibError(
            f"{history} is damaged: it is not what {path.name} was written with. Delete both and "
            "run again, or put back a copy."
        )


def provenance(config: RunConfig, device: str, precision: str, fingerprint: str) -> dict[str, Any]:
    """What a sceptic needs to know of a result: code, packages, device, seeds, data, time."""
    packages = ("torch", "torchvision", "numpy")
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
        "device": device,
        "precision": precision,
        "threads": torch.get_num_threads(),
        "seeds": {n: getattr(config, n) for n in ("data_seed", "init_seed", "teacher_seed")},
        "data_fingerprint": fingerprint,
        "utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _git(*arguments: str) -> str | None:
    """A git answer about the code that is running, or ``None`` outside a repository."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


# The data of a run: what it learns from, and what it is judged by.
def training_data(config: RunConfig, data_root: Path | None) -> ImageData:
    """The training set; of a run that is to choose something, without its dev split.

    Raises:
        KdlibError: data are missing or damaged.
    """
    return _loaded(config, "train" if config.split == "train" else "fit", data_root)


def evaluation_data(config: RunConfig, data_root: Path | None) -> ImageData:
    """The test set; of a run that is to choose something, the dev split.

    Raises:
        KdlibError: data are missing or damaged.
    """
    return _loaded(config, "test" if config.split == "train" else "dev", data_root)


def _loaded(config: RunConfig, split: str, data_root: Path | None) -> ImageData:
    return load_data(
        config.dataset,
        split,
        size=config.test_size if split == "test" else config.train_size,
        task=config.task,
        image_size=config.image_size,
        attentions=config.attentions,
        distractors=config.distractors,
        crop_size=config.crop_size,
        data_root=data_root,
    )


# What the record of a finished run holds.
def make_record(
    trainee: "Trainee",
    data: ImageData,
    measured: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """All that is known of a finished run, as ``record.json`` holds it.

    Args:
        trainee: the run.
        data: what it was trained on.
        measured: its quality, from :meth:`kdlib.trainee.Trainee.measure`.
        history: its epochs; of a run that finished none, what was watched at its start.
    """
    config = trainee.config
    if "results" in measured:
        results = {**measured["results"], **_epochs(trainee, history)}
        measured = {**measured, "results": results}
    source = provenance(config, str(trainee.device), trainee.precision, data.fingerprint)
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": config.run_id,
        "config": config.to_file(),
        "config_hash": config.config_hash,
        **measured,
        "diverged": str(trainee.failure) if trainee.failure else None,
        "cost": _cost(trainee, len(data.labels)),
        "provenance": {**source, **trainee.team.facts},
    }


def _epochs(trainee: "Trainee", history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Which epoch is the result, and which was the best of those whose quality was watched."""
    measures = TASKS[trainee.config.task]
    last = {"last_epoch": trainee.epoch, "best_epoch": trainee.epoch}
    if measures.monitored not in history[-1]:
        return last
    best = max(history, key=lambda row: row[measures.monitored])
    return {
        **last,
        "best_epoch": best["epoch"],
        f"best_monitored_{measures.metric}": best[measures.monitored],
        f"last_monitored_{measures.metric}": history[-1][measures.monitored],
    }


def _cost(trainee: "Trainee", images: int) -> dict[str, Any]:
    """Of the network that is kept, and of its training with so many ``images`` an epoch."""
    seconds = trainee.seconds
    return {
        **trainee.cost(),
        "train_seconds": seconds,
        "images_per_second": images * trainee.epoch / seconds if seconds else 0.0,
    }
