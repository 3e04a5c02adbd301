"""The one training loop: one student or several in lock-step, sharing the teacher's forward.

Students that see the same batches (several methods, one data seed) need the teacher's answer
to those batches once. Each still has its own network, optimiser and random streams, so the
numbers are the same, to the bit, as if each had been trained by itself.

Several processes (:mod:`kdlib.team`) run this loop side by side, each with its part of every
batch; what reads or writes files of a run is the main one's.
"""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from tqdm import tqdm

from kdlib.checkpoints import load_weights
from kdlib.data.batches import Batch, Batches
from kdlib.data.image_data import ImageData
from kdlib.distill import FrozenTeacher
from kdlib.errors import KdlibError
from kdlib.files import write_json
from kdlib.methods import method_of, parse_method
from kdlib.models import check_task, create_model
from kdlib.models.cost import output_shapes
from kdlib.runs import (
    RunConfig,
    evaluation_data,
    is_finished,
    make_record,
    read_record,
    run_directory,
    run_lock,
    training_data,
    write_record,
)
from kdlib.tasks import TASKS
from kdlib.team import ALONE, LEAST, Team
from kdlib.trainee import AnyBatch, DivergedError, Lesson, Trainee, resolve_precision

if TYPE_CHECKING:
    from kdlib.detection.batches import DetectionBatches
    from kdlib.detection.teacher import CropTeacher

OWN_FIELDS = {
    "student", "method", "method_options", "weight", "ce_weight", "kd_weight", "temperature",
    "init_seed", "start", "optimiser", "learning_rate", "momentum", "weight_decay", "schedule",
    "milestones", "gradient_clip",
}  # fmt: skip
TEACHER_FIELDS = {
    "teacher", "teacher_epochs", "teacher_weights", "teacher_seed", "teacher_start",
    "teacher_learning_rate",
}  # fmt: skip
MONITORED = 2000


@dataclass(frozen=True)
class Task:
    """What the students of one lock-step group share."""

    data: ImageData
    evaluation: ImageData
    batches: "Batches | DetectionBatches"
    teacher: "FrozenTeacher | CropTeacher | None"
    device: torch.device
    precision: str
    team: Team = ALONE


def fit(
    configs: Sequence[RunConfig],
    root: Path,
    *,
    data_root: Path | None = None,
    device: str | None = None,
    progress: bool = True,
    team: Team = ALONE,
) -> list[dict[str, Any]]:
    """Train every run of ``configs`` that is not finished; return all their records.

    Runs that were killed go on from their last epoch and end with the same numbers. A run that
    another process is training is waited for.

    Args:
        configs: runs that differ only in the student and its method (one lock-step group).
        root: folder of all runs; each gets ``root/<run_id>``.
        data_root: where real data sets lie (see ``kdlib.data``).
        device: ``cpu``, ``cuda`` ...; by default the GPU if there is one.
        progress: show a progress bar with the loss terms.
        team: the processes that train together, of which this is one; all call this alike.

    Raises:
        KdlibError: the runs cannot share batches, a teacher's weights are missing or do not
            fit, data are missing, a loss is not finite, or a method cannot be trained by several
            processes.
    """
    with ExitStack() as locks:
        with team.main_first():
            check_group(configs)
            check_team(configs, team)
            for directory in _directories(configs, root) if team.is_main else ():
                locks.enter_context(run_lock(directory))
        waiting = [config for config in configs if not is_finished(config, root)]
        waiting = team.from_main(waiting)
        if waiting:
            task = prepare(waiting, Path(root), data_root, device, team)
            _train(waiting, task, Path(root), progress and team.is_main)
        return team.from_main(_records(configs, root) if team.is_main else [])


def _directories(configs: Sequence[RunConfig], root: Path) -> list[Path]:
    return sorted({run_directory(config, root) for config in configs})


def _records(configs: Sequence[RunConfig], root: Path) -> list[dict[str, Any]]:
    return [read_record(run_directory(config, root) / "record.json") for config in configs]


