"""Peers that are gone without a word: their link is cut, or a firewall drops what comes of them.

In two network namespaces of the test's own. Nobody's kernel says a word of it, so the daemon has to
find out; and those who are only slow, or away for a moment, must not pay for it.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import pytest

from loadclient.network.conditions import parse
from loadclient.network.link import ENDS, LOAD, METRICS, network, within
from tests.fire.hostile import Bystanders
from tests.system.rig import Client, Crowd, DaemonProcess, assert_ledger
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loadclient.network.link import Network

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(shutil.which("ip") is None, reason="the program ip is not installed"),
]

TIMEOUT_SECONDS = 3
HIGH_WATER_BYTES = 1 << 17
OPTIONS = (
    *("--peer-timeout", str(TIMEOUT_SECONDS), "--high-water-bytes", str(HIGH_WATER_BYTES)),
    *("--sndbuf", "8192"),
)
PATIENCE_SECONDS = 60.0


@pytest.fixture
def net() -> Iterator[Network]:
    """Return a daemon's and its guests' namespace, with two links between them."""
    with network(parse("veth")) as made:
        yield made


class Site:
    """Daemons in one namespace; guests come from the other over two links."""

    def __init__(self, made: Network, folder: Path, stack: ExitStack) -> None:
        self.net, self._folder, self._stack = made, folder, stack

    def daemon(self, name: str, mode: str, *options: str) -> DaemonProcess:
        started = DaemonProcess(
            *(mode, "--host", "0.0.0.0", *options),
            log=self._folder / f"{name}.log",
            prefix=within(self.net.server),
        )
        self._stack.callback(started.close)
        started.wait_until_listening()
        return started

    def guest(self, daemon: DaemonProcess, link: str = LOAD, rcvbuf: int = 0) -> Client:
        """Connect over a link, or within the daemon's own namespace (`lo`)."""
        before = daemon.metrics()["connections"]
        where = self.net.server if link == "lo" else self.net.client
        host = "127.0.0.1" if link == "lo" else ENDS[link][1]
        with where.entered():
            client = Client((host, daemon.address[1]), rcvbuf)
        self._stack.callback(client.sock.close)
        until(lambda: daemon.metrics()["connections"] == before + 1)
        return client

    def run(self, *command: str) -> None:
        subprocess.run([*within(self.net.client), *command], check=True)

    def cut_off(self) -> None:
        """Take one link down; have a firewall drop what comes over the other, if there is one."""
        self.run("ip", "link", "set", "dev", LOAD, "down")
        if shutil.which("iptables"):
            self.run("iptables", "-A", "INPUT", "-i", METRICS, "-j", "DROP")
        else:  # the address is nobody's then: what comes for it is dropped as well
            self.run("ip", "address", "flush", "dev", METRICS)


@pytest.fixture
def site(net: Network, tmp_path: Path) -> Iterator[Site]:
    """Stand in the daemon's namespace: bystanders and scrapes are at home there."""
    with ExitStack() as stack, net.server.entered():
        yield Site(net, tmp_path, stack)


def fill(daemon: DaemonProcess, talker: Client, readers: list[Client], slow: int) -> None:
    """Let *talker* speak until *slow* others, who do not read, are owed all that they may be."""
    crowd = Crowd([talker, *readers])

    def is_full() -> bool:
        if not talker.outgoing:
            talker.say((b"x" * 4000 + b"\n") * 8)
        crowd.step()
        found = daemon.metrics()
        return (
            found["outbox_connections"] == slow
            and found["outbox_bytes"] > slow * HIGH_WATER_BYTES * 3 // 4
            and found["messages_dropped_total slow_consumer"] >= slow
        )

    until(is_full, PATIENCE_SECONDS)
    crowd.until(lambda: not talker.outgoing)


def in_flight(port: int) -> list[str]:
    """Return the sockets of *port* that no process has, and whose kernel still sends for them."""
    rows = Path("/proc/thread-self/net/tcp").read_text().splitlines()[1:]
    orphans = {"04", "09", "0B"}  # FIN_WAIT1, LAST_ACK, CLOSING
    return [
        row for row in rows if row.split()[1].endswith(f":{port:04X}") and row.split()[3] in orphans
    ]


