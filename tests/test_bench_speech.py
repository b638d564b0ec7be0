"""`laconic bench speech`: the whole of it where pesq and pystoi are installed, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from laconic.bench import speech
from laconic.bench.speech_peers import Lyra
from laconic.codecs.errors import InvalidSettings

from .sounds import voice


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
    soundfile.write(tmp_path / "one.flac", np.rint(voice(48_000)[0] * 32767).astype(np.int16), 16_000)
    monkeypatch.setattr(speech, "OURS", (6.0,))
    monkeypatch.setattr(speech, "OPUS", (12.0,))
    points = speech.run(tmp_path / "out", tmp_path)
    assert [point.codec for point in points] == ["original", "audio-rvq", "opus"]
    assert points[0].scores["PESQ-WB"] > 4.5 > points[1].scores["PESQ-WB"] > 1
    assert points[1].nominal == 8.0 and points[2].nominal is None
    written = json.loads((tmp_path / "out" / "results.json").read_text())["points"]
    assert [entry["codec"] for entry in written] == ["original", "audio-rvq", "opus"]
    assert (tmp_path / "out" / "table.md").read_text().startswith("| codec | asked |")
