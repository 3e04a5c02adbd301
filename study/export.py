"""Writes a run's student to a file, checks it, and measures what the distillation was for."""

import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
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
from kdlib.errors import KdlibError, check_known
from kdlib.evaluate import BATCH_SIZE, images_at_once, marks_of
from kdlib.files import load_weights, write_atomic, write_json
from kdlib.methods import parse_method
from kdlib.models import create_model
from kdlib.models.output import count_parameters, flops
from kdlib.runs import RunConfig, data_of, processor_name, provenance, read_record
from kdlib.tasks import TASKS
from study.arguments import Plan
from study.jobs import notebook_command
from study.records import find_directory, record_of, validate_record
from study.sealed import is_sealed

WEIGHTS = "weights.safetensors"
FACTS = "kdlib"  # the name under which a file holds what it is: JSON
STUDENT, TEACHER, PYTORCH = "student", "teacher", "PyTorch"
# By which a score may differ from its record's, which can be of bfloat16; or so many images.
MOST_LOST, MOST_IMAGES = 0.01, 2
TOLERANCE = 1e-4  # of a logit, in units of the largest (of 1 if that is less)
ENOUGH_S = 10.0  # after so many seconds a latency is not measured again
Answer = Callable[[Tensor], Tensor]
"""From images (B, 3, H, W) uint8 to logits, with any B."""
Record = dict[str, Any]
Clock = Callable[[], float]
Work = Callable[[], object]


class ExportError(KdlibError):
    """An exported network does not answer as PyTorch's does, or not as well as its record says."""


class Trained(NamedTuple):
    """A network that can be exported: its run, its file, and the run's record if it is there."""

    config: RunConfig
    weights: Path
    record: Record | None


class Deployed(nn.Module):
    """A network of uint8 pixels, which it normalises, as decoders give them; returns logits."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, data: ImageData) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(data.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(data.std).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """RGB images (B, 3, H, W), uint8 -> logits (B, K), or (B, K, H, W) of pixels; float32."""
        pixels = images.float().div(255)
        return self.network(pixels.sub(self.mean).div(self.std)).logits


class Exported(NamedTuple):
    """A network in its two forms, PyTorch's and that of its file, and what answers with it."""

    trained: Trained
    deployed: Deployed
    file: Path
    answer: Answer


# Which runs there are, and what of them can be exported.
def find_student(run: Path, root: Path) -> Trained:
    """The student of a finished run (its directory, id or how that begins); else says why not."""
    directory = find_directory(run, Path(root))
    path, weights = directory / "record.json", directory / WEIGHTS
    if not is_sealed(directory.parent) and not path.exists():
        if not (directory / "config.json").exists():
            raise KdlibError(
                f"{directory} is no run: it has neither record.json nor config.json. Give a run's "
                "directory, its id or how its id begins."
            )
        raise KdlibError(
            f"{directory} is not a finished run: it has no record.json. Give a run's directory or "
            "id, or train this one with the same parameters; it goes on from its last epoch."
        )
    record = record_of(directory)
    validate_record(record, path.resolve())
    config = RunConfig(**record["config"])
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
    if not weights.exists():
        raise KdlibError(
            f"{directory} has a record but no {WEIGHTS}: records are committed without. Train the "
            f"run (into runs/), then export it:\n{notebook_command(config)}\n"
            f"python -m kdlib export {config.run_id}"
        )
    return Trained(config, weights, record)


def _find_teacher(config: RunConfig, root: Path) -> Trained | None:
    """The teacher of a run; ``None`` if it had none, or the teacher's weights are not here."""
    if config.teacher == "none":
        return None
    taught, given = config.teacher_config(), config.teacher_weights
    weights = Path(given) if given else Path(root) / taught.run_id / WEIGHTS
    record = weights.parent / "record.json"
    known = read_record(record) if record.exists() and not given else None
    return Trained(taught, weights, known) if weights.exists() else None


# Formats: how a program and its facts are written, and what answers with a file.
def _write_onnx(program: ExportedProgram, path: Path, facts: str) -> None:
    names: dict[str, Any] = {"input_names": ["images"], "output_names": ["logits"]}
    names["dynamic_shapes"] = ({0: "batch"},)
    exported = torch.onnx.export(program, (), dynamo=True, verbose=False, **names)
    assert exported is not None  # with dynamo it never is
    exported.model.metadata_props[FACTS] = facts
    exported.save(path, external_data=False)


def _load_onnx(path: Path, threads: int) -> Answer:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def _write_torch(program: ExportedProgram, path: Path, facts: str) -> None:
    with path.open("wb") as file:  # a path that does not end in .pt2 would be warned of
        torch.export.save(program, file, extra_files={f"{FACTS}.json": facts})


def _load_torch(path: Path, threads: int) -> Answer:
    """Load an archive that was made here (parts are unpickled); the threads are PyTorch's."""
    with path.open("rb") as file:
        return torch.export.load(file).module()


