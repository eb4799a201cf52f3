"""The kernel's witness in a container: its smallest privileges, and counts that are equal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ebpf.targets import FIRST_PID_NAMESPACE
from tests.deploy.containers.engine import HARDENED
from tests.deploy.containers.test_images import PATIENCE_SECONDS, load
from tests.probes.test_daemon import at_a_quiet_moment, read_samples, since, total
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.deploy.containers.conftest import Images
    from tests.deploy.containers.engine import Container, Engine
    from tests.probes.test_daemon import Samples

pytestmark = [pytest.mark.docker, pytest.mark.kernel]

MODES = ["lt", "et"]


@dataclass
class Daemon:
    """A daemon in a container, as the tests of the probe ask for one."""

    container: Container
    url: str

    def scrape(self) -> Samples:
        return read_samples(self.url)


@dataclass
class Witness:
    """A probe in a container."""

    container: Container
    url: str


@pytest.fixture
def daemon(containers: Engine, images: Images) -> Callable[[str], Daemon]:
    def start(mode: str) -> Daemon:
        container = containers.start(*HARDENED, images.etlt, "--mode", mode)
        daemon = Daemon(container, container.url)
        until(lambda: "listening " in container.logs(), PATIENCE_SECONDS)
        return daemon

    return start


@pytest.fixture
def witness(containers: Engine, images: Images) -> Callable[..., Witness]:
    def start(*options: str, watch: tuple[str, ...]) -> Witness:
        capabilities = containers.probe_capabilities
        container = containers.start(*HARDENED, *capabilities, *options, images.probe, *watch)
        url = f"http://{container.address}:9701/metrics"
        until(
            lambda: "serving " in container.logs() or container.state["Status"] == "exited",
            PATIENCE_SECONDS,
        )
        assert container.state["Status"] == "running", container.logs()
        return Witness(container, url)

    return start


def check_that_the_counts_are_equal(
    daemon: Daemon, probe: Witness, engine: Engine, image: str
) -> None:
    """Compare both sides over a load from a sibling container, from rest to rest."""
    until(lambda: total(read_samples(probe.url), "etlt_probe_loop_threads") == 1, PATIENCE_SECONDS)
    before_kernel, before_daemon = at_a_quiet_moment(daemon, probe)
    run = load(engine, image, daemon.container)
    until(lambda: not total(daemon.scrape(), "etltd_connections"), PATIENCE_SECONDS)
    after_kernel, after_daemon = at_a_quiet_moment(daemon, probe)
    kernel, own = since(after_kernel, before_kernel), since(after_daemon, before_daemon)

    assert kernel == own
    assert own["accept4"] >= run["connections"]
    assert own["events"] > 0
    samples = read_samples(probe.url)
    assert total(samples, "etlt_probe_missed_runs_total") == 0
    assert total(samples, "etlt_probe_target_up", mode=run["mode"]) == 1


@pytest.mark.parametrize("mode", MODES)
def test_counts_are_equal_from_the_servers_pid_namespace(
    mode: str,
    daemon: Callable[[str], Daemon],
    witness: Callable[..., Witness],
    containers: Engine,
    images: Images,
) -> None:
    """Read-only, two capabilities, no mount, nothing of the host: `--pid container:NAME`."""
    server = daemon(mode)
    probe = witness("--pid", f"container:{server.container.id}", watch=("--pid", "1"))

    check_that_the_counts_are_equal(server, probe, containers, images.etlt)


def test_counts_are_equal_from_the_hosts_pid_namespace(
    daemon: Callable[[str], Daemon],
    witness: Callable[..., Witness],
    containers: Engine,
    images: Images,
) -> None:
    """One probe for the whole host: `--pid host`."""
    server = daemon("et")
    pid = str(server.container.state["Pid"])
    is_first = Path("/proc/self/ns/pid").stat().st_ino == FIRST_PID_NAMESPACE
    look_below = () if is_first else ("--cap-add", "SYS_PTRACE")
    probe = witness("--pid", "host", *look_below, watch=("--pid", pid))

    check_that_the_counts_are_equal(server, probe, containers, images.etlt)


def test_the_probe_holds_its_capabilities_and_no_other(
    daemon: Callable[[str], Daemon], witness: Callable[..., Witness], containers: Engine
) -> None:
    server = daemon("et")
    probe = witness("--pid", f"container:{server.container.id}", watch=("--comm", "etltd"))
    said = probe.container.shell("cat /proc/self/status; touch /here")
    held = next(line for line in said.splitlines() if line.startswith("CapBnd"))
    allowed = {
        "--cap-add=BPF": 1 << 39,
        "--cap-add=PERFMON": 1 << 38,
        "--cap-add=SYS_ADMIN": 1 << 21,
    }

    assert int(held.split()[1], 16) == sum(allowed[one] for one in containers.probe_capabilities)
    assert "Read-only file system" in said
    assert probe.container.inspect()["Mounts"] == []


def refusal(containers: Engine, *arguments: str) -> str:
    container = containers.start(*HARDENED, *arguments)
    assert containers.docker("wait", container.id) == "1"
    said = container.logs()
    assert said.count("\n") == 1, said
    return said


def test_missing_capabilities_are_named_for_old_engines_too(
    daemon: Callable[[str], Daemon], containers: Engine, images: Images
) -> None:
    share = f"container:{daemon('lt').container.id}"
    said = refusal(containers, "--pid", share, images.probe, "--pid", "1", "--once")

    assert "needs CAP_BPF and CAP_PERFMON" in said
    assert "--cap-add BPF --cap-add PERFMON (older than 23: --cap-add SYS_ADMIN)" in said


def test_a_probe_alone_in_its_namespace_does_not_watch_itself(
    containers: Engine, images: Images
) -> None:
    """Everything would seem to work, and the counts would be the probe's own."""
    capabilities = containers.probe_capabilities
    said = refusal(containers, *capabilities, images.probe, "--pid", "1", "--once")

    assert "pid 1 is the probe itself" in said
    assert "--pid container:NAME" in said


def test_once_prints_a_table_of_the_server_in_the_other_container(
    daemon: Callable[[str], Daemon], containers: Engine, images: Images
) -> None:
    """What an engineer types first."""
    share = ("--pid", f"container:{daemon('et').container.id}")
    container = containers.start(
        *(*HARDENED, *containers.probe_capabilities, *share, images.probe),
        *("--once", "--duration", "2", "--pid", "1"),
    )
    assert containers.docker("wait", container.id) == "0"

    assert "etltd-et (pid 1, mode et): 2.0" in container.logs()
    assert "\nepoll_wait returned" in container.logs()


def test_the_image_has_the_bcc_that_we_say_it_has(containers: Engine, images: Images) -> None:
    """Each BCC has traps of its own; all that is counted in this image is counted with this one."""
    container = containers.start(
        *(*HARDENED, "--entrypoint", "/usr/bin/python3", images.probe),
        *("-c", "import bcc; print(bcc.__version__)"),
    )
    assert containers.docker("wait", container.id) == "0"

    assert container.logs().startswith("0.31.")
