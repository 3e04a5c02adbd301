"""The analyses of all runs of a folder: each once, kept as soon as it is done."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from kdlib.analyses import answers, files, maps
from kdlib.analyses.calibration import calibration
from kdlib.analyses.robustness import IMAGES, robustness
from kdlib.analyses.spectra import mean_spectra
from kdlib.data import load_data
from kdlib.data.image_data import ImageData
from kdlib.distillers import parse_method
from kdlib.errors import KdlibError
from kdlib.evaluate import predict
from kdlib.run_table import load_records, student_settings, teacher_runs
from kdlib.runs import RunConfig, provenance, read_record
from kdlib.trained import trained_network

TEACHER = "teacher"
KEY_METHODS = (TEACHER, "student", "kd", "at", "dct", "release_a", "at+kd", "dct+kd")
MAPS_SEED = 0
WEIGHTS = "weights.safetensors"


def analyse(
    root: Path,
    methods: Sequence[str] = KEY_METHODS,
    *,
    dataset: str | None = None,
    data_root: Path | None = None,
    maps_seed: int = MAPS_SEED,
    progress: bool = True,
) -> list[Path]:
    """Analyse the finished runs of a folder that were tested on a test set; one at a time.

    What is done stays done: killed and repeated, it goes on where it was. A run without weights
    (as where records are committed) is passed over.

    Args:
        root: the folder of runs.
        methods: which; ``teacher`` stands for the networks that taught.
        dataset: only runs on this data set; ``None`` for all.
        data_root: folder of the real data sets.
        maps_seed: runs of this seed keep their attention maps and answers too.
        progress: show a progress bar.

    Returns:
        The analyses written, in the order of the runs.

    Raises:
        KdlibError: an unknown method, no run of these, none of them with weights, or data that
            are missing.
    """
    table = load_records(Path(root))
    runs = chosen_runs(table, methods, dataset)
    trained = [row for row in runs if (Path(row["directory"]) / WEIGHTS).exists()]
    if not trained:
        raise KdlibError(
            f"No run of {', '.join(methods)} in {root} has its weights ({WEIGHTS}); analyse the "
            "folder that the runs were trained in."
        )
    waiting = [row for row in trained if not _is_done(row, maps_seed)]
    written = []
    with tqdm(waiting, desc="analyses", unit="run", disable=not progress) as bar:
        for row in bar:
            bar.set_postfix_str(f"{row['label']} s{row['init_seed']}")
            written.append(_analyse_run(row, data_root, maps_seed))
    return written


def chosen_runs(
    table: pd.DataFrame, methods: Sequence[str], dataset: str | None = None
) -> list[dict[str, Any]]:
    """Rows of the runs of these methods on test sets; those on the same data follow each other.

    Raises:
        KdlibError: an unknown method, or no such run.
    """
    for method in methods:
        if method != TEACHER:
            parse_method(method)
    tested = table[table["split"] == "train"]
    settings = student_settings(tested)
    teachers = pd.concat([teacher_runs(tested, one) for one in settings]) if settings else tested
    students = tested[tested["setting"].isin(settings) & tested["method"].isin(methods)]
    chosen = pd.concat([teachers.assign(label=TEACHER), students])
    chosen = chosen if TEACHER in methods else students
    if dataset is not None:
        chosen = chosen[chosen["dataset"] == dataset]
    if chosen.empty:
        where = f"the test set of {dataset}" if dataset else "a test set"
        raise KdlibError(f"There is no run of {', '.join(methods)} on {where} here.")
    order = [*_DATA, "setting", "label", "init_seed"]
    rows = chosen.drop_duplicates("run_id").sort_values(order, kind="stable").to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]


def analysis_of(
    network: nn.Module, data: ImageData, config: RunConfig, precision: str
) -> dict[str, Any]:
    """All that ``analysis.json`` says of a network, on the test set ``data``.

    Calibration is measured on all images, in the ``precision`` in which the record's accuracy
    was; robustness and spectra on the first 2,000.
    """
    logits = predict(network, data, precision=precision)
    source = provenance(config, "cpu", precision, data.fingerprint)
    source["versions"]["torchmetrics"] = version("torchmetrics")
    return {
        "schema_version": files.SCHEMA_VERSION,
        "run_id": config.run_id,
        "config_hash": config.config_hash,
        "images": min(IMAGES, len(data)),
        "calibration": calibration(logits, data.labels),
        "robustness": robustness(network, data, precision),
        "spectra": mean_spectra(network, data),
        "provenance": source,
    }


def _analyse_run(row: Mapping[str, Any], data_root: Path | None, maps_seed: int) -> Path:
    directory = Path(row["directory"])
    record = read_record(directory / "record.json")
    config = RunConfig.from_dict(record["config"])
    data = _test_data(*(getattr(config, name) for name in _DATA), data_root)
    network = trained_network(config, directory.parent, len(data.classes))
    network = network.to(memory_format=torch.channels_last)
    precision = record["provenance"]["precision"]
    if config.init_seed == maps_seed:
        maps.save_maps(directory, maps.attention_maps_of(network, data))
        found = answers.answers_of(network, data, precision, pictures=row["label"] == TEACHER)
        answers.save_answers(directory, found)
    analysis = analysis_of(network, data, config, precision)
    return files.write_analysis(directory, analysis)


_DATA = ("dataset", "attentions", "distractors", "image_size", "test_size")


@lru_cache(maxsize=1)
def _test_data(
    dataset: str, attentions: int, distractors: int, image_size: int, size: int | None,
    data_root: Path | None,
) -> ImageData:  # fmt: skip
    """The test set; kept for the next run, which is likely to be on it too."""
    return load_data(
        dataset, "test", size=size, image_size=image_size, attentions=attentions,
        distractors=distractors, data_root=data_root,
    )  # fmt: skip


def _is_done(row: dict[str, Any], maps_seed: int) -> bool:
    directory = Path(row["directory"])
    wanted = [files.MAPS_FILE, answers.FILE] if row["init_seed"] == maps_seed else []
    try:
        files.read_analysis(directory / files.FILE)
    except KdlibError:
        return False
    return all((directory / name).exists() for name in wanted)
