"""Rules and alerts: promtool's unit tests on every Prometheus major that is here."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from dashboards import rules
from dashboards.rules import ALERTS, RECORDINGS

HERE = Path(__file__).parent
DASHBOARDS = HERE.parents[1] / "dashboards"
TESTS = ("recording_test.yaml", "alerts_test.yaml")


def found(command: str) -> str:
    return shutil.which(command) or pytest.skip(f"{command} is not installed (deploy/setup.sh dev)")


def promtool(*arguments: str | Path, command: str = "promtool") -> subprocess.CompletedProcess[str]:
    return subprocess.run([found(command), *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(params=["promtool", "promtool-3"])
def command(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_promtool_has_no_complaint_about_the_stacks_configuration(
    command: str, tmp_path: Path
) -> None:
    """A misspelt key stops Prometheus, and with it every board."""
    deployed = DASHBOARDS.parent / "deploy" / "prometheus" / "prometheus.yaml"
    text = deployed.read_text()
    assert "/etc/prometheus/rules/*.yaml" in text
    config = tmp_path / "prometheus.yaml"
    config.write_text(text.replace("/etc/prometheus/rules", str(DASHBOARDS / "rules")))

    done = promtool("check", "config", "--lint=all", "--lint-fatal", config, command=command)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 rule files found" in done.stdout


def test_promtool_has_no_complaint_about_the_files(command: str) -> None:
    files = [DASHBOARDS / "rules" / name for name in ("recording.yaml", "alerts.yaml")]

    done = promtool("check", "rules", "--lint=all", "--lint-fatal", *files, command=command)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", TESTS)
def test_rules_yield_what_they_should(command: str, name: str) -> None:
    done = promtool("test", "rules", HERE / name, command=command)

    assert done.returncode == 0, done.stdout + done.stderr


# What may go wrong with an alert: it never fires, or always does.
MUTANTS = {
    **{f"{one.record} is not recorded": (one.record, "vector(1) > 2") for one in RECORDINGS},
    **{f"{one.record} is nought": (one.record, f"0 * ({one.expr})") for one in RECORDINGS},
    **{f"{one.alert} never fires": (one.alert, "vector(1) > 2") for one in ALERTS},
    **{f"{one.alert} always fires": (one.alert, "vector(1)") for one in ALERTS},
}


def only(name: str, text: str) -> str:
    """Return a file of tests with those that name a rule."""
    head, *cases = re.split(r"(?m)^(?=  - name:)", text)
    wanted = re.compile(rf"{name}\b|__name__=~")
    return head + "".join(case for case in cases if wanted.search(case))


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_rule_is_noticed(
    mutant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rule that no test would miss is not tested."""
    name, expr = MUTANTS[mutant]
    monkeypatch.setattr(
        rules,
        "RECORDINGS",
        [replace(one, expr=expr) if one.record == name else one for one in RECORDINGS],
    )
    monkeypatch.setattr(
        rules, "ALERTS", [replace(one, expr=expr) if one.alert == name else one for one in ALERTS]
    )
    (tmp_path / "recording.yaml").write_text(rules.recording_text())
    (tmp_path / "alerts.yaml").write_text(rules.alerts_text())
    tests = HERE / ("recording_test.yaml" if ":" in name else "alerts_test.yaml")
    own = tmp_path / tests.name
    own.write_text(only(name, tests.read_text()).replace("../../dashboards/rules/", ""))

    done = promtool("test", "rules", own)

    assert done.returncode == 1
    assert "FAILED" in done.stdout + done.stderr


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.alert)
def test_an_alert_says_what_to_do(alert: rules.Alert) -> None:
    """Whoever is woken finds the section that its link names, with something to do in it."""
    runbook, _, anchor = alert.runbook.partition("#")
    text = (DASHBOARDS.parent / runbook).read_text()
    section = re.search(rf"^## {alert.alert}\n(.+?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)

    assert anchor == alert.alert.lower()
    assert section
    assert "1. " in section[1]
    assert alert.summary
    assert alert.description.endswith(".")


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.alert)
def test_an_alert_is_tested_both_ways(alert: rules.Alert) -> None:
    tests = (HERE / "alerts_test.yaml").read_text()
    cases = re.findall(rf"alertname: {alert.alert}\n\s+exp_alerts:( \[\])?\n", tests)

    assert sorted(set(cases)) == ["", " []"]
