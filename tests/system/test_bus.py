"""Instances on a real NATS server: what one's clients say is heard at all, or it is told."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import signal
import subprocess
import sys
from time import monotonic
from typing import TYPE_CHECKING, Any

import nkeys
import pytest

from etltd.bus.envelope import Identity, Parcel, Welcome, pack
from etltd.bus.link import CONNECT_SECONDS
from tests.certificates import make_certificates
from tests.system.nats import LossyWay, NatsServer, needs_nats
from tests.system.rig import Crowd, DaemonProcess, assert_ledger
from tests.system.test_options import etltd
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    Start = Callable[..., DaemonProcess]
    Serve = Callable[..., NatsServer]

pytestmark = needs_nats

MODES = ("lt", "et")


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start a NATS server with a configuration of its own."""
    with contextlib.ExitStack() as stack:

        def serve(configuration: str = "") -> NatsServer:
            server = NatsServer(tmp_path, configuration)
            stack.callback(server.kill)
            return server

        yield serve


@pytest.fixture
def nats(serve: Serve) -> NatsServer:
    return serve()


def joined(
    daemon: Start, server: NatsServer, *options: str, names: Sequence[str] = "ab"
) -> list[DaemonProcess]:
    """Start an instance of each of *names*, in alternating modes; return when all have joined."""
    found = [
        daemon(MODES[i % 2], "--bus", server.url, "--bus-instance", name, *options)
        for i, name in enumerate(names)
    ]
    until(lambda: all(d.metrics().get("bus_peers") == len(names) - 1 for d in found))
    until(lambda: all(d.get("/readyz") == (200, "ready\n") for d in found))
    return found


def test_what_is_said_at_one_instance_is_heard_at_all_once_and_in_order(
    daemon: Start, nats: NatsServer
) -> None:
    a, b = joined(daemon, nats)
    crowd = Crowd([*a.crowd(2).clients, *b.crowd(2).clients])
    first, _, third, _ = crowd.clients
    for number in range(100):
        first.say(b"from a %d\n" % number)
        third.say(b"from b %d\n" % number)
        crowd.step(0)
    from_a = [b"[USER1@a] from a %d\n" % number for number in range(100)]
    from_b = [b"[USER1@b] from b %d\n" % number for number in range(100)]

    def heard(client: object) -> list[bytes]:
        return sorted(client.lines())  # type: ignore[attr-defined]

    expected = [from_b, from_a + from_b, from_a, from_a + from_b]
    crowd.until(
        lambda: all(
            len(client.lines()) >= len(lines)
            for client, lines in zip(crowd.clients, expected, strict=True)
        )
    )
    for client, lines in zip(crowd.clients, expected, strict=True):
        assert heard(client) == sorted(lines)
        for sender in (b"[USER1@a] ", b"[USER1@b] "):
            own = [line for line in client.lines() if line.startswith(sender)]
            assert own == [line for line in lines if line.startswith(sender)]
    for one in (a, b):
        found = one.quiet_metrics()
        assert_ledger(found)
        assert found["messages_received_total"] == 100
        assert found["messages_enqueued_total"] == 100 * 1 + 100 * 2
        assert found["bus_received_messages_total"] == found["bus_published_messages_total"] == 100
        assert found["bus_published_batches_total"] <= found["batch_messages_count"]
        assert found["bus_lost_messages_total"] == found["bus_gaps_total"] == 0
        assert 'instance="' not in one.get("/metrics")[1], "Prometheus has a label of that name"
        assert found["bus_lag_seconds_count"] == found["bus_received_batches_total"]


