"""Two namespaces and the links between them: one for the load, one for the daemon's metrics.

Rule: the metrics never share the link that is made worse. A scrape would take its share of the rate
and fall to its losses, and what asks how the daemon is would change how it is.

Nothing appears in the namespace of the machine: the links are made inside the two, and leave with
them.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import struct
import subprocess
import sys
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from loadclient.interrupts import deaf
from loadclient.network.forwarder import CALM, COUNT, ROUGH
from loadclient.network.namespaces import Namespace, new_namespace
from loadclient.options import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from loadclient.network.conditions import Conditions

TUN = Path("/dev/net/tun")
TUNSETIFF = 0x400454CA  # linux/if_tun.h
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
LOAD, METRICS = "load", "metrics"  # names of the devices, the same at both ends
# RFC 5737: addresses that nobody has. Hardware addresses of our own: they need not be asked for, so
# that no lost ARP frame costs a second.
ENDS = {LOAD: ("192.0.2.1", "192.0.2.2"), METRICS: ("198.51.100.1", "198.51.100.2")}
HARDWARE = ("02:00:00:00:00:01", "02:00:00:00:00:02")
TAP_QUEUE = 20_000  # frames that wait for the forwarder, so that it alone decides what is dropped
STOP_SECONDS = 5.0
FORWARDER = (sys.executable, "-m", "loadclient.network.forwarder")


class NetworkFailedError(Exception):
    """The network could not be made, or broke; the message says what failed."""


class Emulation(Protocol):
    """What makes the link worse."""

    name: str
    because: str

    def calm(self) -> None:
        """Lose nothing from now on."""

    def roughen(self) -> None:
        """Lose as the conditions say."""

    def counts(self) -> dict[str, float]:
        """Return totals of what was done to the frames so far."""


@dataclass(frozen=True, slots=True)
class Network:
    """A client's and a server's namespace, linked."""

    client: Namespace
    server: Namespace
    conditions: Conditions
    emulation: Emulation

    @property
    def server_command(self) -> list[str]:
        """What to put before a command so that it runs on the server's side, with the same pid."""
        return within(self.server)

    @property
    def daemon_flags(self) -> list[str]:
        """Where a daemon on the server's side listens."""
        return ["--host", ENDS[LOAD][1], "--metrics-host", ENDS[METRICS][1]]


@contextmanager
def network(conditions: Conditions) -> Iterator[Network]:
    """Make the namespaces and the links; all of it is gone when the block ends, however it ends.

    Raises UsageError where this cannot be done, and NetworkFailedError.
    """
    _check(conditions)
    with ExitStack() as stack:
        try:
            client = stack.enter_context(new_namespace())
            server = stack.enter_context(new_namespace())
        except OSError as error:
            raise UsageError(
                f'--netem "{conditions}": this system lets nobody make a network namespace '
                f"({error.strerror})."
            ) from error
        _join(client, server, METRICS)
        emulation = stack.enter_context(_emulation(conditions, client, server))
        yield Network(client, server, conditions, emulation)


def _check(conditions: Conditions) -> None:
    said = f'--netem "{conditions}"'
    if os.geteuid():
        raise UsageError(f"{said}: it makes network namespaces, which needs root.")
    for program, package in (("ip", "iproute2"), ("nsenter", "util-linux")):
        if shutil.which(program) is None:
            raise UsageError(f'{said}: the program "{program}" (package {package}) is missing.')


@contextmanager
def _emulation(conditions: Conditions, client: Namespace, server: Namespace) -> Iterator[Emulation]:
    """Link the two for the load by the best means that there is."""
    if conditions.is_plain:
        _join(client, server, LOAD)
        yield _Plain()
        return
    because = _why_no_netem(conditions)
    if not because:
        _join(client, server, LOAD)
        yield _Netem(conditions, (client, server))
        return
    if not TUN.exists():
        raise UsageError(
            f'--netem "{conditions}": there is no netem here ({because}), and without {TUN} no '
            "substitute either."
        )
    with _tap(conditions, client, server, because) as forwarder:
        yield forwarder


class _Plain:
    """A veth pair to which nothing is added."""

    name = "veth"
    because = ""

    def calm(self) -> None:
        pass

    def roughen(self) -> None:
        pass

    def counts(self) -> dict[str, float]:
        return {}


class _Netem:
    """The kernel's own, at both ends of a veth pair."""

    name = "netem"
    because = ""

    def __init__(self, conditions: Conditions, ends: Sequence[Namespace]) -> None:
        self._conditions = conditions
        self._ends = ends
        for end in ends:
            # One segment at a time, as on a wire: netem would delay and lose 64 KiB at once.
            _run(end, ["ip", "link", "set", "dev", LOAD, "gso_max_segs", "1"])
        self._set("add", loss=conditions.loss)

    def calm(self) -> None:
        self._set("change", loss=0)

    def roughen(self) -> None:
        self._set("change", loss=self._conditions.loss)

    def _set(self, verb: str, *, loss: float) -> None:
        for end in self._ends:
            _run(end, ["tc", "qdisc", verb, "dev", LOAD, "root", *netem(self._conditions, loss)])

    def counts(self) -> dict[str, float]:
        found = [
            json.loads(_run(end, ["tc", "-s", "-j", "qdisc", "show", "dev", LOAD]))
            for end in self._ends
        ]
        rows = [row for disciplines in found for row in disciplines if row["kind"] == "netem"]
        return {
            "frames_forwarded": sum(row["packets"] for row in rows),
            "frames_dropped": sum(row["drops"] for row in rows),  # lost by lot, or queue full
        }


