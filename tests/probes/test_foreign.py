"""It is useful beyond our own daemon: nginx, driven by a real client, with prime numbers."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.probes.rig import PROBE, REPOSITORY, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.kernel, pytest.mark.system]

CONNECTIONS, REQUESTS = 13, 101  # requests per connection
BODY = b"z" * 4099
CONFIGURATION = """
user root; daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 128; }}
http {{
  access_log off; sendfile on; keepalive_requests 1000000;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  server {{ listen unix:{folder}/socket; root {folder}/www; }}
}}
"""


class UnixConnection(http.client.HTTPConnection):
    """An HTTP connection to a socket file: no port to collide with."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self.path = path

    def connect(self) -> None:
        import socket

        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self.path))


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[tuple[str, set[int], Path]]:
    """Start nginx; return its name, its pids and the path of its socket."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/bin")
    if not program:
        pytest.skip("nginx is not installed")
    (tmp_path / "www").mkdir()
    (tmp_path / "www/file").write_bytes(BODY)
    configuration = tmp_path / "nginx.conf"
    configuration.write_text(CONFIGURATION.format(folder=tmp_path))
    name = f"nginx-{os.getpid()}"  # others on this machine may run one, too
    (tmp_path / name).symlink_to(program)
    with subprocess.Popen([tmp_path / name, "-c", str(configuration)]) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        wait_until(children.read_text, "nginx has a worker")
        yield name, {process.pid, int(children.read_text())}, tmp_path / "socket"
        process.terminate()


def test_nginx_is_counted_as_its_client_saw_it(nginx: tuple[str, set[int], Path]) -> None:
    """Connections accepted, files sent and bytes of them, from the command's own JSON."""
    name, pids, path = nginx
    with contextlib.ExitStack() as stack:
        probe = stack.enter_context(
            subprocess.Popen(
                [*PROBE, "--once", "--comm", name, "--duration", "600", "--json"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=REPOSITORY,
            )
        )
        stack.callback(probe.kill)
        assert probe.stderr is not None
        said = probe.stderr.readline() + probe.stderr.readline()
        assert all(f"watching process {pid} ({name}, mode unknown)" in said for pid in pids)
        clients = [
            stack.enter_context(contextlib.closing(UnixConnection(path)))
            for _ in range(CONNECTIONS)
        ]
        for client in clients:
            for _ in range(REQUESTS):
                client.request("GET", "/file")
                assert client.getresponse().read() == BODY
        probe.terminate()  # ends the count early; the table is of what was counted
        record = json.loads(probe.communicate(timeout=20)[0])
    (group,) = record["groups"]
    calls = group["syscalls"]

    assert record["complete"]
    assert (group["comm"], set(group["pids"])) == (name, pids)
    assert group["loop_threads"] == 1  # the worker's; the master waits for no event
    assert calls["accept4"]["calls"] - sum(calls["accept4"]["errors"].values()) == CONNECTIONS
    assert calls["sendfile"]["calls"] == CONNECTIONS * REQUESTS
    assert calls["sendfile"]["bytes"] == CONNECTIONS * REQUESTS * len(BODY)
    assert calls["writev"]["calls"] == CONNECTIONS * REQUESTS
    assert group["epoll_ctl"]["add"] == CONNECTIONS
