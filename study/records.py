"""Records on disk: found, checked, published; and the table of runs that all else is made from."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from io import StringIO
from math import nan
from pathlib import Path
from typing import Any, NamedTuple

import fastjsonschema
import pandas as pd

from kdlib.errors import KdlibError, quoted, shown
from kdlib.methods import STAGES
from kdlib.runs import RunConfig, as_hashed, checked_record, read_record
from kdlib.tasks import TASKS
from study import sealed
from study.names import method_order


@cache
def _schema(package: str, name: str) -> Callable[..., Any]:
    text = files(package).joinpath(name).read_text(encoding="utf-8")
    return fastjsonschema.compile(json.loads(text))


def check_schema(found: Any, path: Path, package: str, name: str, advice: str) -> None:
    """Check what stood in ``path`` by a package's JSON schema; a KdlibError names the place."""
    try:
        _schema(package, name)(found, name_prefix=path.stem)
    except fastjsonschema.JsonSchemaValueException as error:
        wrong = f"{error.message.removeprefix(str(error.name))[:200]}, and is {quoted(error.value)}"
        if error.rule == "required":
            wrong = f" lacks {', '.join(k for k in error.rule_definition if k not in error.value)}"
        raise KdlibError(f"{path}: {shown(error.name)}{wrong}. {advice}") from error


def validate_record(record: Mapping[str, Any], path: Path) -> None:
    """Check a record by ``record.schema.json``, and its name; a KdlibError says what is wrong."""
    check_schema(record, path, "kdlib", "record.schema.json", "Delete it and run again.")
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


MOST_SHOWN = 8  # runs that an error lists
EARLIER = "their method or network has given other numbers since"


class Run(NamedTuple):
    """A finished run: the directory of its files, its record, and why it does not count, if so."""

    directory: Path
    record: dict[str, Any]
    superseded: str = ""


def find_runs(*roots: Path) -> dict[str, Run]:
    """All runs of folders of runs or of sealed records, by id; of two, the earlier root's."""
    found: dict[str, Run] = {}
    for root in map(Path, roots):
        if not root.is_dir():
            raise KdlibError(f"There is no folder {root}; give the folder that holds the runs.")
        if sealed.is_sealed(root) or any(root.glob("*.jsonl")):
            own = (_sealed_run(root, *one) for one in sealed.entries_of(root))
        else:
            paths = sorted(root.glob("*/record.json"))
            own = (_checked_run(path.parent, path, read_record(path)) for path in paths)
        for run in own:
            found.setdefault(run.directory.name, run)
    return found


def _sealed_run(root: Path, path: Path, entry: sealed.Entry) -> Run:
    record = checked_record(entry["record"], path, entry["history"].encode())
    run = _checked_run(root / path.name, path / "record.json", record)
    return run._replace(superseded=entry.get("superseded") or run.superseded)


def _checked_run(directory: Path, path: Path, record: dict[str, Any]) -> Run:
    validate_record(record, path)
    now = RunConfig(**record["config"]).config_hash
    return Run(directory, record, "" if record["config_hash"] == now else EARLIER)


def find_records(*roots: Path) -> dict[Path, dict[str, Any]]:
    """The records under ``roots`` that count, checked, by the path that each has in a folder."""
    runs = find_runs(*roots).values()
    return {run.directory / "record.json": run.record for run in runs if not run.superseded}


def superseded(*roots: Path) -> dict[str, list[str]]:
    """Ids of the runs that no longer count, by the reason; they are in no table."""
    reasons: dict[str, list[str]] = {}
    for name, run in find_runs(*roots).items():
        if run.superseded:
            reasons.setdefault(run.superseded, []).append(name)
    return reasons


