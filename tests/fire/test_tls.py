"""The sidecar of SECURITY.md: stunnel, word for word, in front of the daemon's Unix socket."""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import subprocess
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from tests.certificates import Certificates, make_certificates
from tests.system.rig import Client, Crowd, assert_ledger
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.system.rig import DaemonProcess

    Start = Callable[..., DaemonProcess]

STUNNEL = shutil.which("stunnel4") or shutil.which("stunnel")
RECIPE = Path(__file__).parents[2] / "SECURITY.md"
TRIES = 5  # another process may take a free port first

pytestmark = pytest.mark.skipif(STUNNEL is None, reason="needs stunnel (package stunnel4)")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def recipe(certificates: Certificates, chat: Path, port: int) -> str:
    """Return what SECURITY.md says, with this test's places."""
    (text,) = re.findall(r"```ini\n(\[etltd\]\n.*?)```", RECIPE.read_text(), re.DOTALL)
    places = {
        "9443": f"127.0.0.1:{port}",
        "/run/etltd/chat.sock": str(chat),
        "/etc/etltd/server.pem": str(certificates.server.cert),
        "/etc/etltd/server.key": str(certificates.server.key),
    }
    for theirs, ours in places.items():
        assert text.count(theirs) == 1, theirs
        text = text.replace(theirs, ours)
    return f"foreground = yes\npid =\n{text}"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@contextmanager
def sidecar(certificates: Certificates, chat: Path, folder: Path) -> Iterator[int]:
    """Run stunnel; yield its port."""
    assert STUNNEL is not None
    log = folder / "stunnel.log"
    for _ in range(TRIES):
        port = free_port()
        (folder / "stunnel.conf").write_text(recipe(certificates, chat, port))
        with log.open("wb") as out:
            process = subprocess.Popen([STUNNEL, folder / "stunnel.conf"], stdout=out, stderr=out)
        until(lambda: process.poll() is not None or answers(port))
        if process.poll() is None:
            break
    assert process.poll() is None, log.read_text()
    try:
        yield port
    finally:
        process.terminate()
        process.wait()


def answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


class TlsClient:
    """One who speaks through the sidecar."""

    def __init__(self, port: int, certificates: Certificates) -> None:
        context = ssl.create_default_context(cafile=certificates.ca)
        raw = socket.create_connection(("127.0.0.1", port), 20)
        self.sock = context.wrap_socket(raw, server_hostname="127.0.0.1")
        self.inbox = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def hear(self, words: bytes) -> None:
        """Read until *words* have come."""
        while words not in self.inbox:
            data = self.sock.recv(1 << 16)
            assert data, self.inbox[-200:]
            self.inbox += data


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    return tmp_path / "chat.sock"


def test_the_documented_sidecar_carries_the_chat(
    start: Start, mode: str, tmp_path: Path, chat: Path, certificates: Certificates
) -> None:
    """Both ways, whole and unaltered, also more than one record or buffer holds."""
    daemon = start(mode, "--unix", str(chat))
    with ExitStack() as stack:
        port = stack.enter_context(sidecar(certificates, chat, tmp_path))
        until(lambda: daemon.metrics()["connections"] == 0)  # who asked whether it listens
        plain = Client(str(chat))
        stack.callback(plain.sock.close)
        anna, bert = (stack.enter_context(TlsClient(port, certificates)) for _ in range(2))
        until(lambda: daemon.metrics()["connections"] == 3)
        assert anna.sock.version() in {"TLSv1.2", "TLSv1.3"}

        lines = b"".join(b"%d " % number + b"x" * 8000 + b"\n" for number in range(50))
        anna.sock.sendall(lines)
        bert.hear(b"] 49 ")
        bert.hear(b"x\n")
        bert.sock.sendall(b"all there\n")
        anna.hear(b"all there\n")
        crowd = Crowd([plain])
        crowd.until(lambda: plain.inbox.endswith(b"all there\n"))
        assert re.sub(rb"\[USER\d+\] ", b"", bytes(plain.inbox)) == lines + b"all there\n"

        anna.sock.close()
        until(lambda: daemon.metrics()["connections"] == 2)
        bert.sock.close()
        until(lambda: daemon.metrics()["connections"] == 1)
        found = daemon.quiet_metrics()
        assert_ledger(found)
        assert found["messages_received_total"] == 51


def test_who_speaks_no_tls_is_not_heard(
    start: Start, mode: str, tmp_path: Path, chat: Path, certificates: Certificates
) -> None:
    daemon = start(mode, "--unix", str(chat))
    with sidecar(certificates, chat, tmp_path) as port:
        with socket.create_connection(("127.0.0.1", port), 20) as plain:
            plain.sendall(b"hello in the clear\n" * 10)
            with suppress(ConnectionResetError):
                while plain.recv(1000):
                    pass
        stranger = ssl.create_default_context()
        with (
            pytest.raises(ssl.SSLCertVerificationError),
            socket.create_connection(("127.0.0.1", port), 20) as raw,
        ):
            stranger.wrap_socket(raw, server_hostname="127.0.0.1")

        assert daemon.metrics()["messages_received_total"] == 0


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")
def test_openssl_s_client_is_a_client(
    start: Start, mode: str, tmp_path: Path, chat: Path, certificates: Certificates
) -> None:
    """The command that SECURITY.md gives to people."""
    daemon = start(mode, "--unix", str(chat))
    with ExitStack() as stack:
        port = stack.enter_context(sidecar(certificates, chat, tmp_path))
        until(lambda: daemon.metrics()["connections"] == 0)
        plain = Client(str(chat))
        stack.callback(plain.sock.close)
        command = [
            "openssl",
            "s_client",
            "-quiet",
            "-verify_return_error",
            "-verify_ip",
            "127.0.0.1",
        ]
        with subprocess.Popen(
            [*command, "-CAfile", certificates.ca, "-connect", f"127.0.0.1:{port}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as person:
            assert person.stdin is not None
            assert person.stdout is not None
            until(lambda: daemon.metrics()["connections"] == 2)
            person.stdin.write(b"typed\n")
            person.stdin.flush()
            Crowd([plain]).until(lambda: b"] typed\n" in plain.inbox)
            plain.say(b"heard\n")
            Crowd([plain]).until(lambda: not plain.outgoing)
            assert person.stdout.readline().endswith(b"] heard\n")
            person.kill()
