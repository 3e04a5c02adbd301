"""Writes a run's student to a file, checks it, and measures what the distillation was for."""

import json
import platform
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from glob import escape
from hashlib import sha256
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from shutil import copyfile
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from tqdm.auto import tqdm

from kdlib.data.batches import Batches
from kdlib.data.image_data import ImageData
from kdlib.errors import KdlibError, unknown
from kdlib.evaluate import BATCH_SIZE, images_at_once, marks_of
from kdlib.files import load_weights, write_atomic, write_json
from kdlib.methods import parse_method
from kdlib.models import create_model
from kdlib.models.cost import count_parameters, flops
from kdlib.runs import RunConfig, earlier, evaluation_data, provenance, read_record, run_directory
from kdlib.tasks import TASKS
from study.jobs import plain_job, students_job
from study.records import validate_record
from study.results import markdown_table, metric_name, number

# A network as it is deployed: pixels in, logits out.
CPU = torch.device("cpu")
Colours = tuple[float, float, float]


class Deployed(nn.Module):
    """A network with the normalisation of its images inside, and nothing but logits outside.

    Pixels are uint8, as every decoder gives them: a quarter of the bytes of floats, and no doubt
    whether they go to 1 or to 255.

    Args:
        network: normalised images (B, 3, H, W) to an ``Output``.
        mean: of each channel, 0 to 1.
        std: standard deviation of each channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Colours, std: Colours) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """RGB images (B, 3, H, W), uint8 -> logits (B, K), or (B, K, H, W) of pixels; float32."""
        pixels = images.float().div(255)
        return self.network(pixels.sub(self.mean).div(self.std)).logits


def pixel_batches(data: ImageData, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """All images in order, not normalised: (B, 3, H, W) uint8, with labels (B,) or (B, H, W)."""
    plain = replace(data, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    for batch in Batches(plain, size).in_order():
        yield batch.images.mul(255).round().to(torch.uint8).contiguous(), batch.labels


def first_images(data: ImageData, count: int) -> Tensor:
    """``count`` images (count, 3, H, W) uint8, from the first one again where data are fewer."""
    few = data.first(count)
    images, _ = next(pixel_batches(few, len(few)))
    return images[torch.arange(count) % len(few)]


# The error of a file that is not what it was made from.
class ExportError(KdlibError):
    """An exported network does not answer as PyTorch's does, or not as well as its record says."""


# Which run is exported: found by its directory, its id or the beginning of its id.
WEIGHTS = "weights.safetensors"
MOST_SHOWN = 8


@dataclass(frozen=True)
class Trained:
    """A network that can be exported.

    Attributes:
        config: the run whose ``student`` it is.
        weights: the file that it is loaded from.
        record: of that run; ``None`` where only the weights are there.
    """

    config: RunConfig
    weights: Path
    record: dict[str, Any] | None

    @property
    def sha256(self) -> str:
        """Of the file of weights, in hexadecimal."""
        return sha256(self.weights.read_bytes()).hexdigest()

    @property
    def score(self) -> float | None:
        """What the record says of the network: the metric that its task is judged by, 0 to 1."""
        metric = TASKS[self.config.task].metric
        return None if self.record is None else self.record["results"][metric]

    def network(self, classes: int) -> nn.Module:
        """The network, on the CPU and in eval mode.

        Raises:
            KdlibError: the weights are damaged, or for other classes.
        """
        network = create_model(self.config.student, classes)
        load_weights(network, self.weights, classes)
        return network.eval()


def find_student(run: Path, root: Path) -> Trained:
    """The student of a finished run.

    Args:
        run: the run's directory; or its id, or the beginning of it that no other run has.
        root: the folder of all runs.

    Raises:
        KdlibError: there is no such run or there are several, it is not finished, its record is
            damaged, it has no weights, or its network cannot be exported.
    """
    directory = find_directory(run, Path(root))
    path = directory / "record.json"
    if not path.exists():
        if not (directory / "config.json").exists():
            raise KdlibError(f"{directory} is not the directory of a run; give one, or a run's id.")
        raise KdlibError(
            f"{directory} is not finished: it has no record.json. Train it again with the same "
            "parameters; it goes on from its last epoch."
        )
    record = read_record(path)
    validate_record(record, path.resolve())
    config = RunConfig.from_dict(record["config"])
    _check_network(config)
    if not (directory / WEIGHTS).exists():
        raise KdlibError(_without_weights(config, directory))
    return Trained(config, directory / WEIGHTS, record)


