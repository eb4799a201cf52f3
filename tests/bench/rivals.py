"""Servers under test, each behind the smallest honest adapter: how to start it, what it speaks.

None is throttled: where a server cuts slow readers off or slows talkers down by default, its limits
are raised as its manual says, so that what is measured is its fan-out.
"""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from loadclient.tether import tied

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent
START_SECONDS = 20
OURS = ("etltd et", "etltd lt")

REDIS = """
port {port}
bind 127.0.0.1
save ""
appendonly no
maxclients 18000
client-output-buffer-limit pubsub 0 0 0
"""
NATS = """
listen: "127.0.0.1:{port}"
ping_interval: "10m"
max_connections: 18000
max_pending: 1GB
write_deadline: "60s"
"""
NGIRCD = """
[Global]
    Name = bench.example.net
    Info = bench
    Ports = {port}
    Listen = 127.0.0.1
    MotdPhrase = bench
[Limits]
    MaxConnections = 0
    MaxConnectionsIP = 0
    MaxJoins = 0
    MaxPenaltyTime = 0
    PingTimeout = 3600
[Options]
    DNS = no
    Ident = no
    PAM = no
"""


@dataclass(frozen=True)
class Rival:
    """A server: its command with ``{port}`` and ``{file}``, and what its clients speak."""

    name: str
    command: tuple[str, ...]
    against: tuple[str, ...] = ()  # whose speed and cost its own are divided by
    wire: str = "plain"
    config: str = ""  # of the file; "" for a server that picks its port and prints it
    needs: str = ""  # a program or module that may be absent, and the package it is in

    @property
    def missing(self) -> str:
        """Return what is not installed here, or nothing."""
        program, _, package = self.needs.partition(" ")
        if not program or shutil.which(program) or (package == "PyPI" and find_spec(program)):
            return ""
        return f"{program} ({package})"

    @property
    def version(self) -> str:
        """Return which one of a package it is, "" for what is of here."""
        program, _, package = self.needs.partition(" ")
        if package == "PyPI":
            return f"{program} {metadata.version(program)}"
        if not program:
            return ""
        done = subprocess.run([program, "--version"], check=False, capture_output=True, text=True)
        return (done.stdout or done.stderr).splitlines()[0].strip()


@functools.cache
def compiled(source: str) -> str:
    """Compile ``c/{source}.c`` into a folder that lives as long as this process."""
    program = Path(_folder().name) / source
    command = ["cc", "-O3", "-march=native", "-o", str(program), str(HERE / "c" / f"{source}.c")]
    subprocess.run(command, check=True)
    return str(program)


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="etlt-bench-")


def daemon(name: str, against: str, mode: str, *options: str) -> Rival:
    own = (sys.executable, "-m", "etltd", "--port=0", "--metrics-port=0", "--log-format=json")
    return Rival(name, (*own, f"--mode={mode}", "--grace-seconds=0.2", *options), (against,))


def reference(name: str, mode: str, drain: str) -> Rival:
    return Rival(name, ("{batched}", mode, drain))


def asyncio_chat(loop: str, needs: str = "") -> Rival:
    return Rival(loop, (sys.executable, str(HERE / "asyncio_chat.py"), loop), OURS, needs=needs)


def packaged(name: str, command: tuple[str, ...], wire: str, config: str) -> Rival:
    return Rival(name, command, OURS, wire, config, f"{command[0]} Debian")


RIVALS = {
    rival.name: rival
    for rival in (
        reference("C et", "et", "eagain"),
        reference("C et short", "et", "short-read"),
        reference("C lt", "lt", "eagain"),
        daemon("etltd et", "C et", "et"),
        daemon("etltd et short", "C et short", "et", "--drain=short-read"),
        daemon("etltd lt", "C lt", "lt"),
        daemon("etltd message", "etltd et", "et", "--fan-out=message"),
        asyncio_chat("asyncio"),
        asyncio_chat("uvloop", needs="uvloop PyPI"),
        packaged("Redis", ("redis-server", "{file}"), "redis", REDIS),
        packaged("NATS", ("nats-server", "-c", "{file}"), "nats", NATS),
        packaged("ngIRCd", ("ngircd", "-n", "-f", "{file}"), "irc", NGIRCD),
    )
}


@contextlib.contextmanager
def running(rival: Rival) -> Iterator[tuple[int, int]]:
    """Run *rival*; yield its pid and port."""
    with tempfile.TemporaryDirectory() as folder:
        file, port = Path(folder) / "config", _free_port() if rival.config else 0
        file.write_text(rival.config.format(port=port))
        known = {"{file}": str(file)}
        if "{batched}" in rival.command:
            known["{batched}"] = compiled("batched")
        process = subprocess.Popen(
            [known.get(word, word) for word in rival.command],
            stdout=subprocess.PIPE if not rival.config else subprocess.DEVNULL,
            stderr=subprocess.PIPE if "etltd" in rival.command else subprocess.DEVNULL,
            text=True,
            preexec_fn=tied(),  # noqa: PLW1509 - there are no threads
        )
        try:
            yield process.pid, port or _port_said_by(process)
        finally:
            process.terminate()
            process.communicate(timeout=START_SECONDS)


def _port_said_by(process: subprocess.Popen[str]) -> int:
    if process.stderr is not None:  # the daemon's log
        return int(json.loads(process.stderr.readline())["chat"].rpartition(":")[2])
    assert process.stdout is not None
    return int(process.stdout.readline())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(what: str, is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {START_SECONDS} s")
        time.sleep(0.02)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
