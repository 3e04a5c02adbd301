"""A grid on SLURM, killed at four places, loses nothing. `bash tests/cluster/run.sh` runs it."""

import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import pytest
from training import check_like

from kdlib.files import write_json
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
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"  # with the daemons, which not every user's has
MISSING = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]


class Cluster:
    """SLURM's controller and a node that runs two jobs at once, for as long as ``with`` lasts.

    All of its state lies in ``folder``, empty and of a short path, for sockets have short names; it
    has a key of its own and free ports, and what is started is ended by its process, not its name.
    """

    def __init__(self, folder):
        self.folder, self.daemons, self.user = folder, {}, getpass.getuser()
        settings = {"SLURM_CONF": f"{folder}/slurm.conf", "PATH": f"{folder}/bin:{PATH}"}
        self.environment = {**os.environ, **settings}

    def __enter__(self):
        try:
            host = self.configure()
            files = ("pid-file", "log-file", "seed-file")
            options = [f"--{name}={self.folder}/munged.{name}" for name in files]
            key, place = self.folder / "munge.key", self.folder / "munge.socket"
            self.start("munged", "-F", "--force", f"--key-file={key}", f"-S{place}", *options)
            self.wait_until(place.exists, "munge socket")
            self.start_controller()
            self.start("slurmd", "-D", "-N", host)
            self.wait_until(lambda: "idle" in self.ask("sinfo", "-h", "-o", "%t"), "an idle node")
        except BaseException:
            self.__exit__()
            raise
        return self

    def configure(self):
        """Write the configuration, munge's key and an ``srun``; returns the node's name."""
        for name in ("state", "spool", "bin"):
            (self.folder / name).mkdir(parents=True)
        with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("", 0)) as two:
            ports = [probe.getsockname()[1] for probe in (one, two)]
        host = socket.gethostname().partition(".")[0]
        asked = Path(__file__).with_name("slurm.conf").read_text(encoding="utf-8")
        text = asked.format(host=host, user=self.user, folder=self.folder, ports=ports)
        (self.folder / "slurm.conf").write_text(text)
        key, srun = self.folder / "munge.key", self.folder / "bin" / "srun"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        # Snakemake's plugin drops all SLURM_... before srun, which then looks in /etc.
        settings, real = self.environment["SLURM_CONF"], shutil.which("srun", path=PATH)
        srun.write_text(f'#!/bin/sh\nSLURM_CONF="{settings}" exec {real} "$@"\n')
        srun.chmod(0o755)
        return host

    def start(self, program, *arguments):
        words = [shutil.which(program, path=PATH), *arguments]
        with (self.folder / f"{program}.out.log").open("ab") as out:
            process = subprocess.Popen(words, env=self.environment, stdout=out, stderr=out)
        self.daemons[program] = process

    def start_controller(self):
        """Start slurmctld, or start it again where it left off."""
        self.start("slurmctld", "-D", "-i")
        self.wait_until(lambda: "UP" in self.ask("scontrol", "ping"), "the controller")

    def ask(self, *command):
        """What a command of SLURM's prints; nothing if it fails."""
        return subprocess.run(command, env=self.environment, capture_output=True, text=True).stdout

    def wait_until(self, holds, what, limit_s=60):
        end = time.monotonic() + limit_s
        while not holds():
            if time.monotonic() > end:
                logs = [f"{p.name}:\n{p.read_text()[-1500:]}" for p in self.folder.glob("*.log")]
                raise TimeoutError("\n".join([f"No {what} within {limit_s:g} s.", *logs]))
            time.sleep(0.2)

    def __exit__(self, *_):
        """End its jobs and daemons; nothing stays behind."""
        if "slurmctld" in self.daemons:
            self.ask("scancel", "--signal=KILL", "--full", "--user", self.user)
            self.ask("scancel", "--user", self.user)
        for name in ("slurmd", "slurmctld", "munged"):
            if name in self.daemons:
                self.daemons[name].terminate()
                self.daemons[name].wait(60)


