"""The probe's own run time, sampled: timing every program run costs a third of the run again.

Statistics are on for a second in thirty, for all BPF programs of the machine, and off again even if
we die: the kernel ends them with our descriptor. Run time and runs grow only meanwhile, so their
quotient is the mean cost of a run. The sysctl is left alone: it is global and outlives us.
"""

from __future__ import annotations

import errno
import os
import threading
from contextlib import suppress
from typing import Self

from ebpf import kernel
from ebpf.errors import Refused

ON_SECONDS = 1.0
EVERY_SECONDS = 30.0


class RunTimeSampler:
    """Samples from `start` until `stop`."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="etlt-probe-stat", daemon=True)

    def start(self) -> Self:
        """Begin with a sample at once. Raises Refused when the kernel does not permit it."""
        try:
            os.close(kernel.enable_run_statistics())
        except OSError as error:
            raise Refused(_explain(error)) from error
        self._thread.start()
        return self

    def stop(self) -> None:
        """End the present sample and the thread."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            with suppress(OSError):  # no descriptor is free, say: this sample is left out
                self._sample()
            self._stopping.wait(EVERY_SECONDS - ON_SECONDS)

    def _sample(self) -> None:
        fd = kernel.enable_run_statistics()
        self._stopping.wait(ON_SECONDS)
        os.close(fd)


def _explain(error: OSError) -> str:
    if error.errno == errno.EPERM:
        return "--stats needs CAP_SYS_ADMIN (Docker: --cap-add SYS_ADMIN); leave it out otherwise"
    if error.errno == errno.EINVAL:
        return "--stats needs Linux 5.8 or newer; leave it out"
    return f"--stats is refused: {error.strerror}"
