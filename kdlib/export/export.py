"""Writes a run's student to a file, checks it, and measures what the distillation was for."""

import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import Any

import torch

from kdlib.data.image_data import ImageData
from kdlib.export.checks import compare
from kdlib.export.deployed import first_images
from kdlib.export.finding import Trained, find_student, find_teacher
from kdlib.export.formats import Format, format_of
from kdlib.export.measure import measured
from kdlib.export.networks import exported, facts_of
from kdlib.export.plan import Plan
from kdlib.files import write_atomic, write_json
from kdlib.machine import limited_threads, machine_name, processor_clock
from kdlib.run_data import evaluation_data
from kdlib.runs import provenance
from kdlib.tasks import TASKS

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
        The record; :mod:`kdlib.export.report` puts it into words.

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
        "provenance": {**source, "machine": machine_name(torch.device("cpu"))},
    }