def test_while_nats_is_away_each_goes_on_and_what_was_said_follows_or_is_announced(
    daemon: Start, nats: NatsServer
) -> None:
    """What is published before the other has come back, too, is lost to it, and it is told."""
    a, b = joined(daemon, nats)
    crowd = Crowd([*a.crowd(2).clients, *b.crowd(1).clients])
    nats.kill()
    until(lambda: all(one.get("/readyz")[0] == 503 for one in (a, b)))
    assert "NATS" in a.get("/readyz")[1]

    for number in range(50):
        crowd.clients[0].say(b"%d\n" % number)
        crowd.step(1)
    crowd.until(lambda: len(crowd.clients[1].lines()) == 50)
    assert not crowd.clients[2].inbox
    nats.start()

    other = crowd.clients[2]
    crowd.until(lambda: len(other.lines()) + other.missed() == 50)
    said = [b"[USER1@a] %d\n" % number for number in range(50)]
    assert other.lines() == said[50 - len(other.lines()) :]
    until(lambda: all(one.get("/readyz")[0] == 200 for one in (a, b)))
    assert a.metrics()["bus_reconnects_total"] == 1
    until(lambda: [event["connections"] for event in a.events("bus joined")] == [1, 2])


def test_what_had_no_room_is_announced_to_every_client_and_counted_once(
    daemon: Start, nats: NatsServer
) -> None:
    a, b = joined(daemon, nats, "--bus-buffer-bytes=2000")
    crowd = Crowd([*a.crowd(2).clients, *b.crowd(2).clients])
    talker, listener, *others = crowd.clients
    nats.kill()
    until(lambda: not a.metrics()["bus_connected"])
    for number in range(100):  # one by one, or they would make one batch
        talker.say(b"%d\n" % number)
        crowd.until(lambda: len(listener.lines()) == number + 1)
    nats.start()

    crowd.until(lambda: all(len(o.lines()) + o.missed() >= 100 for o in others))

    for other in others:
        assert len(other.lines()) + other.missed() == 100
        heard = [int(re.findall(rb"\d+", line)[1]) for line in other.lines()]
        assert heard == sorted(set(heard))
    assert listener.missed() == 0
    lost = others[0].missed()
    assert lost > 50
    found = b.quiet_metrics()
    assert_ledger(found)
    assert found["bus_gaps_total"] >= 1
    assert found["bus_lost_messages_total"] == lost
    assert found["messages_dropped_total bus"] == 2 * lost
    # The rest of what was lost, the server had before the other had come back to it.
    assert 50 < a.metrics()["bus_dropped_messages_total outgoing_full"] <= lost


def test_a_batch_over_the_servers_limit_goes_in_parts_and_what_never_fits_is_announced(
    daemon: Start, serve: Serve
) -> None:
    """The server would end the connection, again and again."""
    a, b = joined(daemon, serve("max_payload: 2048\n"))
    crowd = Crowd([*a.crowd(1).clients, *b.crowd(1).clients])
    talker, listener = crowd.clients
    lines = [b"%d " % number + b"x" * 500 + b"\n" for number in range(40)]
    lines[20:20] = [b"y" * 4000 + b"\n"]
    talker.say(b"".join(lines))

    crowd.until(lambda: len(listener.lines()) + listener.missed() == 41)

    assert listener.missed() == 1
    del lines[20]
    assert listener.lines() == [b"[USER1@a] " + line for line in lines]
    assert a.metrics()["bus_dropped_messages_total too_large"] == 1
    assert a.metrics()["bus_reconnects_total"] == 0


def test_what_a_newcomer_missed_before_it_heard_anything_is_told_and_no_more(
    daemon: Start, nats: NatsServer
) -> None:
    """It knows nobody's number then; those who know of it tell it from where on it is owed all."""
    (a,) = joined(daemon, nats, names="a")
    crowd = a.crowd(2)
    talker, listener = crowd.clients

    def say(messages: int) -> None:
        said = len(listener.lines()) + messages
        talker.say(b"x\n" * messages)
        crowd.until(lambda: len(listener.lines()) == said)

    say(7)  # before anybody else was there
    way = LossyWay(nats)
    b = daemon("et", "--bus", way.url, "--bus-instance", "b")
    (guest,) = b.crowd(1).clients
    until(lambda: a.metrics()["bus_peers"] == 1)
    say(23)
    until(lambda: a.metrics()["bus_published_messages_total"] == 30)
    until(lambda: way.lost_bytes > 23 * len("[USER1@a] x\n"))
    assert b.metrics()["bus_peers"] == 0
    way.loses = False

    Crowd([guest]).until(lambda: guest.missed() == 23)

    say(1)
    Crowd([guest]).until(lambda: guest.lines() == [b"[USER1@a] x\n"])
    assert guest.missed() == 23
    found = b.quiet_metrics()
    assert_ledger(found)
    assert found["bus_lost_messages_total"] == 23
    assert a.metrics()["bus_lost_messages_total"] == 0
    b.signal()
    b.stopped()
    way.close()


