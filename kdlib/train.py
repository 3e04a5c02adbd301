"""The one training loop: one student or several in lock-step, sharing the teacher's forward.

Each student has its own network, optimiser and random streams: its numbers are, to the bit, those
of a run by itself. Several processes (:mod:`kdlib.team`) each take a part of every batch.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
from tqdm import tqdm

from kdlib import runs
from kdlib.errors import KdlibError
from kdlib.evaluate import channels_last
from kdlib.files import locked, write_json
from kdlib.methods import method_of, parse_method
from kdlib.models import check_task
from kdlib.runs import RunConfig, is_finished, read_record, run_directory, write_record
from kdlib.tasks import TASKS
from kdlib.team import ALONE, LEAST, Team
from kdlib.trainee import Group, Trainee, resolve_precision

OWN_FIELDS = {
    "student", "method", "method_options", "weight", "ce_weight", "kd_weight", "temperature",
    "init_seed", "start", "optimiser", "learning_rate", "momentum", "weight_decay", "schedule",
    "milestones", "gradient_clip",
}  # fmt: skip
OnEpoch = Callable[[RunConfig, dict[str, Any]], object] | None


def fit(
    configs: RunConfig | Sequence[RunConfig],
    root: Path,
    *,
    data_root: Path | None = None,
    device: str | None = None,
    progress: bool = True,
    team: Team = ALONE,
    on_epoch: OnEpoch = None,
) -> Any:
    """Train every run of ``configs`` that is not finished; return the record of each.

    Give one run, or a list of those that differ only in the student and its method (one lock-step
    group). Each gets the folder ``root/<run_id>``. A run that was killed goes on from its last
    epoch and ends with the same numbers; one that another process is training is waited for. A
    ``KdlibError`` says what cannot be trained, what is missing, or which loss is not finite.

    Real data sets lie in ``data_root``; ``device`` is by default the GPU if there is one; all of a
    ``team`` call this alike; ``on_epoch`` is called in the main process with the configuration and
    the row of ``history.csv`` when an epoch is saved.
    """
    root, single = Path(root), isinstance(configs, RunConfig)
    configs = [configs] if isinstance(configs, RunConfig) else configs
    with ExitStack() as locks:
        with team.main_first():
            check_group(configs)
            check_team(configs, team)
            directories = [run_directory(config, root) for config in configs]
            for directory in sorted(set(directories)) if team.is_main else ():
                locks.enter_context(locked(directory.parent / f".{directory.name}.lock"))
        waiting = team.from_main([one for one in configs if not is_finished(one, root)])
        if waiting:
            group = prepare(waiting, root, data_root, device, team)
            train(waiting, group, root, progress and team.is_main, on_epoch)
        records = [read_record(one / "record.json") for one in directories if team.is_main]
        return team.from_main(records[0] if single and records else records)


def trainee_of(config: RunConfig) -> type[Trainee]:
    """What trains a run: the class that its task or its method names."""
    return resolve_name(TASKS[config.task].trainee or method_of(config.method).trainee)


def check_group(configs: Sequence[RunConfig]) -> None:
    """Refuse what is no method, networks of another task, and runs that cannot share a step."""
    if not configs:
        raise KdlibError("There is nothing to train: give at least one run.")
    for config in configs:
        check_task(config.student, config.task)
        parse_method(config.method)
    for name in sorted(set(configs[0].to_dict()) - OWN_FIELDS):
        some = [config for config in configs if name != "crop_size" or config.method != "student"]
        some = [config for config in some if "teacher" not in name or config.teacher != "none"]
        values = dict.fromkeys(str(getattr(config, name)) for config in some)
        if len(values) > 1:
            raise KdlibError(
                f"Students in lock-step must share '{name}', but it is {' and '.join(values)}. "
                "Train them in separate calls."
            )


def check_team(configs: Sequence[RunConfig], team: Team) -> None:
    """Refuse methods, batch norms and batches that several processes cannot share."""
    if team.size == 1:
        return
    for config in configs:
        if reason := method_of(config.method).undivided:
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


def prepare(
    configs: Sequence[RunConfig], root: Path, data_root: Path | None, device: str | None, team: Team
) -> Group:
    """Load the data and the teacher that a group of runs shares."""
    place = team.device or torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    first, kind = configs[0], trainee_of(configs[0])
    with team.main_first():  # which fills the caches that the others then read
        data = runs.data_of(first, "train", data_root)
        evaluation = runs.data_of(first, "test", data_root)
        if data.classes != evaluation.classes:
            raise KdlibError("Training and evaluation data have different classes; see the data.")
        batches = kind.batches(data, first.batch_size, first.augmentation, place, team=team)
        teacher = kind.teacher_for(configs, root, data, place)
        precision = resolve_precision(first.precision, place)
    return Group(data, place, teacher, team.from_main(precision), team, batches, evaluation)


def train(
    configs: Sequence[RunConfig], group: Group, root: Path, progress: bool, on_epoch: OnEpoch
) -> None:
    """Train the students of a group in lock-step, from where each was stopped, to their records."""
    trainees = [trainee_of(config)(config, group, root) for config in configs]
    for trainee in trainees if group.team.is_main else ():
        write_json(trainee.directory / "config.json", trainee.config.to_file())
    epochs = [trainee.epoch for trainee in trainees]
    if epochs != group.team.from_main(epochs):
        raise KdlibError(
            "This process sees other checkpoints than the main one. The folder of runs must be one "
            "that all machines share; give --runs a folder on a shared disk."
        )
    first, last = min(epochs), configs[0].epochs
    total = (last - first) * len(group.batches)
    with tqdm(total=total, disable=not progress, unit="batch", mininterval=1) as bar:
        for epoch in range(first, last):
            if learning := _sound(one for one in trainees if one.epoch == epoch):
                train_epoch(learning, group, epoch, bar, on_epoch)
    alike: dict[Any, list[Trainee]] = defaultdict(list)  # a resumed run keeps its own precision
    for one in trainees:
        if one.failure is None or one.config.split == "dev":
            alike[one.measure, one.teacher is None, one.precision].append(one)
    for some in alike.values():
        _conclude(some)
    for one in trainees:
        if one.failure is not None and one.config.split != "dev":
            raise one.failure


def train_epoch(
    trainees: Sequence[Trainee], group: Group, epoch: int, bar: tqdm, on_epoch: OnEpoch
) -> None:
    """One epoch of every trainee, to a checkpoint; one whose loss is not finite stops before it."""
    for trainee in trainees:
        trainee.parts.train()
    taught = any(trainee.distiller.needs_teacher for trainee in trainees) and group.teacher
    teaching_s = 0.0
    batches = map(channels_last, group.batches.epoch(trainees[0].config.data_seed, epoch))
    for done, batch in enumerate(batches, epoch * len(group.batches)):
        start = time.perf_counter()
        with torch.autocast(group.device.type, torch.bfloat16, group.precision == "bfloat16"):
            teacher = group.teacher.teach(batch) if taught else None
        teaching_s += time.perf_counter() - start
        for trainee in _sound(trainees):
            terms = trainee.learn(batch, teacher, done, len(group.batches))
            values = " ".join(f"{name}={term.item():.3f}" for name, term in terms.items())
            where = f"epoch {epoch + 1}/{trainee.config.epochs} {trainee.config.method}"
            bar.set_postfix_str(f"{where}: {values}", refresh=False)
        bar.update()
    for trainee in _sound(trainees):
        group.team.share_buffers(trainee.parts)
        row = trainee.row(epoch, teaching_s)
        trainee.end_epoch(row)
        if on_epoch is not None and group.team.is_main:
            on_epoch(trainee.config, row)


def _sound(trainees: Iterable[Trainee]) -> list[Trainee]:
    return [trainee for trainee in trainees if trainee.failure is None]


def _conclude(trainees: Sequence[Trainee]) -> None:
    """Evaluate, and leave weights, history and, last of all, the record of each."""
    for trainee in trainees:
        if trainee.failure is not None:  # a result too, of a weight that is searched for on dev
            trainee.start_over()
    for trainee, quality in zip(trainees, trainees[0].measure(trainees), strict=True):
        watched = {} if trainee.history else trainee.monitor()
        if trainee.team.is_main:
            trainee.finish()
            write_record(trainee.directory, trainee.record(quality, watched))
            trainee.checkpoint.unlink(missing_ok=True)


if __name__ == "__main__":
    raise SystemExit(resolve_name("kdlib.launch:main")())