def check_group(configs: Sequence[RunConfig]) -> None:
    """Refuse what is no method, networks of another task, and runs that cannot share a step."""
    if not configs:
        raise KdlibError("There is nothing to train: give at least one run.")
    for config in configs:
        check_task(config.student, config.task)
        parse_method(config.method)
    with_teacher = [config for config in configs if config.teacher != "none"]
    shared = set(configs[0].to_dict()) - OWN_FIELDS - TEACHER_FIELDS - {"crop_size"}
    _check_shared(configs, shared)
    _check_shared(with_teacher, TEACHER_FIELDS)
    _check_shared([config for config in configs if config.method != "student"], {"crop_size"})


def check_team(configs: Sequence[RunConfig], team: Team) -> None:
    """Refuse methods, batch norms and batches that several processes cannot share."""
    if team.size == 1:
        return
    for config in configs:
        reason = method_of(config.method).undivided
        if reason:
            raise KdlibError(
                f"'{config.method}' cannot be trained by {team.size} processes: {reason}. Train it "
                "in one: python -m kdlib.train with the same configuration, without a launcher."
            )
    if team.synchronised and (team.device is None or team.device.type != "cuda"):
        raise KdlibError(
            f"Batch norms are synchronised between GPUs alone, and this launch is on "
            f"'{team.device}'; leave --sync-batch-norm out: each process then has its own."
        )
    images = configs[0].batch_size
    if images < LEAST * team.size:
        raise KdlibError(
            f"A batch of {images} images is too small for {team.size} processes, which need "
            f"{LEAST} each; start at most {images // LEAST}, or raise batch_size."
        )


def _check_shared(configs: Sequence[RunConfig], names: set[str]) -> None:
    for name in sorted(names):
        values = {str(getattr(config, name)) for config in configs}
        if len(values) > 1:
            raise KdlibError(
                f"Students in lock-step must share '{name}', but it is {' and '.join(values)}. "
                "Train them in separate calls."
            )


def prepare(
    configs: Sequence[RunConfig],
    root: Path,
    data_root: Path | None,
    device: str | None,
    team: Team = ALONE,
) -> Task:
    """Load the data and the teacher that a group of runs shares."""
    place = team.device or torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    first = configs[0]
    with team.main_first():  # which fills the caches that the others then read
        data, evaluation = _data_of(first, data_root)
        batches = batches_of(data)(data, first.batch_size, first.augmentation, place, team=team)
        teacher = _teacher_of(configs, root, data, place)
        precision = resolve_precision(first.precision, place)
    return Task(data, evaluation, batches, teacher, place, team.from_main(precision), team)


def batches_of(data: ImageData) -> Any:
    """What hands out a data set's batches: its class."""
    if data.task != "detection":
        return Batches
    from kdlib.detection.batches import DetectionBatches

    return DetectionBatches


def _data_of(config: RunConfig, data_root: Path | None) -> tuple[ImageData, ImageData]:
    """What a run learns from, and what it is judged by."""
    data, evaluation = training_data(config, data_root), evaluation_data(config, data_root)
    if data.classes != evaluation.classes:
        raise KdlibError("Training and evaluation data have different classes; see the data set.")
    return data, evaluation


def _teacher_of(
    configs: Sequence[RunConfig], root: Path, data: ImageData, device: torch.device
) -> "FrozenTeacher | CropTeacher | None":
    """The teacher of a group; of detectors, what cuts their crops too."""
    taught = next((config for config in configs if config.teacher != "none"), None)
    found = load_teacher(taught, root, len(data.classes), device) if taught else None
    cutting = [config for config in configs if config.method != "student"]
    if data.task != "detection" or not cutting:
        return found
    network = None if found is None else found.network
    from kdlib.detection.teacher import CropTeacher

    return CropTeacher(network, cutting[0].crop_size, data.mean, data.std).to(device)