def find_teacher(config: RunConfig, root: Path) -> Trained | None:
    """The teacher of a run, or ``None``: the run had none, or the teacher's weights are not here.

    Raises:
        KdlibError: its record is damaged.
    """
    if config.teacher == "none":
        return None
    taught = config.teacher_config()
    given = config.teacher_weights
    weights = Path(given) if given else run_directory(taught, Path(root)) / WEIGHTS
    record = weights.parent / "record.json"
    known = read_record(record) if record.exists() and not given else None
    return Trained(taught, weights, known) if weights.exists() else None


def find_directory(run: Path, root: Path) -> Path:
    """The directory of a run, see :func:`find_student`.

    Raises:
        KdlibError: there is none, or there are several.
    """
    if run.is_dir():
        return run.resolve()
    if not root.is_dir():
        raise KdlibError(f"There is no run {run}, and no folder {root} to look for it in.")
    runs = {path.parent.name for path in root.glob("*/config.json")}
    runs |= {path.parent.name for path in root.glob("*/record.json")}
    if str(run) in runs:
        return root / run
    found = sorted(path.name for path in root.glob(f"{escape(str(run))}*") if path.name in runs)
    if not found:
        close = get_close_matches(str(run), runs, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise KdlibError(f"{root} has no run '{run}' among its {len(runs)}.{hint}")
    if len(found) > 1:
        shown = [*found[:MOST_SHOWN], *(["..."] if len(found) > MOST_SHOWN else [])]
        raise KdlibError(f"{len(found)} runs begin with '{run}'; which?\n" + "\n".join(shown))
    return root / found[0]


def _check_network(config: RunConfig) -> None:
    if config.task == "detection":
        raise KdlibError(
            f"{config.run_id} is a detector. Its boxes are chosen one by one, as many as there "
            "are, which is no graph of tensors; export a run of another task (one of "
            f"{', '.join(name for name in TASKS if name != 'detection')})."
        )
    if parse_method(config.method).base == "srm_dictionary":
        raise KdlibError(
            f"{config.run_id} learned dictionaries that describe a teacher: it has no network. "
            "Export the student that was taught with them, a run of 'srm' or 'srm_logits'."
        )


def _without_weights(config: RunConfig, directory: Path) -> str:
    commands = "\n".join(_training(config))
    return (
        f"{directory} has a record but no {WEIGHTS}: records are committed without. Train the run "
        f"(into runs/), then export it:\n{commands}\npython -m kdlib export {config.run_id}"
    )


def _training(config: RunConfig) -> Iterator[str]:
    """The commands that leave the run's weights, those of its teacher first."""
    for run in (*earlier([config]), config):
        job = plain_job(run) if run.method == "student" else students_job([run])
        parameters = shlex.quote(json.dumps(job.parameters))
        yield f"python -m kdlib run {job.notebook} --parameters {parameters}"


# The formats of exported networks: one line each.
FACTS = "kdlib"
"""Name under which a file holds what it is: JSON."""
Answer = Callable[[Tensor], Tensor]
"""From images (B, 3, H, W) uint8 to logits, with any B."""


@dataclass(frozen=True)
class Format:
    """One line of the registry.

    Attributes:
        suffix: of its files.
        runtime: what runs them.
        packages: what it needs beyond PyTorch, by the names they are imported and installed by.
        write: writes a program with its facts to a file.
        load: from a file and a number of threads to what answers.
    """

    suffix: str
    runtime: str
    packages: tuple[str, ...]
    write: Callable[[ExportedProgram, Path, Mapping[str, Any]], None]
    load: Callable[[Path, int], Answer]


def format_of(name: str) -> Format:
    """A format by its name.

    Raises:
        KdlibError: there is no such format, or its packages are not installed.
    """
    if name not in FORMATS:
        raise unknown("format", name, FORMATS)
    missing = [one for one in FORMATS[name].packages if find_spec(one) is None]
    if missing:
        raise KdlibError(
            f"Format '{name}' needs {', '.join(missing)}, which this Python lacks. Install: "
            f"python -m pip install {' '.join(FORMATS[name].packages)}"
        )
    return FORMATS[name]


def traced(network: Deployed, image_size: int) -> ExportedProgram:
    """The network as a graph, for any number of images of one size.

    It says nothing of the files that the code lay in.
    """
    images = torch.zeros(2, 3, image_size, image_size, dtype=torch.uint8)
    with torch.no_grad():
        shapes = {"images": {0: Dim("batch")}}
        program = torch.export.export(network.eval(), (images,), dynamic_shapes=shapes)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def write_onnx(program: ExportedProgram, path: Path, facts: Mapping[str, Any]) -> None:
    """Write one file that holds the weights too."""
    exported = torch.onnx.export(
        program,
        (),
        dynamo=True,
        verbose=False,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: "batch"},),
    )
    assert exported is not None  # with dynamo it never is
    exported.model.metadata_props[FACTS] = json.dumps(dict(facts))
    exported.save(path, external_data=False)


