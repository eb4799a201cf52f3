"""What answers at --server-metrics may be anything; whatever it is, it is one sentence."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest

from loadclient.server import Reading, ServerUnreadableError, read, split, together

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Outcome

ODD_ANSWERS = {
    "another protocol": b"SSH-2.0-OpenSSH_9.9\r\n",
    "silence": b"",
    "half a page": b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\netltd_x_total 1\n",
    "a header without end": b"HTTP/1.1 200 OK\r\n" + b"a: " + b"b" * 70_000 + b"\r\n\r\n",
    "a page": b"HTTP/1.1 200 OK\r\n\r\n<html>",
    "no text": b"HTTP/1.1 200 OK\r\n\r\n\xff\xfe\x00",
    "no number": b"HTTP/1.1 200 OK\r\n\r\n# TYPE etltd_x counter\netltd_x_total many\n",
    "no finite number": b"HTTP/1.1 200 OK\r\n\r\n# TYPE etltd_x counter\netltd_x_total +Inf\n",
    "a redirection to nowhere": b"HTTP/1.1 302 Found\r\nLocation: http://a:b/\r\n\r\n",
}


@pytest.fixture
def answering() -> Iterator[Callable[[bytes], str]]:
    """Serve one answer to everybody; return its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve(answer: bytes) -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:  # the test is over
                    return
                with peer:
                    peer.recv(65536)
                    peer.sendall(answer)

        def start(answer: bytes) -> str:
            threading.Thread(target=serve, args=(answer,), daemon=True).start()
            return f"http://127.0.0.1:{listener.getsockname()[1]}/metrics"

        yield start
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("kind", ODD_ANSWERS)
def test_an_odd_answer_is_no_traceback(answering: Callable[[bytes], str], kind: str) -> None:
    url = answering(ODD_ANSWERS[kind])
    with pytest.raises(ServerUnreadableError, match=url):
        read(url)


def test_the_chat_port_in_place_of_the_metrics_port_is_one_sentence(
    answering: Callable[[bytes], str], load: Callable[..., Outcome]
) -> None:
    """Whoever mixes up two ports is told, and sees no stack of ours."""
    outcome = load(1, "--server-metrics", answering(b"[USER1] GET /metrics HTTP/1.1\n"))

    assert outcome.code == 1
    assert outcome.err.startswith("loadclient: cannot read the server's metrics at http://")
    assert outcome.err.count("\n") == 1


def test_a_comma_within_a_url_splits_nothing() -> None:
    one, other = "http://a:9700/metrics?of=lt,et", "HTTPS://b/"

    assert split(f"{one},{other},{one}") == [one, other, one]
    assert split(one) == [one]


def test_several_servers_are_counted_together(answering: Callable[[bytes], str]) -> None:
    """A side of a comparison may be many; half of what they did would be half the truth."""
    page = (
        b"HTTP/1.1 200 OK\r\n\r\n"
        b'etltd_x_total{mode="et"} 2\n'
        b"# TYPE etltd_connections gauge\n"
        b'etltd_connections{mode="et"} 5\n'
        b'# TYPE etltd_y counter\netltd_y_total{mode="et",kind="in"} 3\n'
    )
    found = read(f"{answering(page)},{answering(page)}")

    assert (found.mode, found.config["instances"]) == ("et", "2")
    assert found.gauges["connections"] == 10
    assert found.counters["y_total"] == {"in": 6}


def test_what_servers_do_not_agree_about_is_listed() -> None:
    one = Reading("et", {"commit": "a"}, {"drain": "eagain"}, {"x": 1, "y": {"a": 1}})
    other = Reading("lt", {"commit": "b"}, {}, {"x": 2, "y": {"b": 2}, "z": {"c": 1}})
    found = together([one, other])

    assert (found.mode, found.build) == ("et/lt", {"commit": "a/b"})
    assert found.config == {"drain": "eagain/nothing", "instances": "2"}
    assert found.counters == {"x": 3, "y": {"a": 1, "b": 2}, "z": {"c": 1}}


def test_a_slash_is_no_list_where_there_is_one_server() -> None:
    one, other = (Reading("et", {"commit": f"release/{n}"}, {}, {}) for n in (1, 2))
    both = together([one, other])

    assert both.build == {"commit": "release/1/release/2"}
    assert together([both, both]).config["instances"] == "4"
