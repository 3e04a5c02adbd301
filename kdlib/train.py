"""The one training loop: one student or several in lock-step, sharing the teacher's forward.

Each student has its own network, optimiser and random streams: its numbers are, to the bit, those
of a run by itself. Several processes (:mod:`kdlib.process_group`) each take a part of every batch.
"""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
from tqdm import tqdm

from kdlib import runs
from kdlib.data import is_composed
from kdlib.distill import FrozenTeacher
from kdlib.errors import KdlibError
from kdlib.evaluate import channels_last
from kdlib.files import check_identity, checksum, load_tensors, locked, write_json
from kdlib.kept import KeptTeacher
from kdlib.methods import method_of, parse_method
from kdlib.models import check_task
from kdlib.process_group import ALONE, LEAST, ProcessGroup, usable_device
from kdlib.runs import RunConfig, finished_record, is_finished, run_directory, write_record
from kdlib.tasks import TASKS
from kdlib.train_state import Group, TrainState, resolve_precision

OnEpoch = Callable[[RunConfig, dict[str, Any]], object] | None


def fit(
    configs: RunConfig | Sequence[RunConfig], root: Path, *,
    data_root: Path | None = None, device: str | None = None, progress: bool = True,
    world: ProcessGroup = ALONE, on_epoch: OnEpoch = None, compile: bool = False,
) -> Any:  # fmt: skip
    """Train every run of ``configs`` that is not finished; return the record of each.

    Give one run, or a list of those that differ only in the student and its method (one lock-step
    group). Each gets the folder ``root/<run_id>``. A run that was killed goes on from its last
    epoch and ends with the same numbers; one that another process is training is waited for. A
    ``KdlibError`` says what cannot be trained, what is missing, or which loss is not finite.

    Real data sets lie in ``data_root``; ``device`` is by default the GPU if there is one, on which
    PyTorch's deterministic algorithms are turned on, as bits are to be the same again; all of a
    ``world`` call this alike; ``on_epoch`` is called in the main process with the configuration and
    the row of ``history.csv`` when an epoch is saved. ``compile`` puts students' forward passes
    through torch.compile: other last bits, as their records say, and on a CPU no gain.
    """
    root, single = Path(root), isinstance(configs, RunConfig)
    given = [configs] if isinstance(configs, RunConfig) else configs
    configs = [config.canonical() for config in given]
    with ExitStack() as locks:
        with world.main_first():
            check_group(configs)
            check_world(configs, world)
            directories = [run_directory(config, root) for config in configs]
            for directory in sorted(set(directories)) if world.is_main else ():
                locks.enter_context(locked(directory.parent / f".{directory.name}.lock"))
            finished = [one for one in configs if is_finished(one, root)]
            check_sources(finished if world.is_main else [], root, data_root)
        waiting = world.from_main([one for one in configs if not is_finished(one, root)])
        if waiting:
            group = prepare(waiting, root, data_root, device, world)
            group = replace(group, compiled=compile)
            train(waiting, group, root, progress and world.is_main, on_epoch)
        records = [finished_record(one, root) for one in configs if world.is_main]
        return world.from_main(records[0] if single and records else records)


def state_of(config: RunConfig) -> type[TrainState]:
    """What trains a run: the class that its task or its method names."""
    return resolve_name(TASKS[config.task].state or method_of(config.method).state)


def check_group(configs: Sequence[RunConfig]) -> None:
    """Refuse what is no method, networks of another task, and runs that cannot share a step."""
    if not configs:
        raise KdlibError("There is nothing to train: give at least one run.")
    for config in configs:
        check_task(config.student, config.task)
        parse_method(config.method)
    for name in sorted(set(configs[0].to_dict()) - runs.OWN_FIELDS):
        some = [config for config in configs if name != "crop_size" or config.method != "student"]
        some = [config for config in some if "teacher" not in name or config.teacher != "none"]
        values = dict.fromkeys(str(getattr(config, name)) for config in some)
        if len(values) > 1:
            says = f"Students in lock-step must share '{name}', but it is {' and '.join(values)}"
            raise KdlibError(f"{says}. Train them in separate calls.")


def check_sources(configs: Sequence[RunConfig], root: Path, data_root: Path | None) -> None:
    """Refuse finished runs whose data, or whose teacher's file, are others now.

    Data that are not here cannot differ. Composed scenes are compared by two of them; the embedded
    ones, which kdlib makes, are not: a finished run is to be there at once.
    """
    if not configs:
        return
    first = min(configs, key=lambda config: config.teacher == "none")  # one that is taught, if any
    now, composed = {}, is_composed(first.dataset)
    few: dict[str, Any] = {"train_size": 2, "test_size": 2} if composed else {}
    if first.dataset != "scenes" and not (composed and first.task == "crops"):
        for name, split in (("data", "train"), ("evaluation", "test")):
            with suppress(KdlibError):
                now[name] = runs.data_of(replace(first, **few), split, data_root).fingerprint
    if first.teacher_weights and Path(first.teacher_weights).exists():
        now["teacher"] = checksum(load_tensors(Path(first.teacher_weights), "")[0])
    remedy = "Put the old back or give another folder of runs; delete this if its result may go."
    for config in configs:
        source = finished_record(config, root)["provenance"]
        known = {name: source.get(f"{name}_fingerprint") or now[name] for name in now}
        check_identity(run_directory(config, root), known, now, remedy)


