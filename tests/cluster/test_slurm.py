"""A grid on SLURM, killed at four places, loses nothing. `bash tests/cluster/run.sh` runs it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import pytest
from cluster.slurm import MISSING, PATH, Cluster
from training import history_of, result_of

from kdlib.files import write_json
from kdlib.runs import read_record
from study.export import machine_name

ROOT = Path(__file__).parents[2]
COPIED = ("kdlib", "study", "notebooks", "profiles", "workflow")
# A teacher, a plain student, and a lock-step pair and a third student of the teacher: four jobs.
RECORDS = 5
GRID = {
    "profile": "smoke", "methods": "student,kd,at,dct+kd", "seeds": 0, "epochs": 8, "images": 600,
    "students_per_job": 2, "mem_mb": 1000, "gpus_per_job": 0,
}  # fmt: skip
LOCAL = ("--cores", "2", "--nolock", "--keep-incomplete")
# The profile that users have; but this node has no database of finished jobs, and is asked often.
SLURM = (
    "--profile=workflow/profiles/slurm", "--slurm-status-command=squeue",
    "--slurm-init-seconds-before-status-checks=2", "--latency-wait=20",
)  # fmt: skip
LIMIT_S = 600


class Batch:
    """Snakemake on the records of the grid; what it prints goes to a file."""

    def __init__(self, tree, options, environment):
        snakemake = ["-m", "snakemake", "--snakefile", "workflow/Snakefile", "records", *options]
        asked = [f"{name}={value}" for name, value in GRID.items()]
        path = f"{Path(sys.executable).parent}:{environment['PATH']}"
        own = {"PATH": path, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
        self.tree, self.log = tree, tree / "snakemake.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *snakemake, "--config", *asked], cwd=tree,
                env={**environment, **own}, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def finish(self):
        """Wait for it to end well."""
        try:
            status = self.process.wait(LIMIT_S)
        finally:
            self.kill()
        assert status == 0, "\n".join(self.log.read_text().splitlines()[-60:])

    def kill(self):
        """SIGKILL to Snakemake and what it started here; SLURM's jobs are not among them."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def training_job(self, cluster, finished=0):
        """Wait for finished records, and for a job between checkpoint and record; its number."""
        found = []

        def trains():
            assert self.process.poll() is None, "the batch was over before it could be disturbed"
            records = len(list(self.tree.glob("runs/*/record.json")))
            found[:] = self.halfway(cluster) if records >= finished else []
            return found

        cluster.wait_until(trains, "training", LIMIT_S)
        return found[0]

    def halfway(self, cluster):
        """Numbers of the running jobs of which a run has passed an epoch and lacks others."""
        plans = [json.loads(path.read_text()) for path in self.tree.glob(".snakemake/kdlib/*.json")]
        makes = {f"rule_{job['name']}": job["makes"] for plan in plans for job in plan["jobs"]}
        running = cluster.ask("squeue", "-h", "-t", "RUNNING", "-o", "%i %k").splitlines()
        for number, rule in (line.split() for line in running):
            missing = [self.tree / path for path in makes[rule] if not (self.tree / path).exists()]
            if any(path.with_name("checkpoint.safetensors").exists() for path in missing):
                yield number


def outcome(runs):
    """Of each run that has a record: what it found and how it came there, without times."""
    found = {}
    for path in runs.glob("*/record.json"):
        result = result_of(read_record(path)).items()
        kept = {n: v for n, v in result if "checksum" not in n}  # of the whole, with its times
        found[path.parent.name] = kept, history_of(path.parent)
    return found


def disturbed(tree, cluster):
    """The grid through SLURM, with everything killed once; what was killed, in that order."""
    kills, batch = [], Batch(tree, SLURM, cluster.environment)
    try:
        cluster.ask("scancel", batch.training_job(cluster))
        kills.append("a training job, by scancel")
        listed = cluster.ask("scontrol", "listpids", batch.training_job(cluster)).splitlines()[1:]
        for line in listed:  # as the system does when memory is short
            with suppress(ProcessLookupError):
                os.kill(int(line.split()[0]), signal.SIGKILL)
        kills.append("all processes of a training job, by SIGKILL")
        batch.training_job(cluster)
        controller = cluster.daemons.pop("slurmctld")
        controller.kill()  # as of a machine that loses its power
        controller.wait()
        kills.append("the controller while a job trains, by SIGKILL")
        time.sleep(5)
        cluster.start_controller()
        batch.training_job(cluster, finished=2)
        batch.kill()
        kills.append("Snakemake while a job trains, by SIGKILL")
        batch = Batch(tree, SLURM, cluster.environment)
        batch.finish()
    finally:
        batch.kill()
    return kills


def provenance():
    """Which code, packages and machine."""
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=ROOT, text=True).strip()
    slurm = subprocess.check_output([shutil.which("slurmctld", path=PATH), "-V"], text=True)
    versions = {n: version(n) for n in ("snakemake", "snakemake-executor-plugin-slurm")}
    where = {"cores": len(os.sched_getaffinity(0)), "machine": machine_name()}
    return {"commit": commit, "versions": {**versions, "slurm": slurm.split()[-1]}, **where}


@pytest.mark.cluster
@pytest.mark.skipif(bool(MISSING), reason=f"no {', '.join(MISSING)} here: tests/cluster/run.sh")
def test_every_record_is_there_and_equal_to_that_of_a_grid_left_alone():
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="kdlib-", ignore_cleanup_errors=True) as folder:
        tree, place = Path(folder) / "tree", Path(folder) / "slurm"
        for name in COPIED:  # a checkout of its own, so that its runs are no one else's
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        Batch(tree, LOCAL, dict(os.environ)).finish()
        alone, alone_s = outcome(tree / "runs"), time.perf_counter() - start
        (tree / "runs").rename(tree / "runs-left-alone")
        place.mkdir()
        with Cluster(place) as cluster:
            kills = disturbed(tree, cluster)
            submitted = len(cluster.ask("squeue", "-h", "-o", "%i", "--states=all").split())
        found = outcome(tree / "runs")
    figures = {
        "jobs_submitted": submitted, "kills": kills, "records": len(found),
        "equal": sum(found.get(run) == result for run, result in alone.items()),
        "seconds": round(time.perf_counter() - start), "seconds_left_alone": round(alone_s),
        "load": round(os.getloadavg()[0], 1), "provenance": provenance(),
    }  # fmt: skip
    print(json.dumps(figures, indent=1))
    if to := os.environ.get("KDLIB_CLUSTER_TO"):
        write_json(Path(to), figures)
    assert len(kills) == 4 and submitted > 4
    assert figures["records"] == figures["equal"] == RECORDS
