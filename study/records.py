"""Records on disk: found, checked against their schema, published."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from math import nan
from pathlib import Path
from typing import Any

import pandas as pd
from jsonschema import Draft202012Validator

from kdlib.errors import KdlibError
from kdlib.files import write_atomic
from kdlib.methods import STAGES
from kdlib.runs import ADDED_LATER, RunConfig, as_hashed, read_record
from kdlib.tasks import AUGMENTATIONS, TASKS
from study.names import method_order

PUBLISHED_FILES = ("history.csv", "record.json")
# Published where a run has them.
ANALYSIS_FILES = ("attention_maps.safetensors", "answers.safetensors", "analysis.json")


def validate_record(record: Mapping[str, Any], path: Path) -> None:
    """Check a record against ``record.schema.json``, and its name against its directory's.

    Raises:
        KdlibError: names the file, the place in it and what is wrong there.
    """
    problem = next(iter(_schema().iter_errors(record)), None)
    if problem is not None:
        where = ".".join(str(part) for part in problem.absolute_path) or "the record"
        raise KdlibError(f"{path}: {where}: {problem.message[:300]}. Delete it and run again.")
    try:
        json.dumps(record, allow_nan=False)
    except ValueError as error:
        text = f"{path} holds a number that is not finite. Delete it and run again."
        raise KdlibError(text) from error
    name, digits = record["run_id"], record["config_hash"][:10]
    if name != Path(path).parent.name or not name.endswith(digits):
        raise KdlibError(
            f"{path} is the record of '{name}' with hash {digits}; a record lies in the directory "
            "of its own run. Move it back, or delete it and run again."
        )


def find_records(*roots: Path) -> dict[Path, dict[str, Any]]:
    """All records under ``roots``, by path; of a run found twice, the earlier root's.

    Raises:
        KdlibError: a root that does not exist, or a damaged or invalid record.
    """
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    for root in map(Path, roots):
        if not root.is_dir():
            raise KdlibError(f"There is no folder {root}; give the folder that holds the runs.")
        for path in sorted(root.glob("*/record.json")):
            if path.parent.name not in found:
                record = read_record(path)
                validate_record(record, path)
                found[path.parent.name] = path, record
    return dict(found.values())


def publish(run_root: Path, record_root: Path, run_ids: Iterable[str] | None = None) -> list[Path]:
    """Copy records, histories and analyses of finished runs to where they are committed.

    Args:
        run_root: the folder of runs; unfinished ones are passed over.
        record_root: the folder to publish to; a run's earlier copy is replaced.
        run_ids: only these runs.

    Returns:
        The published records, in the order of their names.

    Raises:
        KdlibError: a record is damaged, its history is missing, or a run asked for is not
            finished. Nothing is copied then.
    """
    records = {path.parent.name: path.parent for path in find_records(run_root)}
    chosen = sorted(records if run_ids is None else set(run_ids))
    for name in chosen:
        _check_finished(name, records, run_root)
    for name in chosen:
        analysis = [file for file in ANALYSIS_FILES if (records[name] / file).exists()]
        for file in (*analysis, *PUBLISHED_FILES):
            content = (records[name] / file).read_bytes()
            _write_bytes(Path(record_root) / name / file, content)
    return [Path(record_root) / name / "record.json" for name in chosen]


def _check_finished(name: str, records: Mapping[str, Path], root: Path) -> None:
    if name not in records:
        raise KdlibError(f"'{name}' has no record in {root}: it is not finished. Finish it first.")
    if not (records[name] / "history.csv").exists():
        raise KdlibError(f"{records[name]} has a record but no history.csv; delete it, run again.")


def _write_bytes(path: Path, content: bytes) -> None:
    write_atomic(path, lambda temporary: temporary.write_bytes(content))


@cache
def _schema() -> Draft202012Validator:
    text = files("kdlib").joinpath("record.schema.json").read_text(encoding="utf-8")
    return Draft202012Validator(json.loads(text))


# From records to one tidy table, a row a run; and the summary of each method.
SEEDS = ("data_seed", "init_seed", "teacher_seed")
TEACHER = (
    "teacher", "teacher_epochs", "teacher_weights", "teacher_start", "teacher_learning_rate",
)  # fmt: skip
# The crops of a detector are what it is taught with; what it answers does not depend on them.
VARIANT = (
    "method_options", "weight", "ce_weight", "kd_weight", "temperature", "crop_size", *TEACHER,
)  # fmt: skip
METRICS = tuple(dict.fromkeys(name for measures in TASKS.values() for name in measures.metrics))
HEADLINES = tuple(dict.fromkeys(measures.metric for measures in TASKS.values()))
ERRORS = ("cls", "loc", "both", "dupe", "bkg", "miss", "false_pos", "false_neg")
"""TIDE's, as records call them; a table has ``dap_cls`` ..., what each costs in AP50."""
SIZES = ("map_small", "map_medium", "map_large")
IOUS = tuple(range(50, 100, 5))
"""In percent; a table has ``ap50`` ... ``ap95``, AP with detections right from that IoU on."""
OF_DETECTORS = (*SIZES, *(f"ap{iou}" for iou in IOUS), *(f"dap_{name}" for name in ERRORS))
"""Measures of detectors beside ``METRICS``: columns of tables that have detectors."""
STAGE_MEASURES = ("ssim", "energy_share", "pointing")


