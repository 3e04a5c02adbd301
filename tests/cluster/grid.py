"""A small grid through SLURM, killed at four places, beside the same grid left alone."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from training import history_of, result_of

from cluster.slurm import Cluster
from kdlib.runs import read_record

ROOT = Path(__file__).parents[2]
COPIED = ("kdlib", "study", "notebooks", "profiles", "workflow")
# A teacher, a plain student, and a lock-step pair and a third student of the teacher: four jobs.
RECORDS = 5
GRID = {
    "profile": "smoke",
    "methods": "student,kd,at,dct+kd",
    "seeds": 0,
    "epochs": 8,
    "images": 600,
    "students_per_job": 2,
    "mem_mb": 1000,
    "gpus_per_job": 0,
}
LOCAL = ("--cores", "2", "--nolock", "--keep-incomplete")
# The profile that users have; but this node has no database of finished jobs, and is asked often.
SLURM = (
    "--profile=workflow/profiles/slurm",
    "--slurm-status-command=squeue",
    "--slurm-init-seconds-before-status-checks=2",
    "--latency-wait=20",
)
LIMIT_S = 600


def copy_tree(folder: Path) -> Path:
    """A checkout of its own, so that its runs are no one else's."""
    for name in COPIED:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    return folder


def start(tree: Path, options: tuple[str, ...], environment: dict[str, str]) -> subprocess.Popen:
    """Snakemake on the records of the grid; what it prints goes to a file."""
    asked = [f"{name}={value}" for name, value in GRID.items()]
    snakemake = [sys.executable, "-m", "snakemake", "--snakefile", "workflow/Snakefile", "records"]
    path = f"{Path(sys.executable).parent}:{environment['PATH']}"
    own = {"PATH": path, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    with (tree / "snakemake.log").open("ab") as log:
        return subprocess.Popen(
            [*snakemake, *options, "--config", *asked],
            cwd=tree, env={**environment, **own}, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip


def finish(batch: subprocess.Popen, tree: Path, limit_s: float = LIMIT_S) -> None:
    """Wait for a batch to end well.

    Raises:
        RuntimeError: it failed, or took too long; with the end of what it printed.
    """
    try:
        status = batch.wait(limit_s)
    except subprocess.TimeoutExpired:
        kill_group(batch)
        status = None
    if status != 0:
        told = (tree / "snakemake.log").read_text(encoding="utf-8").splitlines()
        raise RuntimeError(f"Snakemake ended with {status}:\n" + "\n".join(told[-60:]))


def kill_group(batch: subprocess.Popen) -> None:
    """SIGKILL to Snakemake and what it started here; SLURM's jobs are not among them."""
    os.killpg(batch.pid, signal.SIGKILL)
    batch.wait()


def left_alone(tree: Path) -> dict[str, tuple[Any, Any]]:
    """The grid with the local executor: each record's result and its history, by run."""
    batch = start(tree, LOCAL, dict(os.environ))
    finish(batch, tree)
    found = outcome(tree / "runs")
    (tree / "runs").rename(tree / "runs-left-alone")
    return found


def outcome(runs: Path) -> dict[str, tuple[Any, Any]]:
    """Of each run that has a record: what it found and how it came there, without times."""
    paths = sorted(runs.glob("*/record.json"))
    return {p.parent.name: (found_by(p), history_of(p.parent)) for p in paths}


def found_by(path: Path) -> dict[str, Any]:
    """A record's result, without the checksum of the whole, which holds the times too."""
    return {name: v for name, v in result_of(read_record(path)).items() if "checksum" not in name}


def killed(tree: Path, cluster: Cluster) -> list[str]:
    """The grid through SLURM, with everything killed once; what was killed, in that order."""
    kills: list[str] = []
    batch = start(tree, SLURM, cluster.environment)
    try:
        cluster.ask("scancel", training_job(tree, cluster, batch))
        kills.append("a training job, by scancel")
        kill_processes(cluster, training_job(tree, cluster, batch))
        kills.append("all processes of a training job, by SIGKILL")
        training_job(tree, cluster, batch)
        cluster.kill_controller()
        kills.append("the controller while a job trains, by SIGKILL")
        time.sleep(5)
        cluster.start_controller()
        training_job(tree, cluster, batch, finished=2)
        kill_group(batch)
        kills.append("Snakemake while a job trains, by SIGKILL")
        batch = start(tree, SLURM, cluster.environment)
        finish(batch, tree)
    finally:
        if batch.poll() is None:
            kill_group(batch)
    return kills


def training_job(tree: Path, cluster: Cluster, batch: subprocess.Popen, finished: int = 0) -> str:
    """Wait for a job that has left a checkpoint and no record yet; its number.

    Args:
        tree: the checkout.
        cluster: where the job runs.
        batch: which must not end meanwhile.
        finished: records that must be there as well.

    Raises:
        RuntimeError: the batch ended before.
    """
    found: list[str] = []

    def trains() -> bool:
        if batch.poll() is not None:
            finish(batch, tree)
            raise RuntimeError("The batch was over before it could be disturbed.")
        enough = len(list(tree.glob("runs/*/record.json"))) >= finished
        found[:] = training_jobs(tree, cluster) if enough else []
        return bool(found)

    cluster.wait_until(trains, "training", LIMIT_S)
    return found[0]


def training_jobs(tree: Path, cluster: Cluster) -> list[str]:
    """Numbers of the running jobs of which a run has passed an epoch and lacks others."""
    plans = [json.loads(path.read_text()) for path in tree.glob(".snakemake/kdlib/*.json")]
    makes = {f"rule_{job['name']}": job["makes"] for plan in plans for job in plan["jobs"]}
    listed = cluster.ask("squeue", "-h", "-t", "RUNNING", "-o", "%i %k").splitlines()
    running = [line.split() for line in listed]
    return [number for number, rule in running if any(halfway(tree / p) for p in makes[rule])]


def halfway(record: Path) -> bool:
    """Whether a run has passed an epoch, and has no record yet."""
    return record.with_name("checkpoint.safetensors").exists() and not record.exists()


def kill_processes(cluster: Cluster, job: str) -> None:
    """SIGKILL to every process of a job, as by the system when memory is short."""
    listed = cluster.ask("scontrol", "listpids", job).splitlines()[1:]
    for line in listed:
        try:
            os.kill(int(line.split()[0]), signal.SIGKILL)
        except ProcessLookupError:
            continue
