"""The manifests are what the Kubernetes API takes; no cluster has seen them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.system.nats import PROGRAM, needs_nats

FOLDER = Path(__file__).parents[2] / "deploy" / "k8s"
VERSIONS = ("1.29", "1.37")
OPERATORS = {"monitoring.coreos.com/v1"}  # not part of the API: its shape is checked below

KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
OBJECTS: list[dict[str, Any]] = [
    found
    for name in KUSTOMIZATION["resources"]
    for found in yaml.safe_load_all((FOLDER / name).read_text())
]
PODS = [found for found in OBJECTS if found["kind"] in {"Deployment", "DaemonSet"}]


def name_of(found: dict[str, Any]) -> str:
    return f"{found['kind']} {found['metadata']['name']}"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "found", [found for found in OBJECTS if found["apiVersion"] not in OPERATORS], ids=name_of
)
def test_every_object_is_one_that_the_api_takes(found: dict[str, Any], version: str) -> None:
    """Strictly: a key that is misspelt would be passed over in silence."""
    kubernetes_validate.validate(found, version, strict=True)


def test_a_misspelt_key_would_be_noticed() -> None:
    wrong = dict(PODS[0]) | {"spec": PODS[0]["spec"] | {"replicsa": 3}}

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[1], strict=True)


def test_every_file_is_part_of_it() -> None:
    files = {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}

    assert files == set(KUSTOMIZATION["resources"])


@pytest.mark.parametrize("found", PODS, ids=name_of)
def test_what_selects_a_pod_selects_this_one(found: dict[str, Any]) -> None:
    """A selector that fits nothing is no error anywhere."""
    labels = found["spec"]["template"]["metadata"]["labels"]

    assert found["spec"]["selector"]["matchLabels"] == labels
    ports = {p["name"] for c in found["spec"]["template"]["spec"]["containers"] for p in c["ports"]}
    for other in OBJECTS:
        spec = other.get("spec", {})
        selector = spec.get("selector") or spec.get("podSelector") or {}
        if selector.get("matchLabels", selector) != labels or other is found:
            continue
        asked = [*spec.get("ports", []), *spec.get("podMetricsEndpoints", [])]
        asked += [port for rule in spec.get("ingress", []) for port in rule["ports"]]
        named = {port.get("targetPort", port["port"]) for port in asked}
        assert named <= ports, name_of(other)


@pytest.mark.parametrize("found", PODS, ids=name_of)
def test_every_container_asks_for_little_and_may_do_little(found: dict[str, Any]) -> None:
    for container in found["spec"]["template"]["spec"]["containers"]:
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"]["drop"] == ["ALL"]


def test_monitors_have_the_operators_shape() -> None:
    monitors = [found for found in OBJECTS if found["kind"] == "PodMonitor"]

    assert {monitor["metadata"]["name"] for monitor in monitors} == {"etltd", "etlt-probe"}
    for monitor in monitors:
        assert set(monitor["spec"]) == {"jobLabel", "selector", "podMetricsEndpoints"}


def starts(token: str, folder: Path) -> bool:
    """Tell whether NATS takes its manifest's configuration, with this *token*."""
    (found,) = (one for one in OBJECTS if name_of(one) == "ConfigMap nats")
    file = folder / "nats.conf"
    file.write_text(found["data"]["nats.conf"])
    command = [str(PROGRAM), "-t", "-c", str(file)]
    done = subprocess.run(command, env={"NATS_TOKEN": token}, capture_output=True, check=False)
    return done.returncode == 0


@needs_nats
@pytest.mark.parametrize("digits", ["0" * 64, "12e3" + "4" * 60, "12e3f" * 12, "f" * 64])
def test_nats_starts_with_any_token_of_the_manuals(digits: str, tmp_path: Path) -> None:
    """It reads the token as a value: one in sixteen would be a number to it, and no text."""
    for name in ("README.md", "kustomization.yaml"):
        (letter,) = re.findall(
            r'token="(.*)\$\(openssl rand -hex 32\)"', (FOLDER / name).read_text()
        )
        assert starts(letter + digits, tmp_path)
    if not digits.startswith("f"):
        assert not starts(digits, tmp_path), "this test would notice nothing"


def test_no_secret_is_in_a_file() -> None:
    assert not [found for found in OBJECTS if found["kind"] == "Secret"]
    assert not KUSTOMIZATION.get("secretGenerator")
