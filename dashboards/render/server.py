"""What the browser may ask, on loopback: the page, the boards, and Prometheus behind the same door.

Prometheus is proxied so that the browser needs no other address, whatever Prometheus allows to
pages from elsewhere.
"""

from __future__ import annotations

import http.server
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

PROMETHEUS = "/prometheus/"
BOARDS = "/boards/"
QUERY_SECONDS = 60.0


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Files of the page; boards and Prometheus under their prefixes. GET only."""

    protocol_version = "HTTP/1.1"  # one connection serves many queries

    def __init__(
        self,
        *arguments: object,
        prometheus: str,
        boards: Mapping[str, Path],
        directory: str,
    ) -> None:
        self.prometheus = prometheus
        self.boards = boards
        super().__init__(*arguments, directory=directory)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        if self.path.startswith(PROMETHEUS):
            self._pass_on(self.path.removeprefix(PROMETHEUS))
        elif self.path.startswith(BOARDS):
            self._send_board()
        else:
            super().do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing: what went wrong is in the panels."""

    def _send_board(self) -> None:
        name = unquote(urlsplit(self.path).path).removeprefix(BOARDS).removesuffix(".json")
        if name not in self.boards:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        self._reply(HTTPStatus.OK, self.boards[name].read_bytes())

    def _pass_on(self, path: str) -> None:
        """Ask Prometheus and pass on what it says, refusals too."""
        try:
            with urllib.request.urlopen(  # noqa: S310 - the address was checked to be http(s)
                f"{self.prometheus}/{path}", timeout=QUERY_SECONDS
            ) as answer:
                self._reply(answer.status, answer.read())
        except urllib.error.HTTPError as refusal:
            self._reply(refusal.code, refusal.read())
        except OSError as error:
            reason = getattr(error, "reason", error)
            self._reply(HTTPStatus.BAD_GATEWAY, f"no answer ({reason})".encode())

    def _reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256  # a board's queries come at once; a refusal would look like its error

    def handle_error(self, *_: object) -> None:
        """Say nothing: a browser that hangs up before it has read everything is no news."""


@contextmanager
def serving(page: Path, boards: Mapping[str, Path], prometheus: str) -> Iterator[str]:
    """Serve on loopback while the block runs; yields the address, without a slash at its end."""
    handler = partial(_Handler, prometheus=prometheus, boards=boards, directory=str(page))
    with _Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
