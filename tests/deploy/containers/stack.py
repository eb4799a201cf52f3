"""The compose stack, by the command that people use: ``deploy/stack.sh``."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any

from tests.boards.rig import CONNECTIONS
from tests.deploy.containers.engine import BUILD_SECONDS, REPOSITORY, Container

if TYPE_CHECKING:
    from pathlib import Path

    from tests.deploy.containers.conftest import Images
    from tests.deploy.containers.engine import Engine

SERVICES = ("etltd-lt", "etltd-et", "etlt-probe", "prometheus")
GRAFANA = "grafana/grafana:12.0.2"  # as in compose.yaml
# Only the pace: a health check every second, where people have one every ten.
PACE = "services:\n" + "".join(
    f"  {name}:\n    healthcheck: {{interval: 1s}}\n" for name in SERVICES
)
# Seldom and from many: on a busy machine a client that is late by less than a second is no
# bottleneck, and the run counts. It lasts and lingers for as long as a look at everybody may take.
LOAD = {
    "CONNS": str(CONNECTIONS),
    "RATE": "1",
    "DURATION": "16",
    "WARMUP": "1",
    "LINGER": "15",
    "RUN_ID": "test",
}
PORTS = (
    *("ETLTD_LT_PORT", "ETLTD_LT_METRICS_PORT", "ETLTD_ET_PORT", "ETLTD_ET_METRICS_PORT"),
    *("ETLT_PROBE_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT"),
)


def has_compose(engine: Engine) -> str | None:
    """Return why there is no compose, or None."""
    if engine.run("compose", "version").returncode == 0:
        return None
    try:
        subprocess.run(["docker-compose", "version"], capture_output=True, check=True)
    except (OSError, subprocess.SubprocessError):
        return "neither `docker compose` nor `docker-compose` works here"
    return None


class Stack:
    """One stack under a name of its own, on free ports."""

    def __init__(self, engine: Engine, images: Images, folder: Path) -> None:
        self.engine = engine
        self.folder = folder
        self.project = f"etlt-test-{os.getpid()}"
        self.results: dict[str, dict[str, Any]] = {}
        self.services = SERVICES + (("grafana",) if engine.has(GRAFANA) else ())
        pace = folder / "pace.yaml"
        pace.write_text(PACE)
        self._environment = {
            **engine.environment,
            **dict.fromkeys(PORTS, "0"),
            **LOAD,
            "COMPOSE_PROJECT_NAME": self.project,
            "COMPOSE_FILE": f"{REPOSITORY}/deploy/compose.yaml:{pace}",
            "DOCKER_BUILDKIT": "0",  # or the base image would be asked for at a registry
            "BASE_IMAGE": images.base,
            "ETLT_IMAGE": images.etlt,
            "ETLT_PROBE_IMAGE": images.probe,
            "PROMETHEUS_IMAGE": images.prometheus,
            "RESULTS": ".",  # of whoever gives the command
        }

    def command(self, *arguments: str) -> str:
        """Run ``deploy/stack.sh ARGUMENTS``, which must succeed; return what it said."""
        done = subprocess.run(
            [str(REPOSITORY / "deploy/stack.sh"), *arguments],
            env=self._environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=BUILD_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"stack.sh {' '.join(arguments)}: {done.stdout[-6000:]}"
        return done.stdout

    def up(self) -> None:
        """Start all services that can be had here, and wait until they are healthy."""
        self.command("up", *self.services)

    def load(self) -> None:
        """Drive both daemons at the same time and keep the results, by mode."""
        self.command("load")
        for mode in ("lt", "et"):
            text = (self.folder / f"{LOAD['RUN_ID']}-{mode}.json").read_text()
            self.results[mode] = json.loads(text)

    def down(self) -> None:
        """Take everything down."""
        self.command("down")

    def container(self, service: str) -> Container:
        """Return the container of *service*."""
        said = self.engine.docker(
            *("ps", "--all", "--quiet", "--no-trunc"),
            *("--filter", f"label=com.docker.compose.project={self.project}"),
            *("--filter", f"label=com.docker.compose.service={service}"),
        )
        (found,) = said.split()
        return Container(self.engine, found)

    def inner_address(self, service: str) -> str:
        """Return the address of *service* on the stack's own network; empty before it has one."""
        with contextlib.suppress(ValueError, AssertionError, StopIteration):
            return self.container(service).address
        return ""

    def address(self, service: str, port: int) -> str:
        """Return where the host reaches *port* of *service*."""
        return self.engine.docker("port", self.container(service).id, str(port)).split()[0]

    @property
    def prometheus_url(self) -> str:
        """Return where Prometheus answers."""
        return f"http://{self.address('prometheus', 9090)}"

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Ask Prometheus for an instant vector."""
        address = f"{self.prometheus_url}/api/v1/query"
        form = urllib.parse.urlencode({"query": expression}).encode()
        with urllib.request.urlopen(address, form, timeout=30) as answer:  # noqa: S310
            found = json.load(answer)["data"]["result"]
        return [(one["metric"], float(one["value"][1])) for one in found]

    def left_behind(self) -> list[str]:
        """Return the containers, networks and volumes of this stack that still exist."""
        label = ("--quiet", "--filter", f"label=com.docker.compose.project={self.project}")
        kinds = (("ps", "--all"), ("network", "ls"), ("volume", "ls"))
        return [one for kind in kinds for one in self.engine.docker(*kind, *label).split()]
