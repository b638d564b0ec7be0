"""What the benchmarks of sound share, and `laconic bench music`: peers, scores, tables, the whole of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from laconic.bench import music
from laconic.bench.plot import PlotFrame, PlottedCurve, write_plot
from laconic.bench.sound_peers import AAC, OPUS_MUSIC, OPUS_SPEECH, Encoder, code, resampled
from laconic.bench.sound_report import Measure, Point, markdown_table, ours
from laconic.bench.sound_scores import installed, mel_distance, open_dnsmos, open_visqol, snr
from laconic.codecs import compress, container
from laconic.codecs.errors import InvalidSettings
from laconic.codecs.signals import Audio

from .sounds import voice


def stereo(seconds: float = 1.0, rate: int = 48_000) -> np.ndarray:
    """Two different voices, int16 [2, N]."""
    return np.rint(voice(round(seconds * rate), channels=2)[:2] * 32767).astype(np.int16)


@pytest.mark.parametrize(
    ("encoder", "channels", "rate", "kbps"),
    [(OPUS_SPEECH, 1, 16_000, 24.0), (OPUS_MUSIC, 2, 48_000, 96.0), (OPUS_MUSIC, 2, 44_100, 96.0), (AAC, 2, 48_000, 128.0)],
)
def test_peers_take_about_what_they_are_asked_for_and_are_aligned(
    encoder: Encoder, channels: int, rate: int, kbps: float
) -> None:
    sound = stereo(3.0, rate)[:channels]
    coded = code(encoder, sound, rate, kbps)
    assert coded.decoded.shape == sound.shape and coded.decoded.dtype == np.int16
    assert 0.4 * kbps < 8 * coded.size / 3 / 1000 < 1.6 * kbps
    assert coded.encode is not None and coded.decode is not None and coded.encode > 0
    middle = sound[:, 5000:-5000] / 32768
    ratios = {lag: snr(middle, np.roll(coded.decoded, lag, 1)[:, 5000:-5000] / 32768) for lag in range(-30, 31)}
    assert max(ratios, key=lambda lag: ratios[lag]) == 0, "the delay is not taken off"


def test_ours_counts_whole_files() -> None:
    sound = stereo(0.5)
    coded = ours("opus", {"kbps": 64.0}, 48_000, lambda data: 2.0 * len(data))(sound)
    data = compress.encode(Audio.of(sound, 48_000), "opus", {"kbps": 64.0}, device="cpu").data
    assert coded.size == len(data) > sum(map(len, container.read(data).chunks))
    assert coded.nominal == 2 * len(data) and coded.decoded.shape == sound.shape


def test_simple_scores() -> None:
    rng = np.random.default_rng(3)
    sound = stereo() / 32768
    assert snr(sound, sound) == pytest.approx(10 * np.log10(np.mean(sound**2) / 1e-12))
    assert snr(sound, sound + rng.normal(0, np.sqrt(np.mean(sound**2)) / 10, sound.shape)) == pytest.approx(20, abs=0.1)
    assert mel_distance(sound, sound, 48_000) == 0
    noise = rng.normal(0, 0.1, (2, 48_000))
    assert mel_distance(noise, noise / 2, 48_000) == pytest.approx(20 * np.log10(2), abs=0.01)
    assert mel_distance(np.zeros((1, 100)), np.zeros((1, 100)), 48_000) == 0, "shorter than a window"


def test_resampling_keeps_samples_and_their_kind() -> None:
    sound = stereo(0.1)
    assert (resampled(sound, 48_000, 48_000) == sound).all()
    floats = resampled(sound, 48_000, 24_000, "fltp")
    assert floats.dtype == np.float32 and floats.shape == (2, sound.shape[1] // 2)


def test_a_table_tells_what_is_missing_and_what_was_saved() -> None:
    measures = (Measure("PESQ-WB", 2), Measure("ViSQOL", 2))
    points = [
        Point("audio-rvq", "6", 6.0, {"PESQ-WB": 2.5}, 0.04, 0.01, 8.0),
        Point("opus", "6", 5.4, {"PESQ-WB": 1.9}),
    ]
    lines = markdown_table(points, measures).splitlines()
    assert "| audio-rvq | 6 | 6.00 | 8.00 | 25 % | 2.50 | – | 0.0400 | 0.0100 |" in lines
    assert "| opus | 6 | 5.40 |  |  | 1.90 | – |  |  |" in lines
    assert lines[-1] == "Not installed: ViSQOL; pip install 'laconic[speech]'."
    plain = markdown_table([Point("opus", "64", 60.0, {"ViSQOL": 4.1})], measures[1:])
    assert "Not installed" not in plain and "saved" not in plain


def test_scores_without_their_packages_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("onnxruntime", "visqol"):
        monkeypatch.setitem(sys.modules, package, None)
    assert installed({"DNSMOS": open_dnsmos, "ViSQOL": lambda: open_visqol("audio")}) == {}


def test_dnsmos_and_visqol_fall_with_noise() -> None:
    for package in ("onnxruntime", "speechmos", "visqol", "ai_edge_litert"):
        pytest.importorskip(package)
    sound = voice(160_000)[0]  # 10 s at 16 kHz
    noisy = sound + np.random.default_rng(1).normal(0, 0.1, sound.size)
    for score in (open_dnsmos(), open_visqol("speech")):
        assert 1 <= score(sound, noisy) < score(sound, sound) <= 5
    dnsmos = open_dnsmos()
    short = sound[:48_000]
    assert dnsmos(short, short) == dnsmos(short, np.resize(short, 144_160)), "repeated to fill a window"


def test_curves_that_fall_are_drawn(tmp_path: Path) -> None:
    curves = [
        PlottedCurve("falls", [1.0, 2.0, 4.0], [2.0, 1.5, 3.0], True),
        PlottedCurve("one point", [2.0], [2.5], True, True),
    ]
    write_plot(curves, tmp_path / "a.svg", "title", PlotFrame.around(curves, ("kbit/s", "score"), margin=0.2))
    text = (tmp_path / "a.svg").read_text()
    assert all(word in text for word in ("kbit/s", "score", "falls", "one point")) and "published" not in text


def test_a_run_on_music(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "music"
    folder.mkdir()
    track = stereo(3.0, 44_100)
    soundfile.write(folder / "a.flac", track.T, 44_100)
    soundfile.write(folder / "b.wav", track[0], 44_100)
    (folder / "cover.txt").write_text("no music")
    monkeypatch.setattr(music, "OURS", (("opus", {"kbps": 64.0}),))
    monkeypatch.setattr(music, "PEERS", {"aac": (AAC, (96.0,))})
    points = music.run(tmp_path / "out", folder, clip=1.0, rate=44_100)
    assert [(point.codec, point.asked) for point in points] == [("original", ""), ("opus", "kbps 64.0"), ("aac", "96")]
    assert points[0].kbps == pytest.approx(2 * 16 * 44.1) and points[0].scores["mel distance, dB"] == 0
    assert points[1].scores["SNR, dB"] > 5
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [point["codec"] for point in written["points"]] == ["original", "opus", "aac"]
    assert "2 clips of music of 1 s, stereo, 44.1 kHz." in (tmp_path / "out" / "table.md").read_text()


def test_clips_begin_at_a_third_and_bad_input_is_refused(tmp_path: Path) -> None:
    ramp = np.arange(9 * 8000, dtype=np.int64)
    samples = np.stack([ramp % 30_000, ramp % 20_000], 1).astype(np.int16)
    soundfile.write(tmp_path / "ramp.wav", samples, 8000)
    assert (music.clip_of(tmp_path / "ramp.wav", 2.0, 8000) == samples[3 * 8000 : 5 * 8000].T).all()
    assert (music.clip_of(tmp_path / "ramp.wav", 7.0, 8000) == samples[2 * 8000 :].T).all()
    (tmp_path / "zz.ogg").write_bytes(b"not sound")
    for message, options in (("zz.ogg", {}), ("seconds", {"clip": 0.0}), ("rate", {"rate": 1})):
        with pytest.raises(InvalidSettings, match=message):
            music.run(tmp_path / "out", tmp_path, **options)  # type: ignore[arg-type]
    with pytest.raises(InvalidSettings, match="no files"):
        music.run(tmp_path / "out", tmp_path / "nowhere")
