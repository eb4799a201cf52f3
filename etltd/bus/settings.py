"""How to reach NATS and who to be there: options, and secrets from files or the environment.

No secret is an option: what is on a command line, ``ps`` shows to everybody. Files are read anew
for each connection, so that a secret can be changed without a restart.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from etltd.config import Config


class SettingsError(Exception):
    """A file or variable does not hold what it should; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the bus is, and how to be let in."""

    config: Config
    environment: Mapping[str, str]

    @property
    def servers(self) -> list[str]:
        """The servers, any of which will do."""
        return self.config.bus.split(",")

    def credentials(self) -> dict[str, Any]:
        """Return what `nats.connect` is to be told, with all secrets read now.

        Raises:
            SettingsError: a file cannot be read or does not hold what it should.
        """
        config = self.config
        options: dict[str, Any] = {}
        if config.bus_user:
            options["user"] = config.bus_user
            options["password"] = self._secret("bus_password_file", "ETLTD_BUS_PASSWORD")
        token = self._secret("bus_token_file", "ETLTD_BUS_TOKEN")
        if token:
            options["token"] = token
        if config.bus_credentials:
            _read("--bus-credentials", config.bus_credentials)  # or it fails in mid-handshake
            options["user_credentials"] = str(config.bus_credentials)
        if config.bus_nkey:
            options["nkeys_seed_str"] = _read("--bus-nkey", config.bus_nkey)
        if config.bus_tls_ca or config.bus_tls_cert or "tls://" in config.bus:
            options["tls"] = self._tls()
        return options

    def _secret(self, option: str, variable: str) -> str:
        path: Path | None = getattr(self.config, option)
        if path is None:
            return self.environment.get(variable, "")
        return _read("--" + option.replace("_", "-"), path)

    def _tls(self) -> ssl.SSLContext:
        config = self.config
        try:
            context = ssl.create_default_context(cafile=config.bus_tls_ca)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if config.bus_tls_cert:
                context.load_cert_chain(config.bus_tls_cert, config.bus_tls_key, password="")
        except OSError as error:
            raise SettingsError(
                f"the files of --bus-tls-* are not what they should be: {error}"
            ) from None
        return context


def _read(option: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f'cannot read "{path}" of {option}: {error}') from None