def load_records(*roots: Path, task: str | None = "classification") -> pd.DataFrame:
    """One row a run: configuration, accuracies, attention measures, cost, provenance.

    Runs of another ``task`` are left out, for what can be said of the one means nothing of the
    other; ``None`` leaves none out.
    Beyond the fields of ``RunConfig`` there are ``setting`` (equal in runs that may be compared:
    same data, student and training, whatever the method), ``teacher_setting`` (the setting of
    the run that taught this one), ``label`` (the method, with the options in which two variants
    of it differ), ``self_teacher_top1`` and ``self_teacher_miou`` (of self-taught methods),
    ``ssim``, ``energy_share`` and ``pointing`` (means over stages) and ``ssim_1``, ``ssim_2`` ...
    (stages, fine to coarse); of detectors ``OF_DETECTORS``. Runs that others start from
    (dictionaries, initialisations) are no results to compare, and are left out too.

    Raises:
        KdlibError: no folder, no record in it, a damaged one, or two runs of one method and seed
            in one setting that nothing tells apart.
    """
    found = find_records(*roots).items()
    results = [_row(*one) for one in found if one[1]["config"]["method"] not in STAGES]
    rows = [row for row in results if task in (None, row["task"])]
    if not rows:
        places = " or ".join(str(root) for root in roots)
        kind = "" if task in (None, "classification") else f" of {task}"
        how = "make reproduce" if not kind else f"make reproduce PROFILE={task}"
        raise KdlibError(f"There is no record{kind} in {places}; make some with: {how}")
    return _labelled(pd.DataFrame(rows))


def recorded_tasks(*roots: Path) -> list[str]:
    """The tasks that the records under ``roots`` have runs of; the first one if there are none."""
    found = {_complete(record["config"])["task"] for record in find_records(*roots).values()}
    return [task for task in TASKS if task in found] or list(TASKS)[:1]


