"""Fixtures that several files of tests share; what only some machines have is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .playground_desk import Desk


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