def half_closed(port: int) -> int:
    """Return how many peers of *port* have said goodbye and may still listen (CLOSE_WAIT)."""
    rows = [row.split() for row in Path("/proc/thread-self/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "08" for row in rows)


def test_who_vanished_is_let_go_and_who_does_not_read_is_kept(site: Site, mode: str) -> None:
    """The vanished: owed a line, owed more than their kernels took, owed nothing at all.

    One of those who are owed most had finished its input before.

    TCP_USER_TIMEOUT would take the one who does not read with them: its kernel is alive and says
    so, with a window of nought. Who is slow is the slow-consumer policy's business.
    """
    loud, silent = (site.daemon(name, mode, *OPTIONS) for name in ("loud", "silent"))
    bystanders = Bystanders(loud)
    quiet = site.guest(silent, "lo")
    before = loud.quiet_metrics()

    asleep = site.guest(loud, "lo", rcvbuf=4096)
    guests = [site.guest(loud, link, size) for link in (LOAD, METRICS) for size in (4096, 0)]
    gone_quiet = [site.guest(silent, link) for link in (LOAD, METRICS)]
    fill(loud, bystanders.first, [*guests[1::2], bystanders.second], slow=3)

    guests[0].sock.shutdown(socket.SHUT_WR)
    until(lambda: half_closed(loud.address[1]) == 1)
    bystanders.talk(1)  # a tick later it has been read, too

    site.cut_off()
    slowest = 0.0

    def are_let_go() -> bool:
        nonlocal slowest
        slowest = max(slowest, *bystanders.talk(1))
        return loud.metrics()["connections_closed_total timeout"] == len(
            guests
        ) and silent.metrics()["connections_closed_total timeout"] == len(gone_quiet)

    until(are_let_go, PATIENCE_SECONDS)
    assert slowest < 10
    after = loud.quiet_metrics()
    assert_ledger(after)
    assert after["connections"] == 3
    assert after["outbox_connections"] == 1, "of the one who does not read"
    assert after["outbox_bytes"] <= 2 * HIGH_WATER_BYTES
    assert after["open_fds"] <= before["open_fds"] + 8
    assert silent.metrics()["connections"] == 1
    assert not quiet.at_end
    assert loud.events("incidents")[-1].get("gone_without_a_word")
    assert not in_flight(loud.address[1]), "the kernel sends to who does not answer"
    Crowd([asleep]).until(asleep.missed)


def test_who_had_finished_and_is_owed_nothing_is_counted_as_eof(site: Site, mode: str) -> None:
    """Keepalive finds it, a second before the daemon would look; who had not finished timed out."""
    daemon = site.daemon("patient", mode, "--peer-timeout", "8")
    finished = site.guest(daemon)
    finished.sock.shutdown(socket.SHUT_WR)
    site.guest(daemon)
    until(lambda: half_closed(daemon.address[1]) == 1)
    site.cut_off()

    until(lambda: not daemon.metrics()["connections"], PATIENCE_SECONDS)
    found = daemon.metrics()
    assert found["connections_closed_total eof"] == 1
    assert found["connections_closed_total timeout"] == 1


def test_who_is_away_for_less_than_a_third_of_the_timeout_misses_nothing(
    site: Site, mode: str
) -> None:
    """Away for long enough that two tries were in vain, and the daemon has looked since."""
    timeout = 8
    daemon = site.daemon("patient", mode, "--peer-timeout", str(timeout))
    bystanders = Bystanders(daemon)
    guest = site.guest(daemon)
    site.run("ip", "link", "set", "dev", LOAD, "down")
    away = monotonic()
    bystanders.talk(30)
    guest.say(b"said while the link was down\n")
    guest.step()
    until(lambda: monotonic() > away + timeout / 3 - 0.2)
    site.run("ip", "link", "set", "dev", LOAD, "up")

    Crowd([guest]).until(lambda: len(guest.lines()) == 30, PATIENCE_SECONDS)
    bystanders.crowd.until(lambda: b"link was down" in bystanders.first.inbox, PATIENCE_SECONDS)
    assert daemon.metrics()["connections_closed_total timeout"] == 0