class Format(NamedTuple):
    """A format of exported networks."""

    suffix: str  # of its files
    runtime: str  # what runs them
    packages: tuple[str, ...]  # beyond PyTorch, by the names they are imported and installed by
    write: Callable[[ExportedProgram, Path, str], None]  # a program, and its facts in JSON
    load: Callable[[Path, int], Answer]  # from a file and a number of threads


ONNX = ("onnx", "onnxscript", "onnxruntime")
FORMATS: dict[str, Format] = {
    "onnx": Format(".onnx", "onnxruntime", ONNX, _write_onnx, _load_onnx),
    "torch": Format(".pt2", "torch.export", (), _write_torch, _load_torch),
}


def format_of(name: str) -> Format:
    """A format by its name; a KdlibError if there is none, or its packages are not installed."""
    check_known("format", name, FORMATS)
    missing = [one for one in FORMATS[name].packages if find_spec(one) is None]
    if missing:
        raise KdlibError(
            f"Format '{name}' needs {', '.join(missing)}, which this Python lacks. Install: "
            f"python -m pip install {' '.join(FORMATS[name].packages)}"
        )
    return FORMATS[name]


# The export: to a folder of its own first; the file appears when all checks have passed.
def export_run(run: Path, root: Path, plan: Plan, data_root: Path | None = None) -> Record:
    """Write the student of a finished run to one file, and the record that it returns beside it.

    ``run`` is as of :func:`find_student`. On the run's own test images (real ones are in
    ``data_root``) the file's logits are PyTorch's and, where it is measured, its score is the
    run's; if not, an :class:`ExportError` leaves a file that was there before as it was.
    """
    kind, student = format_of(plan.format), find_student(run, root)
    path = plan.to or student.weights.parent / f"{STUDENT}{kind.suffix}"
    if path.is_dir():
        raise KdlibError(f"{path} is a folder; give the name of a file in it.")
    data = data_of(student.config, "test", data_root)
    with limited_threads(plan.threads), TemporaryDirectory(prefix="kdlib-export-") as folder:
        write = partial(_exported, data=data, plan=plan, folder=Path(folder))
        if sys.stderr.isatty():  # of large networks this takes a minute
            print(f"{student.config.run_id}: writing and loading it", file=sys.stderr)
        networks = {STUDENT: write(student)}
        found: Record = {"check": _compare(networks[STUDENT], data, plan)}
        if plan.measure:
            teacher = _find_teacher(student.config, student.weights.parent.parent)
            networks |= {TEACHER: write(teacher)} if teacher else {}
            found["networks"] = _measured(networks, data, plan)
        record = {"file": path.name, **_head(student, data, plan), **found}
        write_atomic(path, partial(copyfile, networks[STUDENT].file))
    write_json(path.with_name(f"{path.name}.json"), record)
    return record


def _exported(trained: Trained, data: ImageData, plan: Plan, folder: Path) -> Exported:
    """Write a network, for images of the kind of ``data``, to a file, and load it from there."""
    config, kind = trained.config, format_of(plan.format)
    network = create_model(config.student, len(data.classes))
    own = {"run": config.run_id} if trained.record else None
    load_weights(network, trained.weights, len(data.classes), own)
    deployed = Deployed(network, data).eval()
    deployed.to(memory_format=torch.channels_last)  # as it was trained; it is faster
    images = torch.zeros(2, 3, config.input_size, config.input_size, dtype=torch.uint8)
    file = folder / f"{config.run_id}{kind.suffix}"
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of PyTorch about its own parts
        shapes = {"images": {0: Dim("batch")}}
        program = torch.export.export(deployed, (images,), dynamic_shapes=shapes)
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # paths of this machine's code
        kind.write(program, file, json.dumps(_facts(trained, data)))
        return Exported(trained, deployed, file, kind.load(file, plan.threads))


def _facts(trained: Trained, data: ImageData) -> Record:
    """What a file says of itself."""
    config, record = trained.config, trained.record
    return {
        "model": config.student, "task": config.task,
        "input": "images: uint8, RGB, (batch, 3, image_size, image_size), not normalised",
        "output": "logits: float32, one a class, of each image or of each pixel",
        "image_size": config.input_size, "classes": list(data.classes),
        "mean": list(data.mean), "std": list(data.std),
        "run_id": config.run_id, "config_hash": config.config_hash,
        "commit": record["provenance"]["commit"] if record else None,
        "weights_sha256": _digest(trained.weights),
    }  # fmt: skip


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def _head(student: Trained, data: ImageData, plan: Plan) -> Record:
    """What a record says beside what was found."""
    source = provenance(student.config, "cpu", "float32", data.fingerprint)
    kind, (clock, _) = format_of(plan.format), processor_clock(plan.threads)
    source["versions"] |= {name: version(name) for name in kind.packages}
    return {
        "schema_version": 1, "format": plan.format, "runtime": kind.runtime,
        "facts": _facts(student, data), "images": len(data),
        "metric": TASKS[student.config.task].metric,
        "plan": {"rounds": plan.rounds, "batch_sizes": list(plan.batch_sizes), "clock": clock},
        "provenance": {**source, "machine": machine_name()},
    }  # fmt: skip


