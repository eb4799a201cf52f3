"""Imports point one way: what may import what, read from the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.pure import pure

# DESIGN §3 and STYLE 2.2: what each module of the daemon may import of ours.
MAY_IMPORT = {
    "__init__": set(),
    "wire": set(),
    "broadcast": set(),
    "ratelimit": set(),
    "stats": set(),
    "exposition": set(),
    "trigger": set(),
    "listener": set(),
    "wakeup": set(),
    "process": set(),
    "systemd": set(),
    "config": set(),
    "logs": set(),
    "version": set(),
    "outbox": {"broadcast"},
    "sanitize": {"wire"},
    "connection": {"wire", "outbox", "stats"},
    "liveness": {"connection"},
    "roster": {"connection", "ratelimit", "stats", "wire"},
    "delivery": {"broadcast", "outbox", "stats", "wire"},
    "reactor": {
        *("connection", "listener", "broadcast", "trigger", "stats", "wire", "sanitize"),
        *("roster", "delivery", "liveness"),
    },
    "handover": {"broadcast"},
    "snapshot": {"connection", "handover", "listener", "outbox", "ratelimit", "wire"},
    "succession": {"handover"},
    "fdstore": {"handover", "snapshot", "succession"},
    "ports": {"listener", "snapshot"},
    "manager": {"fdstore", "systemd"},
    "bus.__init__": set(),
    "bus.envelope": set(),
    "bus.sequence": {"bus.envelope"},
    "bus.buffer": set(),
    "bus.backoff": set(),
    "bus.settings": set(),
    "bus.stats": {"stats"},
    "bus.link": {"bus.envelope", "bus.backoff", "bus.settings"},
    "bus.bridge": {
        *("broadcast", "bus.envelope", "bus.sequence", "bus.buffer"),
        *("bus.settings", "bus.stats", "bus.link"),
    },
    "metrics": {"exposition", "stats", "process", "version", "listener"},
    "daemon": {"*"},
    "cli": {"config", "daemon", "handover", "metrics", "ports", "succession", "version"},
    "__main__": {"cli"},
}
SANS_IO = {".".join(Path(name).with_suffix("").parts[1:]) for name in pure("etltd")}
SANS_IO -= {"trigger"}  # it names the kernel's flags, and calls nothing
IO_MODULES = {"socket", "select", "selectors", "time", "os", "threading", "signal"}
ONLY_IN = {
    "prometheus_client": set(),  # its families would take ten times the time of a scrape
    "select": {"fdstore", "reactor", "trigger"},
    "psutil": {"process"},
    "cyclopts": {"cli", "config"},
    "nats": {"bus.link"},
    "asyncio": {"bus.link"},
}
PACKAGES = ("etltd", "loadclient", "ebpf", "dashboards")


def imports(path: Path) -> set[str]:
    """Return the full names that *path* imports at run time."""
    found: set[str] = set()
    for node in ast.walk(_without_typing(ast.parse(path.read_text(encoding="utf-8")))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def _without_typing(tree: ast.Module) -> ast.Module:
    """Return *tree* without what only the type checker sees."""
    tree.body = [
        node
        for node in tree.body
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    ]
    return tree


MODULES = {
    ".".join(path.relative_to("etltd").with_suffix("").parts): imports(path)
    for path in Path("etltd").rglob("*.py")
}


def ours(names: set[str]) -> set[str]:
    """Return the modules of the daemon among *names*."""
    dotted = [name.split(".") for name in names]
    inside = [parts[1:] for parts in dotted if parts[0] == "etltd" and parts[1:]]
    return {".".join(parts[:2]) if parts[0] == "bus" else parts[0] for parts in inside}


def roots(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def test_the_table_names_every_module() -> None:
    assert set(MODULES) == set(MAY_IMPORT)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_import_points_up(module: str) -> None:
    allowed = MAY_IMPORT[module]

    assert "*" in allowed or ours(MODULES[module]) <= allowed


@pytest.mark.parametrize("module", sorted(SANS_IO))
def test_sans_io_modules_touch_nothing(module: str) -> None:
    """Then they can be tested with no socket and no clock, under any schedule."""
    assert not roots(MODULES[module]) & IO_MODULES


@pytest.mark.parametrize("library", sorted(ONLY_IN))
def test_a_library_is_imported_where_it_belongs(library: str) -> None:
    """A prometheus_client object in the tick would cost half a microsecond a touch."""
    importers = {module for module, names in MODULES.items() if library in roots(names)}

    assert importers == ONLY_IN[library]


@pytest.mark.parametrize("package", PACKAGES)
def test_the_witnesses_share_no_code_with_the_suspect(package: str) -> None:
    """A load client that used the daemon's framing could not see a framing bug."""
    others = set(PACKAGES) - {package}

    for path in Path(package).rglob("*.py"):
        assert not roots(imports(path)) & others, path