def _row(path: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    config, relevance = _complete(record["config"]), record["relevance"] or {}
    refined = record.get("self_teacher") or {}
    return {
        **{name: _plain(value) for name, value in config.items()},
        **{name: record["results"].get(name, nan) for name in METRICS},
        **{f"self_teacher_{name}": refined.get(name, nan) for name in HEADLINES},
        **_detector_columns(record["results"]),
        **_stage_columns("ssim", record["ssim"]),
        **_network_columns("", relevance.get("student")),
        **_network_columns("teacher_", relevance.get("teacher")),
        "chance": relevance.get("chance"),
        **{name: record["cost"][name] for name in ("parameters", "flops", "train_seconds")},
        "run_id": record["run_id"],
        "setting": setting_of(config),
        "teacher_setting": None if config["teacher"] == "none" else setting_of(_taught(config)),
        "commit": record["provenance"]["commit"],
        "dirty": record["provenance"]["dirty"],
        "device": record["provenance"]["device"],
        "data_fingerprint": record["provenance"]["data_fingerprint"],
        "directory": str(path.parent),
    }


def _detector_columns(results: Mapping[str, Any]) -> dict[str, float]:
    """``OF_DETECTORS``, and ``detections``; nothing of runs of other tasks."""
    if "errors" not in results:
        return {}
    sizes = {name: nan if results[name] is None else results[name] for name in SIZES}
    by_iou = {f"ap{iou}": ap for iou, ap in zip(IOUS, results["ap_by_iou"], strict=True)}
    errors = {f"dap_{name}": results["errors"][name]["dap"] for name in ERRORS}
    return {**sizes, **by_iou, **errors, "detections": results["detections"]}


def _complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with the defaults of the fields that did not exist when it was recorded."""
    defaults = RunConfig().to_dict()
    return {**config, **{name: config.get(name, defaults[name]) for name in ADDED_LATER}}


def _taught(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the configuration of a student's teacher differs in from the student's own."""
    shared = {
        **config,
        "student": config["teacher"],
        "epochs": config["teacher_epochs"],
        "start": config["teacher_start"],
        "learning_rate": config["teacher_learning_rate"] or config["learning_rate"],
    }
    if config["task"] != "detection":
        return shared
    plain = [name for name in config["augmentation"] if name in AUGMENTATIONS]
    return {**shared, "task": "crops", "augmentation": plain}


def setting_of(config: Mapping[str, Any], but: Iterable[str] = ()) -> str:
    """Short hash of what runs that may be compared have in common (``but`` these fields)."""
    own = {"method", *_variant(config.get("task", "")), *SEEDS, *but}
    shared = {name: value for name, value in as_hashed(config).items() if name not in own}
    return hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:8]


def _variant(task: str) -> set[str]:
    """``VARIANT`` but, of a classifier of crops, their size: that of its images."""
    return set(VARIANT) - ({"crop_size"} if task == "crops" else set())


def _plain(value: Any) -> Any:
    """Lists and mappings as text, so that every cell of the table can be compared."""
    return json.dumps(value, sort_keys=True) if isinstance(value, list | dict) else value


def _network_columns(prefix: str, measures: Mapping[str, list[float]] | None) -> dict[str, float]:
    return {
        name: value
        for measure, stages in (measures or {}).items()
        for name, value in _stage_columns(prefix + measure, stages).items()
    }


def _stage_columns(name: str, stages: list[float] | None) -> dict[str, float]:
    if stages is None:
        return {}
    numbered = {f"{name}_{i}": value for i, value in enumerate(stages, 1)}
    return {name: sum(stages) / len(stages), **numbered}


def _labelled(table: pd.DataFrame) -> pd.DataFrame:
    table = table.reindex(columns=list(dict.fromkeys([*table.columns, *STAGE_MEASURES])))
    groups = table.groupby(["setting", "method"], sort=False)
    table["label"] = pd.concat([_labels(group) for _, group in groups])
    same = ["setting", "label", "data_seed", "init_seed", "teacher_seed"]
    twice = table[table.duplicated(same, keep=False)].sort_values(same)
    if len(twice):
        first, second = twice["run_id"].iloc[:2]
        raise KdlibError(f"{first} and {second} are two results of one run; keep one of them.")
    return table.sort_values(["setting", "label", "init_seed"]).reset_index(drop=True)


def _labels(group: pd.DataFrame) -> pd.Series:
    """The method's name; with the fields in brackets that differ among its runs."""
    differing = [c for c in VARIANT if c in group and group[c].nunique(dropna=False) > 1]
    if not differing:
        return group["method"]
    values = group[differing].astype(str)
    options = values.apply(lambda row: ", ".join(f"{k}={v}" for k, v in row.items()), axis=1)
    return group["method"] + " [" + options + "]"