def strangers_words() -> Iterator[tuple[str, bytes]]:
    """Yield what may come over the subject from somebody who is not of us."""
    c = Identity("c", 1)

    def envelope(lines: bytes, messages: int = 1, first: int = 1) -> bytes:
        return pack(c, 0, Parcel(first, messages, lines, 0))

    fine = envelope(b"[USER1@c] hello\n")
    yield "words", b"hello\n"
    yield "nothing", b""
    yield "a head and no more", fine[:-30]
    yield "half a line", envelope(b"[USER1@c] no end")
    yield "more lines than it says", envelope(b"[USER1@c] x\n[USER1@c] y\n")
    yield "a notice", envelope(b"[etltd] server is stopping\n")
    yield "another version", fine[:4] + b"\2" + fine[5:]
    yield (
        "a name of no text",
        pack(c._replace(name="\x7f" * 9), 0, Parcel(1, 0, b"", 0)).replace(b"\x7f", b"\xff"),
    )
    yield "a number that nobody reaches", envelope(b"[USER1@c] x\n", first=2**64 - 1)
    yield "a million zeros", bytes(1_000_000)
    yield "a million lines of no client", envelope(b"\n" * 1_000_000, 1_000_000)
    yield "half a welcome", pack(c, 0, Parcel(1, 0, b"", 0, welcomes=(Welcome(2, 3),)))[:-1]


def test_a_stranger_on_the_subject_is_counted_and_heard_by_nobody(
    daemon: Start, nats: NatsServer
) -> None:
    """And what is ours in form, but was said before, is counted as late."""
    (b,) = joined(daemon, nats, names="b")
    crowd = b.crowd(1)
    first, second = (
        pack(Identity("c", 1), 0, Parcel(number, 1, b"[USER1@c] %d\n" % number, 0))
        for number in range(2)
    )
    nats.publish("etltd", first)
    words = dict(strangers_words())
    for payload in words.values():
        nats.publish("etltd", payload)
    nats.publish("etltd", first)
    nats.publish("etltd", second)

    crowd.until(lambda: crowd.clients[0].inbox.endswith(b"1\n"))

    assert crowd.clients[0].inbox == b"[USER1@c] 0\n[USER1@c] 1\n"
    found = b.quiet_metrics()
    assert_ledger(found)
    assert found["bus_foreign_envelopes_total"] == len(words)
    assert found["bus_late_messages_total"] == 1
    assert found["bus_lost_messages_total"] == found["bus_gaps_total"] == 0
    assert found["bus_connects_total"] == 1


def test_two_instances_of_one_name_are_not_ready(daemon: Start, nats: NatsServer) -> None:
    """Two different people would have the same id."""
    first, second = (
        daemon(mode, "--bus", nats.url, "--bus-instance", "same", "--log-level=debug")
        for mode in MODES
    )

    until(lambda: "is called same, too" in first.get("/readyz")[1])
    until(lambda: "is called same, too" in second.get("/readyz")[1])


