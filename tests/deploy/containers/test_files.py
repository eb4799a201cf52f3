"""What the files promise, read without an engine."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import Any

import pytest

from tests.deploy.containers.engine import REPOSITORY
from tests.deploy.containers.stack import GRAFANA
from tests.deploy.containers.standins import DEBIAN, PROMETHEUS

DEPLOY = REPOSITORY / "deploy"
NOT_CLASSIC = re.compile(r"^# *syntax=|--mount=|--link|--chmod|<<|--start-interval", re.MULTILINE)
SECRET = re.compile("passw|secret|token|_key", re.IGNORECASE)


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    """Return the services as compose understands them, with nothing set in the environment."""
    if shutil.which("docker") is None:
        pytest.skip("there is no docker command (apt-get install docker.io)")
    arguments = ("--file", str(DEPLOY / "compose.yaml"), "--profile", "load")
    done = subprocess.run(
        ["docker", "compose", *arguments, "config", "--format", "json"],
        capture_output=True,
        text=True,
        check=False,
    )
    if "is not a docker command" in done.stderr or "unknown" in done.stderr:
        pytest.skip("there is no `docker compose` (docker-compose-plugin)")
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)["services"]
    return found


def test_the_two_images_share_their_first_stages_to_the_letter() -> None:
    """Else they are built twice, and one of the two may miss an update."""
    stages = [
        re.search(
            r"^FROM .* AS python\n(.*)^FROM", (DEPLOY / name).read_text(), re.MULTILINE | re.DOTALL
        )
        for name in ("Dockerfile", "etlt-probe.Dockerfile")
    ]
    assert stages[0] is not None
    assert stages[1] is not None
    assert stages[0][1] == stages[1][1]


@pytest.mark.parametrize("name", ["Dockerfile", "etlt-probe.Dockerfile"])
def test_an_image_builds_with_the_classic_builder(name: str) -> None:
    """Docker 20.10 without BuildKit is still what a stable distribution ships."""
    assert not NOT_CLASSIC.search((DEPLOY / name).read_text())


def test_the_versions_that_tests_stand_in_for_are_the_pinned_ones() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    images = re.findall(r"\$\{\w*IMAGE:-([^}]+)\}", text)

    assert {DEBIAN, PROMETHEUS, GRAFANA} <= set(images)
    assert all(re.search(r":[\w.-]*\d|:trixie-slim", image) for image in images), images


def test_every_service_is_confined(services: dict[str, dict[str, Any]]) -> None:
    """A service that somebody adds without the anchor would run with the engine's defaults."""
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert int(service["mem_limit"]) > 0, name
        assert int(service["pids_limit"]) > 0, name
        assert service["logging"]["options"]["mode"] == "non-blocking", name
    adding = {
        name: service["cap_add"] for name, service in services.items() if "cap_add" in service
    }
    assert adding == {"etlt-probe": ["BPF", "PERFMON"]}


def test_every_published_port_is_on_loopback(services: dict[str, dict[str, Any]]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", ())]

    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}
    published = [port["published"] for port in ports]
    assert len(published) == len(set(published)) == 7


def test_no_secret_is_in_the_file(services: dict[str, dict[str, Any]]) -> None:
    names = {name for service in services.values() for name in service.get("environment") or ()}

    assert [name for name in names if SECRET.search(name)] == []


def test_both_daemons_are_driven_alike(services: dict[str, dict[str, Any]]) -> None:
    """A comparison of two different loads compares nothing."""
    lt, et = (
        json.dumps({k: v for k, v in services[f"loadclient-{mode}"].items() if k != "depends_on"})
        for mode in ("lt", "et")
    )

    assert lt.replace("-lt", "-et") == et
    lt, et = (json.dumps(services[f"etltd-{mode}"]["command"]) for mode in ("lt", "et"))
    assert lt.replace("lt", "et") == et