def student_settings(table: pd.DataFrame) -> list[str]:
    """Settings in which students were compared: all but those that only made teachers."""
    teachers = set(table["teacher_setting"].dropna())
    kept = {
        setting: rows
        for setting, rows in table.groupby("setting")
        if setting not in teachers or set(rows["method"]) != {"student"}
    }
    place = ["split", "dataset", "attentions", "student", "setting"]
    return sorted(kept, key=lambda s: tuple(str(kept[s][c].iloc[0]) for c in place))


def teacher_runs(table: pd.DataFrame, setting: str) -> pd.DataFrame:
    """The runs that taught the students of ``setting``, as far as the table has them."""
    students = table[table["setting"] == setting]
    taught = set(zip(students["teacher_setting"], students["teacher_seed"], strict=True))
    plain = table[table["method"] == "student"]
    keys = list(zip(plain["setting"], plain["init_seed"], strict=True))
    return plain[[key in taught for key in keys]]


def describe_setting(table: pd.DataFrame, setting: str) -> str:
    """One line that names a setting; with the fields that tell it from its namesakes."""
    row = table[table["setting"] == setting].iloc[0]
    text = f"{row['dataset']}, attentions {row['attentions']}, {row['student']}"
    text += "" if row["task"] == "classification" else f", {row['task']}"
    text += ", dev split" if row["split"] == "dev" else ""
    same = (table["dataset"] == row["dataset"]) & (table["attentions"] == row["attentions"])
    namesakes = table[same & (table["student"] == row["student"])]
    skipped = {"method", "split", *_variant(row["task"]), *SEEDS}
    config = list(table.columns[: table.columns.get_loc("top1")])
    differing = [c for c in config if c not in skipped and namesakes[c].nunique(dropna=False) > 1]
    return ", ".join([text, *(f"{name} {row[name]}" for name in differing)])


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each setting and method: n, mean and std of top-1, mIoU or mAP, means of the rest.

    A standard deviation is missing where n is 1, what is measured of another task throughout. The
    time a run took is left out: it depends on what else the machine did, and on how many students
    shared a teacher.
    """
    summaries = []
    for setting in student_settings(table):
        students = table[table["setting"] == setting]
        teachers = teacher_runs(table, setting).assign(label="teacher")
        rows = pd.concat([teachers, students])
        name = describe_setting(table, setting)
        summaries.append(_summarised(rows).assign(setting=setting, description=name))
    columns = ["setting", "description", "task", "label", "n", *METRICS, *_STDS, *STAGE_MEASURES]
    return pd.concat(summaries, ignore_index=True)[columns]


_STDS = tuple(f"{name}_std" for name in (*HEADLINES, "map50", "map75"))


def _summarised(rows: pd.DataFrame) -> pd.DataFrame:
    groups = rows.groupby("label")
    means = groups[[*METRICS, *STAGE_MEASURES]].mean()
    means["n"], means["task"] = groups.size(), groups["task"].first()
    for name in _STDS:
        means[name] = groups[name.removesuffix("_std")].std()
    ordered = sorted(means.index, key=method_order)
    return means.loc[ordered].rename_axis("label").reset_index()


def stage_table(table: pd.DataFrame) -> pd.DataFrame:
    """Long form of the measures that each stage has, and of the teachers' own.

    Columns: ``setting``, ``label``, ``network`` (student or teacher), ``data_seed``,
    ``init_seed``, ``measure``, ``stage`` (1 is the finest), ``value``, ``chance``.
    """
    kept = ["run_id", "setting", "label", "data_seed", "init_seed", "chance"]
    pattern = r"^(teacher_)?(ssim|energy_share|pointing)_(\d+)$"
    stages = table.filter(regex=pattern).columns
    long = table.melt(id_vars=kept, value_vars=stages).dropna(subset="value")
    parts = long["variable"].str.extract(pattern)
    long["network"] = parts[0].map({"teacher_": "teacher"}).fillna("student")
    long["measure"], long["stage"] = parts[1], parts[2].astype(int)
    return long.drop(columns="variable").reset_index(drop=True)


def load_histories(table: pd.DataFrame) -> pd.DataFrame:
    """The histories of the runs in ``table``: a row an epoch, with the run's identity.

    Raises:
        KdlibError: a run without ``history.csv``.
    """
    histories = []
    for row in table.to_dict("records"):
        path = Path(row["directory"]) / "history.csv"
        if not path.exists():
            raise KdlibError(f"{path} is missing; publish the run again with its history.")
        identity = {c: row[c] for c in ("run_id", "setting", "label", "data_seed", "init_seed")}
        histories.append(pd.read_csv(path).assign(**identity))
    return pd.concat(histories, ignore_index=True)


# Which runs a notebook reads: those of one setting, or of a sweep over ``attentions``.
def runs_of(
    table: pd.DataFrame, dataset: str, attentions: int, setting: str | None = None
) -> pd.DataFrame:
    """The students of one setting, and their teachers.

    Args:
        table: runs, from :func:`study.records.load_records`.
        dataset: the data set.
        attentions: objects of its class that an image shows.
        setting: the hash of a setting; ``None`` for the one with the most runs.

    Raises:
        KdlibError: there are no such runs; lists the settings that there are.
    """
    students = _tested_students(table)
    found = students[(students["dataset"] == dataset) & (students["attentions"] == attentions)]
    if setting is not None:
        found = found[found["setting"] == setting]
    if found.empty:
        wanted = f"'{dataset}' with attentions {attentions}"
        wanted += f" and setting {setting}" if setting is not None else ""
        raise _nothing(table, students, wanted, dataset)
    return with_teachers(table, found[found["setting"] == _largest(found)])


def sweep_of(table: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Students that differ in ``attentions``, method and seeds alone, and their teachers.

    Of several such sweeps, the one in which the most numbers of attentions have students with a
    teacher, then the one with the most runs: a batch that was stopped may have left teachers
    whose students are still to come, and they are no sweep.

    Raises:
        KdlibError: there are no runs of the data set; lists the settings that there are.
    """
    students = _tested_students(table)
    found = students[students["dataset"] == dataset]
    if found.empty:
        raise _nothing(table, students, f"'{dataset}'", dataset)
    config = found.columns[: found.columns.get_loc("top1")]
    free = {"method", "attentions", *VARIANT, *SEEDS}
    sweeps = found.groupby([c for c in config if c not in free], dropna=False)
    return with_teachers(table, max((rows for _, rows in sweeps), key=_reach))


