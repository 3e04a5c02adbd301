"""Which run is exported: found by its directory, its id or the beginning of its id."""

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from glob import escape
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch import nn

from kdlib.checkpoints import load_weights
from kdlib.distillers import parse_method
from kdlib.errors import KdlibError
from kdlib.jobs import plain_job, students_job
from kdlib.models import create_model
from kdlib.profiles import earlier
from kdlib.records import validate_record
from kdlib.runs import RunConfig, read_record, run_directory
from kdlib.tasks import TASKS

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
