"""Writes a run's student to a file, checks it, and measures what the distillation was for."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from kdlib.data.image_data import ImageData
from kdlib.errors import KdlibError
from kdlib.export import checks
from kdlib.export.deployed import Deployed, first_images
from kdlib.export.finding import Trained, find_student, find_teacher
from kdlib.export.formats import Answer, format_of, traced
from kdlib.export.speed import median_ms
from kdlib.files import write_atomic, write_json
from kdlib.machine import limited_threads, machine_name, processor_clock
from kdlib.models import count_parameters, flops
from kdlib.run_data import evaluation_data
from kdlib.runs import provenance
from kdlib.tasks import TASKS

SCHEMA_VERSION = 1
STUDENT, TEACHER = "student", "teacher"
PYTORCH = "PyTorch"


@dataclass(frozen=True)
class Plan:
    """What to write, and what to measure.

    Attributes:
        format: one of ``kdlib.export.FORMATS``.
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
        smallest = min(self.batch_sizes, default=0)
        checked = {"number of threads": self.threads, "number of rounds": self.rounds}
        for name, value in {**checked, "smallest batch size": smallest}.items():
            if value < 1:
                raise KdlibError(f"The {name} is {value}; it must be at least 1.")
        if self.to is not None and self.to.is_dir():
            raise KdlibError(f"{self.to} is a folder; give the name of a file in it.")


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
        The record; :mod:`kdlib.export.report` puts it into words.

    Raises:
        ExportError: a check failed; a file that was there before is as it was.
        KdlibError: no such run or format, a network that cannot be exported, or data missing.
    """
    kind, student = format_of(plan.format), find_student(run, root)
    path = plan.to or student.weights.parent / f"{STUDENT}{kind.suffix}"
    data = evaluation_data(student.config, data_root)
    with limited_threads(plan.threads), TemporaryDirectory(prefix="kdlib-export-") as folder:
        write = partial(_exported, data=data, plan=plan, folder=Path(folder))
        networks = {STUDENT: write(student)}
        record = _record(student, data, plan) | {"file": path.name}
        record["check"] = _check(networks[STUDENT], data, plan)
        if plan.measure:
            teacher = find_teacher(student.config, student.weights.parent.parent)
            networks |= {TEACHER: write(teacher)} if teacher else {}
            record["networks"] = _measured(networks, data, plan, progress)
        write_atomic(path, partial(copyfile, networks[STUDENT].file))
        write_json(path.with_name(f"{path.name}.json"), record)
    return record


def facts_of(trained: Trained, data: ImageData) -> dict[str, Any]:
    """What a file says of itself."""
    config, record = trained.config, trained.record
    return {
        "model": config.student,
        "task": config.task,
        "input": "RGB images, uint8, (batch, 3, image_size, image_size), not normalised",
        "output": "logits, float32: one a class, of each image or of each pixel",
        "image_size": config.input_size,
        "classes": list(data.classes),
        "mean": list(data.mean),
        "std": list(data.std),
        "run_id": config.run_id,
        "config_hash": config.config_hash,
        "commit": record["provenance"]["commit"] if record else None,
        "weights_sha256": trained.sha256,
    }


def _exported(trained: Trained, data: ImageData, plan: Plan, folder: Path) -> Exported:
    kind = format_of(plan.format)
    deployed = Deployed(trained.network(len(data.classes)), data.mean, data.std).eval()
    file = folder / f"{trained.config.run_id}{kind.suffix}"
    kind.write(traced(deployed, trained.config.input_size), file, facts_of(trained, data))
    return Exported(trained, deployed, file, kind.load(file, plan.threads))


def _check(student: Exported, data: ImageData, plan: Plan) -> dict[str, Any]:
    """How much the logits of the exported student differ from PyTorch's, if it is little."""
    images = first_images(data, max(plan.batch_sizes))
    forms = (student.deployed, student.answer)
    return checks.compare(*forms, images, plan.batch_sizes, plan.tolerance)


def _measured(
    networks: dict[str, Exported], data: ImageData, plan: Plan, progress: bool
) -> dict[str, Any]:
    """Size, score and speed of each network, by its name."""
    task, found = networks[STUDENT].trained.config.task, {}
    for name, network in networks.items():
        score, recorded = checks.score(network.answer, data, task, progress), network.trained.score
        if recorded is not None:
            checks.check_score(name, score, recorded, len(data))
        found[name] = {**_size(network), "score": score, "recorded": recorded}
    for (name, runtime, size), latency in _latencies(networks, data, plan, progress).items():
        of_runtime = found[name].setdefault("latency_ms", {}).setdefault(runtime, {})
        of_runtime[str(size)] = latency
    return found


def _size(network: Exported) -> dict[str, Any]:
    config = network.trained.config
    return {
        "run_id": config.run_id,
        "model": config.student,
        "parameters": count_parameters(network.deployed),
        "flops": flops(network.deployed.network, config.input_size),
        "bytes": network.file.stat().st_size,
        "sha256": sha256(network.file.read_bytes()).hexdigest(),
    }


def _latencies(
    networks: dict[str, Exported], data: ImageData, plan: Plan, progress: bool
) -> dict[tuple[str, str, int], float]:
    """Median milliseconds by network, by what runs it, and by batch size."""
    images = first_images(data, max(plan.batch_sizes))
    runtime, (_, clock) = format_of(plan.format).runtime, processor_clock(plan.threads)
    works: dict[tuple[str, str, int], Callable[[], Tensor]] = {}
    for name, network in networks.items():
        for size in plan.batch_sizes:
            batch = images[:size].contiguous()
            works[name, PYTORCH, size] = partial(network.deployed, batch)
            works[name, runtime, size] = partial(network.answer, batch)
    with torch.inference_mode(), tqdm(total=plan.rounds, disable=not progress) as bar:
        bar.set_description("timing")
        return median_ms(works, plan.rounds, clock, bar.update)


def _record(student: Trained, data: ImageData, plan: Plan) -> dict[str, Any]:
    """All that is known before anything is measured."""
    kind = format_of(plan.format)
    source = provenance(student.config, "cpu", "float32", data.fingerprint)
    source["versions"] |= {name: version(name) for name in kind.packages}
    clock, _ = processor_clock(plan.threads)
    return {
        "schema_version": SCHEMA_VERSION,
        "format": plan.format,
        "runtime": kind.runtime,
        "facts": facts_of(student, data),
        "data": {"dataset": student.config.dataset, "images": len(data)},
        "metric": TASKS[student.config.task].metric,
        "plan": {"rounds": plan.rounds, "batch_sizes": list(plan.batch_sizes), "clock": clock},
        "provenance": {**source, "machine": machine_name(torch.device("cpu"))},
    }
