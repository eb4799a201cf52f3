"""Where no network can be made, the command says why in a sentence and measures nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unmeasured import unmeasured

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="takes from root what root has")
NOBODY = 65534


def refused(tmp_path: Path, netem: str, *before: str, first: str = "", **environment: str) -> str:
    command = [
        *before, sys.executable, "-c", f"from loadclient.cli import main; {first}main()",
        "compare", "--quick", "--netem", netem, "--raw", "raw.jsonl",
    ]  # fmt: skip
    tmp_path.chmod(0o755)  # whoever is not root has to see where it is
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        env=unmeasured() | {"PYTHONPATH": str(ROOT)} | environment,
    )  # fmt: skip

    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.glob("*.jsonl"))
    return done.stderr


def test_bad_conditions_name_the_option_and_what_is_allowed(tmp_path: Path) -> None:
    said = refused(tmp_path, "delay=20s")

    assert "--netem" in said
    assert '"delay=20s": delay must be a number from 0 to 1000' in said


def test_without_ip_there_is_no_network(tmp_path: Path) -> None:
    said = refused(tmp_path, "veth", PATH=str(tmp_path))

    assert '--netem "veth": the program "ip" (package iproute2) is missing.' in said


def test_only_root_makes_namespaces(tmp_path: Path) -> None:
    said = refused(tmp_path, "delay=1ms", first=f"import os; os.setuid({NOBODY}); ")

    assert '--netem "delay=1ms": it makes network namespaces, which needs root.' in said


@pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare is not installed")
def test_without_a_tun_device_and_without_netem_there_is_no_substitute(tmp_path: Path) -> None:
    """A container has no /dev/net/tun unless it is given one."""
    masked = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /dev/net && exec "$@"', "sh"]
    # Without tc, no kernel's netem can be used.
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("ip", "nsenter", "unshare", "mount", "sh"):
        (programs / name).symlink_to(shutil.which(name))
    said = refused(tmp_path, "delay=1ms", *masked, PATH=str(programs))

    assert "there is no netem here (the program tc is missing), and without /dev/net/tun" in said
