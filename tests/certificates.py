"""Throw-away certificates: a CA, a server and a client certificate signed by it, a stranger."""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from pathlib import Path

PEM = serialization.Encoding.PEM
PKCS8 = serialization.PrivateFormat.PKCS8


@dataclass(frozen=True)
class Identity:
    """A certificate and its key, in files."""

    cert: Path
    key: Path


@dataclass(frozen=True)
class Certificates:
    """Who is who."""

    ca: Path
    server: Identity
    client: Identity
    stranger: Identity  # signed by nobody the others know
    locked_key: Path  # the server's, with a password


def make_certificates(folder: Path) -> Certificates:
    """Write all files into *folder*."""
    ca_key, ca_name = ec.generate_private_key(ec.SECP256R1()), _name("test CA")
    ca = _certificate(ca_name, ca_key, ca_name, ca_key, is_ca=True)
    (folder / "ca.pem").write_bytes(ca.public_bytes(PEM))
    server_key = ec.generate_private_key(ec.SECP256R1())
    locked = folder / "locked.key"
    locked.write_bytes(
        server_key.private_bytes(PEM, PKCS8, serialization.BestAvailableEncryption(b"secret"))
    )
    stranger_key = ec.generate_private_key(ec.SECP256R1())
    return Certificates(
        ca=folder / "ca.pem",
        server=_write(folder / "server", server_key, ca_name, ca_key),
        client=_write(folder / "client", ec.generate_private_key(ec.SECP256R1()), ca_name, ca_key),
        stranger=_write(folder / "stranger", stranger_key, _name("stranger"), stranger_key),
        locked_key=locked,
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _certificate(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    is_ca: bool = False,
) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    loopback = [x509.IPAddress(ipaddress.ip_address(text)) for text in ("127.0.0.1", "::1")]
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(loopback), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


def _write(
    stem: Path,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
) -> Identity:
    made = Identity(stem.with_suffix(".pem"), stem.with_suffix(".key"))
    certificate = _certificate(_name(stem.name), key, issuer, issuer_key)
    made.cert.write_bytes(certificate.public_bytes(PEM))
    made.key.write_bytes(key.private_bytes(PEM, PKCS8, serialization.NoEncryption()))
    return made
