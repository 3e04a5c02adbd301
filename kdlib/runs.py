"""A run: its configuration, its directory, its record, and where it came from."""

import hashlib
import json
import platform
import re
import subprocess
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import field, fields, replace
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WrapValidator
from pydantic.dataclasses import dataclass

from kdlib.data import is_composed, load_data
from kdlib.errors import KdlibError, kindly, shown
from kdlib.files import remove_remains, write_json
from kdlib.methods import method_of, run_before
from kdlib.models import FIRST_NAMES, OWN_NAMES, current_name, network_revision
from kdlib.tasks import AUGMENTATIONS, JOINT, MIXING, ROTATIONS

if TYPE_CHECKING:
    from kdlib.data.image_data import ImageData


def _json(value: dict[str, Any]) -> dict[str, Any]:
    try:
        json.dumps(value, allow_nan=False)
        return value
    except (TypeError, ValueError, RecursionError) as error:
        says = f"give numbers, texts, lists and mappings of these ({shown(str(error))})"
        raise ValueError(says) from error


SCHEMA_VERSION = 2  # of records with a checksum; version 1, from before, is read as well
AGAIN = "Delete it and run again, or put back a copy."  # what helps against a bad record
# Types of fields: what can be said of them without data or networks.
LARGEST = 2**63 - 1  # with which arrays and random streams can still count
_as_given = WrapValidator(lambda value, check: (check(value), value)[1])  # a hash tells 1 from 1.0
_listed = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+-]{1,80}$")]  # it becomes part of a file name
Network = Annotated[Name, AfterValidator(current_name)]
Count = Annotated[int, Field(ge=1, le=LARGEST)]
Seed = Annotated[int, Field(ge=0, le=LARGEST)]
Positive = Annotated[float, Field(gt=0), _as_given]
Weight = Annotated[float, Field(ge=0), _as_given]
Momentum = Annotated[float, Field(ge=0, lt=1), _as_given]
Guide = Literal["teacher", "other_image", "untrained", "mean", "relevant", "objects", "noise"]
Options = Annotated[dict[str, Any], AfterValidator(_json)]

ADDED_LATER = (
    "start", "teacher_start", "teacher_learning_rate", "task", "gradient_clip", "crop_size",
    "sample", "teacher_sample", "teacher_train_size", "guide",
)  # fmt: skip
"""Fields younger than the first records: left out of what is hashed where they are defaults."""
OWN_FIELDS = {
    "student", "method", "method_options", "weight", "ce_weight", "kd_weight", "temperature",
    "init_seed", "start", "optimiser", "learning_rate", "momentum", "weight_decay", "schedule",
    "milestones", "gradient_clip", "guide",
}  # fmt: skip
"""Fields in which runs of one lock-step group may differ."""


