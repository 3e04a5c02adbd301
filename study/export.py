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
from kdlib.models.output import count_parameters, flops
from kdlib.runs import RunConfig, earlier, evaluation_data, provenance, read_record, run_directory
from kdlib.tasks import TASKS
from study.jobs import plain_job, students_job
from study.records import validate_record
from study.results import markdown_table, metric_name, number

CPU = torch.device("cpu")
WEIGHTS = "weights.safetensors"
FACTS = "kdlib"  # the name under which a file holds what it is: JSON
SCHEMA_VERSION = 1
STUDENT, TEACHER, PYTORCH = "student", "teacher", "PyTorch"
MOST_SHOWN = 8  # runs that an error lists
MOST_LOST, MOST_IMAGES = 0.01, 2
"""By which a score may differ from its record's, which can have been measured in bfloat16; or by so
many images, of a small test set."""
ENOUGH_S = 10.0  # after so many seconds a latency is not measured again
MEGA = 1e6
NAMES = {"top1": "top-1", "miou": "mIoU"}
Colours = tuple[float, float, float]
Answer = Callable[[Tensor], Tensor]
"""From images (B, 3, H, W) uint8 to logits, with any B."""
Record = dict[str, Any]
Clock = Callable[[], float]
Work = Callable[[], object]


class ExportError(KdlibError):
    """An exported network does not answer as PyTorch's does, or not as well as its record says."""


class Deployed(nn.Module):
    """A network with the normalisation of its images inside, and nothing but logits outside.

    Pixels are uint8, as every decoder gives them: a quarter of the bytes of floats, and no doubt
    whether they go to 1 or to 255. Mean and standard deviation are of each channel, 0 to 1.
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


class Trained(NamedTuple):
    """A network that can be exported: the run whose student it is, its file, the run's record.

    There is no record where only the weights are there.
    """

    config: RunConfig
    weights: Path
    record: Record | None

    @property
    def score(self) -> float | None:
        """What the record says of the network: the metric that its task is judged by, 0 to 1."""
        metric = TASKS[self.config.task].metric
        return None if self.record is None else self.record["results"][metric]

    def deployed(self, data: ImageData) -> Deployed:
        """The network for the classes and colours of ``data``, on the CPU and in eval mode.

        Raises:
            KdlibError: the weights are damaged, or for other classes.
        """
        network = create_model(self.config.student, len(data.classes))
        load_weights(network, self.weights, len(data.classes))
        deployed = Deployed(network, data.mean, data.std).eval()
        return deployed.to(memory_format=torch.channels_last)  # as it was trained; it is faster

    def facts(self, data: ImageData) -> dict[str, Any]:
        """What a file says of itself."""
        return {
            "model": self.config.student, "task": self.config.task,
            "input": "images: uint8, RGB, (batch, 3, image_size, image_size), not normalised",
            "output": "logits: float32, one a class, of each image or of each pixel",
            "image_size": self.config.input_size, "classes": list(data.classes),
            "mean": list(data.mean), "std": list(data.std),
            "run_id": self.config.run_id, "config_hash": self.config.config_hash,
            "commit": self.record["provenance"]["commit"] if self.record else None,
            "weights_sha256": _digest(self.weights),
        }  # fmt: skip


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


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
    config = RunConfig(**record["config"])
    _check_network(config)
    if not (directory / WEIGHTS).exists():
        raise KdlibError(
            f"{directory} has a record but no {WEIGHTS}: records are committed without. Train the "
            f"run (into runs/), then export it:\n{_training(config)}\n"
            f"python -m kdlib export {config.run_id}"
        )
    return Trained(config, directory / WEIGHTS, record)


def find_teacher(config: RunConfig, root: Path) -> Trained | None:
    """The teacher of a run, or ``None``: the run had none, or the teacher's weights are not here.

    Raises:
        KdlibError: its record is damaged.
    """
    if config.teacher == "none":
        return None
    taught, given = config.teacher_config(), config.teacher_weights
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
    files = ("config.json", "record.json")
    runs = {path.parent.name for file in files for path in root.glob(f"*/{file}")}
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


def _training(config: RunConfig) -> str:
    """The commands that leave the run's weights, those of its teacher first."""
    runs = (*earlier([config]), config)
    jobs = [plain_job(run) if run.method == STUDENT else students_job([run]) for run in runs]
    words = [(job.notebook, shlex.quote(json.dumps(job.parameters))) for job in jobs]
    return "\n".join(f"python -m kdlib run {name} --parameters {given}" for name, given in words)


