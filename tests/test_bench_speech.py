"""`laconic bench speech`: its peers and its table; the whole of it where pesq and pystoi are installed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from laconic.bench import speech
from laconic.bench.speech import Point, table
from laconic.bench.speech_peers import Lyra, opus
from laconic.codecs.errors import InvalidSettings

from .sounds import voice


def spoken(samples: int) -> np.ndarray:
    return np.rint(voice(samples)[0] * 32767).astype(np.int16)


def test_opus_takes_about_what_it_is_asked_for() -> None:
    sound = spoken(48_000)
    size, decoded = opus(sound, 24.0)
    assert decoded.shape == sound.shape and decoded.dtype == np.int16
    assert 12 < 8 * size / 3 / 1000 < 36
    lags = [abs(float(np.corrcoef(sound[1000:-1000], np.roll(decoded, lag)[1000:-1000])[0, 1])) for lag in range(-3, 4)]
    assert max(lags) > 0.9, "the delay is not taken off"


def test_a_table_tells_what_was_saved() -> None:
    points = [Point("audio-rvq", 6, 6.0, 8.0, 2.5, 0.9, 0.04, 0.01), Point("opus", 6, 5.4, None, 1.9, 0.88)]
    lines = table(points, 25).splitlines()
    assert "| audio-rvq | 6 | 6.00 | 8.00 | 25 % | 2.50 | 0.900 | 0.040 | 0.010 |" in lines
    assert "| opus | 6 | 5.40 |  |  | 1.90 | 0.880 |  |  |" in lines


def test_folders_without_speech_and_lyra_without_its_runtime(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"no \.flac"):
        speech.run(tmp_path, tmp_path)
    try:
        import ai_edge_litert  # type: ignore[import-not-found,import-untyped] # noqa: F401
    except ImportError:
        with pytest.raises(InvalidSettings, match="ai-edge-litert"):
            Lyra(tmp_path)


def test_a_run_writes_its_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pesq")
    pytest.importorskip("pystoi")
    soundfile.write(tmp_path / "one.flac", spoken(48_000), 16_000)
    monkeypatch.setattr(speech, "OURS", (6.0,))
    monkeypatch.setattr(speech, "OPUS", (12.0,))
    points = speech.run(tmp_path / "out", tmp_path)
    assert [point.codec for point in points] == ["audio-rvq", "opus"]
    assert [entry["codec"] for entry in json.loads((tmp_path / "out" / "results.json").read_text())] == ["audio-rvq", "opus"]
    assert (tmp_path / "out" / "table.md").read_text().startswith("1 speakers")
