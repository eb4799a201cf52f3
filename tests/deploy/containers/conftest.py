from __future__ import annotations

import faulthandler
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.deploy.containers import standins
from tests.deploy.containers.engine import REPOSITORY, Engine, NoEngineError, any_engine
from tests.deploy.containers.recording import Recording
from tests.deploy.containers.stack import Stack, has_compose

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Images:
    """What is tested, and what it was built on."""

    base: str
    etlt: str
    with_bus: str
    probe: str
    prometheus: str


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    try:
        with any_engine() as engine:
            yield engine
    except NoEngineError as reason:
        pytest.skip(f"no Docker engine: {reason}")


@pytest.fixture(scope="session")
def images(engine: Engine) -> Images:
    faulthandler.cancel_dump_traceback_later()  # building takes minutes, and is no hang
    try:
        base = standins.debian(engine)
    except standins.NoImageError as reason:
        pytest.skip(f"no base image: {reason}")
    deploy = REPOSITORY / "deploy"
    etlt = engine.build("etlt-test/etlt", deploy / "Dockerfile", BASE_IMAGE=base)
    with ThreadPoolExecutor() as pool:  # by now the first stages, which both share, are built
        prometheus = pool.submit(standins.prometheus, engine, base)
        arguments = {"BASE_IMAGE": base, "REQUIREMENTS": "requirements-bus.lock"}
        dockerfile = deploy / "Dockerfile"
        bus = pool.submit(engine.build, "etlt-test/etlt-bus", dockerfile, **arguments)
        file = deploy / "etlt-probe.Dockerfile"
        probe = engine.build("etlt-test/etlt-probe", file, BASE_IMAGE=base)
        return Images(base, etlt, bus.result(), probe, prometheus.result())


@pytest.fixture
def containers(engine: Engine) -> Iterator[Engine]:
    """Return the engine; what a test starts on it is removed."""
    yield engine
    engine.remove_containers()


@pytest.fixture(scope="module")
def stack(
    engine: Engine, images: Images, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """Start the compose stack, and take it down in the end."""
    faulthandler.cancel_dump_traceback_later()  # a run and its linger take more than a minute
    if reason := has_compose(engine):
        pytest.skip(reason)
    stack = Stack(engine, images, tmp_path_factory.mktemp("stack"))
    try:
        stack.up()
        yield stack
    finally:
        stack.down()
    assert stack.left_behind() == []


@pytest.fixture(scope="module")
def recording(stack: Stack) -> Iterator[Recording]:
    """Drive the load through the stack once; results and what everybody said are kept."""
    made = Recording(stack)
    made.load()
    yield made
    made.hang_up()
