"""The tests' services on Ray Serve: with LACONIC_TEST_ENGINE=ray a module's service is one of two replicas.

    LACONIC_TEST_ENGINE=ray pytest tests/test_service.py tests/test_jobs.py ...      # scripts/ray-check --tests names them all

Nothing in the tests says so: `serve.background`, which starts their services, is another function then. Tests that ask the
service of their module run; those that start services of their own, or ask none, are left out. What cannot be asked of replicas
in other processes is skipped, and `not_applicable` says why; docs/benchmarks.md has a run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from pydantic import SecretStr

from laconic.service import serve
from laconic.service.settings import ServiceSettings

from .replicas import running

__all__ = ["Scopes", "not_applicable"]

ASKS = {"client", "url", "described"}  # fixtures that are a module's service
INSIDE = {"brake", "braked", "slow", "toys"}  # fixtures that change what is inside of the service's process
NOT_APPLICABLE: Mapping[str, str] = {
    "test_service.py::test_answers_carry_ids_timings_and_names": "it reads the service's log",
    "test_service.py::test_metrics_count": "each replica counts for itself",
    "test_jobs_client.py::test_cancelling_a_running_job": "it changes what is inside of the service: a job that never ends",
    "test_security.py::test_the_key_is_named_in_the_log_and_never_shown": "it reads the service's log",
    "test_security.py::test_methods_do_not_open_anything[BREW]": "to Ray's proxy it is no method: 400, no replica is asked",
    "test_security.py::test_a_refused_body_is_not_read": "Ray's proxy reads a body before it asks a replica",
}


def not_applicable(item: pytest.Item) -> str | None:
    """Return why a test cannot run against replicas in other processes; None where it can."""
    inside = INSIDE.intersection(getattr(item, "fixturenames", ()))
    if inside:
        return f"it changes what is inside of the service: {', '.join(sorted(inside))}"
    name = item.nodeid.rpartition("/")[2]
    return NOT_APPLICABLE.get(name) or NOT_APPLICABLE.get(name.partition("[")[0])


class Scopes:
    """The plugin: has modules' services start on Ray, and leaves out tests that have services of their own."""

    def __init__(self) -> None:
        self.scope = "function"
        serve.background = self.background

    @contextmanager
    def background(self, settings: ServiceSettings, log: Any = None, wait_s: float = 120.0) -> Iterator[str]:
        """Stand for `serve.background`."""
        if self.scope == "function":
            pytest.skip("it starts a second service, with other settings; two replicas take half a minute")
        with (
            TemporaryDirectory(prefix="laconic-ray-") as folder,
            running("ray", Path(folder), ray_replicas=2, **_given(settings)) as service,
        ):
            yield service.url

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Iterator[None]:
        """Note whose service it is that a fixture starts."""
        before, self.scope = self.scope, fixturedef.scope
        try:
            return (yield)
        finally:
            self.scope = before

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leave out what asks no module's service, and skip what is not applicable."""
        others = [item for item in items if not ASKS.intersection(getattr(item, "fixturenames", ()))]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]
        for item in items:
            if reason := not_applicable(item):
                item.add_marker(pytest.mark.skip(reason=reason))


def _given(settings: ServiceSettings) -> dict[str, str]:
    """Return the settings that a test chose, as variables say them."""
    chosen = {name: getattr(settings, name) for name in settings.model_fields_set - {"port"}}
    return {name: _said(value) for name, value in chosen.items() if value is not None}


def _said(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return ",".join(value) if isinstance(value, tuple) else str(value)
