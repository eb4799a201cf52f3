"""Flag beats environment beats file; bad input is one sentence, never a traceback."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ebpf import cli
from tests.probes.rig import PATIENCE_SECONDS, PROBE, REPOSITORY, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import IO, Any

    from tests.probes.rig import Exporter


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROBE, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        env=os.environ | environment,
    )


def usage_error(*arguments: str, **environment: str) -> str:
    result = run(*arguments, **environment)
    assert result.returncode == 2, result
    assert result.stdout == ""
    assert result.stderr.startswith("etlt-probe: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["--pid N or --comm NAME"]),
        (["--port", "3.7", "--comm", "x"], ["--port", '"3.7"', "whole number"]),
        (["--port", "9_7_0_1", "--comm", "x"], ["--port", '"9_7_0_1"', "whole number"]),
        (["--config", "", "--comm", "x"], ["--config", '"" is not a path']),
        (["--port", "70000", "--comm", "x"], ["--port", "70000", "0", "65535"]),
        (["--pid", "nginx"], ["--pid", '"nginx"', "whole number"]),
        (["--pid", "1.5"], ["--pid", '"1.5"', "whole number"]),
        (["--pid", "0"], ["--pid", "0 is not a process", "4194304"]),
        (["--comm", ""], ["--comm", "must not be empty"]),
        (["--comm", "x", "--once", "--duration", "nan"], ["--duration", "nan", "above 0"]),
        (["--comm", "x", "--once", "--duration", "0"], ["--duration", "above 0", "86400"]),
        (["--comm", "x", "--once", "--duration", "ten"], ["--duration", '"ten"', "seconds"]),
        (["--comm", "x", "--attach", "kprobe"], ["--attach", "kprobe", "raw", "perf"]),
        (["--comm", "x", "--json"], ["--json", "--once"]),
        (["--comm", "x", "--duration", "5"], ["--duration 5", "--once"]),
        (["--comm", "x", "nginx"], ["nginx is not an option"]),
        (["--comm", "x", "--prot", "1"], ["--prot", "--port"]),
        (["--config", "/absent.toml"], ["--config /absent.toml", "No such file"]),
    ],
    ids=" ".join,
)
def test_bad_input_is_a_sentence_with_option_value_and_what_is_allowed(
    arguments: list[str], parts: list[str]
) -> None:
    sentence = usage_error(*arguments)

    assert [part for part in parts if part not in sentence] == []


def test_a_bad_value_in_the_environment_is_named_as_such() -> None:
    assert "ETLT_PROBE_PORT" in usage_error("--comm", "x", ETLT_PROBE_PORT="x")


def test_a_misspelt_variable_is_refused_with_the_nearest() -> None:
    """It was ignored, and the probe listened elsewhere."""
    said = usage_error("--comm", "x", ETLT_PROBE_PROT="9")

    assert said.endswith(
        'the variable "ETLT_PROBE_PROT" sets no option; the nearest that does is ETLT_PROBE_PORT\n'
    )


def test_every_variable_that_is_written_of_is_known() -> None:
    texts = [*REPOSITORY.glob("*.md"), *(f for f in (REPOSITORY / "deploy").rglob("*.*"))]
    found = {
        name
        for text in texts
        if text.is_file()
        for name in re.findall(rb"\bETLT_PROBE_[A-Z_0-9]+\b", text.read_bytes())
    }

    assert len(found) > 3
    assert cli.misspelt(dict.fromkeys(map(bytes.decode, found), "")) is None


@pytest.mark.parametrize(
    ("text", "part"),
    [("port = 3.7", "port"), ("prot = 1", "prot"), ("port = = 1", "line 1"), ("\xff", "config")],
)
def test_a_bad_file_is_a_sentence_too(text: str, part: str, tmp_path: Path) -> None:
    file = tmp_path / "probe.toml"
    file.write_bytes(text.encode("latin-1"))

    assert part in usage_error("--comm", "x", "--config", str(file))


def test_flag_beats_environment_beats_file(tmp_path: Path) -> None:
    """Seen in the C program: what is compiled in is what won."""
    file = tmp_path / "probe.toml"
    file.write_text("lite = true\nall_threads = true\n")

    def defines(*arguments: str, **environment: str) -> set[str]:
        printed = run("--print-source", "--config", str(file), *arguments, **environment).stdout
        return set(re.findall(r"#define (LITE 1|ALL_THREADS 1|RAW_SWITCH 0)", printed))

    assert defines() == {"LITE 1", "ALL_THREADS 1"}
    assert defines(ETLT_PROBE_LITE="false") == {"ALL_THREADS 1"}
    assert defines("--lite", ETLT_PROBE_LITE="false") == {"LITE 1", "ALL_THREADS 1"}
    assert defines("--attach", "perf", ETLT_PROBE_ATTACH="raw") >= {"RAW_SWITCH 0"}


def test_help_shows_every_option_with_its_environment_variable() -> None:
    text = run("--help").stdout
    options = ("pid", "comm", "host", "port", "once", "duration", "json", "lite", "stats")

    for option in (*options, "all-threads", "attach", "print-source", "config"):
        assert f"--{option}" in text
        assert text.count(f"ETLT_PROBE_{option.upper().replace('-', '_')}") == 1
    assert "--pid N " in text  # not `INT...`: a second number is no number of --pid's


def test_version_works() -> None:
    assert re.fullmatch(r"etlt-probe \S+\n", run("--version").stdout)


def test_a_thread_of_the_kernel_is_refused() -> None:
    """It makes no system call: a run was called complete, of nothing."""
    try:
        kthreadd = Path("/proc/2/comm").read_text()
    except OSError:
        pytest.skip("this pid namespace does not show the kernel's threads")
    if kthreadd != "kthreadd\n":
        pytest.skip("process 2 is none of the kernel's here")
    result = run("--pid", "2", "--once")

    assert result.returncode == 1
    assert result.stderr == "etlt-probe: 2 is a thread of the kernel, which makes no system calls\n"


def test_a_process_that_is_not_there_says_how_to_share_its_namespace() -> None:
    result = run("--pid", "4194304")

    assert result.returncode == 1
    assert "no process 4194304 here" in result.stderr
    assert "--pid container:NAME" in result.stderr


def test_pid_1_that_is_the_probe_itself_is_refused() -> None:
    """In a container of its own everything would seem to work, and count the probe."""
    code = "import os, sys; from ebpf.cli import main; sys.exit(main(['--pid', str(os.getpid())]))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=REPOSITORY
    )

    assert result.returncode == 1
    assert "is the probe itself" in result.stderr
    assert 'pid: "service:NAME"' in result.stderr


@pytest.mark.kernel
def test_once_refuses_a_name_that_nobody_bears() -> None:
    result = run("--once", "--comm", "no-such-server", "--duration", "0.1")

    assert result.returncode == 1
    assert "no process here has a name that begins with no-such-server" in result.stderr


@pytest.mark.kernel
def test_a_process_that_ends_while_the_probe_is_prepared_is_not_waited_for() -> None:
    """It said that no process was called "" yet, and ran for ever: a number is not borne again."""
    code = (
        "import sys; from ebpf import cli, preflight; check = preflight.check\n"
        "def late():\n check(); print(flush=True); input()\n"
        "preflight.check = late; sys.exit(cli.main(sys.argv[1:]))"
    )
    with (
        subprocess.Popen(["sleep", "600"]) as process,
        subprocess.Popen(
            [sys.executable, "-c", code, "--port", "0", "--pid", str(process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        ) as probe,
    ):
        try:
            assert probe.stdout is not None
            assert probe.stdout.readline() == "\n"  # it has looked for the process, and loads next
            process.kill()
            process.wait()
            said = probe.communicate("\n", timeout=PATIENCE_SECONDS)[1]
        finally:
            process.kill()
            probe.kill()

    assert probe.returncode == 1
    assert said == f"etlt-probe: process {process.pid} has exited before it could be counted\n"


@pytest.mark.kernel
def test_once_prints_a_table_and_json_of_the_same_run(workload: Callable[..., Any]) -> None:
    target = workload("et", rounds=11)
    target.arm()
    options = ("--once", "--pid", str(target.pid), "--duration", "0.2")
    table, record = run(*options).stdout, json.loads(run(*options, "--json").stdout)

    assert f"selfcount-et (pid {target.pid})" in table
    assert "complete: no run of the probe was missed" in table
    assert record["schema"] == "etlt.probe/1"
    assert record["complete"] is True
    assert record["groups"][0]["pids"] == [target.pid]
    assert record["elapsed_seconds"] == pytest.approx(0.2, abs=0.1)


@pytest.mark.kernel
@pytest.mark.parametrize("form", [(), ("--json",)], ids=["table", "json"])
def test_a_process_that_names_itself_with_escapes_moves_no_cursor(form: tuple[str, ...]) -> None:
    """The whole way, from the process that chose the name to the terminal."""
    code = (
        r"open('/proc/self/comm', 'wb').write(b'\x1b[2J[/b]\r\xc2\x9b');"
        "print(flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as named:
        assert named.stdout is not None
        named.stdout.readline()
        result = run("--once", "--pid", str(named.pid), "--duration", "0.1", *form)
        named.kill()

    assert result.returncode == 0, result
    assert r"\x1b[2J[/b]\r\x9b" in result.stdout.replace(r"\\", "\\")
    assert not set("\x1b\r\x9b") & set(result.stdout + result.stderr)


def once_into(out: IO[str] | int, pid: int, *more: str) -> subprocess.CompletedProcess[str]:
    """Run the probe on a process for a moment, with *out* as its standard output."""
    return subprocess.run(
        [*PROBE, "--once", "--pid", str(pid), "--duration", "0.1", *more],
        stdout=out,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        cwd=REPOSITORY,
    )


@pytest.mark.kernel
@pytest.mark.parametrize("form", [(), ("--json",)], ids=["table", "json"])
def test_a_reader_that_has_gone_is_no_traceback(
    form: tuple[str, ...], workload: Callable[..., Any]
) -> None:
    """As in `etlt-probe --once | head -1`."""
    target = workload("et", rounds=11)
    reading, writing = os.pipe()
    os.close(reading)
    try:
        result = once_into(writing, target.pid, *form)
    finally:
        os.close(writing)

    assert (result.returncode, "Traceback" in result.stderr) == (0, False)
    assert "Exception" not in result.stderr


@pytest.mark.kernel
@pytest.mark.parametrize("form", [(), ("--json",)], ids=["table", "json"])
def test_a_full_disk_is_a_sentence(form: tuple[str, ...], workload: Callable[..., Any]) -> None:
    """What was counted is lost; it must be said, and not by a traceback."""
    target = workload("et", rounds=11)
    with Path("/dev/full").open("w") as full:
        result = once_into(full, target.pid, *form)

    assert result.returncode == 1
    assert result.stderr.splitlines()[1:] == [
        "etlt-probe: cannot write what was counted: No space left on device"
    ]


@pytest.mark.parametrize("option", ["--help", "--version", "--print-source"])
def test_an_answer_that_cannot_be_written_is_a_sentence(option: str) -> None:
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [*PROBE, option], stdout=full, stderr=subprocess.PIPE, text=True, check=False,
            cwd=REPOSITORY,
        )  # fmt: skip

    assert result.returncode == 1
    assert result.stderr.startswith("etlt-probe: cannot write the ")
    assert result.stderr.endswith(": No space left on device\n")
    assert result.stderr.count("\n") == 1


@pytest.mark.kernel
def test_a_signal_leaves_no_change_unseen() -> None:
    """Who had begun since the last look, up to half a second before, was no doubt."""
    name = f"late-{os.getpid()}"
    with (
        called(name),
        subprocess.Popen(
            [*PROBE, "--once", "--json", "--comm", name, "--duration", "600"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY,
        ) as probe,
    ):  # fmt: skip
        try:
            assert probe.stderr is not None
            assert "watching process" in probe.stderr.readline()
            with called(name):
                probe.send_signal(signal.SIGINT)
                out, _ = probe.communicate(timeout=PATIENCE_SECONDS)
        finally:
            probe.kill()

    (doubt,) = (one for one in json.loads(out)["doubts"] if "noticed" in one)
    assert doubt == "1 process noticed up to 0.5 s late; what was done before is missing"


@pytest.mark.kernel
def test_an_exporter_whose_log_nobody_reads_goes_on(exporter: Callable[..., Exporter]) -> None:
    """As in `etlt-probe ... 2>&1 | head -1`: it ended at its next word."""
    name = f"unread-{os.getpid()}"
    probe = exporter("--comm", name)
    up = frozenset({("mode", "unknown"), ("comm", name)})
    assert probe.process.stderr is not None
    probe.process.stderr.close()
    with called(name):
        wait_until(lambda: probe.samples()["target_up", up], "it is watched")
    wait_until(lambda: not probe.samples()["target_up", up], "it has gone")
    assert probe.stop() == 0


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("redirection", "shows"),
    [("2>&-", True), (">&- 2>&-", False), ("2>/dev/full", True)],
)
def test_once_counts_without_the_streams_it_was_not_given(
    redirection: str,
    shows: bool,  # noqa: FBT001
    workload: Callable[..., Any],
) -> None:
    """A closed stderr was a traceback; or a map of the kernel's took its number, and its text."""
    target = workload("et", rounds=11)
    result = subprocess.run(
        [
            *("sh", "-c", f'exec "$@" {redirection}', "sh", *PROBE),
            *("--once", "--pid", str(target.pid), "--duration", "0.1"),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
    )

    assert result.returncode == 0, result
    assert ("complete: no run of the probe was missed" in result.stdout) is shows
    assert "Traceback" not in result.stderr
    assert "etlt-probe:" not in result.stdout


@pytest.mark.kernel
def test_once_ends_when_its_target_does(workload: Callable[..., Any]) -> None:
    """Ten minutes of counting nothing help nobody."""
    target = workload("et", rounds=11)
    target.arm()
    with subprocess.Popen(
        [*PROBE, "--once", "--pid", str(target.pid), "--duration", "600", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    ) as probe:
        try:
            assert probe.stderr is not None
            assert f"watching process {target.pid}" in probe.stderr.readline()
            target.run()
            target.stop()
            record = json.loads(probe.communicate(timeout=20)[0])
        finally:
            probe.kill()

    assert record["elapsed_seconds"] < 60


@pytest.mark.parametrize("phase", ["cyclopts", "prometheus_client", "rich.console", "ebpf.cli"])
def test_ctrl_c_before_it_counts_is_no_traceback(phase: str, tmp_path: Path) -> None:
    """Stopped as it imports *phase*, or as it reads its file, which is a pipe that says nothing."""
    pipe = tmp_path / "probe.toml"
    os.mkfifo(pipe)
    with subprocess.Popen(
        [sys.executable, "-X", "importtime", *PROBE[1:], "--comm", "x", "--config", str(pipe)],
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    ) as probe:
        assert probe.stderr is not None
        assert any(line.split("|")[-1].strip().startswith(phase) for line in probe.stderr)
        probe.send_signal(signal.SIGINT)
        rest = probe.stderr.read()

    assert (probe.returncode, "Traceback" in rest) == (130, False)


@contextmanager
def called(name: str) -> Iterator[int]:
    """Run a process that calls itself *name*; give its pid."""
    code = 'printf "$0" >/proc/self/comm; echo; read -r end'
    with subprocess.Popen(
        ["bash", "-c", code, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid


@pytest.mark.kernel
def test_once_follows_a_name_through_a_restart() -> None:
    """A server that is restarted while it is measured has not ended."""
    name = f"once-{os.getpid()}"
    with called(name) as first:
        probe = subprocess.Popen(
            [*PROBE, "--once", "--comm", name, "--duration", "600", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )
        assert probe.stderr is not None
        assert f"watching process {first}" in probe.stderr.readline()
    try:
        assert f"process {first} ({name}) has exited" in probe.stderr.readline()
        with called(name) as second:
            assert f"watching process {second}" in probe.stderr.readline()
            probe.terminate()
            record = json.loads(probe.communicate(timeout=20)[0])
    finally:
        probe.kill()

    assert record["groups"][0]["pids"] == [second]


@pytest.mark.kernel
def test_a_taken_port_is_a_sentence(workload: Callable[..., Any], exporter: Any) -> None:
    target = workload("et", rounds=11)
    first: Exporter = exporter("--pid", str(target.pid))
    port = first.url.rsplit(":", 1)[1].split("/")[0]
    result = run("--pid", str(target.pid), "--port", port)

    assert result.returncode == 1
    assert (
        f"cannot listen on --host 127.0.0.1 --port {port}: Address already in use" in result.stderr
    )
