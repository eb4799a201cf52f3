"""Three instances on two networks: said once, heard once by everybody, or counted and told."""

from __future__ import annotations

import os
import shutil
import socket
from typing import TYPE_CHECKING

import pytest

from loadclient.network.namespaces import Namespace
from tests.system.nats import needs_nats
from tests.system.party import Guest, Instance, party

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.system.party import Party

NEEDS = (
    needs_nats,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(shutil.which("ip") is None, reason="the program ip is not installed"),
)
NOWHERE = Namespace(-1)

FAULTS: dict[str, Callable[[Party], None]] = {
    "nats": lambda held: held.lose_nats(0.7),
    "an instance": lambda held: held.lose_an_instance(0.5),
    "the link": lambda held: held.lose_the_link(1.0),
    "what is on the way": lambda held: held.lose_what_is_on_the_way(0.3),
}
SURELY_LOSES = "what is on the way"  # the others may lose nothing: nought told would equal nought


def test_the_books_know_what_died_from_what_was_lost_in_silence(tmp_path: Path) -> None:
    """Pooled over all senders, nine hundred lost ones passed for some that died with c."""
    a, c = (Instance(name, "lt", NOWHERE, tmp_path, "", is_victim=name == "c") for name in "ac")
    witnessed: set[tuple[int, int]] = set()
    speaker, doomed, listener = (
        Guest(number, home, socket.socket(), None, witnessed)
        for number, home in enumerate((a, c, a))
    )
    speaker.said = doomed.said = 100
    doomed.judged, doomed.is_killed = 95, True
    for number in range(90):
        listener._judge(b"[USER1@a] 0 %d\n" % number)
    for number in (*range(50), *range(60, 97)):
        listener._judge(b"[USER1@c] 1 %d\n" % number)

    assert doomed.died() == 3
    assert listener.missed([speaker, doomed, listener]) == 10 + 10
    listener.admit([speaker, doomed], 0)
    speaker.said += 2
    listener._judge(b"[USER1@a] 0 99\n")
    listener._judge(b"[USER1@a] 0 101\n")
    assert listener.missed([speaker, doomed, listener]) == 1
    for guest in (speaker, doomed, listener):
        guest.sock.close()


@pytest.mark.parametrize("fault", [pytest.param(fault, marks=NEEDS) for fault in FAULTS])
def test_everybody_hears_everything_once_or_is_told_whatever_is_lost(
    tmp_path: Path, fault: str
) -> None:
    with party(tmp_path) as held:
        held.go_on(0.7)
        assert not any(guest.told for guest in held.steady()), "nothing was lost yet"
        FAULTS[fault](held)
        held.go_on(0.7)
        held.settle()
        held.check()
        if fault == SURELY_LOSES:
            assert all(guest.told for guest in held.steady()), held.report()