def check_world(configs: Sequence[RunConfig], world: ProcessGroup) -> None:
    """Refuse methods, batch norms and batches that several processes cannot share."""
    if world.size == 1:
        return
    for config in configs:
        if reason := method_of(config.method).undivided:
            says = f"'{config.method}' cannot be trained by {world.size} processes: {reason}"
            raise KdlibError(f"{says}. Train it in one: python -m kdlib.train, without a launcher.")
    if world.synchronised and (world.device is None or world.device.type != "cuda"):
        says = f"Batch norms are synchronised between GPUs alone, and this is '{world.device}'"
        raise KdlibError(f"{says}; leave --sync-batch-norm out: each process then has its own.")
    if (images := configs[0].batch_size) < LEAST * world.size:
        says = f"A batch of {images} images is too small for {world.size} processes of {LEAST} each"
        raise KdlibError(f"{says}; start at most {images // LEAST}, or raise batch_size.")


def prepare(
    configs: Sequence[RunConfig], root: Path, data_root: Path | None, device: str | None,
    world: ProcessGroup,
) -> Group:  # fmt: skip
    """Load the data and the teacher that a group of runs shares."""
    place = world.device or usable_device(device)
    if place.type == "cuda":  # else it adds in any order, and no run gives the same bits twice
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    first, kind = configs[0], state_of(configs[0])
    with world.main_first():  # which fills the caches that the others then read
        data = runs.data_of(first, "train", data_root)
        evaluation = runs.data_of(first, "test", data_root)
        if data.classes != evaluation.classes:
            raise KdlibError("Training and evaluation data have different classes; see the data.")
        batches = kind.batches(data, first.batch_size, first.augmentation, place, world=world)
        teacher = kind.teacher_for(configs, root, data, place)
        precision = resolve_precision(first.precision, place)
        if isinstance(teacher, FrozenTeacher) and getattr(batches, "has_views", False):
            how = (precision, world.conditions(place))
            teacher = KeptTeacher(teacher.network, data, batches.mirrors, *how)
    return Group(data, place, teacher, world.from_main(precision), world, batches, evaluation)


def train(
    configs: Sequence[RunConfig], group: Group, root: Path, progress: bool, on_epoch: OnEpoch
) -> None:
    """Train the students of a group in lock-step, from where each was stopped, to their records."""
    states = [state_of(config)(config, group, root) for config in configs]
    for state in states if group.world.is_main else ():
        write_json(state.directory / "config.json", state.config.to_file())
    epochs = [state.epoch for state in states]
    if epochs != group.world.from_main(epochs):
        says = "This process sees other checkpoints than the main one"
        raise KdlibError(f"{says}: give --runs a folder on a disk that all machines share.")
    first, last = min(epochs), configs[0].epochs
    total = (last - first) * len(group.batches)
    with tqdm(total=total, disable=not progress, unit="batch", mininterval=1) as bar:
        for epoch in range(first, last):
            if learning := _sound(one for one in states if one.epoch == epoch):
                train_epoch(learning, group, epoch, bar, on_epoch)
    for state in states:
        if state.counts:  # a weight that diverges is a result too, where weights are chosen
            if state.failure is not None:
                state.start_over()
            quality, watched = state.measure(), {} if state.history else state.monitor()
            if group.world.is_main:
                state.finish()
                write_record(state.directory, state.record(quality, watched))
                state.checkpoint.unlink(missing_ok=True)
    for state in states:
        if state.failure is not None and not state.counts:
            raise state.failure


def train_epoch(
    states: Sequence[TrainState], group: Group, epoch: int, bar: tqdm, on_epoch: OnEpoch
) -> None:
    """One epoch of every state, to a checkpoint; one whose loss is not finite stops before it."""
    for state in states:
        state.parts.train()
    taught = any(state.distiller.needs_teacher for state in states) and group.teacher
    teaching_s = 0.0
    batches = map(channels_last, group.batches.epoch(states[0].config.data_seed, epoch))
    for done, batch in enumerate(batches, epoch * len(group.batches)):
        start = time.perf_counter()
        with torch.autocast(group.device.type, torch.bfloat16, group.precision == "bfloat16"):
            teacher = group.teacher.teach(batch) if taught else None
        teaching_s += time.perf_counter() - start
        for state in _sound(states):
            terms = state.learn(batch, teacher, done, len(group.batches))
            values = " ".join(f"{name}={term.item():.3f}" for name, term in terms.items())
            where = f"epoch {epoch + 1}/{state.config.epochs} {state.config.method}"
            bar.set_postfix_str(f"{where}: {values}", refresh=False)
        bar.update()
    for state in _sound(states):
        group.world.share_buffers(state.parts)
        row = state.row(epoch, teaching_s)
        state.end_epoch(row)
        if state.failure is None and on_epoch is not None and group.world.is_main:
            on_epoch(state.config, row)


def _sound(states: Iterable[TrainState]) -> list[TrainState]:
    return [state for state in states if state.failure is None]


if __name__ == "__main__":
    raise SystemExit(resolve_name("kdlib.launch:main")())
