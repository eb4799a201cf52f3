"""A Docker engine to test on: the one that runs here, else one of our own for as long as we test.

Rule: what is made here is gone afterwards: containers, networks, volumes, and for an engine of our
own its processes, mounts, bridge and packet filter rules. On somebody else's engine the images
stay, under the name ``etlt-test``, because they are slow to make.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

REPOSITORY = Path(__file__).parents[3]
START_SECONDS = 60
BUILD_SECONDS = 600
COMMAND_SECONDS = 120
KNOWS_BPF = 23  # the first engine that knows CAP_BPF and CAP_PERFMON
FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
# What iptables-save says where no rule was ever made is nothing, and to restore that does nothing.
NO_RULES = "".join(
    f"*{table}\n" + "".join(f":{chain} ACCEPT\n" for chain in chains.split()) + "COMMIT\n"
    for table, chains in (
        ("filter", "INPUT FORWARD OUTPUT"),
        ("nat", "PREROUTING INPUT OUTPUT POSTROUTING"),
    )
)
HARDENED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")


class NoEngineError(Exception):
    """There is no engine to test on; the message says why."""


@dataclass
class Container:
    """One container, removed by the engine's `containers`."""

    engine: Engine
    id: str

    def inspect(self) -> dict[str, Any]:
        """Return all that the engine knows of it."""
        (known,) = json.loads(self.engine.docker("inspect", self.id))
        found: dict[str, Any] = known
        return found

    @property
    def state(self) -> dict[str, Any]:
        """Return its state: Status, Health, ExitCode, Pid."""
        state: dict[str, Any] = self.inspect()["State"]
        return state

    @property
    def health(self) -> str:
        """Return healthy, unhealthy or starting."""
        return str(self.state["Health"]["Status"])

    @property
    def address(self) -> str:
        """Return its address on the first network it is in."""
        networks = self.inspect()["NetworkSettings"]["Networks"]
        return str(next(iter(networks.values()))["IPAddress"])

    @property
    def url(self) -> str:
        """Return the daemon's metrics, as `tests.probes` asks for them."""
        return f"http://{self.address}:9700/metrics"

    def logs(self) -> str:
        """Return what it wrote to either stream."""
        return self.engine.run("logs", self.id).stdout

    def shell(self, command: str) -> str:
        """Run *command* in it and return what it says on either stream."""
        return self.engine.run("exec", self.id, "sh", "-c", command).stdout


