"""The manifests are what the Kubernetes API takes; no cluster has seen them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

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


def test_no_secret_is_in_a_file() -> None:
    assert not [found for found in OBJECTS if found["kind"] == "Secret"]
    assert not KUSTOMIZATION.get("secretGenerator")
