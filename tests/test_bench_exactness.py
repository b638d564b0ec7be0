"""The exactness check sees what differs and says so in its exit code; the coding itself is replaced but for one case."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from laconic.bench import exactness
from laconic.codecs.errors import CorruptStream

Coded = exactness._Coded
PIXELS = np.full((4, 5, 3), 100, np.uint8)
SAME = Coded(b"file", PIXELS, b"ab", 0.1)


def run_with(monkeypatch: pytest.MonkeyPatch, results: dict[str, Any], *options: str) -> int:
    """Run the command line with the result of each way given by name; others give `SAME`."""
    monkeypatch.setattr(exactness, "_attempt", lambda task: results.get(task.way.name, SAME))
    return exactness.main(["--device", "cpu", "--codec", "jpeg", "--quality", "50", *options])


def test_ways_cover_threads_batches_onednn_processes_and_cuda() -> None:
    alone, batched, cuda = (exactness.ways(*case) for case in (("cpu", False), ("cpu", True), ("cuda", True)))
    assert {(way.threads, way.mkldnn) for way in alone} == {(1, True), (2, True), (1, False), (2, False)}
    assert {way.batch for way in alone} == {1}
    assert {(way.threads, way.batch) for way in batched} >= {(1, 4), (2, 4)}
    assert {way.batch for way in cuda if way.device == "cuda"} == {1, 4}
    assert alone[0] == batched[0] == cuda[0] == exactness.Way("1 thread")


def test_agreement(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_with(monkeypatch, {}) == 0
    assert "5 of 5 agree" in capsys.readouterr().err


@pytest.mark.parametrize(
    "other",
    [
        Coded(b"fil2", PIXELS, b"ab", 0.1),
        Coded(b"file", PIXELS, b"ac", 0.1),
        Coded(b"file", PIXELS + np.uint8(2), b"ab", 0.1),
        CorruptStream("the digest differs"),
    ],
)
def test_any_difference_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], other: object) -> None:
    assert run_with(monkeypatch, {"2 threads": other}) == 1
    assert "4 of 5 agree" in capsys.readouterr().err


def test_tolerance_of_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    off_by_one = {"2 threads": Coded(b"file", PIXELS + np.uint8(1), b"ab", 0.1)}
    assert run_with(monkeypatch, off_by_one) == 0
    assert run_with(monkeypatch, off_by_one, "--pixel-tolerance", "0") == 1


def test_synthetic_picture_is_the_same_everywhere() -> None:
    picture = exactness.synthetic_picture(40, 60)
    assert picture.shape == (40, 60, 3)
    assert np.array_equal(picture, exactness.synthetic_picture(40, 60))
    assert picture.std() > 20


def test_codes_in_a_process_of_its_own() -> None:
    task = exactness._Task(exactness.Way("2 threads", threads=2), "jpeg", 50, exactness.synthetic_picture(40, 60), None)
    coded = exactness._attempt(task)
    assert isinstance(coded, Coded)
    assert coded.pixels.shape == (40, 60, 3)
    assert np.abs(coded.pixels.astype(int) - task.picture).mean() < 30