def load_onnx(path: Path, threads: int) -> Answer:
    """Load a file with onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def answer(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])

    return answer


def write_torch(program: ExportedProgram, path: Path, facts: Mapping[str, Any]) -> None:
    """Write a ``.pt2`` archive."""
    with path.open("wb") as file:  # a path that does not end in .pt2 would be warned of
        torch.export.save(program, file, extra_files={f"{FACTS}.json": json.dumps(dict(facts))})


def load_torch(path: Path, threads: int) -> Answer:
    """Load an archive; the threads are those that PyTorch has.

    PyTorch unpickles parts of an archive, so this is for files that were made here.
    """
    with path.open("rb") as file:
        return torch.export.load(file).module()


FORMATS: dict[str, Format] = {
    "onnx": Format(
        ".onnx", "onnxruntime", ("onnx", "onnxscript", "onnxruntime"), write_onnx, load_onnx
    ),
    "torch": Format(".pt2", "torch.export", (), write_torch, load_torch),
}


# A network in its two forms: PyTorch's, and the file's.
@dataclass(frozen=True)
class Exported:
    """A network in its two forms.

    Attributes:
        trained: where it comes from.
        deployed: PyTorch's.
        file: the exported one.
        answer: what answers with that file.
    """

    trained: Trained
    deployed: Deployed
    file: Path
    answer: Answer

    def size(self) -> dict[str, Any]:
        """Parameters, operations for one image, and the file's bytes."""
        config = self.trained.config
        return {
            "run_id": config.run_id,
            "model": config.student,
            "parameters": count_parameters(self.deployed),
            "flops": flops(self.deployed.network, config.input_size),
            "bytes": self.file.stat().st_size,
            "sha256": sha256(self.file.read_bytes()).hexdigest(),
        }


def exported(
    trained: Trained, data: ImageData, kind: Format, threads: int, folder: Path
) -> Exported:
    """Write a network to a file in ``folder``, and load it from there.

    Args:
        trained: the network.
        data: images of the kind that it was trained on: their classes, their mean.
        kind: the format.
        threads: that the loaded file answers with.
        folder: where the file goes, under the run's id.
    """
    network = trained.network(len(data.classes))
    deployed = Deployed(network, data.mean, data.std).eval()
    deployed = deployed.to(memory_format=torch.channels_last)  # as it was trained; it is faster
    file = folder / f"{trained.config.run_id}{kind.suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch about its own parts
        kind.write(traced(deployed, trained.config.input_size), file, facts_of(trained, data))
        return Exported(trained, deployed, file, kind.load(file, threads))


def facts_of(trained: Trained, data: ImageData) -> dict[str, Any]:
    """What a file says of itself."""
    config, record = trained.config, trained.record
    return {
        "model": config.student,
        "task": config.task,
        "input": "images: uint8, RGB, (batch, 3, image_size, image_size), not normalised",
        "output": "logits: float32, one a class, of each image or of each pixel",
        "image_size": config.input_size,
        "classes": list(data.classes),
        "mean": list(data.mean),
        "std": list(data.std),
        "run_id": config.run_id,
        "config_hash": config.config_hash,
        "commit": record["provenance"]["commit"] if record else None,
        "weights_sha256": trained.sha256,
    }


