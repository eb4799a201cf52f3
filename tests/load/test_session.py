"""Where results go: nothing is replaced that is not a result's file, and no result is lost."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from loadclient.cli import main
from loadclient.options import why_not_writable
from loadclient.session import write_whole
from tests.unmeasured import unmeasured

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import FaultyServer

NOBODY = 65534


def refused(capsys: pytest.CaptureFixture[str], *tokens: str) -> str:
    """Return the one sentence by which these words are refused."""
    with pytest.raises(SystemExit) as left:
        main(list(tokens))
    out, err = capsys.readouterr()

    assert (left.value.code, out, err.count("\n")) == (2, "", 1)
    return err


def test_a_device_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    """As root, --json /dev/null replaced the device of the whole machine."""
    device = tmp_path / "null"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("making a device needs CAP_MKNOD")
    assert why_not_writable(device) is None
    try:
        write_whole(device, "lost\n")
    except PermissionError:
        pytest.skip("this file system lets no device be opened")

    assert device.is_char_device()
    assert [file.name for file in tmp_path.iterdir()] == ["null"]


def test_a_fifo_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    """Its reader would wait for ever."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    heard: list[str] = []
    reader = threading.Thread(target=lambda: heard.append(fifo.read_text()))
    reader.start()
    write_whole(fifo, "result\n")
    reader.join()

    assert heard == ["result\n"]
    assert fifo.is_fifo()


def test_a_link_stays_and_its_file_is_replaced(tmp_path: Path) -> None:
    """latest.json, a link into another folder, would become a file of its own."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    link = tmp_path / "latest.json"
    link.symlink_to(folder / "a.json")
    write_whole(link, "first\n")
    write_whole(link, "second\n")

    assert link.is_symlink()
    assert (folder / "a.json").read_text() == "second\n"
    assert [file.name for file in folder.iterdir()] == ["a.json"]


def test_the_longest_name_is_no_obstacle(tmp_path: Path) -> None:
    """A temporary file named after it would be longer than the file system allows."""
    path = tmp_path / ("é" * 127)
    write_whole(path, "result\n")

    assert path.read_text() == "result\n"


@pytest.mark.system
def test_a_full_disk_takes_the_file_and_not_the_summary(
    faulty: Callable[[str], FaultyServer], tmp_path: Path
) -> None:
    """Half an hour of load was gone without a figure; and half a file stayed."""
    command = [
        *(sys.executable, "-m", "loadclient", "run", "127.0.0.1", str(faulty("none").port)),
        *("--conns", "4", "--duration", "0.5", "--warmup", "0"),
        *("--json", str(tmp_path / "result.json"), "--csv", str(tmp_path / "series.csv")),
    ]
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f 1; {shlex.join(command)}"],  # no file longer than 1 KiB
        env=unmeasured(),  # the file of a coverage measurement would be longer, too
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.returncode == 1
    assert "sent          40 of 40 messages offered" in done.stdout
    assert done.stderr == (
        f'loadclient: --json "{tmp_path / "result.json"}": it could not be written: '
        "File too large.\n"
    )
    # The other file is short enough, and did not suffer with the first.
    assert [file.name for file in tmp_path.iterdir()] == ["series.csv"]


@pytest.mark.parametrize("option", ["--json", "--csv"])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (".", "it is a folder"),
        ("", '"" is not a path'),
        ("/nowhere/at/all", 'the folder "/nowhere/at" does not exist'),
        ("/dev/null/result", 'the folder "/dev/null" does not exist'),
    ],
)
def test_a_place_for_no_file_is_refused_before_the_load(
    capsys: pytest.CaptureFixture[str], option: str, given: str, said: str
) -> None:
    sentence = refused(capsys, "run", option, given)

    assert option in sentence
    assert said in sentence


def test_two_results_in_one_file_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "same")
    files = ("--json", str(tmp_path / "same"), "--csv", str(tmp_path / "link"))

    assert "would replace" in refused(capsys, "run", *files)


def test_a_folder_of_somebody_else_is_refused_before_the_load() -> None:
    """The run would end with a result that has no place."""
    if os.geteuid():
        pytest.skip("needs root, to become somebody who may not write")
    command = [sys.executable, "-m", "loadclient", "run", "127.0.0.1", "1", "--json", "/r.json"]
    try:
        done = subprocess.run(
            command, user=NOBODY, group=NOBODY, extra_groups=[],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    except PermissionError:
        pytest.skip("nobody may not run this interpreter")
    if "ModuleNotFoundError" in done.stderr or "can't open" in done.stderr:
        pytest.skip("nobody may not read this checkout")

    assert done.returncode == 2
    assert 'no file can be made in the folder "/"' in done.stderr
