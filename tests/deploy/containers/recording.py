"""What the stack's exporters said themselves, before, during and after the load, and in trouble.

Prometheus keeps its samples: what it answers for a moment can be asked at any time later. The
exporters do not, so each is asked at the moments at which the expressions are to be held to them.
"""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from tests.boards.asking import Prometheus, Span
from tests.boards.rig import MODES, trouble
from tests.boards.witnesses import BEFORE, DURING, END, TROUBLE, View, look, while_measured
from tests.deploy.containers.engine import KNOWS_BPF
from tests.probes.test_daemon import read_samples
from tests.system.rig import Endpoint
from tests.waiting import until

if TYPE_CHECKING:
    from concurrent.futures import Future

    from tests.deploy.containers.stack import Stack
    from tests.probes.test_daemon import Samples

PATIENCE_SECONDS = 60
SCRAPE_SECONDS = 2  # as in prometheus.yaml
SETTLED_SECONDS = 3 * SCRAPE_SECONDS
MEASURED_SECONDS = 7  # more than a step at which the boards look for a run
LOAD_SECONDS = 180  # from the command to its end, containers made and health awaited
TARGETS = {
    "etltd": ("etltd-lt:9700", "etltd-et:9700"),
    "etlt-probe": ("etlt-probe:9701",),
    "loadclient": ("loadclient-lt:9702", "loadclient-et:9702"),
}


class Recording:
    """One load on both daemons of a stack, as everybody told it."""

    has_probe = True
    # Scrapes twice as far apart, each target at its own moment, and clients that are found late.
    slack = 2.5

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.prometheus = Prometheus(stack.prometheus_url)
        self.has_stats = stack.engine.version < KNOWS_BPF
        self._said: dict[str, Samples] = {}
        self._at: dict[str, float] = {}
        self._endpoints: list[Endpoint] = []
        self._clients: dict[str, str] = {}  # addresses

    @property
    def spans(self) -> dict[str, Span]:
        """Return from rest to each moment that there has been."""
        start, pace = self._at[BEFORE], f"{4 * SCRAPE_SECONDS}s"
        moments = [moment for moment in (DURING, END, TROUBLE) if moment in self._at]
        return {one: Span(start, self._at[one], SCRAPE_SECONDS, pace) for one in moments}

    def view(self, moment: str) -> View:
        """Return what the exporters said at a moment, and since the beginning."""
        seconds = self._at[moment] - self._at[BEFORE]
        measured = while_measured(self.stack.results)
        return View(self._said[BEFORE], self._said[moment], seconds, measured)

    def load(self) -> None:
        """Drive the load, and listen meanwhile."""
        both = f'count(count_over_time(up{{job=~"etltd|etlt-probe"}}[{SETTLED_SECONDS}s]) >= 2)'
        self._wait_for(both, 3)
        self._look(BEFORE, without="loadclient")
        self._wait_for(f"count(timestamp(etltd_epoll_waits_total) > {time.time()})", len(MODES))
        with ThreadPoolExecutor(1) as pool:
            loading = pool.submit(self.stack.load)
            self._listen(loading)
            loading.result()

    def _listen(self, loading: Future[None]) -> None:
        self._wait_until_all(loading, "measure", MEASURED_SECONDS)
        self._look(DURING)
        self._wait_until_all(loading, "linger", SETTLED_SECONDS)
        self._look(END)

    def _wait_until_all(self, loading: Future[None], phase: str, seconds: float) -> None:
        """Wait until both clients have said for so long that they are in *phase*."""
        since = math.inf

        def is_so() -> bool:
            nonlocal since
            if loading.done():
                loading.result()
                raise AssertionError(f"the load is over, and {phase} was not seen")
            are = all(self._is_in(phase, name) for name in TARGETS["loadclient"])
            since = min(since, time.time()) if are else math.inf
            return time.time() >= since + seconds

        until(is_so, LOAD_SECONDS)

    def _is_in(self, phase: str, client: str) -> bool:
        service, port = client.split(":")
        if service not in self._clients:
            host = self.stack.inner_address(service)
            if not host:
                return False
            self._clients[service] = host
        try:
            samples = read_samples(f"http://{self._clients[service]}:{port}/metrics")
        except OSError:  # it does not listen yet
            return False
        return [value for _, by, value in samples if by.get("phase") == phase] == [1]

    def trouble(self) -> None:
        """Have peers that say too much, and that do not read."""
        for lines, mode in enumerate(MODES, start=1):
            endpoint = Endpoint()
            host = self.stack.inner_address(f"etltd-{mode}")
            endpoint.address, endpoint.scrape_address = (host, 9000), f"{host}:9700"
            self._endpoints.append(endpoint)
            trouble(endpoint, lines)
        lately = f"timestamp(etltd_messages_dropped_total offset {2 * SCRAPE_SECONDS}s)"
        self._wait_for(f"count(min by (instance) ({lately}) > {time.time()})", len(MODES))
        self._look(TROUBLE, without="loadclient")

    def hang_up(self) -> None:
        """Let the peers in trouble go."""
        for endpoint in self._endpoints:
            endpoint.hang_up()

    def _look(self, moment: str, without: str = "") -> None:
        at = {
            name: f"{self.stack.inner_address(service)}:{port}"
            for job, names in TARGETS.items()
            for name in names
            if job != without
            for service, port in [name.split(":")]
        }
        self._at[moment] = time.time()
        self._said[moment] = look(TARGETS, without, at)

    def _wait_for(self, expr: str, wanted: float) -> None:
        """Wait until Prometheus answers *expr* with one number, *wanted*."""
        until(lambda: [v for _, v in self.stack.query(expr)] == [wanted], PATIENCE_SECONDS)
