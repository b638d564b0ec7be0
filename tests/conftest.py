"""Fixtures that several files of tests share; what only some machines have is imported when it is asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .playground_desk import Desk
    from .stores import S3, Postgres


def pytest_configure(config: pytest.Config) -> None:
    """Run the tests' services on Ray where that is asked for."""
    if os.environ.get("LACONIC_TEST_ENGINE") == "ray":
        from .on_ray import Scopes

        config.pluginmanager.register(Scopes())


@pytest.fixture(scope="module")
def playground_url() -> Iterator[str]:
    """The URL of a service that has the playground."""
    from .playground_desk import served

    with served() as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium."""
    from .playground_desk import opened_browser

    with opened_browser() as browser:
        yield browser


@pytest.fixture
def desk(browser: Any, playground_url: str) -> Iterator[Desk]:
    """A page of the playground, which must not complain."""
    from .playground_desk import watched

    with watched(browser, playground_url) as desk:
        yield desk


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server of Postgres; without its programs or the driver the test is skipped."""
    from .stores import postgres_server

    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3]:
    """A server that speaks S3; without moto or the client the test is skipped."""
    from .stores import s3_server

    with s3_server() as server:
        yield server


@pytest.fixture
def s3(s3_server: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """The same, with its address and credentials in the environment."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server