class Format(NamedTuple):
    """A format of exported networks."""

    suffix: str  # of its files
    runtime: str  # what runs them
    packages: tuple[str, ...]  # beyond PyTorch, by the names they are imported and installed by
    write: Callable[[ExportedProgram, Path, str], None]  # a program, and its facts in JSON
    load: Callable[[Path, int], Answer]  # from a file and a number of threads


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
    """The network as a graph, for any number of images of one size, without paths of its code."""
    images = torch.zeros(2, 3, image_size, image_size, dtype=torch.uint8)
    with torch.no_grad():
        shapes = {"images": {0: Dim("batch")}}
        program = torch.export.export(network.eval(), (images,), dynamic_shapes=shapes)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def write_onnx(program: ExportedProgram, path: Path, facts: str) -> None:
    """Write one file that holds the weights too."""
    names: dict[str, Any] = {"input_names": ["images"], "output_names": ["logits"]}
    names["dynamic_shapes"] = ({0: "batch"},)
    exported = torch.onnx.export(program, (), dynamo=True, verbose=False, **names)
    assert exported is not None  # with dynamo it never is
    exported.model.metadata_props[FACTS] = facts
    exported.save(path, external_data=False)


def load_onnx(path: Path, threads: int) -> Answer:
    """Load a file with onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def write_torch(program: ExportedProgram, path: Path, facts: str) -> None:
    """Write a ``.pt2`` archive."""
    with path.open("wb") as file:  # a path that does not end in .pt2 would be warned of
        torch.export.save(program, file, extra_files={f"{FACTS}.json": facts})


def load_torch(path: Path, threads: int) -> Answer:
    """Load an archive that was made here (parts are unpickled); the threads are PyTorch's."""
    with path.open("rb") as file:
        return torch.export.load(file).module()


FORMATS: dict[str, Format] = {
    "onnx": Format(
        ".onnx", "onnxruntime", ("onnx", "onnxscript", "onnxruntime"), write_onnx, load_onnx
    ),
    "torch": Format(".pt2", "torch.export", (), write_torch, load_torch),
}


@dataclass(frozen=True)
class Plan:
    """What to write, and what to measure."""

    format: str = "onnx"  # one of ``FORMATS``
    to: Path | None = None  # by default ``student`` and the suffix, in the run's directory
    threads: int = 1  # of the processor, for all that is measured
    batch_sizes: tuple[int, ...] = (1, 64)  # in which the file is checked and timed
    rounds: int = 30  # how often each network is timed in each
    tolerance: float = 1e-4  # of a logit, in units of the largest (of 1 if that is less)
    measure: bool = True  # score and time student and teacher too, beyond the check of the logits

    def __post_init__(self) -> None:
        """Check every value that can be checked without a run."""
        counts = {"number of threads": self.threads, "number of rounds": self.rounds}
        for name, value in {**counts, "batch size": min(self.batch_sizes, default=0)}.items():
            if value < 1:
                raise KdlibError(f"The {name} is {value}; it must be at least 1.")
        if self.to is not None and self.to.is_dir():
            raise KdlibError(f"{self.to} is a folder; give the name of a file in it.")


class Exported(NamedTuple):
    """A network in its two forms, PyTorch's and that of its file, and what answers with it."""

    trained: Trained
    deployed: Deployed
    file: Path
    answer: Answer

    def size(self) -> dict[str, Any]:
        """Parameters, operations for one image, and the file's bytes."""
        config = self.trained.config
        return {
            "run_id": config.run_id, "model": config.student,
            "parameters": count_parameters(self.deployed),
            "flops": flops(self.deployed.network, config.input_size),
            "bytes": self.file.stat().st_size, "sha256": _digest(self.file),
        }  # fmt: skip


