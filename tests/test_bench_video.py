"""The benchmark of videos, in small: files are real, runs go on, the report holds what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from laconic.bench import video as bench
from laconic.bench import video_clips
from laconic.bench.video_report import DOCS_BEGIN, DOCS_END, Measurement, keep, write_report
from laconic.codecs import compress
from laconic.codecs.errors import InvalidSettings
from laconic.codecs.metrics import psnr
from laconic.codecs.signals import Video

from .moving import moving_waves

CLIP = moving_waves(6, 24, 32)


@pytest.fixture
def clip_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is read as `CLIP`, whatever reads media."""
    path = tmp_path / "waves.mp4"
    path.write_bytes(b"waves")
    monkeypatch.setattr(video_clips.media, "read", lambda content: CLIP)
    return path


def test_a_preset_is_measured_from_a_file_that_a_new_process_decodes(clip_file: Path, tmp_path: Path) -> None:
    docs, out = tmp_path / "benchmarks.md", tmp_path / "out"
    docs.write_text(f"before\n{DOCS_BEGIN}\n{DOCS_END}\nafter\n")
    settings = {"preset": "tiny", "steps": 3, "qualities": (60, 30), "peers": False, "threads": 1, "jobs": 1, "device": "cpu"}
    rows = bench.run(out, str(clip_file), docs=docs, **settings)  # type: ignore[arg-type]
    assert [row.settings["quality"] for row in rows] == [60, 30]
    for row in rows:
        data = (out / f"{row.clip}-tiny-boost-q{row.settings['quality']}.lcn").read_bytes()
        decoded = compress.decode(data, device="cpu")
        assert isinstance(decoded, Video)
        assert row.bytes == len(data)
        assert row.psnr == pytest.approx(psnr(CLIP, decoded), abs=1e-6) == pytest.approx(row.reported_psnr, abs=0.05)
        assert row.parameters and row.float_psnr and row.seek_seconds
        assert 0 < row.ms_ssim < 1
    assert (out / "rd-waves-24x32-6.svg").exists()
    assert "| **boost tiny** at quality 60 |" in docs.read_text()
    assert (tmp_path / "video-waves-24x32-6.svg").exists()
    again = bench.run(out, str(clip_file), **settings)  # type: ignore[arg-type]
    assert [row.encode_seconds for row in again] == [row.encode_seconds for row in rows], "it was fitted anew"
    assert [row.bytes for row in again] == [row.bytes for row in rows]


def test_a_papers_preset_runs(clip_file: Path, tmp_path: Path) -> None:
    settings = {"preset": "paper-0.35m", "steps": 1, "qualities": (50,), "peers": False, "threads": 1, "jobs": 1}
    rows = bench.run(tmp_path / "out", str(clip_file), device="cpu", **settings)  # type: ignore[arg-type]
    assert rows[0].parameters == pytest.approx(350_000, rel=0.1)


def test_clips_are_cropped_in_the_centre_and_reduced(clip_file: Path, tmp_path: Path) -> None:
    whole = CLIP.array.astype(int)
    half = video_clips.load_clip(str(clip_file), tmp_path, (12, 12), limit=3).array
    assert half.shape == (3, 12, 12, 3)
    middle = whole[:3, :, 4:28].reshape(3, 12, 2, 12, 2, 3).mean((2, 4))
    assert np.abs(half - middle).max() <= 0.5
    with pytest.raises(InvalidSettings, match="smaller than"):
        video_clips.load_clip(str(clip_file), tmp_path, (30, 30))
    with pytest.raises(InvalidSettings, match="--clips"):
        video_clips.load_clip("bunny", tmp_path, None)


def test_the_papers_figures_stand_beside_their_presets(tmp_path: Path) -> None:
    row = Measurement(
        clip="bunny-640x1280-132",
        codec="video-inr",
        label="hnerv paper-1.5m",
        settings={"preset": "paper-1.5m", "arch": "hnerv", "quality": 50},
        pixels=1000,
        bytes=100,
        psnr=35.0,
        ms_ssim=0.9,
        encode_seconds=1.0,
        decode_seconds=1.0,
        frames=132,
        device="cuda",
        processor="a processor",
        date="2026-01-01",
        load_average=0.0,
        threads=1,
        parameters=400,
        reported_psnr=35.0,
        float_psnr=35.1,
        seek_seconds=0.1,
    )
    keep(tmp_path, "bunny", [row])
    assert write_report(tmp_path) == [row]
    assert "| 0.8000 | 35.00 | 0.9000 | 2.00 | 0.10 | 35.57 | 1.0 | 132.0 | 0.10 |" in (tmp_path / "table.md").read_text()
    assert "svt-av1-p5" in (tmp_path / "rd-bunny-640x1280-132.svg").read_text()
    assert json.loads((tmp_path / "bunny.json").read_text())[0]["psnr"] == 35.0
