"""The suite of slow senders, with a small crowd: it opens what it says, and the service goes on answering."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from laconic.bench import slow_senders


def test_a_small_crowd(tmp_path: Path) -> None:
    measured = slow_senders.run(sockets=30, seconds=1.5, out=tmp_path)
    assert measured.open_mean >= 28 and measured.failures == measured.pictures_failed == 0
    assert measured.questions > 5 and measured.pictures >= 1 and measured.closed_by_service == 0
    assert 0 < measured.livez_p50_ms <= measured.livez_p99_ms <= measured.livez_max_ms
    written = json.loads((tmp_path / "slow-senders.json").read_text())
    assert written["livez_p99_ms"] == measured.livez_p99_ms
    assert (tmp_path / "slow-senders.md").read_text() == measured.table()


@pytest.mark.parametrize(("p99", "failures", "code"), [(99.0, 0, 0), (100.0, 0, 1), (1.0, 1, 1)])
def test_the_exit_code_says_whether_the_service_kept_its_word(
    monkeypatch: pytest.MonkeyPatch, p99: float, failures: int, code: int
) -> None:
    result = slow_senders.SlowSenders(
        sockets=10,
        seconds=1.0,
        open_mean=10.0,
        closed_by_service=0,
        questions=10,
        failures=failures,
        alone_p50_ms=1.0,
        alone_p99_ms=1.0,
        livez_p50_ms=1.0,
        livez_p99_ms=p99,
        livez_max_ms=p99,
        pictures=1,
        pictures_failed=0,
        picture_p50_ms=1.0,
    )
    monkeypatch.setattr(slow_senders, "run", lambda **options: result)
    assert slow_senders.main([]) == code