@kindly("run parameter")
@dataclass(frozen=True, config={"extra": "forbid", "strict": True, "allow_inf_nan": False})
class RunConfig:
    """Everything that decides a run; the notebooks' parameters have the same names.

    ``split="train"`` trains on the training set and evaluates on the test set; ``dev`` evaluates on
    a fifth of the training set, held out, or on more scenes: the only split on which anything may
    be chosen. The task ``crops`` classifies objects that are cut out, as a detector's teacher does.

    An unknown field, or a value that a field cannot have, is a ``KdlibError`` that names the valid.
    """

    dataset: Name = "scenes"
    attentions: Count = 2
    distractors: Seed = 4
    image_size: Count = 64
    train_size: Count | None = None
    test_size: Count | None = None
    teacher: Network = "scenes_large"
    student: Network = "scenes_medium"
    method: Name = "student"
    method_options: Options = field(default_factory=dict)
    weight: Weight | None = None  # ``None``: the method's own, as of ``ce_weight``
    ce_weight: Weight | None = None
    kd_weight: Weight = 1.0
    temperature: Positive = 4.0
    epochs: Count = 15
    teacher_epochs: Count = 15
    teacher_weights: str | None = None
    start: str | None = None  # torchvision's weights, such as IMAGENET1K_V1; ``None``: random
    teacher_start: str | None = None
    teacher_learning_rate: Positive | None = None  # ``None``: ``learning_rate``
    batch_size: Count = 128
    optimiser: Literal["sgd", "adam"] = "sgd"
    learning_rate: Positive = 0.1
    momentum: Momentum = 0.9
    weight_decay: Weight = 5e-4
    schedule: Literal["one_cycle", "step", "constant"] = "one_cycle"
    milestones: Annotated[tuple[Count, ...], _listed] = ()
    augmentation: Annotated[tuple[str, ...], _listed] = ("flip",)
    data_seed: Seed = 0
    init_seed: Seed = 0
    teacher_seed: Seed = 0
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    split: Literal["train", "dev"] = "train"
    task: Literal["classification", "segmentation", "detection", "crops"] = "classification"
    gradient_clip: Positive | None = None  # gradients of a larger norm are scaled down to it
    crop_size: Count = 32  # pixels a side of objects that are cut out
    sample: Seed = 0  # which training set of composed scenes; the test set is one
    teacher_sample: Seed = 0
    teacher_train_size: Count | None = None  # ``None``: ``train_size``
    guide: Guide = "teacher"  # what is shown in its place, see :mod:`kdlib.guides`

    def to_dict(self) -> dict[str, Any]:
        """The configuration as JSON-ready values."""
        return json.loads(json.dumps({one.name: getattr(self, one.name) for one in fields(self)}))

    def to_file(self) -> dict[str, Any]:
        """The same as all files hold it, old ones too: networks by their first names."""
        return _renamed(self.to_dict(), FIRST_NAMES)

    def canonical(self) -> "RunConfig":
        """The same run without what it does not depend on: no teacher, no distillation options."""
        taught = not method_of(self.method, check=False).self_taught or "+kd" in self.method
        if self.method != "student" and taught:
            return self
        blank, unused = RunConfig(), ["kd_weight", "temperature", "guide"]
        unused += [item.name for item in fields(self) if item.name.startswith("teacher_")]
        if self.method == "student":
            unused += ["method_options", "weight", "ce_weight"]
            unused += ["crop_size"] if self.task != "crops" else []
        return replace(self, teacher="none", **{name: getattr(blank, name) for name in unused})

    @property
    def pixels(self) -> int | None:
        """Side of the answer where each pixel gets a class, or ``None``."""
        return self.image_size if self.task == "segmentation" else None

    @property
    def input_size(self) -> int:
        """Side in pixels of what the network sees."""
        return self.crop_size if self.task == "crops" else self.image_size

    def outputs(self, classes: int) -> int:
        """Logits that the student needs: with ``sla`` one for each class in each rotation."""
        return classes * (ROTATIONS if JOINT in self.augmentation else 1)

    @property
    def revision(self) -> int:
        """Grows whenever its method or a network of its is revised; 1 at first."""
        run = self.canonical()
        raised = sum(network_revision(name) - 1 for name in (run.student, run.teacher))
        return method_of(self.method, check=False).revision + raised

    @cached_property
    def config_hash(self) -> str:
        """SHA-256 of the canonical configuration, and of its revision, in hexadecimal."""
        return self.hash_at(self.revision)

    def hash_at(self, revision: int) -> str:
        """The hash that the configuration has, or had, at a revision."""
        hashed = as_hashed(self.canonical().to_dict())
        if revision > 1:
            hashed["revision"] = revision
        text = json.dumps(hashed, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def run_id(self) -> str:
        """A readable slug and ten digits of the hash: the name of the run's directory."""
        student = FIRST_NAMES.get(self.student, self.student)
        seed = f"s{self.init_seed}" if self.split == "train" else f"s{self.init_seed}-{self.split}"
        parts = (self.dataset, f"a{self.attentions}", student, self.method, seed)
        return f"{'-'.join(parts)}-{self.config_hash[:10]}"

    def teacher_config(self) -> "RunConfig":
        """The plain run of this one's teacher: no mixed images; a detector's, objects cut out."""
        plain: dict[str, Any] = {
            "student": self.teacher, "start": self.teacher_start, "method": "student",
            "data_seed": self.teacher_seed, "init_seed": self.teacher_seed,
            "epochs": self.teacher_epochs,
            "learning_rate": self.teacher_learning_rate or self.learning_rate,
            "sample": self.teacher_sample, "train_size": self.teacher_train_size or self.train_size,
            "augmentation": [name for name in self.augmentation if name not in MIXING],
        }  # fmt: skip
        if self.task == "detection":
            crops = [name for name in self.augmentation if name in AUGMENTATIONS]
            plain |= {"augmentation": crops, "task": "crops"}
        return replace(self, **plain).canonical()


def _renamed(config: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    roles = [role for role in ("teacher", "student") if role in config]
    return {**config, **{role: names.get(config[role], config[role]) for role in roles}}


def as_hashed(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration's hash is of, so that a run keeps its name as kdlib grows."""
    defaults = {name: getattr(RunConfig, name) for name in ADDED_LATER}
    kept = {n: v for n, v in config.items() if n not in defaults or v != defaults[n]}
    return _renamed(kept, FIRST_NAMES)


def needed_by(runs: Iterable[RunConfig]) -> list[RunConfig]:
    """The runs whose files these read: their teachers, and what they start from; each once."""
    needed = (one for run in runs for one in (*teacher_of(run), run_before(run)))
    return each_once(one for one in needed if one is not None)


def earlier(runs: Iterable[RunConfig]) -> list[RunConfig]:
    """All runs that must be finished before ``runs``, in an order in which they can be trained."""
    needed = needed_by(runs)
    return each_once([*earlier(needed), *needed]) if needed else []


def teacher_of(run: RunConfig) -> list[RunConfig]:
    """The run that trains the teacher of a run, if one does."""
    return [] if run.teacher == "none" or run.teacher_weights else [run.teacher_config()]


def each_once(runs: Iterable[RunConfig]) -> list[RunConfig]:
    """Runs without repetition, in their order."""
    return list({run.run_id: run for run in runs}.values())


def run_directory(config: RunConfig, root: Path) -> Path:
    """Where a run's files live: ``root/<run_id>``."""
    return Path(root) / config.run_id


def is_finished(config: RunConfig, root: Path) -> bool:
    """A run is finished when, and only when, its record exists."""
    return (run_directory(config, root) / "record.json").exists()


def write_record(directory: Path, record: Mapping[str, Any]) -> Path:
    """Write ``record.json``, last of all a run's files, with a checksum of it and the history."""
    path = Path(directory) / "record.json"
    remove_remains(path.parent)
    write_json(path, {**record, "checksum": _checksum(record, _history(path))})
    return path


def _history(path: Path) -> bytes:
    history = path.with_name("history.csv")
    return history.read_bytes() if history.exists() else b""


def _checksum(record: Mapping[str, Any], history: bytes) -> int:
    """CRC-32 of what a record says, however it is written, and of the history beside it."""
    plain = json.loads(json.dumps(record, allow_nan=False))  # keys that are numbers become text
    return zlib.crc32(json.dumps(plain, sort_keys=True).encode(), zlib.crc32(history))


def read_record(path: Path) -> dict[str, Any]:
    """One ``record.json`` as :func:`checked_record` gives it."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        says = f"{path} is not a readable record ({error}); delete it and run again."
        raise KdlibError(says) from error
    if isinstance(record, dict) and "checksum" not in record:
        says = f"{path} has no checksum: an older kdlib wrote it, or it was changed"
        raise KdlibError(f"{says}. {AGAIN}")
    return checked_record(record, path, _history(Path(path)))


def finished_record(config: RunConfig, root: Path) -> dict[str, Any]:
    """The record of a finished run; a ``KdlibError`` if another run's lies in its place."""
    path = run_directory(config, root) / "record.json"
    record = read_record(path)
    if (found := record.get("run_id")) != config.run_id:
        says = f"{path} is the record of '{shown(found)}', not of '{config.run_id}'"
        raise KdlibError(f"{says}. Put this run's own folder back, or: {AGAIN}")
    return record


def checked_record(record: Any, path: Path, history: bytes) -> dict[str, Any]:
    """What was read in ``path`` without its checksum, networks by today's names; or ``KdlibError``.

    Its hash must be that of its configuration, at this or an earlier revision.
    """
    if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
        raise KdlibError(f"{path} holds no record of a run. {AGAIN}")
    if (found := record.get("schema_version")) not in (1, SCHEMA_VERSION):
        says = f"{path} has schema version {shown(found)}; this kdlib reads 1 and {SCHEMA_VERSION}"
        raise KdlibError(f"{says}. Read it with the kdlib that wrote it. {AGAIN}")
    kept = {name: value for name, value in record.items() if name != "checksum"}
    sealed = found == SCHEMA_VERSION or "checksum" in record
    if sealed and record.get("checksum") != _checksum(kept, history):
        says = f"{path} is damaged, or the history.csv beside it is: their checksum differs"
        raise KdlibError(f"{says}. {AGAIN}")
    kept["config"] = _renamed(kept["config"], OWN_NAMES)
    try:
        config = RunConfig(**kept["config"])
    except (KdlibError, TypeError) as error:
        raise KdlibError(f"{path}: its config cannot be read. {error} {AGAIN}") from error
    found, revisions = record.get("config_hash"), range(config.revision, 0, -1)
    if not any(found == config.hash_at(revision) for revision in revisions):
        says = f"{path}: its config_hash {shown(found)} is not that of its config"
        raise KdlibError(f"{says}, {config.config_hash}: one was changed. {AGAIN}")
    return kept


def provenance(config: RunConfig, device: str, precision: str, fingerprint: str) -> dict[str, Any]:
    """Where a result comes from: code, packages, device, seeds, data, time."""
    import torch

    packages = [name for name in ("torch", "torchvision", "numpy") if find_spec(name)]
    command = ["git", "describe", "--always", "--exclude=*", "--abbrev=40", "--dirty"]
    how: dict[str, Any] = {"cwd": Path(__file__).parent, "capture_output": True, "text": True}
    found = subprocess.run(command, **how).stdout if which("git") else ""  # outside git: nothing
    commit, _, dirty = found.strip().partition("-")
    return {
        "commit": commit or None,
        "dirty": bool(dirty),
        "versions": {"python": platform.python_version(), **{n: version(n) for n in packages}},
        "device": device,
        "processor": processor_name(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "precision": precision,
        "threads": torch.get_num_threads(),
        "seeds": {n: getattr(config, n) for n in ("data_seed", "init_seed", "teacher_seed")},
        "data_fingerprint": fingerprint,
        "utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def processor_name() -> str:
    """The processor's model, as the system tells it."""
    listed = Path("/proc/cpuinfo")
    text = listed.read_text(encoding="utf-8") if listed.exists() else ""
    named = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return named[1] if named else platform.processor() or platform.machine()


def data_of(config: RunConfig, split: str, data_root: Path | None) -> "ImageData":
    """The ``train`` or the ``test`` set of a run; on the dev split, ``fit`` or ``dev``."""
    own: dict[str, Any] = {"size": config.test_size if split == "test" else config.train_size}
    if config.split == "dev":
        split = {"train": "fit", "test": "dev"}[split]
        if not is_composed(config.dataset):  # two parts of one set
            own["size"] = config.train_size
    for name in ("task", "image_size", "attentions", "distractors", "crop_size", "sample"):
        own[name] = getattr(config, name)
    return load_data(config.dataset, split, data_root=data_root, **own)
