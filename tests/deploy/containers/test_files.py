"""What the files promise, read without an engine."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards.build import BOARDS
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


def provisioned(name: str) -> dict[str, Any]:
    """Return a file of Grafana's provisioning."""
    text = (DEPLOY / "grafana" / "provisioning" / name).read_text()
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def test_grafana_finds_the_boards_and_its_home(
    services: dict[str, dict[str, Any]],
) -> None:
    """It says nothing of an empty folder, and its own home page is shown for a wrong path."""
    grafana = services["grafana"]
    mounts = {one["target"]: Path(one["source"]) for one in grafana["volumes"]}
    (provider,) = provisioned("dashboards/etlt.yaml")["providers"]
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])

    assert mounts["/etc/grafana/provisioning"] == DEPLOY / "grafana" / "provisioning"
    boards = mounts[provider["options"]["path"]]
    assert {path.name for path in boards.iterdir()} == {f"{name}.json" for name in BOARDS}
    assert home.parent == Path(provider["options"]["path"])
    assert json.loads((boards / home.name).read_text())["title"] == "etlt / ET vs LT"


def test_grafana_asks_the_stack_s_prometheus_at_its_pace(
    services: dict[str, dict[str, Any]],
) -> None:
    """With a longer interval than is scraped, every rate is coarser than it need be."""
    (source,) = provisioned("datasources/prometheus.yaml")["datasources"]
    host, _, port = source["url"].removeprefix("http://").partition(":")
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())["global"]

    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    assert port in {str(one["target"]) for one in services[host]["ports"]}
    assert source["jsonData"]["timeInterval"] == scraped["scrape_interval"]
    # What Grafana writes out as $VARIABLE is its own; the boards' variables are not in these files.
    assert "$" not in json.dumps(source)


def test_grafana_makes_no_account(services: dict[str, dict[str, Any]]) -> None:
    """Nobody may log in, so nobody would change admin's password from admin."""
    environment = services["grafana"]["environment"]

    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert environment["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert environment["GF_AUTH_BASIC_ENABLED"] == "false"
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"


def test_the_probe_measures_itself_where_it_may(services: dict[str, dict[str, Any]]) -> None:
    """With BPF and PERFMON alone it would not start; with SYS_ADMIN a panel would be empty."""
    script = (DEPLOY / "stack.sh").read_text()
    older = script.partition('"${engine%%.*}" -lt 23')[2].partition("\nfi\n")[0]

    assert services["etlt-probe"]["environment"]["ETLT_PROBE_STATS"] == "false"
    assert "ETLT_PROBE_CAP_1=SYS_ADMIN" in older
    assert 'ETLT_PROBE_STATS="${ETLT_PROBE_STATS:-true}"' in older


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