def first_images(data: ImageData, count: int) -> Tensor:
    """``count`` images (count, 3, H, W) uint8, from the first one again where data are fewer."""
    few = data.first(count)
    images, _ = next(_pixel_batches(few, len(few)))
    return images[torch.arange(count) % len(few)]


def _pixel_batches(data: ImageData, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """All images in order, not normalised: (B, 3, H, W) uint8, with labels (B,) or (B, H, W)."""
    plain = replace(data, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    for batch in Batches(plain, size).in_order():
        yield batch.images.mul(255).round().to(torch.uint8).contiguous(), batch.labels


@torch.inference_mode()
def _compare(network: Exported, data: ImageData, plan: Plan) -> Record:
    """The largest difference of any logit from PyTorch's, in batches of each size of the plan."""
    images = first_images(data, max(plan.batch_sizes))
    wanted = network.deployed(images)
    largest, found = wanted.abs().max().item(), {}
    for size in plan.batch_sizes:
        logits = torch.cat([network.answer(batch) for batch in images.split(size)])
        found[str(size)] = difference = (logits - wanted).abs().max().item()
        if not difference <= TOLERANCE * max(1.0, largest):
            raise ExportError(
                f"In batches of {size} the exported network's logits differ from PyTorch's by up "
                f"to {difference:.2g}, where the largest is {largest:.3g}. Nothing was written."
            )
    known = {"largest_logit": largest, "tolerance": TOLERANCE, "images": len(images)}
    return {"largest_difference": found, **known}


def _measured(networks: Mapping[str, Exported], data: ImageData, plan: Plan) -> dict[str, Record]:
    """Size, score on all of ``data`` and speed of each network, by its name."""
    found: dict[str, Record] = {}
    works: dict[tuple[str, str, str], Work] = {}
    images, runtime = first_images(data, max(plan.batch_sizes)), format_of(plan.format).runtime
    for name, network in networks.items():
        config = network.trained.config
        score, recorded = _scores(name, network, data)
        found[name] = {
            "run_id": config.run_id, "model": config.student,
            "parameters": count_parameters(network.deployed),
            "flops": flops(network.deployed.network, config.input_size),
            "bytes": network.file.stat().st_size, "sha256": _digest(network.file),
            "score": score, "recorded": recorded, "latency_ms": {},
        }  # fmt: skip
        for size in plan.batch_sizes:
            works[name, PYTORCH, str(size)] = partial(network.deployed, images[:size])
            works[name, runtime, str(size)] = partial(network.answer, images[:size])
    for (name, run_by, size), latency in _median_ms(works, plan).items():
        found[name]["latency_ms"].setdefault(run_by, {})[size] = latency
    return found


@torch.inference_mode()
def _scores(name: str, network: Exported, data: ImageData) -> tuple[float, float | None]:
    """The metric that the task is judged by, 0 to 1: the file's over all images, the record's."""
    marks, metric = marks_of(data), TASKS[data.task].metric
    with tqdm(total=len(data), desc=f"{name}'s score", disable=None) as bar:
        for images, labels in _pixel_batches(data, images_at_once(data, BATCH_SIZE)):
            marks.add(network.answer(images), labels)
            bar.update(len(images))
    found = marks.results()[metric]
    if network.trained.record is None:
        return found, None
    recorded = network.trained.record["results"][metric]
    if not abs(found - recorded) <= max(MOST_LOST, MOST_IMAGES / len(data)):
        raise ExportError(
            f"The exported {name} scores {found:.4f} on the test images, its record says "
            f"{recorded:.4f}: these are not the weights of that record, or not its data. Nothing "
            "was written. Train the run again, or name its data with --data-root."
        )
    return found, recorded


@torch.inference_mode()
def _median_ms(works: Mapping[Any, Work], plan: Plan) -> dict[Any, float]:
    """Median milliseconds of each, measured in turn: a machine whose speed drifts favours none."""
    clock = processor_clock(plan.threads)[1]
    seconds: dict[Any, list[float]] = {timed: [] for timed in works}
    for _ in tqdm(range(plan.rounds), desc="speed", unit="round", disable=None):
        for timed, work in works.items():
            if len(seconds[timed]) < 2 or sum(seconds[timed]) < ENOUGH_S:
                work()  # unmeasured: what was done before leaves caches and threads as it likes
                start = clock()
                work()
                seconds[timed].append(clock() - start)
    return {timed: round(1000 * median(values), 4) for timed, values in seconds.items()}


def machine_name(device: torch.device | None = None) -> str:
    """The GPU's name, or the processor's."""
    if device is not None and device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return processor_name()


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
    """A clock in seconds, and its name; of one thread it leaves out when others had the core."""
    if threads == 1:
        return "processor time", time.process_time
    return "wall time", time.perf_counter


def report(record: Record) -> str:
    """The text that ``kdlib export`` prints, from the record that it writes."""
    from study.pages import part

    return part("_export.md", "report", record)
