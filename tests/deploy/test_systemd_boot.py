"""The units under a real systemd: what an operator does to them, and what must come of it.

The tests are in the order of a machine's life: installed, run, behind sockets, uninstalled.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

from tests.certificates import make_certificates
from tests.deploy.machine import CHECKOUT
from tests.deploy.test_units import EXPOSURE, EXPOSURE_BEHIND_SOCKETS
from tests.probes.test_daemon import by_daemon, by_kernel, total
from tests.stall import stalled
from tests.system.nats import NatsServer, needs_nats
from tests.system.rig import GOODBYE, Client, Crowd
from tests.waiting import PATIENCE_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.deploy.machine import Machine, Samples

    Record = Callable[[str, object], None]

pytestmark = pytest.mark.systemd

CHAT = {"lt": 9000, "et": 9001}
METRICS = {"lt": 9700, "et": 9703}
PROBE_METRICS = 9701
LOOPS, LOOPS_CHAT, LOOPS_METRICS = ("etltd-loop@0", "etltd-loop@1"), 9002, (9710, 9711)
MANY = 24  # clients: that all come to one of two loops has a chance of one in eight million
DYNAMIC_UIDS = range(61184, 65520)  # systemd's, UIDS-GIDS.md
BPF_AND_PERFMON, SYS_PTRACE = (1 << 39) | (1 << 38), 1 << 19  # linux/capability.h
CATCHES_SIGTERM = 1 << (signal.SIGTERM - 1)  # SigCgt, proc_pid_status(5)
INFO, WARNING = "6", "4"
TOUCHED = ("/opt", "/usr/local", "/etc/etlt", "/etc/systemd/system")
ROUNDS = 23
STORED_CLIENTS = int(os.environ.get("STORED_CLIENTS", "300"))


def files(machine: Machine) -> list[str]:
    folders = " ".join(TOUCHED)
    return machine.run("sh", "-c", f"find {folders} 2>/dev/null | sort").splitlines()


@pytest.fixture(scope="module")
def before(booted: Machine) -> list[str]:
    """Return the files that were there before we came."""
    return files(booted)


@pytest.fixture(scope="module")
def installed(booted: Machine, before: list[str]) -> Machine:
    """Install by the documented command, with the bus: one installation is quicker than two."""
    assert not any("etlt" in name for name in before), "something of ours is on this system"
    booted.install("--with-bus")
    return booted


@pytest.fixture
def machine(installed: Machine) -> Iterator[Machine]:
    """Return the machine with everything installed and nothing of ours running."""
    yield installed
    installed.reset()


@pytest.fixture(params=["lt", "et"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def start(machine: Machine, mode: str, drop_in: str = "") -> str:
    """Start the daemon and return its unit."""
    unit = f"etltd@{mode}.service"
    if drop_in:
        machine.drop_in(unit, f"[Service]\n{drop_in}")
    machine.systemctl("start", unit)
    return unit


def message(entry: dict[str, Any]) -> str:
    return str(entry["MESSAGE"])


def said(machine: Machine, unit: str, beginning: str) -> dict[str, Any]:
    """Return the last journal entry of *unit* that begins so."""
    return [e for e in machine.journal(unit) if message(e).startswith(beginning)][-1]


def end_of(machine: Machine, unit: str) -> str:
    """Return what systemd last said of the end of *unit*; its properties go when it is idle."""
    ends = (f"{unit}: Deactivated", f"{unit}: Failed")
    told = [message(e) for e in machine.journal(unit) if message(e).startswith(ends)]
    return told[-1].removeprefix(f"{unit}: ")


def peers(machine: Machine, mode: str) -> float:
    return total(machine.samples(METRICS[mode]), "etltd_connections")


def talk(machine: Machine, mode: str, lines: int = ROUNDS) -> Crowd:
    """Have two clients say *lines* lines each and hear each other's; return them."""
    already = peers(machine, mode)
    crowd = Crowd([machine.dial(CHAT[mode]), machine.dial(CHAT[mode])])
    until(lambda: peers(machine, mode) == already + 2)
    for number in range(lines):
        for client in crowd.clients:
            client.say(b"line %d\n" % number)
    crowd.until(lambda: all(len(client.lines()) == lines for client in crowd.clients))
    for client in crowd.clients:
        words = [line.partition(b"] ")[2] for line in client.lines()]
        assert words == [b"line %d\n" % number for number in range(lines)]
    return crowd


