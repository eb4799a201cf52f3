"""The unit files themselves: systemd understands every line, and they confine what they start."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="needs systemd-analyze (apt-get install systemd)"
)

SHIPPED = Path("deploy/systemd")
SERVICES = ("etltd@lt.service", "etltd@et.service", "etltd-loop@0.service", "etlt-probe.service")
SOCKETS = tuple(
    f"{unit}@{mode}.socket" for unit in ("etltd", "etltd-metrics") for mode in ("lt", "et")
)
UNITS = (*SERVICES, *SOCKETS, "etltd-loops.socket")
EXPOSURE = {  # at most, of 10: worse than this is a change somebody should have meant
    "etltd@lt.service": 1.1,
    "etltd@et.service": 1.1,
    "etltd-loop@0.service": 1.1,
    "etlt-probe.service": 1.8,
}
EXPOSURE_BEHIND_SOCKETS = 0.2


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """Return a folder with the units, which start this checkout's commands."""
    folder = tmp_path / "system"
    shutil.copytree(SHIPPED, folder)
    for unit in folder.glob("*.service"):
        commands = str(Path(sys.executable).parent)
        unit.write_text(unit.read_text().replace("/opt/etlt/bin", commands))
    return folder


def with_sockets_drop_in(units: Path) -> Path:
    drop_ins = units / "etltd@.service.d"
    drop_ins.mkdir()
    shutil.copy(SHIPPED / "socket-activated.conf", drop_ins)
    return units


def analyze(units: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments],
        cwd=units,
        env={"PATH": "/usr/bin:/bin", "SYSTEMD_UNIT_PATH": f"{units}:"},
        capture_output=True,
        text=True,
        check=False,
    )


def verify(units: Path, *names: str) -> str:
    """Return what systemd does not like about the units *names*."""
    done = analyze(units, "verify", "--man=no", "--recursive-errors=yes", *names)
    assert bool(done.stderr) == bool(done.returncode)
    return done.stderr


def exposure(units: Path, unit: str) -> float:
    done = analyze(units, "security", "--offline=true", "--no-pager", f"./{unit}")
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    return float(found[1])


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_understands_every_line(units: Path, unit: str) -> None:
    """An unknown key is only warned of in a log that nobody reads, and protects nothing."""
    assert verify(units, unit) == ""


@pytest.mark.parametrize("mode", ["lt", "et"])
def test_systemd_understands_the_drop_in(units: Path, mode: str) -> None:
    assert verify(with_sockets_drop_in(units), f"etltd@{mode}.service") == ""


def test_systemd_understands_one_socket_for_several_loops(units: Path) -> None:
    drop_ins = units / "etltd-loop@.service.d"
    drop_ins.mkdir()
    text = (SHIPPED / "one-socket.conf").read_text()
    (drop_ins / "one-socket.conf").write_text(
        text.replace("/opt/etlt/bin", str(Path(sys.executable).parent))
    )

    assert verify(units, "etltd-loop@0.service", "etltd-loop@1.service") == ""


def test_a_key_that_systemd_does_not_know_is_noticed(units: Path) -> None:
    """Without --recursive-errors the check would pass whatever is in the file."""
    unit = units / "etltd@.service"
    unit.write_text(unit.read_text().replace("ProtectHome=", "ProtectHoem="))

    assert "ProtectHoem" in verify(units, "etltd@lt.service")


@pytest.mark.parametrize("unit", SERVICES)
def test_the_services_are_confined(
    units: Path, unit: str, record_property: Callable[[str, object], None]
) -> None:
    score = exposure(units, unit)
    record_property(f"exposure of {unit}", score)

    assert score <= EXPOSURE[unit]


@pytest.mark.parametrize("mode", ["lt", "et"])
def test_behind_sockets_a_daemon_can_reach_nothing(
    units: Path, mode: str, record_property: Callable[[str, object], None]
) -> None:
    score = exposure(with_sockets_drop_in(units), f"etltd@{mode}.service")
    record_property(f"exposure of etltd@{mode}.service behind sockets", score)

    assert score <= EXPOSURE_BEHIND_SOCKETS


def test_loops_of_two_hosts_have_different_names_on_the_bus() -> None:
    """Two of one name are never ready; a flag would beat every other name that one gives them."""
    unit = (SHIPPED / "etltd-loop@.service").read_text()
    drop_in = (SHIPPED / "one-socket.conf").read_text()

    assert re.findall("^Environment=ETLTD_BUS_INSTANCE=(.*)", unit, re.MULTILINE) == ["%l-%i"]
    assert "--bus-instance" not in unit + drop_in


def test_no_two_units_want_the_same_port() -> None:
    """The second of them would not start; the probe's and the load client's defaults count too."""
    ports = [
        int(port)
        for path in SHIPPED.rglob("*.toml")
        for port in re.findall(r"port = (\d+)", path.read_text())
    ]
    listening = [
        int(port)
        for path in SHIPPED.rglob("listen.conf")
        for port in re.findall(r"^ListenStream=127\.0\.0\.1:(\d+)$", path.read_text(), re.MULTILINE)
    ]

    assert sorted(ports) == [9000, 9001, 9002, 9700, 9701, 9703]  # 9702 is the load client's
    assert sorted(listening) == [9000, 9001, 9700, 9703]
