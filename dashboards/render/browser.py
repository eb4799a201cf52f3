"""A headless Chromium, spoken to over two pipes in its own DevTools protocol.

One browser draws every picture, and each wait is on the page's own word rather than on a clock.
Nothing is needed beside Chromium: no driver, no WebSocket. When we go, the pipes close and it goes.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from dashboards.render.errors import CannotRenderError

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--remote-debugging-pipe",
    "--disable-background-networking",
    "--disable-breakpad",
    "--disable-component-update",
    "--disable-dev-shm-usage",  # /dev/shm of a container holds no page of this size
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
    "--no-default-browser-check",
    "--no-first-run",
)
PATIENCE_SECONDS = 120.0  # for one picture; only a broken page takes it
EXIT_SECONDS = 10.0
ABOVE = 10  # where our ends of the pipes go: Chromium's own are numbers 3 and 4
CHUNK = 1 << 20
FIRST_HEIGHT = 900
ATTEMPTS = 5
RUNS = "document.documentElement.dataset.board !== undefined"
HEIGHT = 'Math.ceil(document.querySelector("main")?.getBoundingClientRect().bottom ?? 200)'


def find() -> str:
    """Return Chromium's path. Raises CannotRenderError."""
    for name in NAMES:
        path = shutil.which(name)
        if path:
            return path
    raise CannotRenderError("drawing needs chromium: sudo apt-get install chromium")


def _pipe() -> tuple[int, int]:
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, ABOVE) for end in ends]
    for end in ends:
        os.close(end)
    return high[0], high[1]


class Browser:
    """A browser with one page. Use it as a context; what it raises is CannotRenderError."""

    def __init__(self) -> None:
        program = find()
        self._profile = tempfile.TemporaryDirectory(
            prefix="etlt-chromium-", ignore_cleanup_errors=True
        )
        self._buffer = bytearray()
        self._asked = 0
        self._session: str | None = None
        self._seen: set[str] = set()  # events since the last navigation
        self.exceptions: list[str] = []
        theirs_read, self._write_end = _pipe()
        self._read_end, theirs_write = _pipe()
        root = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses root otherwise
        profile = f"--user-data-dir={self._profile.name}"
        self._pid = os.posix_spawn(
            program,
            [program, *FLAGS, *root, profile, "about:blank"],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, theirs_read, 3),
                (os.POSIX_SPAWN_DUP2, theirs_write, 4),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
            ],
            setpgroup=0,
        )
        os.close(theirs_read)
        os.close(theirs_write)

    def __enter__(self) -> Self:
        try:
            target = self._call("Target.createTarget", url="about:blank")["targetId"]
            attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
            self._session = attached["sessionId"]
            self._call("Page.enable")
            self._call("Runtime.enable")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the browser and everything that it started, and forget its profile."""
        os.close(self._write_end)
        os.close(self._read_end)
        deadline = time.monotonic() + EXIT_SECONDS
        gone = 0
        while not gone and time.monotonic() < deadline:
            gone, _ = os.waitpid(self._pid, os.WNOHANG)
            time.sleep(0 if gone else 0.01)
        with suppress(ProcessLookupError):  # the usual case: closed pipes are enough
            os.killpg(self._pid, signal.SIGKILL)
        if not gone:
            os.waitpid(self._pid, 0)
        self._profile.cleanup()

    def show(self, url: str, width: int) -> None:
        """Open *url* in a window of *width* pixels and wait until its script runs.

        Chromium drops what it is loading when any network interface of the machine comes or goes,
        loopback or not: then it is asked again.
        """
        self._resize(width, FIRST_HEIGHT)
        for _ in range(ATTEMPTS):
            self.exceptions.clear()
            self._seen.clear()
            self._call("Page.navigate", url=url)
            self._wait_for("Page.loadEventFired")
            if self.evaluate(RUNS):
                return
        raise CannotRenderError(f"the page does not load in Chromium: {url}")

    def evaluate(self, script: str) -> Any:
        """Return the value of *script* in the page; of a promise, what it comes to."""
        answer = self._call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise CannotRenderError(f"the page broke: {_told(answer['exceptionDetails'])}")
        return answer["result"].get("value")

    def photograph(self, path: Path, width: int) -> None:
        """Write the whole page, however high, to *path* as a PNG."""
        height = self.evaluate(HEIGHT)
        self._resize(width, height)
        self.evaluate("new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go)))")
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot")["data"]))

    def _resize(self, width: int, height: int) -> None:
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip

    def _call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Send a command and return its result."""
        self._asked += 1
        message: dict[str, Any] = {"id": self._asked, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        try:
            data = json.dumps(message).encode() + b"\0"
            while data:
                data = data[os.write(self._write_end, data) :]
        except BrokenPipeError as error:
            raise CannotRenderError("Chromium has ended by itself") from error
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            answer = self._receive(deadline, method)
            if answer.get("id") == self._asked:
                if "error" in answer:
                    raise CannotRenderError(f"Chromium, {method}: {answer['error']['message']}")
                result: dict[str, Any] = answer["result"]
                return result

    def _wait_for(self, event: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while event not in self._seen:
            self._receive(deadline, event)

    def _receive(self, deadline: float, awaited: str) -> dict[str, Any]:
        """Return the next message; keep what says that the page threw something."""
        while b"\0" not in self._buffer:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self._read_end], [], [], left)[0]:
                raise CannotRenderError(
                    f"Chromium has not answered within {PATIENCE_SECONDS:.0f} s ({awaited})"
                )
            data = os.read(self._read_end, CHUNK)
            if not data:
                raise CannotRenderError("Chromium has ended by itself")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        self._seen.add(message.get("method", ""))
        if message.get("method") == "Runtime.exceptionThrown":
            self.exceptions.append(_told(message["params"]["exceptionDetails"]))
        return message


def _told(details: dict[str, Any]) -> str:
    thrown = details.get("exception", {}).get("description") or details.get("text", "")
    return str(thrown).split("\n", 1)[0]
