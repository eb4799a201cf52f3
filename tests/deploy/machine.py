"""A real systemd, booted from this system's own files in namespaces of its own; see boot.sh.

Nothing is downloaded for it and it is up in a second. It has its own processes, mounts, network
and control group, and nothing of it is left when it has been stopped.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import os
import signal
import socket
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from prometheus_client.parser import text_string_to_metric_families

from tests.system.rig import Client
from tests.waiting import PATIENCE_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
BOOT = str(HERE / "boot.sh")
IN_OWN_MOUNTS = ("unshare", "--mount", "--propagation=private")
NOT_POSSIBLE = 77
COMMAND_SECONDS = 300.0  # pip on a slow network; everything else takes a second
POWER_OFF = signal.SIGRTMIN + 4  # systemd(1)
PIPS_OWN = ("pip_", "http_proxy", "https_proxy", "no_proxy", "ssl_cert_", "requests_ca_")
CHECKOUT = "/srv/etlt"
DROP_INS = "/run/systemd/system"

T = TypeVar("T")
Samples = list[tuple[str, dict[str, str], float]]


class NotPossibleError(Exception):
    """This machine does not let anybody boot systemd in namespaces; the message says why."""


class Machine:
    """A booted systemd and what a test does to it."""

    def __init__(self) -> None:
        if os.geteuid() != 0:
            raise NotPossibleError("needs root, to make namespaces")
        self._stage = tempfile.TemporaryDirectory(prefix="etlt-machine-")
        self.clients: list[Client] = []
        self._group = f"etlt-test-{os.getpid()}"
        self._says = Path(self._stage.name).with_suffix(".log")
        with self._says.open("wb") as says:
            self._process = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig=KILL", *IN_OWN_MOUNTS),
                    *(BOOT, "boot", self._stage.name, str(REPOSITORY), self._group),
                ],
                stdin=subprocess.DEVNULL,
                stdout=says,
                stderr=says,
            )
        try:
            self._wait_until_up()
        except BaseException:
            self.stop()
            raise

    def _wait_until_up(self) -> None:
        until(lambda: self._process.poll() is not None or self._first_process())
        if self._process.poll() is not None:
            said = self._says.read_text().strip()
            if self._process.returncode == NOT_POSSIBLE:
                raise NotPossibleError(said.splitlines()[-1])
            raise AssertionError(f"systemd was not started: {said}")
        self.leader = self._first_process()
        self._network = ThreadPoolExecutor(1, initializer=enter_network, initargs=(self.leader,))
        up = ("running", "degraded")  # degraded: a unit of this system's failed, none of ours
        until(lambda: self.systemctl("is-system-running", check=False) in up)

    def _first_process(self) -> int:
        """Return the pid of systemd, 0 until there is one."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        with contextlib.suppress(OSError):  # it has just ended
            for child in children.read_text().split():
                if Path(f"/proc/{child}/comm").read_text() == "systemd\n":
                    return int(child)
        return 0

    def stop(self) -> None:
        """Power it off, by force if need be, and remove what the kernel keeps of it."""
        for client in self.clients:
            client.sock.close()
        leader = self._first_process() if self._process.poll() is None else 0
        if leader:
            os.kill(leader, POWER_OFF)
        try:
            self._process.wait(PATIENCE_SECONDS if leader else 0)
        except subprocess.TimeoutExpired:
            self._process.kill()  # its child, systemd, is killed with it, and all of its own
            self._process.wait()
        self._says.unlink()
        self._stage.cleanup()

        def is_clean() -> bool:  # the kernel takes a moment to count the last process as gone
            command = [*IN_OWN_MOUNTS, BOOT, "clean", self._group]
            done = subprocess.run(command, check=False, capture_output=True)
            return done.returncode in (0, NOT_POSSIBLE)

        until(is_clean)

    # -- commands --------------------------------------------------------------------------------

    def run(self, *command: str, check: bool = True, our_network: bool = False) -> str:
        """Run *command* as its root; return what it said, on both streams, stripped."""
        done = subprocess.run(
            [*self.within(our_network=our_network), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        said = done.stdout.strip()
        assert not check or done.returncode == 0, f"{' '.join(command)}: {said}\n{self.log()}"
        return said

    def within(self, *, our_network: bool = False) -> list[str]:
        """Return what is put before a command to run it as its root."""
        namespaces = ["mount", "uts", "ipc", "pid", *(["net"] * (not our_network))]
        kept = [name for name in os.environ if name.lower().startswith(PIPS_OWN)]
        return [
            *("nsenter", f"--target={self.leader}", *(f"--{name}" for name in namespaces)),
            *("env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C"),
            *(f"{name}={os.environ[name]}" for name in kept),
        ]

    def succeeds(self, *command: str) -> bool:
        """Tell whether *command* exits with 0."""
        return self.run("sh", "-c", '"$@" >/dev/null 2>&1 && echo yes || true', "sh", *command) == (
            "yes"
        )

    def systemctl(self, *arguments: str, check: bool = True) -> str:
        return self.run("systemctl", "--no-pager", *arguments, check=check)

    def install(self, *arguments: str) -> str:
        """Run the documented command from a checkout; pip needs our network."""
        return self.run(f"{CHECKOUT}/deploy/install.sh", *arguments, our_network=True)

    def show(self, unit: str, name: str) -> str:
        """Return one property of *unit*."""
        return self.systemctl("show", f"--property={name}", "--value", unit)

    def main_pid(self, unit: str) -> int:
        """Return the number that the machine knows its main process by."""
        return int(self.show(unit, "MainPID"))

    def status_of(self, pid: int) -> dict[str, str]:
        """Return /proc/PID/status of the machine's process *pid*."""
        lines = self.run("cat", f"/proc/{pid}/status").splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def drop_in(self, unit: str, text: str) -> None:
        """Change *unit* until `reset`."""
        self.write(f"{DROP_INS}/{unit}.d/test.conf", text + "\n")
        self.systemctl("daemon-reload")

    def write(self, path: str, text: str, mode: str = "644") -> None:
        """Write a file of the machine."""
        script = 'mkdir -p "${1%/*}" && printf "%s" "$2" >"$1" && chmod "$3" "$1"'
        self.run("sh", "-c", script, "sh", path, text, mode)

    def reset(self) -> None:
        """Hang up, stop everything of ours and forget how it ended."""
        for client in self.clients:
            client.sock.close()
        self.clients.clear()
        units = [
            "etltd@*.socket",
            "etltd-metrics@*.socket",
            "etltd@*.service",
            "etltd-loops.socket",
            "etltd-loop@*.service",
            "etlt-probe.service",
        ]
        self.systemctl("stop", *units, check=False)
        self.run("sh", "-c", f"rm -rf {DROP_INS}/etlt*.d")
        self.systemctl("daemon-reload")
        self.systemctl("reset-failed")

    def journal(self, unit: str) -> list[dict[str, Any]]:
        """Return what the journal has of *unit*, by it and about it."""
        self.run("journalctl", "--sync")
        lines = self.run(
            *("journalctl", "--output=json", "--no-pager", f"--unit={unit}", "--quiet")
        )
        return [json.loads(line) for line in lines.splitlines()]

    def log(self) -> str:
        """Return the end of the journal, for whoever reads a failed test."""
        tail = ["journalctl", "--no-pager", "-n", "40", "-o", "short-monotonic"]
        command = ["nsenter", f"--target={self.leader}", "--mount", "--pid", *tail]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    # -- its network -----------------------------------------------------------------------------

    def inside(self, act: Callable[..., T], *arguments: Any) -> T:
        """Return what *act* returns in the machine's network; a socket made there stays there."""
        return self._network.submit(act, *arguments).result()

    def dial(self, port: int, rcvbuf: int = 0) -> Client:
        """Connect a client; `reset` hangs up."""
        self.clients.append(self.inside(Client, ("127.0.0.1", port), rcvbuf))
        return self.clients[-1]

    def get(self, port: int, path: str = "/metrics") -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
        connection.sock = self.inside(socket.create_connection, ("127.0.0.1", port))
        connection.sock.settimeout(PATIENCE_SECONDS)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def samples(self, port: int) -> Samples:
        """Scrape *port* once."""
        families = text_string_to_metric_families(self.get(port)[1])
        return [(s.name, s.labels, s.value) for family in families for s in family.samples]


def enter_network(pid: int) -> None:
    """Move this thread, and no other, into the network of process *pid* (setns(2))."""
    with Path(f"/proc/{pid}/ns/net").open() as namespace:
        if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), 0) != 0:
            raise OSError(ctypes.get_errno(), "setns")
