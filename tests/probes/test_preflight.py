"""Each way of being refused has its sentence: what is missing, and what to type."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ebpf import preflight, sampling
from ebpf.errors import Refused
from ebpf.preflight import CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN, Circumstances, explain
from tests.probes.rig import PROBE, REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

BOTH = 1 << CAP_BPF | 1 << CAP_PERFMON
NEW, OLD = (6, 1), (5, 10)


def circumstances(
    capabilities: int = BOTH,
    seccomp: int = 0,
    lockdown: str = "[none] integrity confidentiality",
    release: tuple[int, int] = NEW,
) -> Circumstances:
    return Circumstances(capabilities, seccomp, lockdown, release)


@pytest.mark.parametrize(
    ("capabilities", "missing"),
    [
        (0, "needs CAP_BPF and CAP_PERFMON (or root)"),
        (1 << CAP_BPF, "needs CAP_PERFMON (or root)"),
        (1 << CAP_PERFMON, "needs CAP_BPF (or root)"),
    ],
)
def test_missing_capabilities_are_named_with_what_to_type(capabilities: int, missing: str) -> None:
    sentence = explain(errno.EPERM, circumstances(capabilities))

    assert sentence.startswith(missing)
    assert "--cap-add BPF --cap-add PERFMON" in sentence
    assert "older than 23: --cap-add SYS_ADMIN" in sentence
    assert "AmbientCapabilities=CAP_BPF CAP_PERFMON" in sentence


def test_sys_admin_stands_for_both_capabilities() -> None:
    assert circumstances(1 << CAP_SYS_ADMIN).missing_capabilities() == []


@pytest.mark.parametrize(
    ("here", "cause"),
    [
        (circumstances(seccomp=2), "a seccomp filter blocks it"),
        (circumstances(lockdown="none integrity [confidentiality]"), "locked down"),
        (circumstances(release=OLD), "LimitMEMLOCK=infinity"),
        (circumstances(), "security module or a user namespace"),
    ],
    ids=["seccomp", "lockdown", "memlock", "unknown"],
)
def test_a_refusal_in_spite_of_the_capabilities_names_its_cause(
    here: Circumstances, cause: str
) -> None:
    assert cause in explain(errno.EPERM, here)


def test_other_errors_are_not_taken_for_a_lack_of_privilege() -> None:
    sentence = explain(errno.ENOSYS, circumstances(0))
    assert sentence == "this kernel has no bpf(2); it was built without CONFIG_BPF_SYSCALL"
    assert explain(errno.E2BIG, circumstances(0)) == "bpf(2) failed: Argument list too long"


def test_circumstances_are_read_from_a_status_file(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tx\nCapEff:\t000000c000000000\nSeccomp:\t2\n")
    read = Circumstances.read(status, tmp_path / "absent")

    assert (read.capabilities, read.seccomp, read.lockdown) == (BOTH, 2, "")


def test_an_unknown_machine_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "h", "6.1", "v", "s390x")))

    with pytest.raises(Refused, match="this machine is s390x; the probe knows x86_64 and aarch64"):
        preflight.check()


def once(*command: str) -> subprocess.CompletedProcess[str]:
    """Run the probe on the process that started us."""
    return subprocess.run(
        [*command, "--pid", str(os.getppid()), "--once", "--duration", "0.1"],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
    )


def refused(*command: str) -> str:
    """Run the probe; return its one sentence of refusal."""
    result = once(*command)
    assert result.returncode == 1, result
    assert result.stdout == ""
    assert result.stderr.startswith("etlt-probe: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("call", "code", "said"),
    [
        ("bpf", "EPERM", "bpf(2) is refused although the capabilities are held: a seccomp filter"),
        ("bpf", "ENOSYS", "bpf(2) is said not to exist: a seccomp filter says so"),
        ("pidfd_open", "EPERM", "pidfd_open(2) is refused (Operation not permitted): a seccomp"),
        ("pidfd_open", "ENOSYS", "pidfd_open(2) is refused (Function not implemented): a seccomp"),
    ],
)
def test_a_seccomp_filter_is_named_whatever_it_answers(call: str, code: str, said: str) -> None:
    """ENOSYS was blamed on the kernel's build; without pidfd_open(2) it ended in a traceback."""
    assert said in refused(sys.executable, "-m", "tests.probes.seccomp", call, code, *PROBE)


def test_a_process_that_cannot_be_held_is_a_sentence() -> None:
    old, none = OSError(errno.ENOSYS, ""), OSError(errno.EMFILE, "Too many open files")

    assert "needs Linux 5.3" in preflight.explain_no_pidfd(old, circumstances())
    assert preflight.explain_no_pidfd(none, circumstances()).endswith("Too many open files")


@pytest.mark.kernel
def test_a_file_in_memory_is_not_needed_to_count() -> None:
    """It only keeps what the compiler says for the case that it fails."""
    result = once(sys.executable, "-m", "tests.probes.seccomp", "memfd_create", "ENOSYS", *PROBE)

    assert result.returncode == 0, result
    assert "complete: " in result.stdout


HIDE_TRACEFS = 'umount -q /sys/kernel/tracing /sys/kernel/debug/tracing 2>&-; exec "$@"'

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give privileges up")


@needs_root
@pytest.mark.kernel
@pytest.mark.parametrize(
    ("kept", "missing"),
    [
        ("-all", "CAP_BPF and CAP_PERFMON"),
        ("-all,+bpf", "CAP_PERFMON"),
        ("-all,+perfmon", "CAP_BPF"),
    ],
)
def test_without_privileges_it_says_which(kept: str, missing: str) -> None:
    sentence = refused("setpriv", f"--bounding-set={kept}", f"--inh-caps={kept}", *PROBE)

    assert f"needs {missing} (or root)" in sentence


@needs_root
@pytest.mark.kernel
def test_stats_without_sys_admin_say_so() -> None:
    kept = "-all,+bpf,+perfmon"
    sentence = refused("setpriv", f"--bounding-set={kept}", f"--inh-caps={kept}", *PROBE, "--stats")

    assert "--stats needs CAP_SYS_ADMIN" in sentence


@pytest.mark.parametrize(
    ("code", "cause"), [(errno.EINVAL, "Linux 5.8"), (errno.ENOMEM, "Cannot allocate memory")]
)
def test_stats_refused_for_another_reason_say_which(code: int, cause: str) -> None:
    assert cause in sampling._explain(OSError(code, os.strerror(code)))


@pytest.mark.kernel
def test_a_python_without_bcc_is_told_where_it_lives(tmp_path: Path) -> None:
    """PyPI has a `bcc` that is a lattice library; it must not be taken for ours."""
    (tmp_path / "bcc.py").write_text("'''N-dim invertible BCC lattice'''")
    sentence = refused("env", f"PYTHONPATH={tmp_path}", *PROBE)

    assert f"not importable by {sys.executable}" in sentence
    assert "apt-get install python3-bpfcc" in sentence


@pytest.mark.kernel
def test_perf_tracepoints_without_tracefs_are_refused_in_a_sentence() -> None:
    sentence = refused(
        "unshare", "--mount", "sh", "-c", HIDE_TRACEFS, "sh", *PROBE, "--attach=perf"
    )

    assert "mount -t tracefs none /sys/kernel/tracing" in sentence