@dataclass
class Engine:
    """The docker command and the engine it talks to."""

    environment: Mapping[str, str]
    is_ours: bool
    started: list[Container] = field(default_factory=list)

    def run(
        self, *arguments: str, seconds: float = COMMAND_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Run ``docker ARGUMENTS``; both streams are in stdout."""
        return subprocess.run(
            ["docker", *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
        )

    def docker(self, *arguments: str, seconds: float = COMMAND_SECONDS) -> str:
        """Run ``docker ARGUMENTS``, which must succeed, and return what it said."""
        done = self.run(*arguments, seconds=seconds)
        assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stdout}"
        return done.stdout.strip()

    @property
    def version(self) -> int:
        """Return the engine's major version."""
        return int(self.docker("version", "--format", "{{.Server.Version}}").partition(".")[0])

    @property
    def probe_capabilities(self) -> tuple[str, ...]:
        """Return the options for the least that the probe needs on this engine."""
        names = ("BPF", "PERFMON") if self.version >= KNOWS_BPF else ("SYS_ADMIN",)
        return tuple(f"--cap-add={name}" for name in names)

    def has(self, image: str) -> bool:
        """Tell whether *image* is there or can be had."""
        return not self.run("image", "inspect", image).returncode or self._can_pull(image)

    def _can_pull(self, image: str) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return not self.run("pull", "--quiet", image, seconds=BUILD_SECONDS).returncode
        return False

    def build(self, tag: str, dockerfile: Path, context: Path = REPOSITORY, **args: str) -> str:
        """Build *tag* with the classic builder, which takes less than BuildKit does."""
        options = [
            part for name, value in args.items() for part in ("--build-arg", f"{name}={value}")
        ]
        done = subprocess.run(
            ["docker", "build", "--tag", tag, "--file", str(dockerfile), *options, str(context)],
            env={**self.environment, "DOCKER_BUILDKIT": "0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=BUILD_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{dockerfile.name} does not build: {done.stdout[-4000:]}"
        return tag

    def start(self, *arguments: str) -> Container:
        """Run ``docker run --detach ARGUMENTS``."""
        done = self.run("run", "--detach", *arguments)
        assert done.returncode == 0, f"docker run {' '.join(arguments)}: {done.stdout}"
        container = Container(self, done.stdout.split()[-1])
        self.started.append(container)
        return container

    def remove_containers(self) -> None:
        """Remove what `start` started."""
        if self.started:
            ids = [container.id for container in self.started]
            self.docker("rm", "--force", "--volumes", *ids)
        self.started.clear()


def running_engine() -> Engine | None:
    """Return the engine that the docker command finds, if one answers."""
    engine = Engine(dict(os.environ), is_ours=False)
    asked = engine.run("version", "--format", "{{.Server.Version}}", seconds=START_SECONDS)
    return None if asked.returncode else engine


@contextlib.contextmanager
def any_engine() -> Iterator[Engine]:
    """Yield an engine.

    Raises NoEngineError.
    """
    if shutil.which("docker") is None:
        raise NoEngineError("there is no docker command (apt-get install docker.io)")
    running = running_engine()
    if running is not None:
        yield running
    elif os.geteuid() != 0:
        raise NoEngineError("no engine answers, and only root may start one")
    elif shutil.which("dockerd") is None:
        raise NoEngineError(
            "no engine answers, and there is no dockerd (apt-get install docker.io)"
        )
    elif shutil.which("iptables-save") is None:
        raise NoEngineError(
            "no engine answers, and dockerd needs iptables (apt-get install iptables)"
        )
    else:
        with _own_engine() as engine:
            yield engine


@contextlib.contextmanager
def _own_engine() -> Iterator[Engine]:
    """Start dockerd with everything it keeps in one folder; it dies with this thread."""
    # Not pytest's folder: a socket's path is short, and images do not belong into memory.
    folder = Path(tempfile.mkdtemp(prefix="etlt-engine-", dir="/var/tmp"))
    rules, bridge = _packet_filter(), Path("/sys/class/net/docker0").exists()
    forwards = FORWARDING.read_text()
    environment = {**os.environ, "DOCKER_HOST": f"unix://{folder}/socket"}
    environment.pop("DOCKER_CONTEXT", None)
    try:
        with _dockerd(folder, environment):
            yield Engine(environment, is_ours=True)
    finally:
        _unmount(folder)
        shutil.rmtree(folder, ignore_errors=True)
        if not bridge:
            subprocess.run(["ip", "link", "delete", "docker0"], capture_output=True, check=False)
        subprocess.run(["iptables-restore"], input=rules, text=True, check=False)
        FORWARDING.write_text(forwards)


@contextlib.contextmanager
def _dockerd(folder: Path, environment: Mapping[str, str]) -> Iterator[None]:
    (folder / "daemon.json").write_text("{}")
    command = [
        *("setpriv", "--pdeathsig", "TERM", "dockerd"),
        *("--config-file", f"{folder}/daemon.json", "--host", environment["DOCKER_HOST"]),
        *("--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec"),
        *("--pidfile", f"{folder}/pid"),
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    engine = Engine(environment, is_ours=True)
    try:
        until(
            lambda: process.poll() is not None or not engine.run("version").returncode,
            START_SECONDS,
        )
        if process.poll() is not None:
            last = (folder / "log").read_text().strip().splitlines()[-1:]
            raise NoEngineError(f"dockerd does not start here: {' '.join(last)}")
        yield
    finally:
        process.terminate()
        process.wait(START_SECONDS)


def _packet_filter() -> str:
    saved = subprocess.run(["iptables-save"], capture_output=True, text=True, check=False).stdout
    return saved or NO_RULES


def _unmount(folder: Path) -> None:
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in reversed([mount for mount in mounts if mount.startswith(f"{folder}/")]):
        subprocess.run(["umount", "--lazy", mount], capture_output=True, check=False)