def test_the_machine_cannot_touch_the_system_that_the_tests_run_on(booted: Machine) -> None:
    """Systemd sets the kernel's variables as it boots; here it must not be able to."""
    assert booted.run("cat", "/proc/1/comm") == "systemd"
    assert booted.run("hostname") == "etlt-test"
    assert Path("/proc/sys/kernel/hostname").read_text() != "etlt-test\n"
    assert not booted.succeeds("sh", "-c", "echo 1 >/proc/sys/kernel/printk")
    assert not booted.succeeds("sh", "-c", "echo h >/proc/sysrq-trigger")
    assert booted.succeeds("touch", "/etc/of-the-machine")
    assert not Path("/etc/of-the-machine").exists()


# -- installed -----------------------------------------------------------------------------------


def test_systemd_understands_what_is_installed(machine: Machine) -> None:
    """The commands that the units start are there, too."""
    sockets = ("etltd@lt.socket", "etltd-metrics@lt.socket")
    verify = ("systemd-analyze", "verify", "--man=no", "--recursive-errors=yes")

    assert machine.run(*verify, *EXPOSURE, *sockets) == ""


@pytest.mark.parametrize("unit", EXPOSURE)
def test_what_runs_is_confined(machine: Machine, unit: str, record_property: Record) -> None:
    """The score of the loaded unit, drop-ins included."""
    score = exposure(machine, unit)
    record_property(f"exposure of {unit}, loaded", score)

    assert score <= EXPOSURE[unit]


def exposure(machine: Machine, unit: str) -> float:
    text = machine.run("systemd-analyze", "security", "--no-pager", unit)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", text)
    assert found, text
    return float(found[1])


def test_the_commands_are_in_the_path(machine: Machine) -> None:
    for command in ("etltd", "loadclient", "etlt-probe"):
        assert machine.run(f"/usr/local/bin/{command}", "--version").startswith(command)


def test_start_returns_when_it_serves(machine: Machine, mode: str) -> None:
    """A unit ordered after it may connect at once: ready means that the sockets listen."""
    unit = start(machine, mode)
    machine.dial(CHAT[mode])  # the first attempt

    assert machine.show(unit, "ActiveState") == "active"
    until(lambda: machine.show(unit, "StatusText") == "1 peers, 0 behind")
    assert machine.get(METRICS[mode], "/readyz")[0] == 200


def test_clients_talk_through_it(machine: Machine, mode: str) -> None:
    start(machine, mode)
    talk(machine, mode)

    assert total(machine.samples(METRICS[mode]), "etltd_messages_received_total") == 2 * ROUNDS


def test_a_load_is_accounted_for_to_the_last_message(machine: Machine) -> None:
    """Under all that confinement, the ledger of client and daemon balances."""
    start(machine, "et")
    said = machine.run(
        *("/usr/local/bin/loadclient", "run", "127.0.0.1", str(CHAT["et"]), "--conns", "7"),
        *("--duration", "1", "--warmup", "0.5", "--rate", "10"),
        *("--server-metrics", f"http://127.0.0.1:{METRICS['et']}/metrics", "--quiet"),
    )

    assert said == ""  # --quiet speaks of what is wrong only


