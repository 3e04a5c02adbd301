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

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"  # with the daemons, which not every user's has
MISSING = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
# `linuxproc` needs no cgroups, and nothing a database, so it runs in a container too.
# A node that was away is taken back at once; a job of a lost step ends within seconds.
CONFIGURATION = """\
ClusterName=kdlib
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_interval=2,bf_interval=2
ReturnToService=2
MinJobAge=600
KillWait=5
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=16000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


class Cluster:
    """SLURM's controller and a node that runs two jobs at once, for as long as ``with`` lasts.

    ``folder``, for its state, is empty and has a short path, for sockets have short names.
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
            (self.folder / name).mkdir()
        with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("", 0)) as two:
            ports = [probe.getsockname()[1] for probe in (one, two)]
        host = socket.gethostname().partition(".")[0]
        text = CONFIGURATION.format(host=host, user=self.user, folder=self.folder, ports=ports)
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
            self.daemons[program] = subprocess.Popen(
                words, env=self.environment, stdout=out, stderr=out
            )

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