def exported(trained: Trained, data: ImageData, plan: Plan, folder: Path) -> Exported:
    """Write a network, for images of the kind of ``data``, to a file, and load it from there."""
    deployed, kind = trained.deployed(data), format_of(plan.format)
    file = folder / f"{trained.config.run_id}{kind.suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch about its own parts
        program = traced(deployed, trained.config.input_size)
        kind.write(program, file, json.dumps(trained.facts(data)))
        return Exported(trained, deployed, file, kind.load(file, plan.threads))


def export_run(
    run: Path, root: Path, plan: Plan, *, data_root: Path | None = None, progress: bool = True
) -> Record:
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
        The record; :func:`report` puts it into words.

    Raises:
        ExportError: a check failed; a file that was there before is as it was.
        KdlibError: no such run or format, a network that cannot be exported, or data missing.
    """
    kind, student = format_of(plan.format), find_student(run, root)
    path = plan.to or student.weights.parent / f"{STUDENT}{kind.suffix}"
    data = evaluation_data(student.config, data_root)
    with limited_threads(plan.threads), TemporaryDirectory(prefix="kdlib-export-") as folder:
        write = partial(exported, data=data, plan=plan, folder=Path(folder))
        if progress:  # of large networks this takes a minute
            print(f"{student.config.run_id}: writing and loading it", file=sys.stderr)
        networks = {STUDENT: write(student)}
        found: Record = {"check": compare(networks[STUDENT], data, plan)}
        if plan.measure:
            teacher = find_teacher(student.config, student.weights.parent.parent)
            networks |= {TEACHER: write(teacher)} if teacher else {}
            found["networks"] = measured(networks, data, plan, progress)
        record = {"file": path.name, **_head(student, data, plan), **found}
        write_atomic(path, partial(copyfile, networks[STUDENT].file))
    write_json(path.with_name(f"{path.name}.json"), record)
    return record


def _head(student: Trained, data: ImageData, plan: Plan) -> Record:
    """What a record says beside what was found."""
    source = provenance(student.config, "cpu", "float32", data.fingerprint)
    kind, (clock, _) = format_of(plan.format), processor_clock(plan.threads)
    source["versions"] |= {name: version(name) for name in kind.packages}
    return {
        "schema_version": SCHEMA_VERSION, "format": plan.format, "runtime": kind.runtime,
        "facts": student.facts(data), "images": len(data),
        "metric": TASKS[student.config.task].metric,
        "plan": {"rounds": plan.rounds, "batch_sizes": list(plan.batch_sizes), "clock": clock},
        "provenance": {**source, "machine": machine_name()},
    }  # fmt: skip


@torch.inference_mode()
def compare(network: Exported, data: ImageData, plan: Plan) -> dict[str, Any]:
    """The largest difference of any logit from PyTorch's, in batches of each of the plan's sizes.

    Raises:
        ExportError: more than the tolerance, or no number at all; names the first such batch size.
    """
    images = first_images(data, max(plan.batch_sizes))
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


def measured(
    networks: Mapping[str, Exported], data: ImageData, plan: Plan, progress: bool
) -> dict[str, Record]:
    """Size, score on all of ``data`` and speed of each network, by its name.

    Raises:
        ExportError: a file's score is not that of its run's record.
    """
    found = {}
    for name, network in networks.items():
        with tqdm(total=len(data), desc=f"{name}'s score", disable=not progress) as bar:
            good, recorded = score(network.answer, data, bar), network.trained.score
        if recorded is not None:
            check_score(name, good, recorded, len(data))
        found[name] = {**network.size(), "score": good, "recorded": recorded, "latency_ms": {}}
    for (name, runtime, size), latency in _latencies(networks, data, plan, progress).items():
        found[name]["latency_ms"].setdefault(runtime, {})[str(size)] = latency
    return found


@torch.inference_mode()
def score(answer: Answer, data: ImageData, bar: tqdm) -> float:
    """The metric that the task of ``data`` is judged by, 0 to 1, over all its images."""
    marks = marks_of(data)
    for images, labels in pixel_batches(data, images_at_once(data, BATCH_SIZE)):
        marks.add(answer(images), labels)
        bar.update(len(images))
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


def _latencies(
    networks: Mapping[str, Exported], data: ImageData, plan: Plan, progress: bool
) -> dict[tuple[str, str, int], float]:
    """Median milliseconds by a network's name, what runs it, and images per batch."""
    images, runtime = first_images(data, max(plan.batch_sizes)), format_of(plan.format).runtime
    works: dict[tuple[str, str, int], Work] = {}
    for name, network in networks.items():
        for size in plan.batch_sizes:
            works[name, PYTORCH, size] = partial(network.deployed, images[:size])
            works[name, runtime, size] = partial(network.answer, images[:size])
    with tqdm(total=plan.rounds, desc="speed", unit="round", disable=not progress) as bar:
        return median_ms(works, plan.rounds, processor_clock(plan.threads)[1], bar.update)


