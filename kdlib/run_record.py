"""What the record of a finished run holds."""

from collections.abc import Mapping, Sequence
from typing import Any

from kdlib.data.image_data import ImageData
from kdlib.runs import SCHEMA_VERSION, provenance
from kdlib.tasks import TASKS
from kdlib.trainee import Trainee


def make_record(
    trainee: Trainee,
    data: ImageData,
    measured: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """All that is known of a finished run, as ``record.json`` holds it.

    Args:
        trainee: the run.
        data: what it was trained on.
        measured: its quality, from :meth:`kdlib.trainee.Trainee.measure`.
        history: its epochs; of a run that finished none, what was watched at its start.
    """
    config = trainee.config
    if "results" in measured:
        results = {**measured["results"], **_epochs(trainee, history)}
        measured = {**measured, "results": results}
    source = provenance(config, str(trainee.device), trainee.precision, data.fingerprint)
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": config.run_id,
        "config": config.to_dict(),
        "config_hash": config.config_hash,
        **measured,
        "diverged": str(trainee.failure) if trainee.failure else None,
        "cost": _cost(trainee, len(data.labels)),
        "provenance": {**source, **trainee.team.facts},
    }


def _epochs(trainee: Trainee, history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Which epoch is the result, and which was the best of those whose quality was watched."""
    measures = TASKS[trainee.config.task]
    last = {"last_epoch": trainee.epoch, "best_epoch": trainee.epoch}
    if measures.monitored not in history[-1]:
        return last
    best = max(history, key=lambda row: row[measures.monitored])
    return {
        **last,
        "best_epoch": best["epoch"],
        f"best_monitored_{measures.metric}": best[measures.monitored],
        f"last_monitored_{measures.metric}": history[-1][measures.monitored],
    }


def _cost(trainee: Trainee, images: int) -> dict[str, Any]:
    """Of the network that is kept, and of its training with so many ``images`` an epoch."""
    seconds = trainee.seconds
    return {
        **trainee.cost(),
        "train_seconds": seconds,
        "images_per_second": images * trainee.epoch / seconds if seconds else 0.0,
    }
