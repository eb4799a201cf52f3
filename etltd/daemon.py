"""Assembly and phases: STARTING, SERVING, STOPPING, STOPPED.

Ready means what it says: READY=1 goes out after the sockets listen and epoll is armed.

SIGUSR2 asks for a successor: a new version of the program, or of its options, that goes on with the
same clients. `etltd.succession` says how; here is when, and what must be at rest for it. SIGUSR1 is
a stop after which the manager starts another process at once: clients wait for it in the manager's
store (`etltd.fdstore`), if they can, and if a rehearsal shows that there will be one.

A stop takes in what has arrived, delivers it, says goodbye, hands over what is owed until the grace
is over, and reports what it abandoned. A second signal skips the wait.
"""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import replace
from time import monotonic_ns
from typing import TYPE_CHECKING

from etltd import fdstore, metrics, process, snapshot, succession, systemd, wire
from etltd.config import flag
from etltd.handover import Port, State, UnfitError
from etltd.logs import Log, open_log
from etltd.manager import ServiceManager
from etltd.metrics import LoopCollector, ScrapeServer
from etltd.ports import CHAT, METRICS, StartError, chat_listeners, metrics_socket, or_start_error
from etltd.reactor import Reactor
from etltd.stats import CloseReason, LoopStats, RejectReason
from etltd.succession import Rehearsal
from etltd.version import version
from etltd.wakeup import Wakeup

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, MutableMapping
    from pathlib import Path

    from etltd.bus.bridge import Bridge
    from etltd.config import Config
    from etltd.listener import Listener

CHORES_SECONDS = 1.0  # between housekeeping rounds, and the longest sleep of an idle loop
READY_SECONDS = 5.0  # without a tick for longer, the loop counts as stuck
LIVE_SECONDS = 30.0  # and now for good: whoever watches may restart it
LAST_READ_SECONDS = 0.25  # most of a stop that may go to input that keeps arriving
LAST_SCRAPES_SECONDS = 1.0  # for scrapes that are being answered when a successor takes over
RESTART_REHEARSAL_SECONDS = 10.0  # of a stop: what else is in it must fit into TimeoutStopSec=
PAUSE_SECONDS = 30  # a successor that is not up by then is stuck: for the watchdog

ON_A_BUS = (
    "with --bus it stops and starts: the others would take the successor for another instance"
)
FIXED = ("mode", "listener", "bus", "host", "port", "unix", "metrics_host", "metrics_port")