def _reach(runs: pd.DataFrame) -> tuple[int, int]:
    """At how many numbers of attentions there are students with a teacher; how many runs."""
    return runs.loc[runs["teacher"] != "none", "attentions"].nunique(), len(runs)


def _tested_students(table: pd.DataFrame) -> pd.DataFrame:
    compared = table["setting"].isin(student_settings(table))
    return table[compared & (table["split"] == "train")]


def _largest(runs: pd.DataFrame) -> str:
    """The setting with the most runs; the first by its hash where two have as many."""
    return str(runs.groupby("setting").size().idxmax())


def with_teachers(table: pd.DataFrame, students: pd.DataFrame) -> pd.DataFrame:
    """Runs of ``students`` and, from ``table``, those of their teachers, each run once.

    A teacher of the students' own kind can be one of the students itself.
    """
    teachers = [teacher_runs(table, setting) for setting in sorted(set(students["setting"]))]
    return pd.concat([students, *teachers]).drop_duplicates("run_id").reset_index(drop=True)


def _nothing(table: pd.DataFrame, students: pd.DataFrame, wanted: str, dataset: str) -> KdlibError:
    names = sorted({f"{describe_setting(table, s)} ({s})" for s in set(students["setting"])})
    return KdlibError(
        f"These records have no run of {wanted} on the test set. They have: "
        f"{'; '.join(names) or 'none at all'}. To make them: make reproduce DATASET={dataset}"
    )