def test_it_is_nobody_and_may_do_nothing(machine: Machine) -> None:
    status = machine.status_of(machine.main_pid(start(machine, "lt")))

    assert int(status["Uid"].split()[0]) in DYNAMIC_UIDS
    assert int(status["Gid"].split()[0]) in DYNAMIC_UIDS
    assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {0}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_its_own_process_is_among_its_metrics(machine: Machine) -> None:
    """ProcSubset=pid would hide what they are made of: they would be missing, or all zero."""
    unit = start(machine, "et")
    samples = machine.samples(METRICS["et"])
    resident = re.search(r"\d+", machine.status_of(machine.main_pid(unit))["VmRSS"])

    assert resident
    found = total(samples, "etltd_resident_memory_bytes") / (int(resident[0]) * 1024)
    assert found == pytest.approx(1, rel=0.2)
    assert 3 < total(samples, "etltd_open_fds") < 64
    assert total(samples, "etltd_max_fds") >= 1024
    assert total(samples, "etltd_cpu_seconds_total") > 0
    assert total(samples, "etltd_context_switches_total") > 0
    assert 0 < time.time() - total(samples, "etltd_start_time_seconds") < 600


def test_the_journal_knows_how_important_a_line_is(machine: Machine) -> None:
    """`journalctl -p warning` is how an operator looks; and the journal has a clock of its own."""
    unit = start(machine, "lt", "Environment=ETLTD_MAX_CONNECTIONS=2000000000")
    listening = said(machine, unit, "listening chat=")
    lowered = said(machine, unit, "max_connections lowered")

    assert (listening["PRIORITY"], lowered["PRIORITY"]) == (INFO, WARNING)
    assert "mode=lt" in message(listening)


def test_a_loop_that_hangs_is_killed_and_started_again(machine: Machine) -> None:
    """The pings come from the loop itself, which alone is held up here: the other threads go on.

    And the journal says on which line it hung.
    """
    unit = start(machine, "et", "WatchdogSec=1")
    hung = machine.main_pid(unit)

    holder = [*machine.within(), "python3", f"{CHECKOUT}/tests/stall.py"]
    with stalled(hung, holder):
        until(
            lambda: (
                machine.show(unit, "NRestarts") == "1" and machine.main_pid(unit) not in (0, hung)
            )
        )
    until(lambda: machine.show(unit, "ActiveState") == "active")

    told = [message(entry) for entry in machine.journal(unit)]
    assert any("Watchdog timeout" in text for text in told)
    assert any("Fatal Python error: Aborted" in text for text in told)
    assert any("etltd/reactor.py" in text for text in told)
    talk(machine, "et")


def test_a_loop_that_does_not_hang_is_left_alone(machine: Machine) -> None:
    """Idle, it must still ping in time."""
    unit = start(machine, "lt", "WatchdogSec=1")
    pid = machine.main_pid(unit)
    pinged = machine.show(unit, "WatchdogTimestampMonotonic")
    for _ in range(5):
        last = pinged
        until(lambda: machine.show(unit, "WatchdogTimestampMonotonic") != last)
        pinged = machine.show(unit, "WatchdogTimestampMonotonic")

    assert (machine.main_pid(unit), machine.show(unit, "NRestarts")) == (pid, "0")


def test_stop_tells_the_peers_and_exits_in_good_order(machine: Machine, mode: str) -> None:
    unit = start(machine, mode)
    crowd = talk(machine, mode)
    machine.systemctl("stop", unit)
    crowd.until_end()

    assert all(bytes(client.inbox).endswith(GOODBYE) for client in crowd.clients)
    assert not any(client.was_reset for client in crowd.clients)
    assert end_of(machine, unit) == "Deactivated successfully."
    assert "messages_abandoned=0" in message(said(machine, unit, "stopped"))


def test_a_peer_that_reads_nothing_cannot_hold_up_a_stop(machine: Machine) -> None:
    """What it is owed is abandoned and reported after the grace; systemd need not kill."""
    unit = start(machine, "lt", "Environment=ETLTD_GRACE_SECONDS=0.5 ETLTD_SNDBUF=4096")
    machine.dial(CHAT["lt"], rcvbuf=4096)  # and never reads
    talker = machine.dial(CHAT["lt"])
    until(lambda: peers(machine, "lt") == 2)
    talker.say(b"x" * 4000 + b"\n")
    Crowd([talker]).until(lambda: not talker.outgoing)

    def is_owed() -> bool:
        talker.say((b"x" * 4000 + b"\n") * 16)
        Crowd([talker]).until(lambda: not talker.outgoing)
        return total(machine.samples(METRICS["lt"]), "etltd_outbox_bytes") > 0

    until(is_owed)
    machine.systemctl("stop", unit)

    assert end_of(machine, unit) == "Deactivated successfully."
    assert "messages_abandoned=0" not in message(said(machine, unit, "stopped"))


