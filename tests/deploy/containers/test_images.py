"""The daemon's image as operators run it: no privileges, healthy, stopped in good order."""

from __future__ import annotations

import json
import re
import socket
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest

from tests.deploy.containers.engine import HARDENED
from tests.probes.test_daemon import read_samples, total
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.deploy.containers.conftest import Images
    from tests.deploy.containers.engine import Container, Engine

pytestmark = [pytest.mark.docker]

PATIENCE_SECONDS = 60
MEGABYTE = 1_000_000  # as `docker images` counts
OFTEN = ("--health-interval", "1s", "--health-timeout", "2s", "--health-retries", "2")
LIMITS = ("--pids-limit", "64", "--memory", "512m")
# Half a second apart: a client on a busy machine is then not its own bottleneck.
LOAD = ("--conns", "40", "--rate", "2", "--duration", "3", "--warmup", "1")
GOODBYE = b"[etltd] server is stopping\n"
CLIENTS, LINES = 7, 101


@pytest.fixture
def daemon(containers: Engine, images: Images) -> Callable[..., Container]:
    """Start the image hardened; return when it is healthy."""

    def start(*options: str, command: tuple[str, ...] = ("--mode", "et")) -> Container:
        container = containers.start(*HARDENED, *LIMITS, *OFTEN, *options, images.etlt, *command)
        until(lambda: container.health == "healthy", PATIENCE_SECONDS)
        return container

    return start


@pytest.fixture
def dial() -> Iterator[Callable[[Container], socket.socket]]:
    made: list[socket.socket] = []

    def connect(container: Container) -> socket.socket:
        made.append(socket.create_connection((container.address, 9000), PATIENCE_SECONDS))
        return made[-1]

    yield connect
    for one in made:
        one.close()


def load(engine: Engine, image: str, target: Container, *options: str) -> dict[str, Any]:
    """Drive *target* from a sibling container; return the run's record."""
    host = target.address
    join = ("--server-metrics", f"http://{host}:9700/metrics", "--json", "/dev/stdout", "--quiet")
    client = engine.start(
        *(*HARDENED, *LIMITS, "--entrypoint", "loadclient", image),
        *("run", host, "9000", *LOAD, *join, *options),
    )
    status = engine.docker("wait", client.id)
    said = client.logs()
    assert status == "0", said
    record: dict[str, Any] = json.loads(said)
    return record


def last_words(container: Container) -> dict[str, int]:
    """Return the figures of its line "stopped"."""
    (line,) = re.findall(r"stopped (.*)", container.logs())
    return {name: int(value) for name, value in (pair.split("=") for pair in line.split())}


def hear_everything(client: socket.socket) -> bytes:
    """Read until the server hangs up."""
    heard = b""
    while data := client.recv(65536):
        heard += data
    return heard


def test_the_daemon_runs_without_any_privilege(daemon: Callable[..., Container]) -> None:
    """What is broken into has nothing to break out with."""
    status = daemon().shell("cat /proc/1/status; touch /here /opt/etlt/here /results/here")
    fields = dict(re.findall(r"^(\w+):\s*(.*)$", status, re.MULTILINE))

    assert set(fields["Uid"].split()) == {"65532"} == set(fields["Gid"].split())
    for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(fields[capabilities], 16) == 0, capabilities
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
    assert status.count("Read-only file system") == 3


def test_the_image_says_what_it_is_and_is_small(
    engine: Engine, images: Images, record_property: Callable[[str, object], None]
) -> None:
    """Deployment tools read the user, the signal and the labels before they start anything."""
    known = {}
    for name in (images.etlt, images.probe):
        (known[name],) = json.loads(engine.docker("image", "inspect", name))
        record_property(f"size of {name}", f"{known[name]['Size'] / MEGABYTE:.0f} MB")
    config = known[images.etlt]["Config"]

    assert (config["User"], config["StopSignal"]) == ("65532:65532", "SIGTERM")
    assert {"title", "description", "licenses", "version", "revision"} <= {
        label.removeprefix("org.opencontainers.image.") for label in config["Labels"]
    }
    assert known[images.etlt]["Size"] < 160 * MEGABYTE
    assert known[images.probe]["Size"] < 800 * MEGABYTE


def test_the_image_for_a_bus_has_what_it_takes_and_the_usual_one_says_what_is_missing(
    containers: Engine, images: Images
) -> None:
    """The library is there if it goes on trying to reach a server that is not."""
    words = ("--mode", "et", "--bus", "nats://127.0.0.1:9")
    able = containers.start(*HARDENED, *LIMITS, images.with_bus, *words)
    unable = containers.start(*HARDENED, *LIMITS, images.etlt, *words)

    until(lambda: "no connection to NATS" in able.logs(), PATIENCE_SECONDS)
    assert able.state["Status"] == "running"
    until(lambda: unable.state["Status"] == "exited", PATIENCE_SECONDS)
    assert "--bus needs nats-py" in unable.logs()


