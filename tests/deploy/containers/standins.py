"""Base images: the official ones where a registry answers, else stand-ins from Debian's packages.

A stand-in has the official image's paths, user and entry point, and this machine's certificates, so
that what is built on it trusts what this machine trusts. It has a name of its own: nobody's
``debian:trixie-slim`` is replaced.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.deploy.containers.engine import Engine

HERE = Path(__file__).parent
SUITE = "trixie"
DEBIAN, PROMETHEUS = "debian:trixie-slim", "prom/prometheus:v3.5.0"  # as in compose.yaml
KEEP_SECONDS = 14 * 86400  # of a made root file system: security updates come in by then
MAKE_SECONDS = 300
BUNDLE = "/usr/local/share/host-ca-bundle.pem"


class NoImageError(Exception):
    """A base image can neither be pulled nor made; the message says why."""


def debian(engine: Engine) -> str:
    """Return the name of a slim Debian on *engine*.

    Raises NoImageError.
    """
    standin = f"etlt-test/{DEBIAN}"
    if engine.has(DEBIAN):
        return DEBIAN
    if engine.run("image", "inspect", standin).returncode:
        options = ("--change", 'CMD ["bash"]', "--change", f"ENV SSL_CERT_FILE={BUNDLE}")
        engine.docker("import", *options, str(_root_file_system()), standin)
    return standin


def prometheus(engine: Engine, base: str) -> str:
    """Return the name of a Prometheus on *engine*."""
    if engine.has(PROMETHEUS):
        return PROMETHEUS
    standin = f"etlt-test/{PROMETHEUS}"
    return engine.build(standin, HERE / "prometheus.Dockerfile", HERE, BASE_IMAGE=base)


def _root_file_system() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "etlt"
    archive = cache / f"debian-{SUITE}-slim.tar"
    if archive.exists() and time.time() - archive.stat().st_mtime < KEEP_SECONDS:
        return archive
    if shutil.which("mmdebstrap") is None:
        raise NoImageError(
            f"{DEBIAN} cannot be pulled, and not be made without mmdebstrap "
            "(apt-get install mmdebstrap)"
        )
    cache.mkdir(parents=True, exist_ok=True)
    partial = archive.with_suffix(f".{os.getpid()}")
    try:
        made = subprocess.run(
            [*_mmdebstrap(), SUITE, str(partial)],
            capture_output=True,
            text=True,
            timeout=MAKE_SECONDS,
            check=False,
        )
        if made.returncode:
            raise NoImageError(f"{DEBIAN} cannot be pulled, and not be made: {made.stderr[-500:]}")
        partial.rename(archive)
    finally:
        partial.unlink(missing_ok=True)
    return archive


def _mmdebstrap() -> list[str]:
    left_out = ("doc", "man", "locale", "info", "lintian")
    return [
        *("mmdebstrap", "--quiet", "--variant=minbase", "--mode=root", "--format=tar"),
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in left_out),
        "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        '--aptopt=Acquire::Languages "none"',
        '--aptopt=APT::Install-Recommends "0"',
        f"--customize-hook={_TRUST}",
        '--customize-hook=rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/* "$1"/var/log/*',
    ]


# ca-certificates, when it is installed later, writes its own bundle anew, and takes in what is in
# /usr/local/share/ca-certificates.
_TRUST = f"""
set -e
mkdir -p "$1/usr/local/share/ca-certificates" "$1/etc/ssl/certs"
if [ -s /etc/ssl/certs/ca-certificates.crt ]; then
  cp /etc/ssl/certs/ca-certificates.crt "$1{BUNDLE}"
  printf '[global]\\ncert = {BUNDLE}\\n' > "$1/etc/pip.conf"
fi
for one in /usr/local/share/ca-certificates/*.crt; do
  if [ -e "$one" ]; then cp "$one" "$1/usr/local/share/ca-certificates/"; fi
done
"""
