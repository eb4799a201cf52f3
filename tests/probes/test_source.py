"""Rules of the C file that no compiler checks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from ebpf import kernel
from ebpf.decode import CALL_FIELDS, LOOP_FIELDS
from ebpf.loader import HEADERS, SOURCE, SYSCALLS, Build, Probe, source
from tests.probes.rig import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

TEXT = SOURCE.read_text()
CODE = re.sub(r"/\*.*?\*/", "", TEXT, flags=re.DOTALL)
OURS = {"config", "wanted", "call", "seen", "loop", "note", "thread"}


def fields_of(struct: str) -> list[str]:
    body = re.search(rf"struct {struct} {{(.*?)}};", CODE, re.DOTALL)
    assert body
    return re.findall(r"(\w+)(?:\[\w+\])?[,;]", body[1])


READS = {
    "bpf_probe_read_kernel(&nr, sizeof(nr), (void *)(where + NUMBER_OFFSET))",
    "bpf_probe_read_kernel(&operation, sizeof(operation), (void *)(where + ARG2_OFFSET))",
}


def reads_of_kernel_structs(code: str) -> set[str]:
    """Return what in *code* reads, or may read, a field that is not ours."""
    pointers = {
        name for struct, name in re.findall(r"struct (\w+) \*(\w+)", code) if struct in OURS
    }
    arrows = set(re.findall(r"(\w+|\))(?:\[\w+\])?\s*->", code)) - pointers - {"ctx", "args"}
    structs = set(re.findall(r"\b(?:struct|union)\s+(\w+)", code)) - OURS - {"bpf_pidns_info"}
    reads = set(re.findall(r"bpf_\w*(?:probe_read|copy_from)\w*\([^;]*", code)) - READS
    macros = set(re.findall(r"\b(?:PT_REGS_\w+|BPF_CORE_\w+|bpf_get_current_task\w*)", code))
    return arrows | structs | reads | macros


def test_no_kernel_struct_is_read() -> None:
    """With stub headers such a field would be at a wrong offset, and silently so."""
    assert reads_of_kernel_structs(CODE) == set()
    assert all(read in CODE for read in READS)


@pytest.mark.parametrize(
    "line",
    [
        "task->tgid;",
        "((struct pt_regs *)ctx->args[0])->si;",
        "((u64 *)ctx->args[0])->x;",
        "tasks[3] -> pid;",
        "PT_REGS_PARM1(ctx);",
        "struct task_struct *t = 0; (*t).pid;",
        "bpf_probe_read(&x, 8, (void *)(where + 16));",
        "bpf_probe_read_user(&x, 8, (void *)where);",
        "bpf_probe_read_kernel(&nr, sizeof(nr), (void *)(where + 16));",
        "bpf_get_current_task();",
    ],
)
def test_every_way_to_read_a_kernel_struct_is_found(line: str) -> None:
    assert reads_of_kernel_structs(CODE + line) != set()


def test_the_reader_and_the_program_agree_on_the_fields() -> None:
    assert fields_of("call") == ["marked", *CALL_FIELDS, "duration"]
    assert fields_of("loop") == [*LOOP_FIELDS, "events"]
    assert f"#define SYSCALLS {SYSCALLS} " in TEXT


def test_every_parameter_is_given_and_none_is_left_over() -> None:
    values = Build().definitions("x86_64", (6, 1))
    conditions = " ".join(re.findall(r"^#if !?(\w+)", CODE, re.MULTILINE)).split()

    assert all(re.search(rf"\b{name}\b", CODE) for name in values)
    assert set(conditions) <= set(values)


def test_the_license_is_the_one_we_have() -> None:
    assert "#define BPF_LICENSE Dual MIT/GPL" in CODE


@pytest.mark.parametrize(
    ("release", "raw_calls", "raw_switch"),
    [((5, 3), True, False), ((5, 17), True, False), ((5, 18), True, True)],
)
def test_old_kernels_get_the_tracepoints_they_have(
    release: tuple[int, int],
    raw_calls: bool,  # noqa: FBT001
    raw_switch: bool,  # noqa: FBT001
) -> None:
    values = Build().definitions("x86_64", release)

    assert (values["RAW_SYSCALLS"], values["RAW_SWITCH"]) == (raw_calls, raw_switch)


def test_print_source_prints_the_whole_program_without_any_privilege() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "ebpf", "--print-source"],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
    ).stdout

    assert printed == source(Build())
    assert printed.endswith(TEXT)


def test_the_headers_come_with_the_package() -> None:
    """All that BCC's own helpers.h includes must be there, or it would look on the host."""
    wanted = {
        *("linux/kconfig.h", "linux/types.h", "linux/bpf_common.h", "linux/version.h"),
        *("linux/log2.h", "asm/page.h"),
        *("uapi/linux/bpf.h", "uapi/linux/if_packet.h", "uapi/linux/if_ether.h"),
    }
    found = {str(path.relative_to(HEADERS / "include")) for path in HEADERS.rglob("*.h")}

    assert found == wanted


@pytest.mark.kernel
@pytest.mark.parametrize("build", [Build(), Build(lite=True, namespaced=True)], ids=str)
def test_it_loads_in_under_a_second(build: Build) -> None:
    """Of CPU time: other work on the machine is not the probe's."""
    import bcc  # noqa: F401  the import is not the load

    started = time.process_time()
    with Probe(build) as probe:
        spent = time.process_time() - started
        assert set(probe.programs()) == {"sys_enter", "sys_exit", "sched_switch"}

    assert spent < 1


@pytest.mark.kernel
def test_the_host_environment_is_left_as_it_was() -> None:
    """BCC is steered by a variable and changes the directory; neither may outlive the load."""
    directory, before = os.getcwd(), dict(os.environ)  # noqa: PTH109
    with Probe(Build()):
        assert os.getcwd() == directory  # noqa: PTH109
        assert dict(os.environ) == before


@pytest.mark.kernel
def test_a_program_that_does_not_compile_is_one_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    from ebpf.errors import Refused
    from ebpf.loader import _load

    with pytest.raises(Refused, match=r"does not load: .*error: ") as refused:
        _load("int broken(")

    assert "\n" not in str(refused.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("function", "running", "told"),
    [
        ("raw_tracepoint__sys_exit", (5, 18), True),
        ("tracepoint__sched__sched_switch", (6, 6), False),
        ("tracepoint__sched__sched_switch", (6, 7), True),
    ],
)
def test_a_kernel_that_keeps_its_misses_to_itself_is_not_taken_to_have_none(
    function: str,
    running: tuple[int, int],
    told: bool,  # noqa: FBT001
    tmp_path: Path,
) -> None:
    """A perf tracepoint was skipped beside another tracer's, and `complete` was said of it."""
    (tmp_path / "3").write_text("recursion_misses:\t0\n")
    tells = kernel.tells_misses(function, running)

    assert tells is told
    info = kernel.program_info(3, misses_are_told=tells, fdinfo=tmp_path)
    assert info.missed == (0 if told else None)


@pytest.mark.kernel
def test_the_kernel_reports_on_each_program() -> None:
    with Probe(Build()) as probe:
        # Somebody else may have the kernel time all programs of the machine just now.
        assert [info.missed for info in probe.programs().values()] == [0, 0, 0]