# What an export is to write, and what it is to measure.
@dataclass(frozen=True)
class Plan:
    """What to write, and what to measure.

    Attributes:
        format: one of ``study.export.FORMATS``.
        to: the file; ``None`` for ``student`` with the format's suffix in the run's directory.
        threads: of the processor, for all that is measured.
        batch_sizes: in which the file is checked and timed.
        rounds: how often each network is timed in each.
        tolerance: what a logit may differ by, in units of the largest logit (of 1 if it is less).
        measure: score and time student and teacher too, beyond the check of the logits.
    """

    format: str = "onnx"
    to: Path | None = None
    threads: int = 1
    batch_sizes: tuple[int, ...] = (1, 64)
    rounds: int = 30
    tolerance: float = 1e-4
    measure: bool = True

    def __post_init__(self) -> None:
        """Check every value that can be checked without a run."""
        counts = {"number of threads": self.threads, "number of rounds": self.rounds}
        for name, value in {**counts, "batch size": min(self.batch_sizes, default=0)}.items():
            if value < 1:
                raise KdlibError(f"The {name} is {value}; it must be at least 1.")
        if self.to is not None and self.to.is_dir():
            raise KdlibError(f"{self.to} is a folder; give the name of a file in it.")


# Whether an exported network is the network: the same answers, and as many of them right.
MOST_LOST = 0.01
"""By which a score may differ from its record's, which can have been measured in bfloat16."""
MOST_IMAGES = 2
"""Or by so many images, of a small test set."""


@torch.inference_mode()
def compare(network: Exported, images: Tensor, plan: Plan) -> dict[str, Any]:
    """The largest difference of any logit from PyTorch's, in batches of each of the plan's sizes.

    Args:
        network: in its two forms.
        images: (N, 3, H, W) uint8; of a batch size that does not divide N the last is smaller.
        plan: the sizes, and the tolerance.

    Raises:
        ExportError: more than that, or no number at all; names the first such batch size.
    """
    wanted = network.deployed(images)
    largest, found = wanted.abs().max().item(), {}
    for size in plan.batch_sizes:
        logits = torch.cat([network.answer(batch) for batch in images.split(size)])
        found[str(size)] = difference = (logits - wanted).abs().max().item()
        if not difference <= plan.tolerance * max(1.0, largest):
            raise ExportError(
                f"In batches of {size} the exported network's logits differ from PyTorch's by up "
                f"to {difference:.2g}, where the largest is {largest:.3g}. Nothing was written."
            )
    known = {"largest_logit": largest, "tolerance": plan.tolerance, "images": len(images)}
    return {"largest_difference": found, **known}


@torch.inference_mode()
def score(answer: Answer, data: ImageData, bar: Callable[..., tqdm]) -> float:
    """The metric that the task of ``data`` is judged by, 0 to 1, over all its images."""
    marks = marks_of(data)
    with bar(total=len(data)) as shown:
        for images, labels in pixel_batches(data, images_at_once(data, BATCH_SIZE)):
            marks.add(answer(images), labels)
            shown.update(len(images))
    return marks.results()[TASKS[data.task].metric]


def check_score(name: str, found: float, recorded: float, images: int) -> None:
    """Refuse a score of the network ``name`` that is not its record's.

    Raises:
        ExportError: the weights are not those of the record, or the data are others.
    """
    if not abs(found - recorded) <= max(MOST_LOST, MOST_IMAGES / images):
        raise ExportError(
            f"The exported {name} scores {found:.4f} on the test images, its record says "
            f"{recorded:.4f}: these are not the weights of that record, or not its data. Nothing "
            "was written. Train the run again, or name its data with --data-root."
        )


# The machine that something is measured on: its name, its threads, its clocks.
Clock = Callable[[], float]


def machine_name(device: torch.device = CPU) -> str:
    """The GPU's name, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    processors = Path("/proc/cpuinfo")
    lines = processors.read_text().splitlines() if processors.exists() else []
    models = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


@contextmanager
def limited_threads(count: int) -> Iterator[None]:
    """Limit PyTorch to so many threads of the processor, for as long as it lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def processor_clock(threads: int) -> tuple[str, Clock]:
    """A clock in seconds, and its name: the processor's time with one thread, else the wall's.

    The time of a single thread leaves out when other programs had the core.
    """
    if threads == 1:
        return "processor time", time.process_time
    return "wall time", time.perf_counter


# How good and how fast networks are, as files and in PyTorch, on this processor.
PYTORCH = "PyTorch"
ENOUGH_S = 10.0
"""After so many seconds a latency is not measured again."""
Work = Callable[[], object]


class Timed(NamedTuple):
    """What a latency is of: a network's name, what runs it, images a batch."""

    network: str
    runtime: str
    size: int


