"""A real SLURM of one node: its own folder, its own key, free ports of the loopback interface.

Nothing of it is shared with a SLURM that the machine may have: all state lies in the folder that
is given, and what is started is ended by its own process, not by its name.
"""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
PACKAGES = ("slurm-wlm", "munge")
SYSTEM_FOLDERS = "/usr/sbin:/sbin"  # of the daemons; not on every user's path
# `linuxproc` and `none` need neither cgroups nor a database, so it runs in a container too.
# A node that was away is taken back at once; a job of a lost step ends within seconds.
CONFIGURATION = """\
ClusterName=kdlib
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPort={controller}
SlurmdPort={node}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SwitchType=switch/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_interval=2,bf_interval=2
ReturnToService=2
MinJobAge=600
KillWait=5
InactiveLimit=0
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


def missing_programs() -> list[str]:
    """The programs of SLURM and munge that this machine does not have."""
    return [name for name in PROGRAMS if shutil.which(name, path=search_path()) is None]


def search_path() -> str:
    """Where programs are looked for."""
    return f"{os.environ.get('PATH', '')}:{SYSTEM_FOLDERS}"


def free_port() -> int:
    """A TCP port of the loopback interface that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Cluster:
    """SLURM's controller and one node, for as long as the ``with`` block lasts.

    Args:
        folder: an empty folder for its state; a short path, for sockets have short names.
        cpus: jobs of one processor core that it runs at once, whatever the machine has.
        memory: of the node in MiB.
    """

    def __init__(self, folder: Path, cpus: int = 2, memory: int = 16000) -> None:
        self.folder, self.cpus, self.memory = folder, cpus, memory
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def environment(self) -> dict[str, str]:
        """Of whoever speaks to this cluster."""
        path = f"{self.folder / 'bin'}:{search_path()}"
        settings = {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": path}
        return {**os.environ, **settings}

    def __enter__(self) -> Self:
        try:
            self._configure()
            self._wrap_srun()
            self._start_munge()
            self.start_controller()
            self._start("slurmd", "-D", "-N", socket.gethostname().partition(".")[0])
            self.wait_until(lambda: "idle" in self.ask("sinfo", "-h", "-o", "%t"), "an idle node")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start_controller(self) -> None:
        """Start slurmctld, or start it again where it left off."""
        self._start("slurmctld", "-D", "-i")
        self.wait_until(lambda: "UP" in self.ask("scontrol", "ping"), "the controller")

    def kill_controller(self) -> None:
        """SIGKILL, as of a machine that loses its power."""
        daemon = self.daemons.pop("slurmctld")
        daemon.kill()
        daemon.wait()

    def ask(self, *command: str) -> str:
        """What a command of SLURM's prints; nothing if it fails."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        return done.stdout

    def jobs(self, *states: str) -> list[str]:
        """Numbers of the jobs in these states, such as ``RUNNING``; of all without any."""
        wanted = ",".join(states) or "all"
        return self.ask("squeue", "-h", "-o", "%i", f"--states={wanted}").split()

    def wait_until(self, holds: Callable[[], object], what: str, limit_s: float = 60) -> None:
        """Wait for it to hold.

        Raises:
            TimeoutError: it did not; with the ends of the daemons' logs.
        """
        end = time.monotonic() + limit_s
        while not holds():
            if time.monotonic() > end:
                raise TimeoutError(f"No {what} within {limit_s:g} s.\n{self.logs()}")
            time.sleep(0.2)

    def logs(self) -> str:
        """The last lines of each daemon's log."""
        found = sorted(self.folder.glob("*.log"))
        return "\n".join(f"{p.name}:\n" + "\n".join(_tail(p)) for p in found)

    def stop(self) -> None:
        """End its jobs and daemons; nothing stays behind."""
        if "slurmctld" in self.daemons:
            self.ask("scancel", "--signal=KILL", "--full", "--user", getpass.getuser())
            self.ask("scancel", "--user", getpass.getuser())
        for name in ("slurmd", "slurmctld", "munged"):
            if name in self.daemons:
                _end(self.daemons.pop(name))

    def _configure(self) -> None:
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        values = {
            "host": socket.gethostname().partition(".")[0],
            "user": getpass.getuser(),
            "folder": self.folder,
            "controller": free_port(),
            "node": free_port(),
            "cpus": self.cpus,
            "memory": self.memory,
        }
        (self.folder / "slurm.conf").write_text(CONFIGURATION.format(**values), encoding="utf-8")

    def _wrap_srun(self) -> None:
        """Snakemake's plugin drops all ``SLURM_...`` before srun, which then looks in ``/etc``."""
        script = self.folder / "bin" / "srun"
        script.parent.mkdir()
        real, settings = shutil.which("srun", path=search_path()), self.folder / "slurm.conf"
        script.write_text(f'#!/bin/sh\nSLURM_CONF="{settings}" exec {real} "$@"\n')
        script.chmod(0o755)

    def _start_munge(self) -> None:
        key, at = self.folder / "munge.key", self.folder
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        files = ("pid-file=munged.pid", "log-file=munged.log", "seed-file=munged.seed")
        options = [f"--{name}={at / value}" for name, _, value in (f.partition("=") for f in files)]
        socket_path = at / "munge.socket"
        self._start("munged", "-F", "--force", f"--key-file={key}", f"-S{socket_path}", *options)
        self.wait_until(socket_path.exists, "munge socket")

    def _start(self, program: str, *arguments: str) -> None:
        found = shutil.which(program, path=search_path())
        if found is None:
            raise FileNotFoundError(f"There is no {program} here; it comes with {PACKAGES}.")
        with (self.folder / f"{program}.out.log").open("ab") as out:
            self.daemons[program] = subprocess.Popen(
                [found, *arguments], env=self.environment, stdout=out, stderr=out
            )


def _tail(path: Path, lines: int = 15) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]


def _end(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(20)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
