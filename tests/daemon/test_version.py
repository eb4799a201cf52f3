"""Which build this is, wherever it runs."""

from __future__ import annotations

import importlib.metadata
import subprocess
from typing import TYPE_CHECKING

import pytest

from etltd import version as version_module
from etltd.version import commit, version

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("ETLT_COMMIT", raising=False)
    commit.cache_clear()
    yield
    commit.cache_clear()


def test_the_version_is_the_installed_one() -> None:
    assert version() == importlib.metadata.version("etlt")


def test_a_bare_checkout_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)

    assert version() == "0+unknown"


def test_an_image_knows_what_it_was_built_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETLT_COMMIT", "abc123")

    assert commit() == "abc123"


def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that the package lies in a fresh repository."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    (tmp_path / "etltd").mkdir()
    monkeypatch.setattr(version_module, "__file__", str(tmp_path / "etltd" / "version.py"))


def test_a_checkout_knows_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository(tmp_path, monkeypatch)

    assert len(commit()) == 12


def test_an_installed_package_does_not_describe_the_repository_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every result of a user with a project of his own would carry that project's commit."""
    repository(tmp_path, monkeypatch)
    inner = tmp_path / "site-packages" / "etltd" / "version.py"
    inner.parent.mkdir(parents=True)
    monkeypatch.setattr(version_module, "__file__", str(inner))

    assert commit() == "unknown"


def test_no_git_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository(tmp_path, monkeypatch)
    monkeypatch.setenv("PATH", "")

    assert commit() == "unknown"