@torch.inference_mode()
def median_ms(works: Mapping[Any, Work], rounds: int, clock: Clock, tick: Work) -> dict[Any, float]:
    """Median milliseconds of each, measured in turn: a machine whose speed drifts favours none.

    Before each measurement the work is done once unmeasured, for what was done before it leaves
    caches, and perhaps threads, as it likes.
    """
    seconds: dict[Any, list[float]] = {timed: [] for timed in works}
    for _ in range(rounds):
        for timed, work in works.items():
            if len(seconds[timed]) < 2 or sum(seconds[timed]) < ENOUGH_S:
                work()
                start = clock()
                work()
                seconds[timed].append(clock() - start)
        tick()
    return {timed: round(1000 * median(values), 4) for timed, values in seconds.items()}


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
    alone = ("processor time", time.process_time)
    return alone if threads == 1 else ("wall time", time.perf_counter)


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
            name, one["model"], f"{one['parameters']:,}", f"{one['flops'] / MEGA:,.1f} M",
            record["format"], f"{one['bytes'] / MEGA:.2f}", _percent(one["score"]),
            _percent(one["recorded"]),
        ]
        for record in records
        for name, one in record["networks"].items()
    ]  # fmt: skip
    return markdown_table([*head, f"{metric} %", "recorded %"], rows)


def speed_table(record: Record) -> str:
    """A row for each network and what runs it."""
    sizes = record["plan"]["batch_sizes"]
    columns = [column for size in sizes for column in (f"batch {size}: ms", "images/s")]
    rows = [
        [name, runtime, *(cell for size in sizes for cell in _speed(latencies[str(size)], size))]
        for name, network in record["networks"].items()
        for runtime, latencies in network["latency_ms"].items()
    ]
    return markdown_table(["network", "run by", *columns], rows)


def _speed(milliseconds: float, size: int) -> tuple[str, str]:
    return f"{milliseconds:.2f}", f"{1000 * size / milliseconds:,.0f}"


def gains(record: Record) -> str:
    """What the student gains and loses against its teacher, run by what runs the file."""
    networks, runtime = record["networks"], record["runtime"]
    if TEACHER not in networks:
        return "The student alone: it had no teacher, or the teacher's weights are not here."
    student, teacher = networks[STUDENT], networks[TEACHER]
    share = teacher["parameters"] / student["parameters"]
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
    known = source["versions"]
    named = [f"{name} {known[name]}" for name in ("torch", "onnxruntime") if name in known]
    threads = f"{source['threads']} thread{'s' if source['threads'] > 1 else ''}"
    return (
        f"Timed on {source['machine']}, {threads}, {', '.join(named)}; medians of {plan['rounds']} "
        f"rounds, {plan['clock']}."
    )


def _percent(share: float | None) -> str:
    return number(float("nan") if share is None else 100 * share, ".2f")