def test_the_load_client_takes_part_under_any_instances_name(
    daemon: Start, nats: NatsServer
) -> None:
    """Pods are called etltd-…: the letter of its marks in it would make the run invalid."""
    (one,) = joined(daemon, nats, names=["etltd-e7.e"])
    host, port = one.address
    command = [sys.executable, "-m", "loadclient", "run", host, str(port), "--quiet"]
    command += ["--conns", "6", "--rate", "40", "--duration", "0.5", "--warmup", "0.1"]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def test_a_stop_says_everything_and_goodbye(daemon: Start, nats: NatsServer) -> None:
    """What a client said before the stop was accepted; the others must hear it."""
    a, b = joined(daemon, nats)
    crowd = Crowd([*a.crowd(1).clients, *b.crowd(1).clients])
    crowd.clients[0].say(b"last words\n" * 1000)
    crowd.until(lambda: not crowd.clients[0].outgoing)

    a.signal()

    crowd.until(lambda: len(crowd.clients[1].lines()) == 1000)
    a.stopped()
    until(lambda: b.metrics()["bus_peers"] == 0)
    assert b.metrics()["bus_lost_messages_total"] == 0


def test_what_a_stop_cannot_say_any_more_is_in_its_last_line(
    daemon: Start, nats: NatsServer
) -> None:
    """Nobody else can know, and no scrape comes after it."""
    (a,) = joined(daemon, nats, names="a")
    crowd = a.crowd(2)
    nats.kill()
    until(lambda: a.get("/readyz")[0] == 503)
    crowd.clients[0].say(b"one\ntwo\nthree\n")
    crowd.until(lambda: len(crowd.clients[1].lines()) == 3)

    a.signal()

    assert a.stopped()["bus_messages_unsent"] == 3


def test_what_went_to_a_server_that_is_dead_without_a_word_is_in_the_last_line(
    daemon: Start, nats: NatsServer
) -> None:
    """The kernel had taken it, so that none was missing."""
    (a,) = joined(daemon, nats, "--grace-seconds=0.5", names="a")
    crowd = a.crowd(2)
    nats.process.send_signal(signal.SIGSTOP)
    crowd.clients[0].say(b"one\ntwo\nthree\n")
    crowd.until(lambda: len(crowd.clients[1].lines()) == 3)
    until(lambda: a.metrics()["bus_published_messages_total"] == 3)

    a.signal()

    assert a.stopped()["bus_messages_unsent"] == 3


def test_a_second_signal_does_not_wait_for_nats(daemon: Start, nats: NatsServer) -> None:
    (a,) = joined(daemon, nats, "--grace-seconds=3600", names="a")
    nats.process.send_signal(signal.SIGSTOP)
    a.signal()
    until(lambda: a.events("stopping"))
    began = monotonic()

    a.signal(signal.SIGINT)

    until(lambda: a.events("stopped"))
    assert monotonic() - began < CONNECT_SECONDS, "so long the bus itself waits"
    a.stopped()


def test_a_hand_over_is_refused_on_a_bus(daemon: Start, nats: NatsServer) -> None:
    """The others would know the successor as another instance, with other ids for its clients."""
    a, _ = joined(daemon, nats)
    crowd = a.crowd(2)

    a.signal(signal.SIGUSR2)

    until(lambda: a.events("hand-over refused"))
    (refused,) = a.events("hand-over refused")
    assert refused["reason"].startswith("with --bus it stops and starts: the others would take")
    crowd.clients[0].say(b"still here\n")
    crowd.until(lambda: crowd.clients[1].lines() == [b"[USER1@a] still here\n"])


def is_let_in(one: DaemonProcess, *, known: bool) -> None:
    """Return when *one* is ready, or, unless it is *known*, when it says that it was refused."""
    if known:
        until(lambda: one.get("/readyz")[0] == 200)
    else:
        until(lambda: "uthorization" in one.get("/readyz")[1])


@pytest.mark.parametrize("known", [True, False], ids=["let in", "turned away"])
def test_a_password_and_a_certificate_let_an_instance_in(
    daemon: Start, serve: Serve, tmp_path: Path, *, known: bool
) -> None:
    """And nothing of them is on its command line."""
    made = make_certificates(tmp_path)
    server = serve(
        "authorization { user: anna, password: geheim }\n"
        f'tls {{ cert_file: "{made.server.cert}", key_file: "{made.server.key}"\n'
        f'ca_file: "{made.ca}", verify: true }}\n',
    )
    options = [f"--bus-tls-ca={made.ca}", f"--bus-tls-cert={made.client.cert}"]
    options += [f"--bus-tls-key={made.client.key}", "--bus-user=anna"]
    variables = {"ETLTD_BUS_PASSWORD": "geheim" if known else "falsch"}
    is_let_in(daemon("lt", "--bus", server.url, *options, variables=variables), known=known)


