"""Ask for known weaknesses of the locked dependencies; fail if there are any.

Usage: python tests/audit.py LOCK-FILE  (run by a Python that has pip-audit: ``make audit``)

First a weakness is planted: a database on loopback claims one, and pip-audit has to say so. Then
two databases are asked in turn, PyPI's and OSV's. A database that cannot be reached, or that does
not know a package, is no proof of anything: how many were audited is said, with the reason, and
that is not a failure, for neither the code nor its author can help it. A weakness found is.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SECONDS = 180
PLANTED = {
    "id": "PLANTED-1",
    "summary": "planted, to see that a finding is a failure",
    "affected": [{"package": {"name": "planted", "ecosystem": "PyPI"}}],
}


@dataclass
class Answer:
    """What one database said."""

    audited: list[str] = field(default_factory=list)
    weak: list[str] = field(default_factory=list)
    unknown: dict[str, str] = field(default_factory=dict)  # why, by name
    problem: str = ""  # why it said nothing at all


def ask(lock: Path, *options: str) -> Answer:
    """Have pip-audit ask a database about everything in *lock*."""
    command = [
        *(sys.executable, "-m", "pip_audit", "--disable-pip", "--no-deps", "--requirement"),
        *(str(lock), "--format=json", "--progress-spinner=off", "--timeout=15", *options),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return Answer(problem=f"no answer within {SECONDS} s")
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        last = done.stderr.strip().splitlines()[-1:]
        return Answer(problem=last[0] if last else f"exit status {done.returncode}")
    return read(found)


def read(found: list[dict[str, object]]) -> Answer:
    """Sort out what was found."""
    answer = Answer()
    for one in found:
        name = str(one["name"])
        if "skip_reason" in one:
            answer.unknown[name] = str(one["skip_reason"])
            continue
        answer.audited.append(name)
        for weakness in one["vulns"]:  # type: ignore[attr-defined]
            fixed = ", ".join(weakness["fix_versions"]) or "none"
            answer.weak.append(f"{name} {one['version']}: {weakness['id']}, fixed in {fixed}")
    return answer


class Planted(BaseHTTPRequestHandler):
    """A database in which everything is weak."""

    def do_POST(self) -> None:
        """Claim it."""
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps({"vulns": [PLANTED]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""


def planted_is_found() -> bool:
    """Return whether a weakness would be noticed at all."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Planted)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        lock = Path(folder) / "planted.lock"
        lock.write_text("planted==1.0\n")
        url = f"http://127.0.0.1:{server.server_address[1]}/v1/query"
        answer = ask(lock, "--vulnerability-service=osv", f"--osv-url={url}")
    server.shutdown()
    server.server_close()
    return answer.weak == ["planted 1.0: PLANTED-1, fixed in none"]


def main() -> int:
    lock = Path(sys.argv[1])
    if not planted_is_found():
        print("audit: a planted weakness was not found; pip-audit does not work as expected")
        return 1
    missing: dict[str, str] = {}
    for database in ("pypi", "osv"):
        answer = ask(lock, f"--vulnerability-service={database}")
        for line in answer.weak:
            print(f"audit: {line}")
        if answer.weak:
            return 1
        if not answer.problem and not answer.unknown:
            print(
                f"audit: {len(answer.audited)} packages of {lock}, no known weakness ({database})"
            )
            return 0
        reasons = {answer.problem} if answer.problem else set(answer.unknown.values())
        missing[database] = f"{len(answer.audited)} packages audited; {min(reasons)}"
    print(f"audit: NOT (WHOLLY) DONE for {lock}: no database could be asked about everything")
    for database, why in missing.items():
        print(f"audit:   {database}: {why}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