def load_teacher(
    config: RunConfig, root: Path, classes: int, device: torch.device
) -> FrozenTeacher:
    """The frozen teacher of a run, from its own run's directory or from ``teacher_weights``."""
    directory = run_directory(config.teacher_config(), root)
    given = config.teacher_weights
    path = Path(given) if given else directory / "weights.safetensors"
    if not path.exists():
        raise KdlibError(
            f"The teacher's weights are missing: {path}. Train it first (notebook 02_teacher with "
            "the same data set, image size, teacher and teacher_epochs), or name a file with "
            "teacher_weights."
        )
    network = create_model(config.teacher, classes)
    load_weights(network, path, classes)
    network.to(device).to(memory_format=torch.channels_last)
    return FrozenTeacher(network)


def _train(configs: Sequence[RunConfig], task: Task, root: Path, progress: bool) -> None:
    classes = len(task.data.classes)
    lesson = _lesson(task, configs[0].input_size)
    trainees = [
        _trainee_of(config)(config, classes, root, task.device, task.precision, lesson, task.team)
        for config in configs
    ]
    for trainee in trainees:
        if task.team.is_main:
            write_json(trainee.directory / "config.json", trainee.config.to_file())
    _check_alike(trainees, task.team)
    first = min(trainee.epoch for trainee in trainees)
    total = (configs[0].epochs - first) * len(task.batches)
    with tqdm(total=total, disable=not progress, unit="batch", mininterval=1) as bar:
        for epoch in range(first, configs[0].epochs):
            group = [t for t in trainees if t.epoch == epoch and t.failure is None]
            if group:
                train_epoch(group, task, epoch, bar)
    failed = [t for t in trainees if t.failure is not None and t.config.split != "dev"]
    for group in _evaluated_alike([t for t in trainees if t not in failed]):
        _conclude(group, task)
    for trainee in failed:
        raise cast("DivergedError", trainee.failure)


def _check_alike(trainees: Sequence[Trainee], team: Team) -> None:
    """Refuse processes that found other checkpoints than the main one."""
    mine = [trainee.epoch for trainee in trainees]
    if mine != team.from_main(mine):
        raise KdlibError(
            "This process sees other checkpoints than the main one. The folder of runs must be one "
            "that all machines share; give --runs a folder on a shared disk."
        )


def _trainee_of(config: RunConfig) -> type[Trainee]:
    return resolve_name(TASKS[config.task].trainee or method_of(config.method).trainee)


def _evaluated_alike(trainees: Sequence[Trainee]) -> list[list[Trainee]]:
    """Those with a teacher apart from those without; a resumed run keeps its own precision."""
    groups: dict[tuple[Any, bool, str], list[Trainee]] = defaultdict(list)
    for trainee in trainees:
        groups[trainee.measure, trainee.taught, trainee.precision].append(trainee)
    return list(groups.values())


def _conclude(trainees: Sequence[Trainee], task: Task) -> None:
    """Evaluate, and leave weights, history and, last of all, the record of each.

    In the search for a weight on the dev split, one with which a run diverges is a result too:
    that of a network that has learnt nothing.
    """
    teacher = task.teacher if trainees[0].taught else None
    for trainee in trainees:
        if trainee.failure is not None:
            trainee.start_over()
        trainee.round_off(task.data, teacher)
    qualities = trainees[0].measure(trainees, teacher, task.evaluation)
    for trainee, quality in zip(trainees, qualities, strict=True):
        watched = trainee.history or [{"epoch": trainee.epoch, **_monitored(trainee, task)}]
        if task.team.is_main:
            trainee.finish()
            record = make_record(trainee, task.data, quality, watched)
            write_record(trainee.directory, record)
            trainee.forget_checkpoint()


def _lesson(task: Task, image_size: int) -> Lesson:
    shapes = None  # of a teacher of crops no stage is compared with the student's
    if isinstance(task.teacher, FrozenTeacher):
        shapes = output_shapes(task.teacher.network, image_size)
    return Lesson(shapes, task.data.labels, task.data.mean, task.data.std)


