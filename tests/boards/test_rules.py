"""Rules and alerts: promtool's unit tests on every Prometheus major that is here."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dashboards import rules
from dashboards.rules import ALERTS, INVALID_BECAUSE, RECORDINGS
from tests.boards import comparison

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
DASHBOARDS = HERE.parents[1] / "dashboards"
TESTS = ("recording_test.yaml", "alerts_test.yaml")
BESIDE = ["recording.yaml", "alerts.yaml"]
(STEADY,) = (one.record for one in RECORDINGS if "steady" in one.record)


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


def test_a_comparison_is_called_invalid_within_its_minute_and_only_then(
    command: str, tmp_path: Path
) -> None:
    """An alert that takes longer than the load it judges never comes."""
    files = [str(DASHBOARDS / "rules" / name) for name in ("recording.yaml", "alerts.yaml")]
    tests = tmp_path / "comparison.yaml"
    tests.write_text(comparison.text(files))

    done = promtool("test", "rules", tests, command=command)

    assert done.returncode == 0, done.stdout + done.stderr
    assert {reason for _, reason, _ in comparison.CASES.values()} == {"", *INVALID_BECAUSE}


# What may go wrong with an alert: it never fires, or always does.
MUTANTS = {
    **{f"{one.record} is not recorded": (one.record, "vector(1) > 2") for one in RECORDINGS},
    **{f"{one.record} is nought": (one.record, f"0 * ({one.expr})") for one in RECORDINGS},
    **{f"{one.alert} never fires": (one.alert, "vector(1) > 2") for one in ALERTS},
    **{f"{one.alert} always fires": (one.alert, "vector(1)") for one in ALERTS},
}
WITHOUT = {
    reason: rules.comparison_invalid(one for one in INVALID_BECAUSE if one != reason)
    for reason in INVALID_BECAUSE
}


def cases_of(name: str) -> str:
    """Return a file of tests with those that name a rule; its rules are beside it."""
    if name == comparison.ALERT:
        return comparison.text(BESIDE, "messages_lost")
    file = HERE / ("recording_test.yaml" if ":" in name else "alerts_test.yaml")
    text = file.read_text().replace("../../dashboards/rules/", "")
    head, *cases = re.split(r"(?m)^(?=  - name:)", text)
    wanted = re.compile(rf"{name}\b|__name__=~")
    return head + "".join(case for case in cases if wanted.search(case))


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], str]:
    """Return what tests say of rules of which one has another expression."""

    def said(name: str, expr: str, tests: str) -> str:
        recordings = [replace(o, expr=expr) if o.record == name else o for o in RECORDINGS]
        alerts = [replace(o, expr=expr) if o.alert == name else o for o in ALERTS]
        monkeypatch.setattr(rules, "RECORDINGS", recordings)
        monkeypatch.setattr(rules, "ALERTS", alerts)
        (tmp_path / "recording.yaml").write_text(rules.recording_text())
        (tmp_path / "alerts.yaml").write_text(rules.alerts_text())
        own = tmp_path / "tests.yaml"
        own.write_text(tests)
        done = promtool("test", "rules", own)
        assert bool(done.returncode) == ("FAILED" in done.stdout + done.stderr)
        return done.stdout + done.stderr

    return said


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_rule_is_noticed(mutant: str, check: Callable[[str, str, str], str]) -> None:
    """A rule that no test would miss is not tested."""
    name, expr = MUTANTS[mutant]

    assert "FAILED" in check(name, expr, cases_of(name))


@pytest.mark.parametrize("reason", WITHOUT)
def test_a_reason_that_is_not_looked_at_is_noticed(
    reason: str, check: Callable[[str, str, str], str]
) -> None:
    tests = comparison.text(BESIDE, reason)

    assert "FAILED" in check(comparison.ALERT, WITHOUT[reason], tests)


def test_loads_that_are_compared_too_early_are_noticed(
    check: Callable[[str, str, str], str],
) -> None:
    """Two seconds between the starts would be an eighth of a load of sixteen."""
    early = rules.comparison_invalid().replace(STEADY, "mode:etlt_load_delivery:ratio")

    assert "FAILED" in check(comparison.ALERT, early, comparison.text(BESIDE, ""))


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


@pytest.mark.parametrize(
    "alert", [a for a in ALERTS if a.alert != comparison.ALERT], ids=lambda alert: alert.alert
)
def test_an_alert_is_tested_both_ways(alert: rules.Alert) -> None:
    tests = (HERE / "alerts_test.yaml").read_text()
    cases = re.findall(rf"alertname: {alert.alert}\n\s+exp_alerts:( \[\])?\n", tests)

    assert sorted(set(cases)) == ["", " []"]