class Batch:
    """Snakemake on the records of the grid; what it prints goes to a file."""

    def __init__(self, tree, options, environment):
        asked = [f"{name}={value}" for name, value in GRID.items()]
        words = ["--snakefile", "workflow/Snakefile", "records", *options, "--config", *asked]
        path = f"{Path(sys.executable).parent}:{environment['PATH']}"
        own = {"PATH": path, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
        self.tree, self.log, self.since = tree, tree / "snakemake.log", 0.0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "snakemake", *words], cwd=tree, stdout=log, stderr=log,
                env={**environment, **own}, start_new_session=True,
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
        """Wait for finished records, and for a job between two epochs; its number.

        An epoch has passed since the last such job, so that it is none that was just killed.
        """
        found = []

        def trains():
            assert self.process.poll() is None, "the batch was over before it could be disturbed"
            records = len(list(self.tree.glob("runs/*/record.json")))
            found[:] = self.halfway(cluster) if records >= finished else []
            return found

        cluster.wait_until(trains, "training", LIMIT_S)
        self.since = time.time()
        return found[0]

    def halfway(self, cluster):
        """Numbers of the running jobs of which a run has passed an epoch and lacks others."""
        plans = [json.loads(path.read_text()) for path in self.tree.glob(".snakemake/kdlib/*.json")]
        makes = {f"rule_{job['name']}": job["makes"] for plan in plans for job in plan["jobs"]}
        running = cluster.ask("squeue", "-h", "-t", "RUNNING", "-o", "%i %k").splitlines()
        for number, rule in (line.split() for line in running):
            missing = [self.tree / path for path in makes[rule] if not (self.tree / path).exists()]
            for checkpoint in (path.with_name("checkpoint.safetensors") for path in missing):
                with suppress(FileNotFoundError):  # not yet written, or no longer needed
                    if checkpoint.stat().st_mtime > self.since:
                        yield number


def disturbed(tree, cluster):
    """The grid through SLURM, with everything killed once; what was killed, in that order."""
    batch = Batch(tree, SLURM, cluster.environment)
    try:
        cluster.ask("scancel", batch.training_job(cluster))
        yield "a training job, by scancel"
        listed = cluster.ask("scontrol", "listpids", batch.training_job(cluster)).splitlines()[1:]
        for line in listed:  # as the system does when memory is short
            with suppress(ProcessLookupError):
                os.kill(int(line.split()[0]), signal.SIGKILL)
        yield "all processes of a training job, by SIGKILL"
        batch.training_job(cluster)
        controller = cluster.daemons.pop("slurmctld")
        controller.kill()  # as of a machine that loses its power
        controller.wait()
        yield "the controller while a job trains, by SIGKILL"
        time.sleep(5)
        cluster.start_controller()
        batch.training_job(cluster, finished=2)
        batch.kill()
        yield "Snakemake while a job trains, by SIGKILL"
        batch = Batch(tree, SLURM, cluster.environment)
        batch.finish()
    finally:
        batch.kill()


@pytest.mark.cluster
@pytest.mark.skipif(bool(MISSING), reason=f"no {', '.join(MISSING)} here: tests/cluster/run.sh")
def test_every_record_is_there_and_equal_to_that_of_a_grid_left_alone():
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="kdlib-", ignore_cleanup_errors=True) as folder:
        tree = Path(folder) / "tree"
        for name in COPIED:  # a checkout of its own, so that its runs are no one else's
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        Batch(tree, LOCAL, dict(os.environ)).finish()
        alone_s, alone = time.perf_counter() - start, tree / "runs-left-alone"
        (tree / "runs").rename(alone)
        with Cluster(Path(folder) / "slurm") as cluster:
            kills = list(disturbed(tree, cluster))
            submitted = len(cluster.ask("squeue", "-h", "-o", "%i", "--states=all").split())
        found = list((tree / "runs").glob("*/record.json"))
        for path in alone.glob("*/record.json"):
            check_like(tree / "runs" / path.parent.name, path.parent)
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=ROOT, text=True).strip()
    slurm = subprocess.check_output([shutil.which("slurmctld", path=PATH), "-V"], text=True)
    versions = {n: version(n) for n in ("snakemake", "snakemake-executor-plugin-slurm")}
    figures = {
        "jobs_submitted": submitted, "kills": kills, "records": len(found), "equal": len(found),
        "seconds": round(time.perf_counter() - start), "seconds_left_alone": round(alone_s),
        "load": round(os.getloadavg()[0], 1), "provenance": {
            "commit": commit, "versions": {**versions, "slurm": slurm.split()[-1]},
            "cores": len(os.sched_getaffinity(0)), "machine": machine_name(),
        },
    }  # fmt: skip
    print(json.dumps(figures, indent=1))
    if to := os.environ.get("KDLIB_CLUSTER_TO"):
        write_json(Path(to), figures)
    assert len(kills) == 4 and submitted > 4
    assert figures["records"] == figures["equal"] == RECORDS
