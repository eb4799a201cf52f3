"""Two chats of two instances each on a real NATS, one for either mode, and a Prometheus.

What each says differs by a factor of two at least: a sum over the wrong ones shows.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from etltd.bus.envelope import Identity, Parcel, pack
from tests.boards.asking import Prometheus, Span
from tests.boards.rig import MODES, Targets, available, serving
from tests.boards.witnesses import BEFORE, DURING, END, TROUBLE, View, look
from tests.system.nats import NatsServer
from tests.system.rig import Crowd, DaemonProcess
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.probes.test_daemon import Samples

NAMES = ("a", "b")
SAYS = {"lt a": 1, "lt b": 3, "et a": 8, "et b": 20}  # messages each time
TIMES, PAUSE_SECONDS = 30, 0.15
MAX_PAYLOAD = 2048
PATIENCE_SECONDS = 60.0


@dataclass
class Instances:
    """What there is to ask about: while all was well, and when NATS was gone."""

    prometheus: Prometheus
    daemons: dict[str, DaemonProcess]
    spans: dict[str, Span]
    said: dict[str, Samples]

    def view(self, moment: str) -> View:
        """Return what the exporters said at a moment, and since the beginning."""
        span = self.spans[moment]
        return View(self.said[BEFORE], self.said[moment], span.end - span.start)


@contextlib.contextmanager
def instances(folder: Path) -> Iterator[Instances]:
    """Let all talk, lose some of it, then take NATS away."""
    with contextlib.ExitStack() as stack:
        targets = Targets(folder)
        name = available()[-1]
        prometheus = stack.enter_context(serving(name, folder / name, targets))
        nats = NatsServer(folder, f"max_payload: {MAX_PAYLOAD}\n")
        stack.callback(nats.kill)
        daemons = {who: _instance(stack, who, folder, nats) for who in SAYS}
        until(lambda: all(one.metrics()["bus_peers"] == 1 for one in daemons.values()))
        crowds = {who: one.crowd(2) for who, one in daemons.items()}
        for one in daemons.values():
            targets.add("etltd", one.scrape_address)

        start, said = time.time(), {BEFORE: look(targets.addresses)}
        _is_seen(prometheus)
        _talk(crowds)
        _lose(daemons, crowds, nats)
        end = _is_seen(prometheus)
        said[END] = look(targets.addresses)

        nats.kill()
        _talk(crowds, times=1)
        until(lambda: all(one.metrics()["bus_connect_failures_total"] for one in daemons.values()))
        until(lambda: all(_waits(one, SAYS[who]) for who, one in daemons.items()))
        troubled = _is_seen(prometheus)
        said[TROUBLE] = look(targets.addresses)
        whole = Span(start, end)
        spans = {END: whole, DURING: whole, TROUBLE: Span(start, troubled)}
        yield Instances(prometheus, daemons, spans, said | {DURING: said[END]})


def _instance(
    stack: contextlib.ExitStack, who: str, folder: Path, nats: NatsServer
) -> DaemonProcess:
    mode, name = who.split()
    options = ("--bus", nats.url, "--bus-subject", f"of.{mode}", "--bus-instance", name)
    daemon = DaemonProcess(mode, *options, log=folder / f"{mode}-{name}.log")
    stack.callback(daemon.close)
    daemon.wait_until_listening()
    return daemon


def _talk(crowds: dict[str, Crowd], times: int = TIMES) -> None:
    """Let one of each two clients talk, and all listen."""
    everybody = Crowd(client for crowd in crowds.values() for client in crowd.clients)
    for _ in range(times):
        for who, crowd in crowds.items():
            crowd.clients[0].say(b"hello\n" * SAYS[who])
        pause = time.monotonic() + PAUSE_SECONDS
        everybody.until(lambda pause=pause: time.monotonic() > pause)  # type: ignore[misc]
    everybody.until(lambda: not any(client.outgoing for client in everybody.clients))


def _lose(daemons: dict[str, DaemonProcess], crowds: dict[str, Crowd], nats: NatsServer) -> None:
    """Have lines over the server's limit, what is no envelope, and what is said twice."""
    once = Parcel(0, 1, b"[USER1@z] once\n", time.time_ns(), is_last=True)
    for count, mode in enumerate(MODES, start=1):
        crowds[f"{mode} a"].clients[0].say((b"x" * 2 * MAX_PAYLOAD + b"\n") * count)
        until(lambda crowd=crowds[f"{mode} a"]: _said_all(crowd))  # type: ignore[misc]
        for _ in range(count):
            nats.publish(f"of.{mode}", b"nonsense")
        for _ in range(1 + count):
            nats.publish(f"of.{mode}", pack(Identity("z", 1), 0, once))
        other = daemons[f"{mode} b"]
        until(lambda one=other, c=count: one.metrics()["bus_lost_messages_total"] == c)  # type: ignore[misc]
        until(lambda one=other, c=count: one.metrics()["bus_late_messages_total"] == c)  # type: ignore[misc]
    for one in daemons.values():
        one.quiet_metrics()


def _said_all(crowd: Crowd) -> bool:
    crowd.step()
    return not crowd.clients[0].outgoing


def _waits(daemon: DaemonProcess, messages: int) -> bool:
    """Tell whether what was said last waits for NATS."""
    found = daemon.metrics()["bus_outgoing_bytes"]
    return found > messages * len("[USER1@a] hello\n")


def _is_seen(prometheus: Prometheus) -> float:
    """Return a moment by which every instance has been scraped once more."""
    now, count = time.time(), len(SAYS)
    expr = f"count(timestamp(etltd_bus_connected) > {now})"

    def is_seen() -> bool:
        answer = prometheus.instant("", expr, time.time())
        return [values[-1] for _, values in answer.series] == [count]

    until(is_seen, PATIENCE_SECONDS)
    return time.time()