def train_epoch(trainees: Sequence[Trainee], task: Task, epoch: int, bar: tqdm) -> None:
    """One epoch of every trainee that has not done it yet; each ends with a checkpoint.

    One whose loss is not finite stops, with its last good epoch as it was; the others go on.
    """
    tallies = {trainee.config.run_id: EpochTally() for trainee in trainees}
    for trainee in trainees:
        trainee.parts.train()
    needs_teacher = any(trainee.distiller.needs_teacher for trainee in trainees)
    asking = 0.0
    for index, batch in enumerate(_on_device(task, trainees, epoch)):
        start = time.perf_counter()
        teacher = _ask(task, batch) if needs_teacher else None
        asking += time.perf_counter() - start
        done = epoch * len(task.batches) + index
        for trainee in _going_on(trainees):
            terms = _learn(trainee, batch, teacher, tallies[trainee.config.run_id], done, task)
            bar.set_postfix_str(_describe(trainee, terms, epoch), refresh=False)
        bar.update()
    for trainee in _going_on(trainees):
        taught = asking if trainee.distiller.needs_teacher else 0.0
        tally = tallies[trainee.config.run_id]
        task.team.share_buffers(trainee.parts)
        trainee.end_epoch(tally.row(epoch, _monitored(trainee, task), taught))


@dataclass
class EpochTally:
    """What one student's epoch adds up to: sums of its terms over images, seconds, last rate."""

    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    images: int = 0
    seconds: float = 0.0
    rate: float = 0.0

    def row(self, epoch: int, monitored: Mapping[str, float], taught: float) -> dict[str, Any]:
        """The epoch's row of ``history.csv``; ``taught`` are the seconds of the teacher."""
        return {
            "epoch": epoch + 1,
            "learning_rate": self.rate,
            **{name: total / self.images for name, total in self.sums.items()},
            **monitored,
            "seconds": round(self.seconds + taught, 3),
        }


def _learn(
    trainee: Trainee, batch: Any, teacher: Any, tally: EpochTally, done: int, task: Task
) -> dict[str, Tensor]:
    """One step of one student, counted; no terms if its loss is not finite, for it stops then."""
    start = time.perf_counter()
    tally.rate = trainee.rate(done, len(task.batches))
    asked = teacher if trainee.distiller.needs_teacher else None
    progress = trainee.progress(done, len(task.batches))
    try:
        terms = trainee.step(batch, asked, tally.rate, progress)
    except DivergedError as error:
        trainee.failure = error
        return {}
    images = batch.portion.whole if batch.portion else len(batch.indices)
    for name, term in terms.items():
        tally.sums[name] += term.item() * images
    tally.images += images
    tally.seconds += time.perf_counter() - start
    return terms


def _going_on(trainees: Sequence[Trainee]) -> list[Trainee]:
    return [trainee for trainee in trainees if trainee.failure is None]


def _on_device(task: Task, trainees: Sequence[Trainee], epoch: int) -> Iterator[AnyBatch]:
    for batch in task.batches.epoch(trainees[0].config.data_seed, epoch):
        if isinstance(batch, Batch):
            images = batch.images.contiguous(memory_format=torch.channels_last)
            batch = batch._replace(images=images)
        yield batch


def _ask(task: Task, batch: Any) -> Any:
    if task.teacher is None:
        return None
    with torch.autocast(task.device.type, torch.bfloat16, task.precision == "bfloat16"):
        return task.teacher.teach(batch)


def _describe(trainee: Trainee, terms: dict[str, Tensor], epoch: int) -> str:
    values = " ".join(f"{name}={term.item():.3f}" for name, term in terms.items())
    return f"epoch {epoch + 1}/{trainee.config.epochs} {trainee.label}: {values}"


def _monitored(trainee: Trainee, task: Task) -> dict[str, float]:
    return trainee.monitor(task.evaluation.first(MONITORED), task.teacher)


if __name__ == "__main__":
    import sys

    from kdlib.launch import main

    sys.exit(main())