def measured(
    networks: Mapping[str, Exported], data: ImageData, plan: Plan, progress: bool
) -> dict[str, dict[str, Any]]:
    """Size, score on all of ``data`` and speed of each network, by its name.

    Raises:
        ExportError: a file's score is not that of its run's record.
    """
    found = {}
    for name, network in networks.items():
        bar = partial(tqdm, desc=f"{name}'s score", unit="image", disable=not progress)
        good, recorded = score(network.answer, data, bar), network.trained.score
        if recorded is not None:
            check_score(name, good, recorded, len(data))
        found[name] = {**network.size(), "score": good, "recorded": recorded, "latency_ms": {}}
    for timed, latency in _latencies(networks, data, plan, progress).items():
        of_runtime = found[timed.network]["latency_ms"].setdefault(timed.runtime, {})
        of_runtime[str(timed.size)] = latency
    return found


def _latencies(
    networks: Mapping[str, Exported], data: ImageData, plan: Plan, progress: bool
) -> dict[Timed, float]:
    images = first_images(data, max(plan.batch_sizes))
    runtime, (_, clock) = format_of(plan.format).runtime, processor_clock(plan.threads)
    works: dict[Timed, Work] = {}
    for name, network in networks.items():
        for size in plan.batch_sizes:
            batch = images[:size]
            works[Timed(name, PYTORCH, size)] = partial(network.deployed, batch)
            works[Timed(name, runtime, size)] = partial(network.answer, batch)
    with tqdm(total=plan.rounds, desc="speed", unit="round", disable=not progress) as bar:
        return median_ms(works, plan.rounds, clock, bar.update)


@torch.inference_mode()
def median_ms(
    works: Mapping[Timed, Work], rounds: int, clock: Clock, tick: Work
) -> dict[Timed, float]:
    """Median milliseconds of each, measured in turn: a machine whose speed drifts favours none.

    Before each measurement the work is done once unmeasured, for what was done before it leaves
    caches, and perhaps threads, as it likes.
    """
    seconds: dict[Timed, list[float]] = {timed: [] for timed in works}
    for _ in range(rounds):
        for timed, work in works.items():
            if len(seconds[timed]) < 2 or sum(seconds[timed]) < ENOUGH_S:
                work()
                start = clock()
                work()
                seconds[timed].append(clock() - start)
        tick()
    return {timed: round(1000 * median(values), 4) for timed, values in seconds.items()}


SCHEMA_VERSION = 1
STUDENT, TEACHER = "student", "teacher"


def export_run(
    run: Path, root: Path, plan: Plan, *, data_root: Path | None = None, progress: bool = True
) -> dict[str, Any]:
    """Write the student of a finished run to one file, and a record of it to ``FILE.json``.

    The file appears when all checks have passed: its logits are PyTorch's and, where it is
    measured, its score is the run's.

    Args:
        run: the run's directory, its id, or the beginning of its id.
        root: the folder of all runs.
        plan: what to write and to measure.
        data_root: folder of the real data sets; the run's own test images are what is checked on.
        progress: show progress bars.

    Returns:
        The record; :mod:`study.export` puts it into words.

    Raises:
        ExportError: a check failed; a file that was there before is as it was.
        KdlibError: no such run or format, a network that cannot be exported, or data missing.
    """
    kind, student = format_of(plan.format), find_student(run, root)
    path = plan.to or student.weights.parent / f"{STUDENT}{kind.suffix}"
    data = evaluation_data(student.config, data_root)
    with limited_threads(plan.threads), TemporaryDirectory(prefix="kdlib-export-") as folder:
        write = partial(exported, data=data, kind=kind, threads=plan.threads, folder=Path(folder))
        if progress:  # of large networks this takes a minute
            print(f"{student.config.run_id}: writing and loading it", file=sys.stderr)
        networks = {STUDENT: write(student)}
        images = first_images(data, max(plan.batch_sizes))
        found: dict[str, Any] = {"check": compare(networks[STUDENT], images, plan)}
        if plan.measure:
            teacher = find_teacher(student.config, student.weights.parent.parent)
            networks |= {TEACHER: write(teacher)} if teacher else {}
            found["networks"] = measured(networks, data, plan, progress)
        record = {"file": path.name, **_head(student, data, kind, plan), **found}
        write_atomic(path, partial(copyfile, networks[STUDENT].file))
    write_json(path.with_name(f"{path.name}.json"), record)
    return record