def netem(conditions: Conditions, loss: float) -> list[str]:
    """Return tc's words for the conditions with another loss; what is left out is none."""
    words = ["netem", "limit", str(conditions.queued_frames)]
    if conditions.delay:
        words += ["delay", f"{conditions.delay:g}ms"]
        words += [f"{conditions.jitter:g}ms"] if conditions.jitter else []
    words += ["loss", f"{loss:g}%"] if loss else []
    words += ["rate", f"{conditions.rate * 1000:.0f}kbit"] if conditions.rate else []
    return words


def _why_no_netem(conditions: Conditions) -> str:
    """Return why the kernel's netem cannot be used; nothing if it can: asked by trying."""
    if shutil.which("tc") is None:
        return "the program tc is missing"
    with new_namespace() as spare:
        words = ["tc", "qdisc", "add", "dev", "lo", "root", *netem(conditions, conditions.loss)]
        answer = _try(spare, words)
    said = [line for line in answer.stderr.splitlines() if line.strip()] or [""]
    return said[0].removeprefix("Error: ").rstrip(".") if answer.returncode else ""


class _Forwarder:
    """Our own process between two TAP devices."""

    name = "tap"

    def __init__(self, process: subprocess.Popen[bytes], because: str) -> None:
        self._process = process
        self.because = because

    def calm(self) -> None:
        self._ask(CALM)

    def roughen(self) -> None:
        self._ask(ROUGH)

    def counts(self) -> dict[str, float]:
        return self._ask(COUNT)

    def _ask(self, command: bytes) -> dict[str, float]:
        assert self._process.stdin is not None  # noqa: S101 - pipes, as asked
        assert self._process.stdout is not None  # noqa: S101
        try:
            self._process.stdin.write(command)
            self._process.stdin.flush()
            counts: dict[str, float] = json.loads(self._process.stdout.readline())
        except (OSError, ValueError) as error:
            raise NetworkFailedError("the forwarder of the emulated network died") from error
        return counts


@contextmanager
def _tap(
    conditions: Conditions, client: Namespace, server: Namespace, because: str
) -> Iterator[_Forwarder]:
    """Put a TAP device into each namespace and a forwarder between them."""
    with ExitStack() as stack:
        fds = []
        for side, end in enumerate((client, server)):
            fds.append(_open_tap(end))
            stack.callback(os.close, fds[-1])
            _configure(end, LOAD, side, f"link set {LOAD} txqueuelen {TAP_QUEUE}")
        with deaf():
            process = subprocess.Popen(  # noqa: S603 - our own module
                [*FORWARDER, str(conditions), *map(str, fds)],
                pass_fds=fds,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        stack.callback(_stop, process)
        forwarder = _Forwarder(process, because)
        forwarder.counts()  # it works
        yield forwarder


def _open_tap(end: Namespace) -> int:
    """Make a TAP device in *end*; it lives as long as the descriptor."""
    try:
        with end.entered():
            fd = os.open(TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH", LOAD.encode(), IFF_TAP | IFF_NO_PI))
            except BaseException:
                os.close(fd)
                raise
    except OSError as error:
        raise NetworkFailedError(f"{TUN}: no TAP device can be made: {error.strerror}") from error
    return fd


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the forwarder: its lifeline first, the hard way if that does not do."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):  # it died, and a command to it was never read
                pipe.close()
    try:
        process.wait(STOP_SECONDS)
    except BaseException:
        process.kill()
        process.wait()
        raise


# Devices.


def _join(client: Namespace, server: Namespace, name: str) -> None:
    """Link the two by a veth pair."""
    _batch(client, f"link add {name} type veth peer name {name} netns {server.path}")
    for side, end in enumerate((client, server)):
        _configure(end, name, side)


def _configure(end: Namespace, name: str, side: int, *more: str) -> None:
    """Give a device its addresses, tell it those of the other end, and set it up."""
    own, other = ENDS[name][side], ENDS[name][1 - side]
    _batch(
        end,
        "link set lo up",
        f"link set {name} address {HARDWARE[side]} addrgenmode none",  # no IPv6: it would talk
        *more,
        f"address add {own}/24 dev {name}",
        f"link set {name} up",
        f"neighbour replace {other} lladdr {HARDWARE[1 - side]} dev {name} nud permanent",
    )


def _batch(end: Namespace, *lines: str) -> None:
    _run(end, ["ip", "-batch", "-"], "\n".join(lines) + "\n")


def within(end: Namespace) -> list[str]:
    """Return what to put before a command so that it runs in *end*, with the same pid."""
    return ["nsenter", f"--net={end.path}"]


def _run(end: Namespace, command: Sequence[str], text: str = "") -> str:
    answer = _try(end, command, text)
    if answer.returncode:
        raise NetworkFailedError(
            f"the network could not be made: {' '.join(command)}: {answer.stderr.strip()}"
        )
    return answer.stdout


def _try(
    end: Namespace, command: Sequence[str], text: str = ""
) -> subprocess.CompletedProcess[str]:
    with deaf():  # half a network is none
        return subprocess.run(  # noqa: S603 - ip and tc, as the user's path has them
            [*within(end), *command], input=text, capture_output=True, text=True, check=False
        )