class Daemon:
    """One loop, one scrape endpoint, one lifecycle."""

    def __init__(
        self, config: Config, environment: MutableMapping[str, str], state: State | None = None
    ) -> None:
        """Do all that can fail and needs no socket; *state* is a predecessor's.

        Raises:
            StartError, UnfitError, metrics.TlsFilesError: it would not work.
        """
        self.config = config
        self._environment = environment
        self.log: Log = open_log(config.log_format, config.log_level, environment)
        self._pid = os.getpid()
        self._manager = ServiceManager(self.log, environment, self._pid)
        self._tls = metrics.tls_context(config)
        stored: dict[str, list[int]] = {name: [] for name in fdstore.NAMES}
        self._passed = or_start_error(
            "the sockets of LISTEN_FDS",
            lambda: systemd.listening_sockets(environment, self._pid, stored=stored),
        )
        self._inodes_passed = {
            snapshot.inode(sock.fileno()) for socks in self._passed.values() for sock in socks
        }
        self._max_connections = self._connection_limit()
        self.reactor = Reactor(config, self._max_connections)
        if state is not None:
            self._check(state)
        elif any(stored.values()):
            state = self._back_from_store(stored)
        self._state = state
        if state is not None:
            self._inodes_passed |= {port.inode for port in state.ports if port.passed}
        self._chat: list[Listener] = []
        self._successor_wanted = False
        self._rehearsal: Rehearsal | None = None
        self._scrapes_wait = False
        self._bus = self._make_bridge(environment) if config.bus else None
        self._signals: list[signal.Signals] = []
        self._bus_state: tuple[str | None, int] = None, 0
        self._reported = self._incidents()
        self._period_seconds = min(CHORES_SECONDS, (self._manager.watchdog_seconds or 2) / 2)
        self._chores_due_ns = 0

    def run(self) -> None:
        """Serve until told to stop.

        Raises:
            StartError: an address is taken, or there are no descriptors for peers.
        """
        process.name_thread(f"etltd-{self.config.mode}")
        with contextlib.ExitStack() as stack:
            self._wakeup = Wakeup(*succession.SIGNALS)
            stack.callback(self._wakeup.close)
            stack.callback(self._manager.close)
            stack.callback(self.reactor.close)
            self.reactor.serve(self._wakeup.fd, self._heed_signals)
            for listener in chat_listeners(self.config, self._passed, self._state):
                listener.set_buffers(self.config.sndbuf, self.config.rcvbuf)
                listener.ask_after(self.config.peer_timeout)
                self.reactor.listen(listener)
                self._chat.append(listener)
            self._join_bus()
            self._scrape = self._scrape_server()
            if self._state is not None:
                snapshot.resume(self.reactor, self._state)
            with succession.signals_held():
                self._scrape.start()
            stack.callback(self._scrape.stop)
            process.set_aside_start()
            self._announce_start()
            succession.release_signals()
            self._serve()
            if not self._leave_with_manager():
                self._stop()

    def _heed_signals(self) -> None:
        for number in self._wakeup.take():
            if number == signal.SIGUSR2:
                self._successor_wanted = True
            else:
                self._signals.append(number)

    # -- starting --------------------------------------------------------------------------------

    def _make_bridge(self, environment: Mapping[str, str]) -> Bridge:
        try:
            from etltd.bus.bridge import Bridge  # noqa: PLC0415 - without a bus, nothing of it
        except ImportError as error:
            raise StartError(f"--bus needs nats-py (pip install 'etlt[bus]'): {error}") from None
        bridge = Bridge(self.config, environment, self.reactor.delivery)
        self.reactor.roster.instance = bridge.me.name.encode()
        return bridge

    def _join_bus(self) -> None:
        if self._bus is not None:
            self.reactor.relay = self._bus.relay
            self.reactor.serve(self._bus.fd, self._bus.serve)
            self._bus.start()

    def _connection_limit(self) -> int:
        limit = process.raise_descriptor_limit()
        descriptors = limit - process.DESCRIPTOR_RESERVE
        if descriptors < 1:
            raise StartError(
                f"a limit of {limit} descriptors (ulimit -n) leaves none for peers: "
                f"{process.DESCRIPTOR_RESERVE} are kept in reserve"
            )
        wanted = self.config.max_connections
        if wanted > descriptors:
            self.log.warning("max_connections lowered", wanted=wanted, descriptors=descriptors)
        return min(wanted or descriptors, descriptors)

    def _scrape_server(self) -> ScrapeServer:
        reactor = self.reactor
        collector = LoopCollector(
            reactor.stats,
            self.config,
            reactor.reads_per_event,
            self._max_connections,
            self.readiness,
            bus=self._bus,
        )
        sock = metrics_socket(self.config, self._passed, self._state)
        return ScrapeServer(sock, collector, self.liveness, self.readiness, self._tls)

    def _announce_start(self) -> None:
        chat = [listener.address for listener in self._chat]
        watchdog: list[str] = []
        if self._state is not None:
            watchdog = self._manager.patience(self._manager.watchdog_seconds)
            pause_seconds = (monotonic_ns() - self._state.began_ns) / 1e9
            self.log.info(
                "took over",
                peers=len(self._state.peers),
                pause_seconds=round(pause_seconds, 3),
                version=version(),
            )
            self._state = None  # what peers are owed is theirs now
        else:
            others = {"also": ",".join(chat[1:])} if chat[1:] else {}
            self.log.info(
                "listening",
                chat=chat[0],
                **others,
                metrics=self._scrape.url,
                mode=self.config.mode,
                pid=self._pid,
                max_connections=self._max_connections,
                version=version(),
            )
        self._manager.tell(
            "READY=1",
            f"STATUS=Serving on {chat[0]}",
            f"MAINPID={self._pid}",
            *watchdog,
        )

    def liveness(self) -> str | None:
        """Return why nobody is served, nor will be, or None; called by the scrape thread."""
        return self._is_stuck(LIVE_SECONDS)

    def readiness(self) -> str | None:
        """Return why a new peer would not be served, or None; called by the scrape thread."""
        if stuck := self._is_stuck(READY_SECONDS):
            return stuck
        if not self.reactor.is_accepting:
            return "not accepting: stopping, or out of descriptors"
        return self._bus.problem() if self._bus is not None else None

    def _is_stuck(self, after_seconds: float) -> str | None:
        silent_seconds = (monotonic_ns() - self.reactor.ticked_ns) / 1e9
        if silent_seconds <= after_seconds:
            return None
        return f"the loop has not ticked for {silent_seconds:.1f} s"

    # -- serving ---------------------------------------------------------------------------------

    def _serve(self) -> None:
        while not self._signals:
            # No longer than until the next round of chores: a tick that is cut short by an event
            # and followed by one of full length would make the watchdog wait for twice the time.
            self._tick(max(0.0, (self._chores_due_ns - monotonic_ns()) / 1e9))
            if self._successor_wanted or self._rehearsal is not None:
                self._go_on_with_succession()

    def _tick(self, timeout: float) -> int:
        """Let the loop tick once, and do what time brings."""
        events = self.reactor.tick(timeout)
        now_ns = self.reactor.ticked_ns
        if now_ns >= self._chores_due_ns:
            self._chores_due_ns = now_ns + round(self._period_seconds * 1e9)
            self.reactor.do_chores(now_ns)
            self._do_bus_chores(now_ns)
            self._report_incidents()
            self._manager.report(self.reactor.stats)
            if self._scrapes_wait:
                self._answer_scrapes()
        return events

    def _do_bus_chores(self, now_ns: int) -> None:
        if self._bus is None:
            return
        self._bus.do_chores(now_ns)
        problem, connects = self._bus.problem(), self._bus.stats.bus_connects
        if (problem, connects) != self._bus_state:  # an outage between two rounds is told, too
            self._bus_state = problem, connects
            if problem is None:
                self.log.info("bus joined", instance=self._bus.me.name, connections=connects)
            else:
                self.log.warning("bus out of reach", instance=self._bus.me.name, problem=problem)

    def _incidents(self) -> dict[str, int]:
        """Count what an operator should hear of, at most once a second and summed up."""
        stats = self.reactor.stats
        return {
            "pauses_of_accepting": stats.connections_rejected[RejectReason.NO_DESCRIPTORS],
            "evicted_slow_consumers": stats.connections_closed[CloseReason.SLOW_CONSUMER],
            "closed_as_idle": stats.connections_closed[CloseReason.IDLE],
            "gone_without_a_word": stats.connections_closed[CloseReason.TIMEOUT],
            "failed_sockets": stats.connections_closed[CloseReason.ERROR],
        }

    def _report_incidents(self) -> None:
        now = self._incidents()
        news = {name: now[name] - self._reported[name] for name in now}
        self._reported = now
        if any(news.values()):
            self.log.warning("incidents", **{name: count for name, count in news.items() if count})

    # -- handing over ----------------------------------------------------------------------------

    def _go_on_with_succession(self) -> None:
        """Let a successor rehearse; when it has, let it take over, or say why it cannot.

        Who asks once more meanwhile may have installed something else: that is rehearsed, too.
        """
        if self._rehearsal is not None and self._rehearsal.is_over:
            problem = self._rehearsal.problem
            self._end_rehearsal()
            if not problem and not self._successor_wanted:
                problem = self._hand_over()
            if problem:
                self._refuse_hand_over(problem)
        if self._rehearsal is None and self._successor_wanted:
            self._successor_wanted = False
            problem = self._begin_succession()
            if problem:
                self._refuse_hand_over(problem)

    def _begin_succession(self) -> str:
        """Have a successor rehearse; return why that is not possible."""
        self._manager.tell(*systemd.reloading(), "STATUS=A successor rehearses")
        if self._bus is not None:
            return ON_A_BUS
        self.log.info("handing over", peers=self.reactor.stats.connections)
        return self._rehearse()

    def _refuse_hand_over(self, reason: str) -> None:
        self.log.warning("hand-over refused", reason=reason)
        self._manager.tell("READY=1", *self._manager.patience(self._manager.watchdog_seconds))

    def _rehearse(self) -> str:
        """Have a successor rehearse; return why that is not possible."""
        try:
            state = self._snapshot()
            light = replace(state, peers=[replace(peer, owed=[]) for peer in state.peers])
            rehearsal = Rehearsal(light, self._environment)
            try:
                self.reactor.serve(rehearsal.fd, lambda: None)  # its end ends a wait
            except BaseException:
                rehearsal.close()
                raise
        except (OSError, RuntimeError, MemoryError) as error:
            return f"no rehearsal can be started: {_why(error)}"
        self._rehearsal = rehearsal
        return ""

    def _end_rehearsal(self) -> None:
        if self._rehearsal is not None:
            self.reactor.ignore(self._rehearsal.fd)
            self._rehearsal.close()
            self._rehearsal = None

    def _hand_over(self) -> str:
        """Become the successor; return why that was not possible, or "" if it is to rehearse anew.

        Who asks once more during the last scrapes may have installed something else, too.
        """
        self._answer_last_scrapes()
        problem = ""
        with succession.signals_held():
            self._heed_signals()
            if self._signals:
                problem = "it was stopped"
            elif not self._successor_wanted:
                problem = self._exec()
        self._answer_scrapes()
        return problem

    def _answer_last_scrapes(self) -> None:
        self._scrape.pause()
        scrapes_ns = monotonic_ns() + round(LAST_SCRAPES_SECONDS * 1e9)
        self._tick_until(lambda _: self._scrape.is_idle, scrapes_ns, timeout=0.01)

    def _answer_scrapes(self) -> None:
        """Answer them again; if there is no thread to be had, they wait for the next chores."""
        with succession.signals_held():
            try:
                self._scrape.start()
            except RuntimeError:
                self._scrapes_wait = True
            else:
                self._scrapes_wait = False

    def _exec(self) -> str:
        self._manager.tell("STATUS=Handing over", *self._manager.patience(PAUSE_SECONDS))
        try:
            succession.become_successor(self._snapshot(), self._environment)
        except (OSError, MemoryError) as error:
            return f"the successor cannot be started: {_why(error)}"

    def _snapshot(self) -> State:
        """Return all that a successor needs, between two ticks."""
        chat = [(CHAT, listener.fd, listener.own_path) for listener in self._chat]
        return State(
            fixed=self._fixed(),
            ports=[
                self._port(role, fd, path)
                for role, fd, path in (*chat, (METRICS, self._scrape.socket.fileno(), None))
            ],
            peers=snapshot.peers(self.reactor),
            next_id=self.reactor.roster.next_id,
            counters=self.reactor.stats.saved(),
            began_ns=monotonic_ns(),
        )

    def _port(self, role: str, fd: int, path: Path | None) -> Port:
        inode = snapshot.inode(fd)
        return Port(role, fd, inode, str(path) if path else None, inode in self._inodes_passed)

    def _fixed(self) -> dict[str, str]:
        bus = "on" if self.config.bus else "off"  # not its address, which may hold a password
        return {name: str(getattr(self.config, name)) for name in FIXED} | {"bus": bus}

    def _leave_with_manager(self) -> bool:
        """At a restart, leave all clients with the manager; return whether that was possible."""
        if self._signals[0] != signal.SIGUSR1:
            return False
        self._end_rehearsal()  # the manager's signal went to that process, too
        self._manager.tell("STOPPING=1", "STATUS=Leaving clients with the manager")
        problem = self._store(only_look=True) or self._rehearse_restart()
        if not problem:
            self._answer_last_scrapes()
            with succession.signals_held():
                self._heed_signals()
                problem = "it was stopped" if len(self._signals) > 1 else self._store()
            if problem:
                self._answer_scrapes()
        if problem:
            self.log.warning("clients cannot stay over the restart", reason=problem)
            return False
        for listener in self._chat:
            listener.leave_path()
        self.log.info("stored", peers=self.reactor.stats.connections)
        return True

    def _rehearse_restart(self) -> str:
        """Serve until another process has shown that it can start; return why it cannot.

        A wrong option ends it, and no third one is started: the stored clients would be nobody's.
        """
        problem = self._rehearse()
        rehearsal = self._rehearsal
        if rehearsal is None:
            return problem
        deadline_ns = monotonic_ns() + round(RESTART_REHEARSAL_SECONDS * 1e9)
        self._tick_until(lambda _: rehearsal.is_over, deadline_ns)
        if len(self._signals) > 1:
            problem = "it was stopped"
        elif rehearsal.is_over:
            problem = rehearsal.problem
        else:
            problem = f"the next process was not ready within {RESTART_REHEARSAL_SECONDS:g} s"
        self._end_rehearsal()
        return problem

    def _store(self, *, only_look: bool = False) -> str:
        """Leave all clients with the manager; return why that is not possible."""
        if not self._manager.is_there:
            return "there is no service manager"
        if self._bus is not None:
            return ON_A_BUS
        try:
            state = fdstore.own(self._snapshot())
        except (OSError, MemoryError) as error:
            return f"the state cannot be taken: {_why(error)}"
        sockets = len(state.fds)
        if sockets > fdstore.MOST_SOCKETS:
            return (
                f"{sockets} sockets are more than {fdstore.MOST_SOCKETS}; a reload keeps any number"
            )
        problem = None if only_look else self._manager.store(state)
        return "" if problem is None else f"the manager does not take them: {_why(problem)}"

    # -- taking over -----------------------------------------------------------------------------

    def _check(self, state: State) -> None:
        """Take the counters over, and refuse what cannot go on as it was."""
        mine = self._fixed()
        for name, value in state.fixed.items():
            if mine.get(name) != value:
                raise UnfitError(
                    f"{flag(name)} was {value} and is {mine.get(name)} now: "
                    "a hand-over keeps mode and sockets, a restart changes them"
                )
        try:
            LoopStats().resume(state.counters)  # all of it, or nothing
        except ValueError as error:
            raise UnfitError(f"counts would be lost: {error}") from None
        self.reactor.stats.resume(state.counters)
        self.reactor.stats.handovers += 1

    def _back_from_store(self, stored: dict[str, list[int]]) -> State | None:
        """Return what the process before us left with the manager, or give its clients up."""
        try:
            state = fdstore.stored(stored)
            self._check(state)
        except UnfitError as error:
            sockets = stored[fdstore.SOCKETS]
            self.log.warning(
                "stored sockets given up",
                peers=fdstore.peers(sockets),
                sockets=len(sockets),
                reason=str(error),
            )
            state = None
        self._manager.forget_stored()
        kept = state.fds if state is not None else []
        for fd in set(stored[fdstore.SOCKETS]).difference(kept):
            os.close(fd)  # or its peer would wait for ever
        return state

    # -- stopping --------------------------------------------------------------------------------

    def _stop(self) -> None:
        self._manager.tell("STOPPING=1", "STATUS=Stopping")
        self._end_rehearsal()
        self.log.info("stopping", signal=self._signals[0].name)
        reactor, stats = self.reactor, self.reactor.stats
        deadline_ns = monotonic_ns() + round(self.config.grace_seconds * 1e9)
        reactor.stop_accepting()
        last_read_ns = min(deadline_ns, monotonic_ns() + round(LAST_READ_SECONDS * 1e9))
        self._tick_until(self._has_read_all(), last_read_ns, timeout=0)
        self._tick_until(self._have_had_a_turn(), deadline_ns, timeout=0)
        reactor.stop_reading()
        self._leave_bus(deadline_ns)
        reactor.announce(wire.STOPPING)
        self._tick_until(lambda _: not stats.outbox_connections, deadline_ns)
        reactor.delivery.finish_output()
        self._tick_until(
            lambda _: not reactor.delivery.unacknowledged_bytes(), deadline_ns, timeout=0.002
        )
        abandoned = {
            "messages_abandoned": stats.outbox_messages,
            "bytes_abandoned": stats.outbox_bytes,
            "peers_behind": stats.outbox_connections,
        }
        reactor.close_all(CloseReason.SHUTDOWN)
        self.log.info(
            "stopped",
            **abandoned,
            **self._abandoned_by_bus(deadline_ns),
            messages_received=stats.messages_received,
            messages_enqueued=stats.messages_enqueued,
            messages_delivered=stats.messages_delivered,
            messages_dropped=sum(stats.messages_dropped.values()),
        )

    def _leave_bus(self, deadline_ns: int) -> None:
        """Say goodbye to the other instances, and deliver what has come from them."""
        bus = self._bus
        if bus is not None:
            bus.leave()
            self._tick_until(lambda _: bus.has_delivered(), deadline_ns, timeout=0)

    def _abandoned_by_bus(self, deadline_ns: int) -> dict[str, int]:
        """Wait until what was said last is there; return what is not."""
        bus = self._bus
        if bus is None:
            return {}
        self._tick_until(lambda _: bus.is_gone(), deadline_ns, timeout=0.002)
        return {"bus_messages_unsent": bus.unsent(), "bus_messages_unheard": bus.unheard()}

    def _has_read_all(self) -> Callable[[int], bool]:
        """Return whether a tick, given its events, found nothing to do and nothing to read.

        No events alone does not say so: under ET, what a bounded turn left unread has none.
        """
        stats = self.reactor.stats
        before = -1

        def found_nothing(events: int) -> bool:
            nonlocal before
            read_nothing, before = stats.received_bytes == before, stats.received_bytes
            return not events and read_nothing

        return found_nothing

    def _have_had_a_turn(self) -> Callable[[int], bool]:
        """Return whether all have had a turn whose turn has been put off, others' input or not."""
        waiting = self.reactor.deferred

        def had_a_turn(_: int) -> bool:
            waiting.intersection_update(self.reactor.deferred)
            return not waiting

        return had_a_turn

    def _tick_until(
        self, is_done: Callable[[int], bool], deadline_ns: int, timeout: float = 0.05
    ) -> None:
        """Tick until *is_done*, given a tick's events, or the deadline, or a second signal."""
        while len(self._signals) < 2 and monotonic_ns() < deadline_ns:
            if is_done(self._tick(timeout)):
                return


def _why(error: Exception) -> str:
    """Return what *error* says; a MemoryError says nothing, and is no OSError."""
    if isinstance(error, MemoryError):
        return "out of memory"
    return str(getattr(error, "strerror", None) or error)