def find_directory(run: Path, root: Path) -> Path:
    """The directory of a run, finished or not: a path, its id, or how its id begins in ``root``."""
    if run.is_dir() or (sealed.is_sealed(run.parent) and run.name in sealed.run_ids(run.parent)):
        return run.resolve()
    if not root.is_dir():
        raise KdlibError(f"There is no run {run}, and no folder {root} to look for it in.")
    files = ("config.json", "record.json")
    trained = {path.parent.name for file in files for path in root.glob(f"*/{file}")}
    runs = sealed.run_ids(root) if sealed.is_sealed(root) else trained
    alike = sorted(name for name in runs if name.startswith(str(run)))
    found = [str(run)] if str(run) in runs else alike
    if not found:
        close = get_close_matches(str(run), runs, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise KdlibError(f"{root} has no run '{run}' among its {len(runs)}.{hint}")
    if len(found) > 1:
        shown = [*found[:MOST_SHOWN], *(["..."] if len(found) > MOST_SHOWN else [])]
        raise KdlibError(f"{len(found)} runs begin with '{run}'; which?\n" + "\n".join(shown))
    return root / found[0]


def record_of(directory: Path) -> dict[str, Any]:
    """The record of a run, by the ``directory`` that tables name, which may be a sealed one's."""
    path = Path(directory) / "record.json"
    if not sealed.is_sealed(path.parent.parent):
        return read_record(path)
    entry = sealed.entry_of(path.parent)
    return checked_record(entry["record"], path, entry["history"].encode())


def history_of(directory: Path) -> str:
    """The text of a run's history, by the run's ``directory``."""
    path = Path(directory) / "history.csv"
    if sealed.is_sealed(path.parent.parent):
        return sealed.entry_of(path.parent)["history"]
    if not path.exists():
        raise KdlibError(f"{path} is missing; publish the run again with its history.")
    return path.read_text(encoding="utf-8")


def publish(run_root: Path, record_root: Path, run_ids: Iterable[str] | None = None) -> list[Path]:
    """Seal finished runs (or those of ``run_ids``) where records are committed; their directories.

    Where one is damaged, unfinished or without history, a KdlibError says so and none is sealed.
    """
    if not sealed.is_sealed(record_root) and any(Path(record_root).glob("*/record.json")):
        raise KdlibError(f"{record_root} is a folder of runs; choose another for sealed records.")
    runs = find_runs(run_root)
    chosen = sorted(runs if run_ids is None else set(run_ids))
    if missing := [name for name in chosen if name not in runs]:
        raise KdlibError(f"'{missing[0]}' has no record in {run_root}: it is not finished.")
    sealed.seal(Path(record_root), [committed_part(runs[name].directory) for name in chosen])
    return [Path(record_root) / name for name in chosen]


def committed_part(directory: Path) -> tuple[sealed.Entry, list[Path]]:
    """What is committed of a run: of its folder, all that an entry holds, and the tensors."""
    if sealed.is_sealed(directory.parent):
        entry = sealed.entry_of(directory)
    else:
        entry = {"run_id": directory.name, "history": history_of(directory)}
        for name in ("record", "analysis"):
            if (path := directory / f"{name}.json").exists():
                entry[name] = json.loads(path.read_text(encoding="utf-8"))
    return entry, [path for name in sealed.TENSORS if (path := directory / name).exists()]


def supersede(root: Path, run_ids: Iterable[str], reason: str) -> None:
    """Mark sealed runs: they stay, with the reason, and leave every table, claim and figure."""
    entries = [committed_part(Path(root) / name) for name in run_ids]
    sealed.seal(Path(root), [({**entry, "superseded": reason}, []) for entry, _ in entries])


# The columns of the table, beside the fields of ``RunConfig``.
SEEDS = ("data_seed", "init_seed", "teacher_seed", "sample", "teacher_sample")
VARIANT = (
    "method_options", "weight", "ce_weight", "kd_weight", "temperature", "crop_size", "teacher",
    "teacher_epochs", "teacher_weights", "teacher_start", "teacher_learning_rate",
    "teacher_train_size", "guide",
)  # fmt: skip
"""Fields in which variants of a method differ. The size of its crops teaches a detector, but does
not change what its answers mean."""
METRICS = tuple(dict.fromkeys(name for measures in TASKS.values() for name in measures.metrics))
HEADLINES = tuple(dict.fromkeys(measures.metric for measures in TASKS.values()))
ERRORS = ("cls", "loc", "both", "dupe", "bkg", "miss", "false_pos", "false_neg")
"""TIDE's, as records call them; columns are ``dap_cls`` ..., what each costs in AP50."""
SIZES = ("map_small", "map_medium", "map_large")
IOUS = tuple(range(50, 100, 5))
"""In percent; columns are ``ap50`` ... ``ap95``, the AP of detections right from that IoU on."""
SPREADS = {"ap50_less_ap75": ("map50", "map75"), "ap75_less_ap50": ("map75", "map50")}
"""One metric of detectors less another: what a method adds to it is a difference of gains."""
OF_DETECTORS = (
    *SIZES, *(f"ap{iou}" for iou in IOUS), *(f"dap_{name}" for name in ERRORS), *SPREADS,
)  # fmt: skip
USUAL_GUIDE = ("guide", RunConfig.guide)  # which needs no word
STAGE_MEASURES = ("ssim", "energy_share", "pointing")


def load_records(*roots: Path, task: str | None = "classification") -> pd.DataFrame:
    """One row a run of a task (``None``: of any): configuration, measures, cost, provenance.

    Beyond the fields of ``RunConfig`` there are ``setting`` (equal in runs that may be compared:
    same kind of data, student, training and device, whatever the method), ``teacher_setting`` (of
    the run that taught this one), ``label`` (the method, with the options in which two variants of
    it differ), results and measures of the stages (``ssim_1`` is the finest, ``ssim`` their mean).
    No record, a damaged one and two of one run are a KdlibError.
    """
    found = find_records(*roots).items()
    rows = [_row(*one) for one in found if one[1]["config"]["method"] not in STAGES]
    rows = [row for row in rows if task in (None, row["task"])]
    if not rows:
        usual = task in (None, "classification")
        what, how = ("", "") if usual else (f" of {task}", f" PROFILE={task}")
        what += f" in {' or '.join(map(str, roots))}"
        raise KdlibError(f"There is no record{what}; make some with: make reproduce{how}")
    return _labelled(rows)


def load_tables(*roots: Path) -> dict[str, pd.DataFrame]:
    """The runs of each task that has some, in the order of ``TASKS``; as :func:`load_records`."""
    table = load_records(*roots, task=None)
    by_task = {task: table[table["task"] == task] for task in TASKS}
    return {task: runs.reset_index(drop=True) for task, runs in by_task.items() if len(runs)}


def _row(path: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    config = RunConfig(**record["config"])
    results, relevance = record["results"], record["relevance"] or {}
    refined, source = record.get("self_teacher") or {}, record["provenance"]
    stages = {"ssim": record["ssim"], **(relevance.get("student") or {})}
    theirs = {f"teacher_{name}": one for name, one in (relevance.get("teacher") or {}).items()}
    device = source["device"]
    taught = None if config.teacher == "none" else setting_of(config.teacher_config(), device)
    return {
        **{name: _plain(value) for name, value in sorted(config.to_dict().items())},
        "device": device,
        **{name: results.get(name, nan) for name in METRICS},
        **{f"self_teacher_{name}": refined.get(name, nan) for name in HEADLINES},
        **(_detector_columns(results) if "errors" in results else {}),
        **_stage_columns({**stages, **theirs}),
        "chance": relevance.get("chance"),
        "ece": results.get("ece", nan),
        **_agreement_columns(record.get("agreement") or {}),
        **{name: record["cost"][name] for name in ("parameters", "flops", "train_seconds")},
        "run_id": record["run_id"],
        "setting": setting_of(config, device),
        "teacher_setting": taught,
        **{name: source[name] for name in ("commit", "dirty", "data_fingerprint")},
        "directory": str(path.parent),
    }


def _plain(value: Any) -> Any:
    """Lists and mappings as text, so that every cell of the table can be compared."""
    return json.dumps(value, sort_keys=True) if isinstance(value, list | dict) else value


def _detector_columns(results: Mapping[str, Any]) -> dict[str, float]:
    sizes = {name: nan if results[name] is None else results[name] for name in SIZES}
    by_iou = {f"ap{iou}": ap for iou, ap in zip(IOUS, results["ap_by_iou"], strict=True)}
    errors = {f"dap_{name}": results["errors"][name]["dap"] for name in ERRORS}
    spreads = {name: results[one] - results[other] for name, (one, other) in SPREADS.items()}
    return {**sizes, **by_iou, **errors, **spreads, "detections": results["detections"]}


def _agreement_columns(found: Mapping[str, Any]) -> dict[str, Any]:
    """Of all images, and where the teacher is right and wrong: share of equal answers, KL."""
    parts = {"": found, "right_": found.get("right", {}), "wrong_": found.get("wrong", {})}
    return {
        f"agreement_{part}{name}": own.get(name, nan)
        for part, own in parts.items()
        for name in ("top1", "kl")
    }


def _stage_columns(measures: Mapping[str, list[float] | None]) -> dict[str, float]:
    """The mean of each measure over the stages, and each stage."""
    columns: dict[str, float] = {}
    for name, stages in measures.items():
        if stages is not None:
            known = [nan if value is None else value for value in stages]  # none: not finite
            columns[name] = sum(known) / len(known)
            columns |= {f"{name}_{i}": value for i, value in enumerate(known, 1)}
    return columns


def setting_of(config: RunConfig, device: str = "cpu") -> str:
    """Short hash of what runs that may be compared have in common, their kind of device too."""
    own, fields = _not_of_setting(config.task), as_hashed(config.to_dict())
    shared = {name: value for name, value in fields.items() if name not in own}
    shared |= {} if device == "cpu" else {"device": device}
    return hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:8]


def _not_of_setting(task: str) -> set[str]:
    """Fields that may differ within a setting; the crops of their classifier are its images."""
    return {"method", *VARIANT, *SEEDS} - ({"crop_size"} if task == "crops" else set())


def _labelled(rows: list[dict[str, Any]]) -> pd.DataFrame:
    table = pd.DataFrame(rows)
    table = table.reindex(columns=list(dict.fromkeys([*table.columns, *STAGE_MEASURES])))
    groups = table.groupby(["setting", "method"], sort=False)
    table["label"] = pd.concat([_labels(group) for _, group in groups])
    same = ["setting", "label", *SEEDS]
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
    texts = [
        ", ".join(f"{k}={v}" for k, v in row.items() if (k, v) != USUAL_GUIDE)
        for row in group[differing].to_dict("records")
    ]
    named = [f"{group['method'].iloc[0]} [{text}]" if text else "" for text in texts]
    return pd.Series(named, group.index).where(lambda one: one != "", group["method"])


def config_columns(table: pd.DataFrame) -> list[str]:
    """The columns of a table that are fields of the configuration, and the device."""
    return list(table.columns[: table.columns.get_loc("top1")])


# Settings: which there are, what they are called, who taught there.
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
    keys = zip(plain["setting"], plain["init_seed"], strict=True)
    return plain[[key in taught for key in keys]]


def with_teachers(table: pd.DataFrame, students: pd.DataFrame) -> pd.DataFrame:
    """Runs of ``students`` and of their teachers, each once: a student can teach its own kind."""
    teachers = [teacher_runs(table, setting) for setting in sorted(set(students["setting"]))]
    return pd.concat([students, *teachers]).drop_duplicates("run_id").reset_index(drop=True)


def describe_setting(table: pd.DataFrame, setting: str) -> str:
    """One line that names a setting; with the fields that tell it from its namesakes."""
    row = table[table["setting"] == setting].iloc[0]
    text = f"{row['dataset']}, attentions {row['attentions']}, {row['student']}"
    text += "" if row["task"] == "classification" else f", {row['task']}"
    text += ", dev split" if row["split"] == "dev" else ""
    place = ["dataset", "attentions", "student"]
    namesakes = table[(table[place] == row[place]).all(axis=1)]
    skipped = {*place, "split", *_not_of_setting(row["task"])}
    fields = [name for name in config_columns(table) if name not in skipped]
    differing = [name for name in fields if namesakes[name].nunique(dropna=False) > 1]
    numbers = {name: f"{row[name]:g}" for name in differing if isinstance(row[name], float)}
    return ", ".join([text, *(f"{name} {numbers.get(name, row[name])}" for name in differing)])


def runs_of(
    table: pd.DataFrame, dataset: str, attentions: int, setting: str | None = None
) -> pd.DataFrame:
    """The students of a setting, by default the largest, and their teachers; or which there are."""
    wanted = f"'{dataset}' with attentions {attentions}"
    chosen = (table["dataset"] == dataset) & (table["attentions"] == attentions)
    if setting is not None:
        chosen, wanted = chosen & (table["setting"] == setting), f"{wanted} and setting {setting}"
    found = _tested_students(table, chosen, wanted, dataset)
    largest = found.groupby("setting").size().idxmax()
    return with_teachers(table, found[found["setting"] == largest])


def _tested_students(
    table: pd.DataFrame, chosen: pd.Series, wanted: str, dataset: str
) -> pd.DataFrame:
    """The chosen runs of students on test sets; an error says which there are if there are none."""
    tested = table["setting"].isin(student_settings(table)) & (table["split"] == "train")
    if (found := table[tested & chosen]).empty:
        settings = set(table.loc[tested, "setting"])
        names = sorted({f"{describe_setting(table, s)} ({s})" for s in settings})
        raise KdlibError(
            f"These records have no run of {wanted} on the test set. They have: "
            f"{'; '.join(names) or 'none at all'}. To make them: make reproduce DATASET={dataset}"
        )
    return found


def longer_beside(table: pd.DataFrame) -> pd.DataFrame:
    """Plain students that only have other epochs, as rows of the setting of the taught ones."""
    taught = table[table["teacher"] != "none"]
    if taught["setting"].nunique() != 1:
        return table
    first = taught.iloc[0]
    other = (table["method"] == "student") & (table["student"] == first["student"])
    other &= table["epochs"] != first["epochs"]
    named = "student [epochs=" + table["epochs"].astype(str) + "]"
    setting = table["setting"].mask(other, first["setting"])
    beside = table.assign(label=table["label"].mask(other, named), setting=setting)
    return pd.concat([beside[~other], beside[other]])  # the setting is told by its first run


# Tables made from it: of methods, of stages, of epochs.
_STDS = tuple(f"{name}_std" for name in (*HEADLINES, "map50", "map75"))


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """A row a setting and method: n, mean and std of top-1, mIoU or mAP, means of the rest."""
    summaries = []
    for setting in student_settings(table):
        teachers = teacher_runs(table, setting).assign(label="teacher")
        rows = pd.concat([teachers, table[table["setting"] == setting]])
        groups = rows.groupby("label")
        means = groups[[*METRICS, *STAGE_MEASURES]].mean()
        stds = {name: groups[name.removesuffix("_std")].std() for name in _STDS}
        means = means.assign(n=groups.size(), task=groups["task"].first(), **stds)
        means = means.loc[sorted(means.index, key=method_order)].reset_index()
        name = describe_setting(table, setting)
        summaries.append(means.assign(setting=setting, description=name))
    columns = ["setting", "description", "task", "label", "n", *METRICS, *_STDS, *STAGE_MEASURES]
    return pd.concat(summaries, ignore_index=True)[columns]


def stage_table(table: pd.DataFrame) -> pd.DataFrame:
    """A row a measure and stage (1 is the finest), of each run's student and of its teacher."""
    kept = ["run_id", "setting", "label", "data_seed", "init_seed", "chance"]
    pattern = r"^(teacher_)?(ssim|energy_share|pointing)_(\d+)$"
    stages = table.filter(regex=pattern).columns
    long = table.melt(id_vars=kept, value_vars=stages).dropna(subset="value")
    parts = long["variable"].str.extract(pattern)
    long["network"] = parts[0].map({"teacher_": "teacher"}).fillna("student")
    long["measure"], long["stage"] = parts[1], parts[2].astype(int)
    return long.drop(columns="variable").reset_index(drop=True)


def load_histories(table: pd.DataFrame) -> pd.DataFrame:
    """The histories of the runs in ``table``: a row an epoch, with the run's identity."""
    histories = []
    for row in table.to_dict("records"):
        identity = {c: row[c] for c in ("run_id", "setting", "label", "data_seed", "init_seed")}
        rows = pd.read_csv(StringIO(history_of(row["directory"])))
        histories.append(rows.assign(**identity))
    return pd.concat(histories, ignore_index=True)
