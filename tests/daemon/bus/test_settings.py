"""Secrets come from files and the environment, and a file that is no good is named."""

from __future__ import annotations

import ssl
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from etltd.bus.settings import Settings, SettingsError
from etltd.config import Config
from tests.certificates import make_certificates

if TYPE_CHECKING:
    from pathlib import Path


def settings(environment: dict[str, str] | None = None, **options: object) -> Settings:
    config = replace(Config(), **{"bus": "nats://a:1,nats://b:2", **options})  # type: ignore[arg-type]
    return Settings(config, environment or {})


def test_any_of_several_servers_will_do() -> None:
    assert settings().servers == ["nats://a:1", "nats://b:2"]
    assert settings().credentials() == {}


def test_a_password_is_in_the_environment_or_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("from file\n")
    environment = {"ETLTD_BUS_PASSWORD": "from environment"}

    by_environment = settings(environment, bus_user="anna").credentials()
    by_file = settings(environment, bus_user="anna", bus_password_file=file).credentials()

    assert by_environment == {"user": "anna", "password": "from environment"}
    assert by_file == {"user": "anna", "password": "from file"}


def test_a_secret_that_was_changed_is_read_anew(tmp_path: Path) -> None:
    """A rotated token would else need a restart, and every client a new connection."""
    file = tmp_path / "token"
    file.write_text("old")
    token = settings(bus_token_file=file)
    assert token.credentials() == {"token": "old"}

    file.write_text("new")

    assert token.credentials() == {"token": "new"}


def test_keys_are_read_from_their_files(tmp_path: Path) -> None:
    seed, creds = tmp_path / "seed", tmp_path / "a.creds"
    seed.write_text("SUA\n")
    creds.write_text("-----BEGIN NATS USER JWT-----")

    assert settings(bus_nkey=seed).credentials() == {"nkeys_seed_str": "SUA"}
    assert settings(bus_credentials=creds).credentials() == {"user_credentials": str(creds)}


@pytest.mark.parametrize("option", ["bus_token_file", "bus_credentials", "bus_nkey"])
def test_a_file_that_has_gone_is_named(tmp_path: Path, option: str) -> None:
    with pytest.raises(SettingsError, match=f'"{tmp_path}/gone" of --bus-'):
        settings(**{option: tmp_path / "gone"}).credentials()


def test_tls_is_verified_against_the_ca(tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    us = {"bus_tls_cert": made.client.cert, "bus_tls_key": made.client.key}

    tls = settings(bus_tls_ca=made.ca, **us).credentials()["tls"]

    assert tls.verify_mode == ssl.CERT_REQUIRED
    assert tls.check_hostname
    assert len(tls.get_ca_certs()) == 1


def test_a_tls_address_is_verified_against_the_systems_authorities() -> None:
    tls = settings(bus="tls://a:1").credentials()["tls"]

    assert tls.verify_mode == ssl.CERT_REQUIRED


def test_files_that_are_no_certificates_are_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("no PEM")

    with pytest.raises(SettingsError, match="the files of --bus-tls-"):
        settings(bus_tls_ca=wrong).credentials()
