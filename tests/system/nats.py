"""A NATS server for a test, from Debian's package; on a free port of loopback, unless told."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from tests.waiting import PATIENCE_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import BinaryIO

PROGRAM = shutil.which("nats-server") or shutil.which("nats-server", path=".venv/bin")
needs_nats = pytest.mark.skipif(PROGRAM is None, reason="needs nats-server (package nats-server)")


class NatsServer:
    """Started when made; may be killed and started again at the same address."""

    def __init__(
        self,
        folder: Path,
        configuration: str = "",
        *,
        host: str = "127.0.0.1",
        prefix: Sequence[str] = (),
    ) -> None:
        self._folder = folder
        self._host = host
        self._prefix = prefix
        self._file = folder / "nats.conf"
        self._file.write_text(configuration)
        self.port = -1  # any free one
        self.start()

    @property
    def url(self) -> str:
        return f"nats://{self._host}:{self.port}"

    def start(self) -> None:
        """Start it and return when it answers."""
        assert PROGRAM is not None
        command = [
            *(*self._prefix, PROGRAM, "-c", str(self._file), "-a", self._host),
            *("-p", str(self.port), "--ports_file_dir", str(self._folder)),
        ]
        with (self._folder / "nats.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        ports = self._folder / f"nats-server_{self.process.pid}.ports"
        until(lambda: self._has_listened(ports))
        self.port = int(json.loads(ports.read_text())["nats"][0].rsplit(":", 1)[1])

    def _has_listened(self, ports: Path) -> bool:
        assert self.process.poll() is None, (self._folder / "nats.log").read_text()
        return ports.exists() and ports.read_text().endswith("}")

    def kill(self) -> None:
        """End it as a power cut would."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def publish(self, subject: str, payload: bytes) -> None:
        """Publish as a stranger would: no library, no envelope."""
        with socket.create_connection((self._host, self.port), PATIENCE_SECONDS) as sock:
            answers = sock.makefile("rb")
            assert answers.readline().startswith(b"INFO ")
            head = b'CONNECT {"verbose":false}\r\nPUB %s %d\r\n' % (subject.encode(), len(payload))
            sock.sendall(head + payload + b"\r\nPING\r\n")
            while not answers.readline().startswith(b"PONG"):
                pass


class LossyWay:
    """A way to a server on which what others say is lost, silently, while `loses`.

    NATS over TCP loses nothing by itself within a connection; a server that gives up on a slow
    listener does, and so does a library whose buffer is full.
    """

    def __init__(self, server: NatsServer) -> None:
        self.loses = True
        self.lost_bytes = 0
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self._listener.getsockname()[1]}"

    def _accept(self) -> None:
        near, _ = self._listener.accept()  # one instance, one connection
        with near, socket.create_connection(("127.0.0.1", self._server.port)) as far:
            back = threading.Thread(target=self._carry_back, args=(far.makefile("rb"), near))
            back.start()
            while data := near.recv(1 << 16):
                far.sendall(data)
            far.shutdown(socket.SHUT_WR)
            back.join()

    def _carry_back(self, answers: BinaryIO, near: socket.socket) -> None:
        for line in answers:
            is_said, payload = line.startswith(b"MSG "), b""
            if is_said:
                payload = answers.read(int(line.rsplit(maxsplit=1)[1]) + 2)
            if is_said and self.loses:
                self.lost_bytes += len(payload)
            else:
                near.sendall(line + payload)

    def close(self) -> None:
        self._listener.close()