@pytest.mark.parametrize("unit", ["etltd@lt.service", "etlt-probe.service"])
def test_a_wrong_option_is_not_tried_again(machine: Machine, unit: str) -> None:
    """It would fill the journal with one sentence; once is enough to read it."""
    command = "etlt-probe --port" if "probe" in unit else "etltd --mode lt --port"
    machine.drop_in(unit, f"[Service]\nExecStart=\nExecStart=/opt/etlt/bin/{command} 70000")
    machine.systemctl("start", unit, check=False)

    assert machine.show(unit, "ActiveState") == "failed"
    assert (machine.show(unit, "ExecMainStatus"), machine.show(unit, "NRestarts")) == ("2", "0")
    assert any("70000" in message(e) and "65535" in message(e) for e in machine.journal(unit))


def test_an_instance_that_is_no_mode_is_refused_in_a_sentence(machine: Machine) -> None:
    """The name decides, and not what somebody has copied into its file."""
    unit = "etltd@xt.service"
    machine.write("/etc/etlt/xt.toml", "port = 9001\n")
    machine.systemctl("start", unit, check=False)

    assert machine.show(unit, "ExecMainStatus") == "2"
    assert "--mode" in message(said(machine, unit, "etltd: "))


@pytest.mark.parametrize("unit", ["etltd@lt.service", "etlt-probe.service"])
def test_a_stop_while_it_starts_is_in_good_order(machine: Machine, unit: str) -> None:
    """SIGTERM may come before it listens: then there is nothing to finish, and nothing failed."""
    machine.systemctl("start", "--no-block", unit)
    until(lambda: machine.main_pid(unit))
    pid = machine.main_pid(unit)
    until(lambda: int(machine.status_of(pid)["SigCgt"], 16) & CATCHES_SIGTERM)
    machine.systemctl("stop", unit)

    assert end_of(machine, unit) == "Deactivated successfully."
    assert machine.show(unit, "ActiveState") == "inactive"


def test_metrics_by_tls_with_a_key_that_only_systemd_can_read(
    machine: Machine, tmp_path: Path
) -> None:
    """The drop-in of the manual; the daemon is nobody, and the key is root's."""
    made = make_certificates(tmp_path)
    for name, path in (("key", made.server.key), ("cert", made.server.cert)):
        machine.write(f"/etc/etlt-test-{name}.pem", path.read_text(), mode="600")
    start(
        machine,
        "lt",
        "LoadCredential=key.pem:/etc/etlt-test-key.pem\n"
        "LoadCredential=cert.pem:/etc/etlt-test-cert.pem\n"
        "Environment=ETLTD_METRICS_TLS_KEY=%d/key.pem ETLTD_METRICS_TLS_CERT=%d/cert.pem",
    )
    sock = machine.inside(socket.create_connection, ("127.0.0.1", METRICS["lt"]))
    context = ssl.create_default_context(cafile=str(made.ca))
    with context.wrap_socket(sock, server_hostname="127.0.0.1") as secured:
        secured.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")

        assert b" 200 " in secured.recv(100)


def test_reload_keeps_every_client(machine: Machine, mode: str) -> None:
    """A new version, or new options, under all that confinement; and the unit stays as it was."""
    unit = start(machine, mode)
    crowd = talk(machine, mode)
    pid = machine.main_pid(unit)
    machine.systemctl("reload", unit)
    until(lambda: total(machine.samples(METRICS[mode]), "etltd_handovers_total") == 1)
    until(lambda: machine.show(unit, "ActiveState") == "active")

    crowd.clients[0].say(b"after\n")
    crowd.until(lambda: crowd.clients[1].inbox.endswith(b"] after\n"))
    assert (machine.main_pid(unit), machine.show(unit, "NRestarts")) == (pid, "0")
    assert "peers=2" in message(said(machine, unit, "took over"))


