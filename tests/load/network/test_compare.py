"""The comparison over an emulated network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from loadclient.cli import main
from loadclient.compare import store
from loadclient.compare.bench import Bench, OwnDaemons
from loadclient.compare.command import _linked
from loadclient.compare.design import compared
from loadclient.compare.probing import ask_the_kernel
from loadclient.compare.study import Design, Shape
from loadclient.network.conditions import parse
from loadclient.network.link import network
from tests.load.network.holding import held_by
from tests.waiting import until

if TYPE_CHECKING:
    from loadclient.compare.study import Slice

ROOT = Path(__file__).parents[3]
pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(shutil.which("ip") is None, reason="the program ip is not installed"),
]
CELL = replace(compared(64), shape=Shape(name="few", conns=10, rate=10))
STUDY = """
pairs = 6
slice-seconds = 0.5
settle-seconds = 0
netem = "veth"

[[cell]]
conns = 10
rate = 10
"""


def compare(*arguments: object) -> int:
    with pytest.raises(SystemExit) as left:
        main(["compare", *map(str, arguments)])
    return left.value.code


def children(pid: int) -> list[Path]:
    """Return the processes that *pid* has started."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [Path("/proc", child) for child in text.split()]


def test_slices_over_a_bad_network_lose_nothing_and_say_what_they_went_through(
    tmp_path: Path,
) -> None:
    """TCP makes up for what is lost, so the ledger balances, and the delay is in the latency."""
    design = Design(
        netem="delay=5ms,loss=2%", pairs=1, slice_seconds=0.5, settle_seconds=0, cells=(CELL,)
    )
    raw = tmp_path / "raw.jsonl"
    with network(parse(design.netem)) as made, made.client.entered():
        header = store.Header(study_id="x", started=0, command="", design=design)
        link = _linked(store.Raw(header, {}), made).header.link
        store.begin(raw, header)
        assert Bench(design, raw, OwnDaemons(made), Nobody(), made).measure({})
    slices = store.read(raw).slices.values()

    assert link.emulation in {"netem", "tap"}
    assert (link.netem, len(slices)) == ("delay=5ms,loss=2%", 2)
    for one in slices:
        assert one.received == one.expected > 0, one.reasons
        assert one.outcomes["latency_p50_seconds"] > 0.010
    frames = [one.conditions["network"] for one in slices]
    assert all(row["frames_forwarded"] > 0 for row in frames)
    assert sum(row.get("frames_lost", row.get("frames_dropped")) for row in frames) > 0


class Nobody:
    """Somebody who does not follow the study."""

    def measured(self, one: Slice, left: int) -> None:
        pass


def test_a_killed_client_leaves_no_daemon_and_no_namespace(tmp_path: Path) -> None:
    """Nothing of ours runs at a SIGKILL: the kernel has to end what we started."""
    (tmp_path / "s.toml").write_text(STUDY)
    with subprocess.Popen(
        [sys.executable, "-m", "loadclient", "compare", "--study", "s.toml", "--no-probe"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as begun:
        until(lambda: [child for child in children(begun.pid) if is_daemon(child)], 60)
        started = children(begun.pid)
        inodes = {(child / "ns/net").stat().st_ino for child in started if is_daemon(child)}
        begun.kill()

    until(lambda: not any(child.exists() for child in started))
    until(lambda: not any(held_by(inode) for inode in inodes))
    assert inodes


def is_daemon(process: Path) -> bool:
    """Tell whether it is a daemon already: nsenter becomes one, and one only tries its options."""
    try:
        words = process.joinpath("cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):  # it has ended since
        return False
    return b"etltd" in words[1:3] and b"--show-config" not in words


def test_slices_over_two_kinds_of_network_do_not_mix(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "raw.jsonl"
    link = {"netem": "delay=1ms", "emulation": "carrier pigeon"}
    design = Design(netem="delay=1ms", pairs=6, cells=(compared(64),))
    store.begin(raw, store.Header(study_id="x", started=0, command="", design=design))
    stored = json.loads(raw.read_text()) | {"link": link}
    raw.write_text(json.dumps(stored) + "\n")

    assert compare("--resume", raw) == 2
    assert "measured over carrier pigeon, and here it would be" in capfd.readouterr().err


def test_daemons_of_somebody_else_are_where_they_are(capfd: pytest.CaptureFixture[str]) -> None:
    metrics = "http://127.0.0.1:1/metrics"
    code = compare(
        "--netem", "veth", "--a", "127.0.0.1:1", "--b", "127.0.0.1:2",
        "--a-metrics", metrics, "--b-metrics", metrics,
    )  # fmt: skip

    assert code == 2
    assert "--netem: daemons of yours are where they are" in capfd.readouterr().err


@pytest.mark.kernel
def test_the_kernel_is_asked_about_a_daemon_in_another_namespace() -> None:
    """The probe looks for a process, and processes are the same from everywhere."""
    design = Design(netem="veth", slice_seconds=0.5, settle_seconds=0)
    design = replace(design, cells=(CELL,))
    with network(parse(design.netem)) as made, made.client.entered():
        heard, complete = ask_the_kernel(design, OwnDaemons(made), lambda _: None, made)

    assert complete
    assert [one.unavailable for one in heard] == ["", ""]
    assert [one.contradictions for one in heard] == [[], []]
    assert all(one.messages >= 50 for one in heard)
