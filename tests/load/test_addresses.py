"""localhost is ::1 and 127.0.0.1; the daemon listens at one of them."""

from __future__ import annotations

import socket

from loadclient.addresses import first_answering


def test_a_server_at_the_second_address_of_a_name_is_found() -> None:
    """The run would be refused by an address that nobody meant."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        assert first_answering(["127.0.0.2", "127.0.0.1"], port) == "127.0.0.1"


def test_where_nobody_answers_the_first_address_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    assert first_answering(["127.0.0.2", "127.0.0.1"], port) == "127.0.0.2"


def test_an_only_address_is_not_knocked_at() -> None:
    """The server would count a client that is none of the run's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        address, port = listener.getsockname()

        assert first_answering([address], port) == address
        try:
            listener.accept()
        except BlockingIOError:
            return
    raise AssertionError