def test_a_reload_that_cannot_be_is_refused_and_the_unit_stays_active(machine: Machine) -> None:
    unit = start(machine, "et")
    crowd = talk(machine, "et")
    options = machine.run("cat", "/etc/etlt/et.toml")
    machine.write("/etc/etlt/et.toml", "port = 9009\n")
    machine.systemctl("reload", unit)
    until(lambda: any(message(e).startswith("hand-over refused") for e in machine.journal(unit)))
    machine.write("/etc/etlt/et.toml", options)

    refused = said(machine, unit, "hand-over refused")
    assert refused["PRIORITY"] == WARNING
    assert "--port was 9001 and is 9009 now" in message(refused)
    until(lambda: machine.show(unit, "ActiveState") == "active")
    crowd.clients[0].say(b"after\n")
    crowd.until(lambda: crowd.clients[1].inbox.endswith(b"] after\n"))


def test_restart_keeps_every_client(machine: Machine, mode: str) -> None:
    """Another process, and nobody noticed: ids, begun lines, and the ports stayed with systemd."""
    unit = start(machine, mode)
    crowd = talk(machine, mode)
    pid = machine.main_pid(unit)
    crowd.clients[0].say(b"begun before")
    crowd.until(lambda: not crowd.clients[0].outgoing)
    for _ in range(2):
        machine.systemctl("restart", unit)
    crowd.clients[0].say(b", finished after\n")
    crowd.until(lambda: crowd.clients[1].inbox.endswith(b"] begun before, finished after\n"))

    assert machine.main_pid(unit) != pid
    samples = machine.samples(METRICS[mode])
    assert total(samples, "etltd_handovers_total") == 2
    assert total(samples, "etltd_messages_received_total") == 2 * ROUNDS + 1
    assert machine.show(unit, "NFileDescriptorStore") == "0", "it would keep who leaves from going"
    machine.systemctl("stop", unit)
    crowd.until_end()
    assert all(bytes(client.inbox).endswith(GOODBYE) for client in crowd.clients)