def _head(student: Trained, data: ImageData, kind: Format, plan: Plan) -> dict[str, Any]:
    """What a record says beside what was found."""
    source = provenance(student.config, "cpu", "float32", data.fingerprint)
    source["versions"] |= {name: version(name) for name in kind.packages}
    clock, _ = processor_clock(plan.threads)
    return {
        "schema_version": SCHEMA_VERSION,
        "format": plan.format,
        "runtime": kind.runtime,
        "facts": facts_of(student, data),
        "images": len(data),
        "metric": TASKS[student.config.task].metric,
        "plan": {"rounds": plan.rounds, "batch_sizes": list(plan.batch_sizes), "clock": clock},
        "provenance": {**source, "machine": machine_name()},
    }


# Deployed students: one file that takes images as they are decoded and gives logits.


# What an export found, in words and tables.
MEGA = 1e6
RUNTIMES = ("torch", "onnxruntime")
"""Packages whose versions times depend on."""
NAMES = {"top1": "top-1", "miou": "mIoU"}
Record = dict[str, Any]


def report(record: Record) -> str:
    """The text that ``kdlib export`` prints, from the record that it writes."""
    lines = [f"{record['file']}: the student of {record['facts']['run_id']}", checked(record)]
    if "networks" in record:
        lines += ["", size_table([record]), speed_table(record), gains(record), where(record)]
    return "\n".join(lines)


def checked(record: Record) -> str:
    """How near the file's answers are to PyTorch's, in a line."""
    check = record["check"]
    found = check["largest_difference"].items()
    differences = ", ".join(f"{value:.1e} in batches of {size}" for size, value in found)
    return (
        f"Logits differ from PyTorch's by at most {differences} on {check['images']} test images, "
        f"where the largest logit is {check['largest_logit']:.1f}."
    )


def size_table(records: Sequence[Record]) -> str:
    """A row a file: how large it is, and how good on the whole test set."""
    metric = NAMES.get(records[0]["metric"], metric_name(records[0]["metric"]))
    head = ["network", "model", "parameters", "operations", "file", "MB"]
    rows = [
        [
            name,
            network["model"],
            f"{network['parameters']:,}",
            f"{network['flops'] / MEGA:,.1f} M",
            record["format"],
            f"{network['bytes'] / MEGA:.2f}",
            _percent(network["score"]),
            _percent(network["recorded"]),
        ]
        for record in records
        for name, network in record["networks"].items()
    ]
    return markdown_table([*head, f"{metric} %", "recorded %"], rows)


def speed_table(record: Record) -> str:
    """A row for each network and what runs it."""
    sizes = record["plan"]["batch_sizes"]
    head = ["network", "run by"]
    for size in sizes:
        head += [f"batch {size}: ms", "images/s"]
    rows = [
        [name, runtime, *_speeds(latencies, sizes)]
        for name, network in record["networks"].items()
        for runtime, latencies in network["latency_ms"].items()
    ]
    return markdown_table(head, rows)


def gains(record: Record) -> str:
    """What the student gains and loses against its teacher, run by what runs the file."""
    networks = record["networks"]
    if TEACHER not in networks:
        return "The student alone: it had no teacher, or the teacher's weights are not here."
    student, teacher = networks[STUDENT], networks[TEACHER]
    share = teacher["parameters"] / student["parameters"]
    runtime = record["runtime"]
    fast = ", ".join(
        f"{teacher['latency_ms'][runtime][size] / latency:.1f} times as fast in batches of {size}"
        for size, latency in student["latency_ms"][runtime].items()
    )
    gap = 100 * (student["score"] - teacher["score"])
    return (
        f"With {runtime} the student is {fast}; it has 1/{share:.1f} of its teacher's parameters, "
        f"and {gap:+.1f} points of accuracy."
    )


def where(record: Record) -> str:
    """On what it was timed, and how."""
    source, plan = record["provenance"], record["plan"]
    named = (
        f"{name} {source['versions'][name]}" for name in RUNTIMES if name in source["versions"]
    )
    threads = f"{source['threads']} thread{'s' if source['threads'] > 1 else ''}"
    return (
        f"Timed on {source['machine']}, {threads}, {', '.join(named)}; medians of {plan['rounds']} "
        f"rounds, {plan['clock']}."
    )


def _speeds(latencies: dict[str, float], sizes: Sequence[int]) -> list[str]:
    cells = []
    for size in sizes:
        milliseconds = latencies[str(size)]
        cells += [f"{milliseconds:.2f}", f"{1000 * size / milliseconds:,.0f}"]
    return cells


def _percent(share: float | None) -> str:
    return number(float("nan") if share is None else 100 * share, ".2f")
