"""Remove one guard at a time; the tests must notice every time.

Usage: python tests/mutants.py [NAME... | traps]
Each mutant is the package with one piece of text replaced, in a temporary copy of the checkout.
First the tests run on the copy as it is: what fails or hangs there notices nothing. Then a mutant is
noticed if a test fails (pytest's exit code 1) or hangs; one that cannot even be imported is no
mutant. One that survives, or whose text is no longer found, makes this exit with 1.
`traps` are the guards of DESIGN's edge-triggered traps; they are tried at every landing.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
SECONDS = 40  # a mutant may hang: that is noticing too; the tests need about five
PATIENCE = 4  # times what they took unmutated, on a machine that is slower than that
NOTICED = 1  # pytest: tests ran, and some failed


@dataclass(frozen=True)
class Mutant:
    """One guard removed, and the tests that stand for it."""

    name: str
    file: str
    old: str
    new: str
    tests: str


REACTOR = "etltd/reactor.py"
ROSTER = "etltd/roster.py"
DELIVERY = "etltd/delivery.py"
TICK = "tests/daemon/test_reactor.py"
VANISHED = "tests/fire/test_vanished.py"
SNAPSHOT = "tests/daemon/test_snapshot.py"
KERNEL_SIDE = "ebpf/probe.bpf.c"
EXACT = "tests/probes/test_exactness.py"
WATCH, WATCHED = "ebpf/watch.py", "tests/probes/test_watch.py"

MUTANTS = [
    Mutant("ET forgets an unfinished turn", "etltd/trigger.py",
           "revisit[conn.fd] = conn", "pass", TICK),
    Mutant("a condemned peer is closed at once", ROSTER,
           "            self.condemned.append(conn)",
           "            self.condemned.append(conn)\n            self._close(conn.sock)", TICK),
    Mutant("a short write is ignored", DELIVERY,
           "if sent == size:", "if sent:", TICK),
    Mutant("a short read ends a turn in spite of a hang-up", REACTOR,
           "stop_on_short_read and not conn.hung_up", "stop_on_short_read", TICK),
    Mutant("a hang-up is forgotten after its tick", REACTOR,
           "conn.hung_up |= flags & ENDED", "conn.hung_up = 0", TICK),
    Mutant("lack of descriptors is retried at once", REACTOR,
           "            self._unregister(listener.fd)\n        self._paused",
           "            pass\n        self._paused", TICK),
    Mutant("OUT counts without anything owed", REACTOR,
           "if flags == OUT:", "if False:", TICK),
    Mutant("end of input keeps the read interest", "etltd/trigger.py",
           "(READ if wants_read else 0)", "READ", TICK),
    Mutant("nobody looks for who vanished", REACTOR,
           "for conn in self._sweep.gone(self.connections, now_ns):", "for conn in ():", VANISHED),
    Mutant("who does not read is taken for gone", "etltd/liveness.py",
           "and max(retransmits, probes) >= TRIES", "", "tests/daemon/test_liveness.py"),
    Mutant("the kernel goes on sending to who is gone", ROSTER,
           "self._abort(conn.sock)", "pass", VANISHED),
    Mutant("drops are not announced", DELIVERY,
           "self.notify(conn, wire.messages_dropped(missed))", "pass", TICK),
    Mutant("the stream goes on in the middle of a drop", DELIVERY,
           "if not is_over and not conn.withheld:", "if not is_over:", TICK),
    Mutant("an outbox has no limit", DELIVERY,
           "is_over = outbox.size + batch.size > self._config.high_water_bytes",
           "is_over = False", TICK),
    Mutant("a view keeps what nobody is owed", "etltd/outbox.py",
           "if kept <= 2 * owed:", "if True:", TICK),
    Mutant("short pieces are not merged", "etltd/outbox.py",
           "    return short and", "    return False and", "tests/daemon/test_outbox.py"),
    Mutant("a per cent sign in a label is a hole for a number", "etltd/exposition.py",
           '.replace("%", "%%") + value', " + value", "tests/daemon/test_exposition.py"),
    Mutant("a sender hears itself", "etltd/broadcast.py",
           "Piece(view[end:],", "Piece(view[start:],", "tests/daemon"),
    Mutant("the last words are not read", REACTOR,
           "readable.append(conn)", "conn.hung_up or readable.append(conn)", TICK),
    Mutant("a reset loses its count", ROSTER,
           "            self.count_truncated(conn)\n            if conn.outbox",
           "            if conn.outbox", TICK),
    Mutant("an outbox that is dropped is not counted", ROSTER,
           "stats.messages_dropped[dropped_by] += conn.outbox.messages", "pass", TICK),
    Mutant("a turn has no budget", REACTOR,
           "range(self.reads_per_event)", "iter(int, 1)", TICK),
    Mutant("who comes again has a full bucket", ROSTER,
           "full_ns = self._left.full_ns(_source(ip))", "full_ns = 0", "tests/daemon/test_roster.py"),
    Mutant("a fuller bucket takes the place of the emptiest", "etltd/ratelimit.py",
           "if full_ns > self.full_ns(network):", "if True:", "tests/daemon/test_ratelimit.py"),
    Mutant("ids are reused", ROSTER,
           "self.next_id += 1", "self.next_id = len(self.connections) + 2", TICK),
    Mutant("what is owed waits for an edge that never comes", REACTOR,
           "self.delivery.offer_again()", "pass",
           "tests/fire/test_injection.py::test_a_write_that_fails_costs_its_recipient_alone"),
    Mutant("an unknown descriptor ends the loop", REACTOR,
           "if service is not None:", "if True:",
           "tests/fire/test_injection.py::test_a_close_that_fails_does_not_make_the_loop_spin"),
    Mutant("a too long line is kept", "etltd/wire.py",
           '            self._tail = b""\n            self._discarding = True',
           "            self._discarding = True", "tests/daemon/test_wire.py"),
    Mutant("a killed client leaves its daemons", "loadclient/tether.py",
           "_libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)", "pass",
           "tests/load/test_tether.py"),
    Mutant("a burst is left in a shared backlog", REACTOR,
           "if triggers.forgets(self._accept_mask):", "if False:", "tests/daemon/test_sharing.py"),
    Mutant("what the bus lost is not announced", DELIVERY,
           "self.notify(conn, wire.messages_dropped(count))", "pass", "tests/system/test_bus.py"),
    Mutant("what another part really sent is not looked at", "loadclient/merge.py",
           "deliveries = settle_deliveries(accounts,", "deliveries = settle_deliveries(parts[0].accounts,",
           "tests/load/test_merge.py"),
    Mutant("what came twice is delivered twice", "etltd/bus/sequence.py",
           "if parcel.first < follower.next:", "if False:", "tests/daemon/bus/test_sequence.py"),
    Mutant("what a newcomer missed at first is not told", "etltd/bus/sequence.py",
           " + follower.missed_at_first(parcel, self._me)", "",
           "tests/daemon/bus/test_sequence.py"),
    Mutant("a stranger's notice is passed on", "etltd/bus/envelope.py",
           "if said != messages:", "if False:", "tests/daemon/bus/test_envelope.py"),
    Mutant("of several servers only the first is counted", "loadclient/server.py",
           "counters[name] = _sum(counters.get(name, 0), value)",
           "counters.setdefault(name, value)", "tests/load/test_server.py"),
    Mutant("a torn envelope is passed on", "etltd/bus/envelope.py",
           'if lines.count(b"\\n") != messages or (lines and not lines.endswith(b"\\n")):',
           "if False:", "tests/daemon/bus/test_envelope.py"),
    Mutant("a secret is sent in the clear", "etltd/bus/link.py",
           'if self.options.get("tls") and not self._is_encrypted():', "if False:",
           "tests/daemon/bus/test_link.py"),
    Mutant("what NATS has not confirmed counts as sent", "etltd/bus/link.py",
           "        waiting += self._handed - self._confirmed\n", "",
           "tests/daemon/bus/test_link.py"),
    Mutant("a buffer has no limit", "etltd/bus/buffer.py",
           "if held and held + size > self._limit_bytes and not is_last:", "if False:",
           "tests/daemon/bus/test_buffer.py"),
    Mutant("a hand-over forgets the line that was begun", "etltd/snapshot.py",
           "conn.decoder.resume(peer.tail,", 'conn.decoder.resume(b"",', SNAPSHOT),
    Mutant("ids begin anew after a hand-over", "etltd/snapshot.py",
           "reactor.roster.next_id = state.next_id", "pass", SNAPSHOT),
    Mutant("who is owed bytes is not watched after a hand-over", REACTOR,
           "wants_write=conn.outbox is not None\n        )\n        try:",
           "wants_write=False\n        )\n        try:", SNAPSHOT),
    Mutant("a peer's rate begins anew after a hand-over", "etltd/snapshot.py",
           "if peer.bucket is not None:", "if False:", SNAPSHOT),
    Mutant("who came before is asked as before", "etltd/snapshot.py",
           "ask_after(sock, config.peer_timeout)", "pass", SNAPSHOT),
    Mutant("another socket under the number is taken", "etltd/snapshot.py",
           "if found != one.inode:", "if False:", SNAPSHOT),
    Mutant("another format is taken", "etltd/handover.py",
           "if found != str(FORMAT):", "if False:", "tests/daemon/test_handover.py"),
    Mutant("a note outlives its thread's stay on the CPU", KERNEL_SIDE,
           "	n->id = 0; /* also", "	/* also",
           EXACT + "::test_a_thread_fetched_back_to_a_cpu_in_its_sleep_returns_from_its_wait"),
    Mutant("a note is written into another thread's record", KERNEL_SIDE,
           "	if (t && n->id == id)", "	if (t)",
           EXACT + "::test_a_call_that_sleeps_many_times_beside_another_thread_on_its_cpu_is_one_call"),
    Mutant("a record does not catch up with its note", KERNEL_SIDE,
           "		write_back(n, t);", "		;",
           EXACT + "::test_each_of_the_three_waits_is_classed"),
    Mutant("a record stays in its last wait beside a note", KERNEL_SIDE,
           "	t->nr = IDLE; /* else", "	/* else",
           EXACT + "::test_a_loop_that_never_leaves_its_cpu_is_counted_from_its_next_wait_on"),
    Mutant("a program that is preempted is not noticed", KERNEL_SIDE,
           "		count_untracked(group);\n	}\n	t = ", "	}\n	t = ",
           EXACT + "::test_a_program_of_ours_that_is_preempted_is_a_doubt"),
    Mutant("an earlier sleep makes a wakeup", KERNEL_SIDE,
           "	n->nr = nr;\n	n->slept = 0;", "	n->nr = nr;",
           EXACT + "::test_each_of_the_three_waits_is_classed"),
    Mutant("a thread without a place is not counted as such", KERNEL_SIDE,
           "			return count_untracked(group);", "			return 0;",
           EXACT + "::test_a_full_thread_table_is_a_doubt_and_spares_the_threads_that_are_in_it"),
    Mutant("a call that was refused is taken for a new thread's", KERNEL_SIDE,
           "		nr = returning(where);", "		return count_unmatched(group);",
           EXACT + "::test_calls_that_seccomp_refuses_are_counted_as_failed"),
    Mutant("a signal's return counts with what it interrupted", KERNEL_SIDE,
           "	if (nr == NR_RT_SIGRETURN)", "	if (0)",
           EXACT + "::test_a_wait_that_lasts_when_the_probe_comes_is_counted_and_its_tick_too"),
    Mutant("a thread that waits only now is counted from its start", KERNEL_SIDE,
           "	fresh.is_loop = ALL_THREADS;", "	fresh.is_loop = 1;",
           EXACT + "::test_every_count_of_the_loop_threads_equals_the_workloads_own"),
    Mutant("a process that was left out is forgotten when it ends", WATCH,
           'left_out=self._ever["left out"]', "left_out=len(self._unwatched)", WATCHED),
    Mutant("who ended before it could be opened is passed over", WATCH,
           "elif pid in asked_for:", "elif False:", WATCHED),
    Mutant("a signal ends the count without a last look", "ebpf/cli.py",
           "        _tell(watch.refresh())  # at a signal, too",
           "        if not any(fd == stop.fileno() for fd, _ in ready):\n"
           "            _tell(watch.refresh())  #",
           "tests/probes/test_cli.py::test_a_signal_leaves_no_change_unseen"),
    Mutant("a starting name hides who had another before", WATCH,
           "elif (group := self._group_of(renamed)) is not None:",
           "elif (group := self._group_of_new(renamed)) is not None:", WATCHED),
    Mutant("an old name is forgotten when its process ends", WATCH,
           'misnamed=self._ever["misnamed"]', "misnamed=len(self._misnamed)", WATCHED),
    Mutant("a new name is no doubt", WATCH,
           'self._ever["renamed"] += 1', "pass", WATCHED),
    Mutant("a life goes over to the new name", WATCH,
           "self._share_time(slot, label_of(target), label_of(renamed))", "pass", WATCHED),
    Mutant("a late beginning is no doubt", WATCH,
           'self._ever["late"] += self._has_looked and not is_starting', "pass", WATCHED),
    Mutant("a kernel that is silent has missed nothing", "ebpf/kernel.py",
           "if misses_are_told else None", "", "tests/probes/test_source.py"),
    Mutant("nobody asks whether a process can be held", "ebpf/preflight.py",
           "os.close(os.pidfd_open(os.getpid()))", "pass",
           "tests/probes/test_preflight.py::test_a_seccomp_filter_is_named_whatever_it_answers"),
    Mutant("a reader of the log that has gone ends the exporter", "ebpf/cli.py",
           "        _point_at_nothing(2)", "        raise",
           "tests/probes/test_cli.py::test_an_exporter_whose_log_nobody_reads_goes_on"),
    Mutant("bad slices are left out in the culprit's favour", "loadclient/compare/analysis.py",
           "not_comparable=_misbehaviour(cell, seen)", "not_comparable=None",
           "tests/load/compare/test_verdicts.py::"
           "test_bad_slices_are_not_left_out_in_the_culprits_favour"),
    Mutant("one arm alone may be strained", "loadclient/compare/analysis.py",
           "if more or coin(", "if coin(",
           "tests/load/compare/test_verdicts.py::"
           "test_bad_slices_are_not_left_out_in_the_culprits_favour"),
    Mutant("pairs that share daemons count", "loadclient/compare/analysis.py",
           "if design.pairs_per_daemon == 1:", "if True:",
           "tests/load/compare/test_verdicts.py::"
           "test_pairs_that_share_two_processes_are_no_witnesses"),
    Mutant("a daemon's word on its mode is enough", "loadclient/compare/fingerprint.py",
           "holds = min(edges) >= conns if", "holds = True if",
           "tests/load/compare/test_verdicts.py::"
           "test_counters_that_contradict_the_mode_end_the_comparison"),
    Mutant("the A/A arm cannot fail", "loadclient/compare/analysis.py",
           "court = replace(court, unfit=()) if cell.control else court", "pass",
           "tests/load/compare/test_verdicts.py::"
           "test_two_equal_daemons_that_differ_are_called_different"),
    Mutant("a worker that is still importing hears Ctrl-C", "loadclient/crew.py",
           "with theirs, deaf():", "with theirs:", "tests/load/test_interrupts.py"),
    Mutant("a signal that a run did not heed is lost", "loadclient/interrupts.py",
           "            self.hand_over(outer)", "            pass", "tests/load/test_interrupts.py"),
]  # fmt: skip


TRAPS = {
    "ET forgets an unfinished turn",  # bytes stranded by a bounded read
    "a short read ends a turn in spite of a hang-up",  # the end of input, lost
    "a hang-up is forgotten after its tick",
    "a condemned peer is closed at once",  # a reused descriptor
    "lack of descriptors is retried at once",  # accept at EMFILE
    "OUT counts without anything owed",  # the spurious OUT
}


def run(tests: str, copy: Path, seconds: float) -> int | None:
    """Run *tests* on the copy; return pytest's exit code, or None if it hangs.

    What they started and could not end any more goes with them.
    """
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", tests]
    nowhere = subprocess.DEVNULL
    with subprocess.Popen(
        command, cwd=copy, stdout=nowhere, stderr=nowhere, start_new_session=True
    ) as runner:
        try:
            return runner.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(runner.pid, signal.SIGKILL)


def baseline(tests: str, copy: Path) -> float:
    """Return how long *tests* may take on a mutant; leave if they fail without one."""
    began = time.monotonic()
    code = run(tests, copy, PATIENCE * SECONDS)
    if code != 0:
        sys.exit(f"{tests} fails or hangs on the code as it is ({code}): it cannot notice anything")
    return max(SECONDS, PATIENCE * (time.monotonic() - began))


def survives(mutant: Mutant, copy: Path, seconds: float) -> bool:
    """Run the tests on *mutant*; return whether they let it pass."""
    target = copy / mutant.file
    original = target.read_text()
    if original.count(mutant.old) != 1:
        print(f"STALE     {mutant.name}: its text is there {original.count(mutant.old)} times")
        return True
    target.write_text(original.replace(mutant.old, mutant.new))
    code = run(mutant.tests, copy, seconds)
    target.write_text(original)
    noticed = code in {NOTICED, None}
    how = "hang" if code is None else f"exit code {code}"
    print(f"{'noticed' if noticed else 'SURVIVED'}  {mutant.name} ({how})", flush=True)
    return not noticed


def main() -> int:
    """Try every mutant, or those named."""
    asked = TRAPS if sys.argv[1:] == ["traps"] else set(sys.argv[1:])
    if unknown := asked - {mutant.name for mutant in MUTANTS}:
        sys.exit(f"no such mutant: {', '.join(sorted(unknown))}")
    wanted = [mutant for mutant in MUTANTS if not asked or mutant.name in asked]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "etlt"
        kept_out = shutil.ignore_patterns(".venv", ".git", "__pycache__", ".hypothesis", "*.lock")
        shutil.copytree(ROOT, copy, ignore=kept_out)
        seconds = {tests: baseline(tests, copy) for tests in {m.tests for m in wanted}}
        alive = [m.name for m in wanted if survives(m, copy, seconds[m.tests])]
    print(f"{len(wanted) - len(alive)} of {len(wanted)} mutants noticed")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