def test_a_restart_under_load_costs_a_pause_and_nothing_else(
    machine: Machine, mode: str, record_property: Record
) -> None:
    """As many as the store takes: STORED_CLIENTS=1900. Some read too slowly, and are owed bytes."""
    unit = start(machine, mode, "Environment=ETLTD_SNDBUF=4608\n")
    metrics = f"http://127.0.0.1:{METRICS[mode]}/metrics"
    load = subprocess.Popen(
        [
            *(*machine.within(), "/usr/local/bin/loadclient", "run", "127.0.0.1", str(CHAT[mode])),
            *("--conns", str(STORED_CLIENTS), "--senders", "20", "--rate", "5", "--verify", "full"),
            *("--slow-readers", "20", "--slow-reader-rate", "500", "--rcvbuf", "4608"),
            *("--warmup", "1", "--duration", "8", "--drain-timeout", "60", "--quiet"),
            *("--server-metrics", metrics, "--json", "/root/load.json"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with load:
        until(lambda: total(machine.samples(METRICS[mode]), "etltd_outbox_connections") >= 20)
        began = time.monotonic()
        machine.systemctl("restart", unit)
        record_property("restart_seconds", time.monotonic() - began)
        assert load.poll() is None, "the load was over before the restart"
        assert "the server was restarted during the run\n" in load.communicate()[0]
    found = json.loads(machine.run("cat", "/root/load.json"))
    record_property("latency_seconds", found["latency_seconds"])

    assert total(machine.samples(METRICS[mode]), "etltd_handovers_total") == 1
    assert found["lost"] == found["duplicated"] == found["reordered"] == found["damaged"] == 0
    assert found["messages_received"] == found["messages_expected"]
    assert sum(found["connections_closed_by_server"].values()) == 0


# -- the probe -----------------------------------------------------------------------------------


def of_mode(samples: Samples, mode: str) -> Samples:
    return [sample for sample in samples if sample[1].get("mode") == mode]


def both_sides(machine: Machine, mode: str) -> tuple[dict[str, float], dict[str, float]]:
    """Return the kernel's counts and the daemon's own at a moment when neither moves."""

    def read() -> tuple[dict[str, float], dict[str, float]]:
        seen = of_mode(machine.samples(PROBE_METRICS), mode)
        # What it writes goes to systemd and the journal; peers are sent to.
        kernel = by_kernel([sample for sample in seen if sample[1].get("syscall") != "write"])
        return kernel, by_daemon(machine.samples(METRICS[mode]))

    readings = [read()]

    def is_quiet() -> bool:
        readings.append(read())
        return readings[-1] == readings[-2]

    until(is_quiet)
    return readings[-1]


def since(now: dict[str, float], before: dict[str, float]) -> dict[str, float]:
    return {name: now[name] - before.get(name, 0) for name in now}


@pytest.mark.kernel
def test_the_probe_counts_both_daemons_with_two_capabilities(machine: Machine) -> None:
    """Ambient capabilities and a made-up user are enough; its counts equal the daemons' own."""
    machine.systemctl("start", "etlt-probe.service")
    for one in CHAT:
        start(machine, one)
    status = machine.status_of(machine.main_pid("etlt-probe.service"))
    assert int(status["Uid"].split()[0]) in DYNAMIC_UIDS
    assert {int(status[f"Cap{kind}"], 16) for kind in ("Eff", "Bnd", "Amb")} == {BPF_AND_PERFMON}

    for one in CHAT:

        def loop_is_known(one: str = one) -> bool:
            seen = of_mode(machine.samples(PROBE_METRICS), one)
            return total(seen, "etlt_probe_loop_threads") == 1

        until(loop_is_known)
        kernel_before, own_before = both_sides(machine, one)
        talk(machine, one)
        kernel_after, own_after = both_sides(machine, one)
        kernel, own = since(kernel_after, kernel_before), since(own_after, own_before)

        assert kernel == own
        assert kernel["accept4"] >= 2
        assert kernel["bytes received"] == sum(2 * len(b"line %d\n" % n) for n in range(ROUNDS))


@pytest.mark.kernel
def test_the_probe_follows_a_daemon_that_is_restarted(machine: Machine) -> None:
    start(machine, "et")
    machine.systemctl("start", "etlt-probe.service")

    def watched() -> set[str]:
        found = of_mode(machine.samples(PROBE_METRICS), "et")
        return {by["pid"] for name, by, _ in found if name == "etlt_probe_target_info"}

    until(lambda: watched() == {str(machine.main_pid("etltd@et.service"))})
    machine.systemctl("restart", "etltd@et.service")
    until(lambda: watched() == {str(machine.main_pid("etltd@et.service"))})


@pytest.mark.kernel
def test_the_manuals_third_capability_comes_on_top(machine: Machine) -> None:
    """Two lines of a drop-in add to the lists; a list that is replaced would lack the other two."""
    unit = "etlt-probe.service"
    more = "[Service]\nAmbientCapabilities=CAP_SYS_PTRACE\nCapabilityBoundingSet=CAP_SYS_PTRACE"
    machine.drop_in(unit, more)
    machine.systemctl("start", unit)
    status = machine.status_of(machine.main_pid(unit))

    assert int(status["CapEff"], 16) == BPF_AND_PERFMON | SYS_PTRACE


def test_a_probe_without_its_capabilities_says_what_it_needs(machine: Machine) -> None:
    """Systemctl start fails with it, and the journal has one sentence to act on."""
    unit = "etlt-probe.service"
    machine.drop_in(unit, "[Service]\nAmbientCapabilities=\nRestart=no")
    machine.systemctl("start", unit, check=False)

    assert machine.show(unit, "ActiveState") == "failed"
    assert "needs CAP_BPF and CAP_PERFMON" in message(said(machine, unit, "etlt-probe: "))


# -- several loops on one port --------------------------------------------------------------------


def dealt(machine: Machine, listener: str) -> list[float]:
    """Have many clients connect; return how many each loop has accepted."""
    machine.systemctl("start", *LOOPS)
    for _ in range(MANY):
        machine.dial(LOOPS_CHAT)

    def accepted() -> list[float]:
        samples = [machine.samples(port) for port in LOOPS_METRICS]
        return [total(one, "etltd_connections_accepted_total") for one in samples]

    until(lambda: sum(accepted()) == MANY)
    for port in LOOPS_METRICS:
        assert f'listener="{listener}"' in machine.get(port)[1]
    return accepted()


def test_loops_share_a_port_and_each_is_a_unit_of_its_own(machine: Machine) -> None:
    """The kernel deals the clients; a loop that stops takes only its own with it."""
    assert all(dealt(machine, "reuseport"))

    machine.systemctl("stop", LOOPS[0])

    until(lambda: machine.show(LOOPS[0], "ActiveState") == "inactive")
    assert machine.show(LOOPS[1], "ActiveState") == "active"
    client = machine.dial(LOOPS_CHAT)
    until(lambda: total(machine.samples(LOOPS_METRICS[1]), "etltd_connections") >= 1)
    assert not client.at_end


def test_loops_accept_from_one_socket_of_systemd(machine: Machine) -> None:
    """Whoever waits in its queue is served by whichever loop comes to it first."""
    drop_in = Path("deploy/systemd/one-socket.conf").read_text()
    machine.drop_in("etltd-loop@.service", drop_in)
    machine.systemctl("start", "etltd-loops.socket")

    assert sum(dealt(machine, "exclusive")) == MANY
    assert machine.show("etltd-loops.socket", "ActiveState") == "active"


@needs_nats
def test_loops_with_a_bus_are_one_chat(machine: Machine, tmp_path: Path) -> None:
    """Without what --with-bus installs they do not start; of one name, they are never ready."""
    nats = machine.inside(NatsServer, tmp_path)
    try:
        machine.drop_in("etltd-loop@.service", f"[Service]\nEnvironment=ETLTD_BUS={nats.url}")
        assert all(dealt(machine, "reuseport"))
        until(lambda: all(machine.get(port, "/readyz")[0] == 200 for port in LOOPS_METRICS))
        until(lambda: total(machine.samples(LOOPS_METRICS[0]), "etltd_bus_peers") == 1)
        speaker, *others = machine.clients
        speaker.say(b"hello\n")
        Crowd([speaker, *others]).until(lambda: all(other.lines() for other in others))
    finally:
        nats.kill()

    (heard,) = {bytes(other.inbox) for other in others}
    assert re.fullmatch(rb"\[USER\d+@etlt-test-[01]\] hello\n", heard)


# -- behind sockets ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_sockets(installed: Machine) -> Machine:
    """Install again, on top, with the ports held by systemd; then upgrade, as the manual says."""
    told = installed.install("--sockets")
    assert "et.toml stays as it is" in told
    assert "enable --now etltd@et.socket" in installed.install()
    return installed


@pytest.fixture
def behind_sockets(with_sockets: Machine) -> Iterator[Machine]:
    yield with_sockets
    with_sockets.reset()


def test_who_connects_and_speaks_before_the_daemon_runs_is_served(
    behind_sockets: Machine, mode: str
) -> None:
    machine = behind_sockets
    machine.systemctl("start", f"etltd@{mode}.socket")
    assert machine.show(f"etltd@{mode}.service", "ActiveState") == "inactive"

    early = machine.dial(CHAT[mode])  # it is this that starts the daemon
    early.say(b"first\n")
    late = machine.dial(CHAT[mode])
    crowd = Crowd([early, late])
    crowd.until(lambda: not early.outgoing)
    until(lambda: peers(machine, mode) == 2)  # the metrics' port came with it
    late.say(b"second\n")
    crowd.until(lambda: early.inbox)

    assert early.inbox == b"[USER2] second\n"
    samples = machine.samples(METRICS[mode])
    assert total(samples, "etltd_messages_received_total") == 2
    assert {by["mode"] for _, by, _ in samples if "mode" in by} == {mode}


def test_behind_sockets_it_has_no_network_and_no_way_out(
    behind_sockets: Machine, record_property: Record
) -> None:
    machine = behind_sockets
    unit = start(machine, "et")
    namespaces = [
        machine.run("readlink", f"/proc/{pid}/ns/net") for pid in (1, machine.main_pid(unit))
    ]
    score = exposure(machine, unit)
    record_property(f"exposure of {unit} behind sockets, loaded", score)

    assert namespaces[0] != namespaces[1]
    assert score <= EXPOSURE_BEHIND_SOCKETS
    talk(machine, "et")


class Reconnecting(threading.Thread):
    """A client that connects, speaks, leaves and connects again, until told to stop."""

    def __init__(self, machine: Machine, port: int) -> None:
        super().__init__()
        self.machine, self.port = machine, port
        self.told_to_stop = threading.Event()
        self.connected = self.refused = 0

    def run(self) -> None:
        while not self.told_to_stop.is_set():
            try:
                client = self.machine.inside(Client, ("127.0.0.1", self.port))
            except OSError:
                self.refused += 1
                continue
            self.connected += 1
            client.say(b"hello\n")
            client.step()
            client.sock.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.told_to_stop.set()
        self.join(PATIENCE_SECONDS)


def test_nobody_is_refused_while_it_restarts(
    behind_sockets: Machine, mode: str, record_property: Record
) -> None:
    """Systemd holds the port: who comes meanwhile waits in its queue and is served by the next.

    And who was there stays: only clients are in the store, not the sockets that systemd has.
    """
    machine = behind_sockets
    unit = start(machine, mode)
    first = machine.main_pid(unit)
    hearer = machine.dial(CHAT[mode])
    with Reconnecting(machine, CHAT[mode]) as client:
        until(lambda: client.connected > 10)
        for _ in range(2):
            machine.systemctl("restart", unit)
        connected = client.connected
        until(lambda: client.connected > connected + 10)

    record_property(f"connections to {unit} over 2 restarts", client.connected)
    assert machine.main_pid(unit) != first
    assert client.refused == 0
    speaker = machine.dial(CHAT[mode])
    speaker.say(b"again\n")
    Crowd([speaker, hearer]).until(lambda: b"again\n" in hearer.inbox)


def test_who_waits_in_the_queue_is_served_by_the_next_daemon(behind_sockets: Machine) -> None:
    """The stopped daemon must not take them with it."""
    machine = behind_sockets
    start(machine, "lt", "Environment=ETLTD_GRACE_SECONDS=0")
    machine.systemctl("stop", "etltd@lt.service")
    assert machine.show("etltd@lt.socket", "ActiveState") == "active"

    talk(machine, "lt")

    assert machine.show("etltd@lt.service", "ActiveState") == "active"


def test_own_ports_are_had_back_by_asking_for_them(with_sockets: Machine) -> None:
    with_sockets.install("--own-ports")
    unit = start(with_sockets, "et")
    namespaces = {
        with_sockets.run("readlink", f"/proc/{pid}/ns/net")
        for pid in (1, with_sockets.main_pid(unit))
    }
    with_sockets.reset()

    assert len(namespaces) == 1


# -- uninstalled ---------------------------------------------------------------------------------


def test_uninstall_leaves_nothing(installed: Machine, before: list[str]) -> None:
    """Also when a daemon is enabled and running: it is stopped in good order first."""
    machine = installed
    machine.systemctl("enable", "--now", "etltd@lt.service")
    client = machine.dial(CHAT["lt"])
    uninstall = f"{CHECKOUT}/deploy/install.sh"
    told = machine.run(uninstall, "uninstall")
    poll = select.poll()
    poll.register(client.sock, select.POLLIN)
    assert poll.poll(PATIENCE_SECONDS * 1000)
    client.step()

    assert client.inbox == GOODBYE
    assert "/etc/etlt stays" in told
    left = set(files(machine)) - set(before)
    assert left >= {"/etc/etlt", "/etc/etlt/lt.toml"}
    assert all(name.startswith("/etc/etlt") for name in left), left

    machine.run(uninstall, "uninstall", "--purge")
    assert files(machine) == before
    assert machine.show("etltd@lt.service", "LoadState") == "not-found"
    assert machine.run(uninstall, "uninstall") != ""  # again, and nothing to do
    client.sock.close()