@pytest.mark.parametrize("known", [True, False], ids=["let in", "turned away"])
def test_an_nkey_lets_an_instance_in(
    daemon: Start, serve: Serve, tmp_path: Path, *, known: bool
) -> None:
    seeds = [nkeys.encode_seed(bytes([n]) * 32, nkeys.PREFIX_BYTE_USER) for n in (1, 2)]
    public = nkeys.from_seed(bytearray(seeds[0])).public_key.decode()
    server = serve(f"authorization {{ users: [ {{ nkey: {public} }} ] }}\n")
    file = tmp_path / "seed"
    file.write_bytes(seeds[0] if known else seeds[1])
    is_let_in(daemon("lt", "--bus", server.url, "--bus-nkey", str(file)), known=known)


def key(letter: str, number: int) -> Any:
    """Return the key pair of an operator (O), an account (A) or a user (U)."""
    prefix = {
        "O": nkeys.PREFIX_BYTE_OPERATOR,
        "A": nkeys.PREFIX_BYTE_ACCOUNT,
        "U": nkeys.PREFIX_BYTE_USER,
    }
    return nkeys.from_seed(bytearray(nkeys.encode_seed(bytes([number]) * 32, prefix[letter])))


def signed(issuer: Any, subject: Any, **claims: object) -> str:
    """Return a JWT as NATS has them: *issuer* says *claims* of *subject*."""
    body = {
        "jti": "x",
        "iat": 1,
        "iss": issuer.public_key.decode(),
        "name": "test",
        "sub": subject.public_key.decode(),
        "nats": {**claims, "version": 2},
    }
    parts = [json.dumps(part).encode() for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, body)]
    text = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    signature = base64.urlsafe_b64encode(issuer.sign(text)).rstrip(b"=")
    return (text + b"." + signature).decode()


UNLIMITED = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)


@pytest.mark.parametrize("known", [True, False], ids=["let in", "turned away"])
def test_a_credentials_file_lets_an_instance_in(
    daemon: Start, serve: Serve, tmp_path: Path, *, known: bool
) -> None:
    operator, account, user = key("O", 1), key("A", 2), key("U", 3)
    by_operator = signed(operator, account, type="account", limits={**UNLIMITED, "wildcards": True})
    server = serve(
        f"operator: {signed(operator, operator, type='operator')}\nresolver: MEMORY\n"
        f"resolver_preload: {{ {account.public_key.decode()}: {by_operator} }}\n",
    )
    by_account = signed(account, user, type="user", pub={}, sub={}, **UNLIMITED)
    seed = (user if known else key("U", 4)).seed.decode()
    file = tmp_path / "a.creds"
    file.write_text(
        f"-----BEGIN NATS USER JWT-----\n{by_account}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
    is_let_in(daemon("lt", "--bus", server.url, "--bus-credentials", str(file)), known=known)


def test_without_the_library_a_bus_costs_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "nats.py").write_text("raise ImportError('no nats here')")

    done = etltd("--bus=nats://127.0.0.1:4222", PYTHONPATH=str(tmp_path))

    assert done.returncode == 1
    assert done.stderr == "etltd: --bus needs nats-py (pip install 'etlt[bus]'): no nats here\n"


WITHOUT = """
import sys
from etltd.config import Config
from etltd.daemon import Daemon
Daemon(Config(port=0, metrics_port=0), {})
print([name for name in sys.modules if name.startswith(("nats", "asyncio", "etltd.bus"))])
"""


def test_without_a_bus_nothing_of_it_is_imported() -> None:
    """Memory, start-up time and a dependency that who does not ask for it need not have."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True
    )

    assert done.stdout == "[]\n"
