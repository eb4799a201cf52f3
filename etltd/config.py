"""Every option of the daemon: default, unit, bounds and help, declared once.

The names here are the flags (``--max-line-bytes``), the environment (``ETLTD_MAX_LINE_BYTES``) and
the keys of the TOML file (``max_line_bytes``). Nothing below `etltd.daemon` reads any of those.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from cyclopts import Group, Parameter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cyclopts import Token

INT_MAX = (1 << 31) - 1  # what the kernel's calls take for a size or a number
MOST_EVENTS = 1 << 16  # epoll_wait's array is made anew for each call
MOST_RECV_BYTES = 1 << 26
MOST_SECONDS = 86_400
UNIX_PATH_BYTES = 107  # unix(7): sun_path holds 108, with the NUL

T = TypeVar("T")


class SecretError(ValueError):
    """A value may hold a secret: the message says what is wrong and does not repeat it."""


def _read_with(read: Callable[[str], T], allowed: str) -> Parameter:
    """Return the parameter that *read* makes of one word; *allowed* completes the refusal."""

    def convert(_type: Any, tokens: Sequence[Token]) -> T:
        text = tokens[0].value
        try:
            return read(text)
        except SecretError:
            raise
        except ValueError:
            raise ValueError(f'"{text}" is not {allowed}') from None

    return Parameter(converter=convert, n_tokens=1)


def _whole(lowest: int, highest: int = INT_MAX) -> Parameter:
    """Return the parameter of a whole number; 3.7 is none, and rounding would alter a test."""

    def read(text: str) -> int:
        return _within(int(_plain(text)), lowest, highest)

    return _read_with(read, f"a whole number from {lowest} to {highest}")


def _within(value: T, lowest: int, highest: int) -> T:
    if not lowest <= value <= highest:  # type: ignore[operator]
        raise ValueError
    return value


def _plain(text: str) -> str:
    """Refuse what only Python takes for a number: 9_000, and the digits of other scripts."""
    if "_" in text or not text.isascii():
        raise ValueError
    return text


def _seconds(text: str) -> float:
    return _within(float(_plain(text)), 0, MOST_SECONDS)  # nan is within nothing


def _host(text: str) -> str:
    if not text or "\0" in text:
        raise ValueError
    text.encode("idna")  # what getaddrinfo does first; a UnicodeError is a ValueError
    return text


def _subject(text: str) -> str:
    return _matching(r"[^\s.*>]+(\.[^\s.*>]+)*", text)


def _name(text: str) -> str:
    return _matching(r"[A-Za-z0-9._-]{0,32}", text)


def _user(text: str) -> str:
    return _matching(r"\S*", text)


def _servers(text: str) -> str:
    # No user:password@ in it: `ps` shows command lines to everybody, and the journal refusals.
    if "@" in text:
        raise SecretError(
            "a URL of the bus may hold no user: who to be is said by --bus-user, and secrets are "
            "in --bus-password-file or ETLTD_BUS_PASSWORD, --bus-token-file or ETLTD_BUS_TOKEN"
        )
    return _matching(r"((nats|tls)://[^\s,@/]+(,(nats|tls)://[^\s,@/]+)*)?", text)


def _matching(pattern: str, text: str) -> str:
    if re.fullmatch(pattern, text) is None:
        raise ValueError
    return text


def _path(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError
    text.encode()
    return Path(text)


Port = Annotated[int, _whole(0, 65535)]
Count = Annotated[int, _whole(0)]
Positive = Annotated[int, _whole(1)]
Seconds = Annotated[float, _read_with(_seconds, f"a number of seconds from 0 to {MOST_SECONDS}")]
Subject = Annotated[str, _read_with(_subject, "a NATS subject without wildcards")]
Name = Annotated[str, _read_with(_name, "up to 32 letters, digits, dots, dashes and underscores")]
User = Annotated[str, _read_with(_user, "the name of a user")]
Servers = Annotated[str, _read_with(_servers, "nats://host:port or tls://host:port, or several")]
Host = Annotated[str, _read_with(_host, "a host name or an IP address")]
File = Annotated[Path | None, _read_with(_path, "a path")]

WHERE = Parameter(group=Group("Where it listens", sort_key=1))
LIMITS = Parameter(group=Group("Limits", sort_key=2))
EXPERIMENT = Parameter(group=Group("Controls of the experiment", sort_key=3))
BUS = Parameter(group=Group("Bus to other instances", sort_key=4))
OPERATION = Parameter(group=Group("Operation", sort_key=5))


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Config:
    """What one daemon was told."""

    mode: Annotated[Literal["lt", "et"], EXPERIMENT] = "lt"
    """Trigger mode: level-triggered or edge-triggered."""

    host: Annotated[Host, WHERE] = "127.0.0.1"
    """Address for chat clients; 0.0.0.0 or :: for everybody."""

    port: Annotated[Port, WHERE] = 9000
    """TCP port for chat clients; 0 takes a free one."""

    listener: Annotated[Literal["own", "reuseport", "exclusive", "shared"], EXPERIMENT] = "own"
    """How processes share a port: not at all; each with a socket of its own (SO_REUSEPORT); or all
    with one that LISTEN_FDS passes, which wakes one of them (EPOLLEXCLUSIVE) or all."""

    unix: Annotated[File, WHERE] = None
    """Listen on this Unix socket too."""

    backlog: Annotated[Positive, WHERE] = 4096
    """Connections that may wait to be accepted (capped by net.core.somaxconn)."""

    metrics_host: Annotated[Host, WHERE] = "127.0.0.1"
    """Address for /metrics, /healthz and /readyz."""

    metrics_port: Annotated[Port, WHERE] = 9700
    """Port for /metrics, /healthz and /readyz; 0 takes a free one."""

    metrics_tls_cert: Annotated[File, WHERE] = None
    """Certificate chain (PEM): serve the metrics port by TLS. Needs --metrics-tls-key."""

    metrics_tls_key: Annotated[File, WHERE] = None
    """Private key (PEM) of --metrics-tls-cert."""

    metrics_tls_client_ca: Annotated[File, WHERE] = None
    """Serve only clients with a certificate signed by this CA (PEM). Needs --metrics-tls-cert."""

    max_connections: Annotated[Count, LIMITS] = 0
    """Most peers at one time; 0: as many as there are descriptors, less a reserve."""

    max_connections_per_ip: Annotated[Count, LIMITS] = 0
    """Most peers from one IPv4 address or IPv6 network (/64); 0: no limit."""

    max_line_bytes: Annotated[int, _whole(2), LIMITS] = 8192
    """Longest message, newline included; a longer one is discarded and its sender told."""

    high_water_bytes: Annotated[Positive, LIMITS] = 1 << 20
    """Bytes a peer may be owed before the slow-consumer policy applies."""

    slow_consumer: Annotated[Literal["drop", "evict"], LIMITS] = "drop"
    """Beyond the high water: withhold whole batches and say how many, or disconnect."""

    rate_limit: Annotated[Count, LIMITS] = 0
    """Messages per second that one peer may send, a second's worth at once; 0: no limit."""

    idle_timeout: Annotated[Seconds, LIMITS] = 0.0
    """Seconds after which a peer that has said nothing is disconnected; 0: never."""

    peer_timeout: Annotated[Seconds, LIMITS] = 90.0
    """Seconds after which a TCP peer that no longer answers the kernel is disconnected; 0: when the
    kernel gives up, in a quarter of an hour or never."""

    sanitize: Annotated[bool, LIMITS, Parameter(negative=())] = False
    """Take control characters out of messages (tab stays), for clients that are terminals."""

    sndbuf: Annotated[Count, LIMITS] = 0
    """Kernel send buffer per peer in bytes (SO_SNDBUF); 0: the kernel tunes it, up to tcp_wmem."""

    rcvbuf: Annotated[Count, LIMITS] = 0
    """Kernel receive buffer per peer in bytes (SO_RCVBUF); 0: the kernel tunes it."""

    drain: Annotated[Literal["eagain", "short-read"], EXPERIMENT] = "eagain"
    """When a turn of several reads ends early: nothing left, or less than was asked for."""

    reads_per_event: Annotated[Count, EXPERIMENT] = 0
    """Most reads in one peer's turn; 0: the mode's own (lt 1, et 16)."""

    recv_bytes: Annotated[int, _whole(1, MOST_RECV_BYTES), EXPERIMENT] = 65536
    """Bytes asked for by one read."""

    max_events: Annotated[int, _whole(1, MOST_EVENTS), EXPERIMENT] = 1024
    """Most events taken by one epoll_wait."""

    fan_out: Annotated[Literal["batch", "message"], EXPERIMENT] = "batch"
    """One write per tick and peer, or one per message and peer as simple servers do."""

    bus: Annotated[Servers, BUS] = ""
    """NATS server that carries messages to and from other instances; several, with commas."""

    bus_subject: Annotated[Subject, BUS] = "etltd"
    """Instances on the same subject are one chat."""

    bus_instance: Annotated[Name, BUS] = ""
    """Name of this instance among them, in [USERn@name]; none: a random one."""

    bus_buffer_bytes: Annotated[Positive, BUS] = 8 << 20
    """Bytes that may wait for NATS, and from it for the loop; beyond, batches are dropped."""

    bus_user: Annotated[User, BUS] = ""
    """User at NATS; the password is in --bus-password-file or ETLTD_BUS_PASSWORD."""

    bus_password_file: Annotated[File, BUS] = None
    """File with the password of --bus-user."""

    bus_token_file: Annotated[File, BUS] = None
    """File with the token that NATS asks for; or it is in ETLTD_BUS_TOKEN."""

    bus_credentials: Annotated[File, BUS] = None
    """Credentials file (.creds) with a JWT and its seed."""

    bus_nkey: Annotated[File, BUS] = None
    """File with the NKey seed to sign in with."""

    bus_tls_ca: Annotated[File, BUS] = None
    """CA (PEM) that signed the server's certificate; none: the system's, with tls://."""

    bus_tls_cert: Annotated[File, BUS] = None
    """Certificate chain (PEM) to show to NATS. Needs --bus-tls-key."""

    bus_tls_key: Annotated[File, BUS] = None
    """Private key (PEM) of --bus-tls-cert."""

    grace_seconds: Annotated[Seconds, OPERATION] = 5.0
    """How long a stop may take to hand peers what they are owed."""

    log_format: Annotated[Literal["text", "json"], OPERATION] = "text"
    """Log lines for people or for machines."""

    log_level: Annotated[Literal["debug", "info", "warning", "error"], OPERATION] = "info"
    """Least important kind of log line to write."""

    def problem(self) -> str | None:
        """Return what is wrong with the options taken together, in one sentence."""
        if bool(self.metrics_tls_cert) != bool(self.metrics_tls_key):
            given, missing = ("cert", "key") if self.metrics_tls_cert else ("key", "cert")
            return f"--metrics-tls-{given} needs --metrics-tls-{missing}."
        if self.metrics_tls_client_ca and not self.metrics_tls_cert:
            return "--metrics-tls-client-ca needs --metrics-tls-cert."
        if bool(self.bus_tls_cert) != bool(self.bus_tls_key):
            given, missing = ("cert", "key") if self.bus_tls_cert else ("key", "cert")
            return f"--bus-tls-{given} needs --bus-tls-{missing}."
        for name in FILES:
            path = getattr(self, name)
            if path is not None and not _is_file(path):
                return f'Invalid value for {flag(name)}: "{path}" is not a file.'
        if self.unix is not None and len(os.fsencode(self.unix)) > UNIX_PATH_BYTES:
            return f'Invalid value for --unix: "{self.unix}" has over {UNIX_PATH_BYTES} bytes.'
        return None

    def as_toml(self) -> str:
        """Return the TOML file that would set these options, without those that are unset."""
        values = {option.name: getattr(self, option.name) for option in fields(self)}
        return "".join(
            f"{name} = {_toml(value)}\n" for name, value in values.items() if value is not None
        )


FILES = (
    *("metrics_tls_cert", "metrics_tls_key", "metrics_tls_client_ca"),
    *("bus_password_file", "bus_token_file", "bus_credentials", "bus_nkey"),
    *("bus_tls_ca", "bus_tls_cert", "bus_tls_key"),
)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a folder on the way that is closed to us, a name that is too long
        return False


def flag(name: str) -> str:
    """Return the flag of option *name*."""
    return "--" + name.replace("_", "-")


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    # JSON's escapes are TOML's, but for DEL, which JSON leaves as it is.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