def test_a_loop_that_hangs_is_unhealthy_and_one_that_goes_on_is_not(
    daemon: Callable[..., Container], engine: Engine
) -> None:
    """A health check that is always green is worse than none."""
    container = daemon()
    engine.docker("kill", "--signal", "STOP", container.id)
    until(lambda: container.health == "unhealthy", PATIENCE_SECONDS)
    engine.docker("kill", "--signal", "CONT", container.id)
    until(lambda: container.health == "healthy", PATIENCE_SECONDS)


@pytest.mark.parametrize("mode", ["lt", "et"])
def test_a_sibling_container_gets_every_copy(
    daemon: Callable[..., Container], containers: Engine, images: Images, mode: str
) -> None:
    """Over the bridge, with both sides confined: the ledger balances and nothing is missing."""
    run = load(containers, images.etlt, daemon(command=("--mode", mode)))

    assert (run["valid"], run["invalid_reasons"], run["mode"]) == (True, [], mode)
    assert run["delivery_ratio"] == 1
    assert run["messages_received"] == run["messages_expected"] > 0


@pytest.mark.parametrize("how", [("stop", "--time", "30"), ("kill", "--signal", "TERM")])
def test_a_stop_hands_over_what_is_owed_and_its_last_words_are_true(
    daemon: Callable[..., Container],
    dial: Callable[[Container], socket.socket],
    engine: Engine,
    how: tuple[str, ...],
) -> None:
    """As the first process of its container, for which the kernel has no default actions."""
    container = daemon()
    clients = [dial(container) for _ in range(CLIENTS)]
    until(
        lambda: total(read_samples(container.url), "etltd_connections") == CLIENTS, PATIENCE_SECONDS
    )
    for client in clients:
        client.sendall(b"".join(b"%d\n" % number for number in range(LINES)))
    started = monotonic()
    engine.docker(*how, container.id)
    until(lambda: container.state["Status"] == "exited", PATIENCE_SECONDS)
    took = monotonic() - started
    heard = [hear_everything(client) for client in clients]
    words = last_words(container)

    assert container.state["ExitCode"] == 0
    assert took < 20, "the engine's patience was used up"  # its 30 s, or 137 above
    assert all(each.endswith(GOODBYE) for each in heard)
    copies = sum(each.count(b"\n") - 1 for each in heard)
    assert words["messages_received"] == CLIENTS * LINES
    assert words["messages_delivered"] == copies == CLIENTS * LINES * (CLIENTS - 1)
    assert words["messages_dropped"] == words["messages_abandoned"] == 0


def test_a_restarted_container_serves_and_counts_from_nought(
    daemon: Callable[..., Container], containers: Engine, images: Images
) -> None:
    container = daemon()
    load(containers, images.etlt, container)
    containers.docker("restart", "--time", "30", container.id)
    until(lambda: container.health == "healthy", PATIENCE_SECONDS)

    assert total(read_samples(container.url), "etltd_messages_received_total") == 0
    assert load(containers, images.etlt, container)["valid"]
    assert container.logs().count("listening ") == 2


def test_a_full_disk_for_the_log_stops_nobody(
    daemon: Callable[..., Container], containers: Engine, images: Images
) -> None:
    """The log is lost, and nothing else: not a message, not the health, not the exit status."""
    fill_and_log = "cat /dev/zero > /log/rest; exec etltd --mode et 2>> /log/etltd"
    container = daemon(
        *("--tmpfs", "/log:size=64k,uid=65532", "--entrypoint", "sh"), command=("-c", fill_and_log)
    )
    run = load(containers, images.etlt, container)
    size = container.shell("wc -c < /log/etltd; cat /proc/1/comm").split()
    containers.docker("stop", "--time", "30", container.id)

    assert size == ["0", "etltd-et"], "the disk was not full, or it was not the daemon that ran"
    assert (run["valid"], run["delivery_ratio"]) == (True, 1)
    assert container.state["ExitCode"] == 0


def test_a_wrong_option_is_one_sentence_in_the_log(containers: Engine, images: Images) -> None:
    """Nobody looks into a container that does not start; its log is all there is."""
    container = containers.start(*HARDENED, images.etlt, "--mode", "both")
    assert containers.docker("wait", container.id) == "2"
    said = container.logs()

    assert said.count("\n") == 1
    assert "both" in said
