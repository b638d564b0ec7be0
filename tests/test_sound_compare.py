"""The comparison of sounds, and its report."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

import laconic
from laconic import cli, compare_sound_page
from laconic.codecs import compress, media
from laconic.codecs.audio import speech_quality as speech_module
from laconic.codecs.audio.speech_quality import speech_quality
from laconic.codecs.metrics import snr
from laconic.codecs.signals import Audio
from laconic.compare_sound import QUALITIES, SoundComparison, compare_sound, compared_sound_codecs
from laconic.compare_sound_page import render_sound
from laconic.plot import Scales, Series, rd_plot
from laconic.spectrogram import COLUMNS, ROWS, error_picture, level_picture, levels

from .sounds import voice
from .test_compare import Balance
from .tones import tone

SPEECH = Audio.of((32767 * voice(16_000 * 12)).astype(np.int16), 16_000)


@pytest.fixture(scope="module")
def comparison() -> SoundComparison:
    """Twelve seconds through two codecs, with a name that HTML must not take for markup."""
    return compare_sound(SPEECH, "<b>.wav", 12_345, codecs=["opus", "flac"], device="cpu")


def test_every_entry_is_of_a_real_file(comparison: SoundComparison) -> None:
    assert [entry.codec for entry in comparison.entries].count("opus") == len(QUALITIES) and comparison.skipped == {}
    for entry in comparison.entries:
        file = compress.encode(SPEECH, entry.codec, entry.settings, device="cpu").data
        back = compress.decode(file)
        assert len(file) == entry.bytes and entry.kbps == pytest.approx(8 * len(file) / 12_000)
        assert isinstance(back, Audio) and entry.snr == snr(SPEECH, back)
        assert np.array_equal(entry.decoded.array, back.array[:, :160_000])
        assert entry.encode_seconds > 0 and entry.decode_seconds > 0
    assert [entry.bytes for entry in comparison.entries] == sorted(entry.bytes for entry in comparison.entries)
    assert [entry.codec for entry in comparison.entries if entry.snr == math.inf] == ["flac"]
    assert comparison.seconds == 12 and comparison.original.seconds == 10


def test_codecs_that_cannot_take_part_are_named() -> None:
    assert {"audio-rvq", "audio-lossless", "opus", "flac"} <= set(compared_sound_codecs())
    floats = Audio.of(tone(1, 9000, 32).array, 48_000)
    result = compare_sound(floats, "a.wav", 1, codecs=["flac", "opus"], device="cpu")
    assert set(result.skipped) == {"flac"} and "flac is missing: " in render_sound(result)
    with pytest.raises(laconic.InvalidSettings, match="flac"):
        compare_sound(floats, "a.wav", 1, codecs=["flac"], device="cpu")
    with pytest.raises(laconic.UnsupportedMedia, match="no samples"):
        compare_sound(Audio.of(np.zeros((1, 0), np.int16), 8000), "a.wav", 1)


def test_the_report_shows_and_plays_what_was_decoded(comparison: SoundComparison) -> None:
    page = render_sound(comparison)
    parser = Balance()
    parser.feed(page)
    assert parser.open == [] and parser.references == []
    assert not re.search(r"https?:|url\(|@import|\$[a-z]", re.sub(r"base64,[^\"]*", "", page))
    assert "&lt;b&gt;.wav" in page and "<b>.wav" not in page
    assert "first 10 seconds" in page and page.count("<tr data-sound=") == len(comparison.entries)
    assert "quality 0" in page, "a setting of 0 is one"
    sounds = sounds_of(page)
    for sound, signal in zip(sounds, [comparison.original, *(entry.decoded for entry in comparison.entries)], strict=True):
        played = media.read(content_of(sound["wav"], "audio/wav"))
        assert isinstance(played, Audio) and (played.rate, played.shape, played.bits) == (16_000, (1, 160_000), 16)
        if signal.bits == 16:
            assert np.array_equal(played.array, signal.array)
        picture = PIL.Image.open(io.BytesIO(content_of(sound["levels"], "image/png")))
        assert picture.size == (COLUMNS, ROWS)
    exact = next(number for number, entry in enumerate(comparison.entries, 1) if entry.codec == "flac")
    error = PIL.Image.open(io.BytesIO(content_of(sounds[exact]["error"], "image/png")))
    assert error.getextrema() == (0, 0), "nothing differs"


def test_players_are_short_where_they_would_be_large(comparison: SoundComparison, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_sound_page, "PLAYED_BYTES", 6 * 32_000)
    page = render_sound(comparison)
    assert "Pictures have the first 10 seconds, players 1," in page
    assert {media.read(content_of(sound["wav"], "audio/wav")).shape for sound in sounds_of(page)} == {(1, 16_000)}


def test_the_command_takes_sound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.wav").write_bytes(media.write(tone(2, 4800), "wav"))
    assert cli.main(["compare", str(tmp_path / "a.wav"), "--codec", "opus", "--codec", "flac"]) == 0
    assert "<title>a.wav" in (tmp_path / "a-compare.html").read_text() and "the smallest is opus" in capsys.readouterr().err
    assert cli.main(["compare", str(tmp_path / "a.wav"), "--target-psnr", "40", "-f"]) == 2
    assert "no PSNR" in capsys.readouterr().err


def test_the_ratio_of_signal_to_noise() -> None:
    original = Audio.of(np.full((2, 1000), 1000, np.int16), 8000)
    assert snr(original, original) == math.inf
    assert snr(original, Audio.of(np.full((2, 1000), 1010, np.int16), 8000)) == pytest.approx(40)
    silent = Audio.of(np.zeros((2, 1000), np.int16), 8000)
    assert snr(silent, silent) == math.inf and snr(silent, original) == -math.inf and snr(original, silent) == 0
    with pytest.raises(ValueError, match="do not compare"):
        snr(original, original.part(0, 999))


def test_measures_of_speech_order_sounds(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pesq")
    pytest.importorskip("pystoi")
    scores = [speech_quality(SPEECH, coded_and_back(quality)) for quality in (0, 90)]
    low, high = (score for score in scores if score is not None)
    assert 1 < low.pesq < high.pesq <= 4.65 and 0 < low.stoi < high.stoi <= 1
    same = speech_quality(SPEECH, SPEECH)
    assert same is not None and same.pesq > 4.6 and same.stoi == pytest.approx(1)
    for other in (tone(2, 48_000), tone(1, 100), tone(1, 16_000, rate=8000), Audio.of(np.zeros((1, 16_000), np.int16), 16_000)):
        assert speech_quality(other, other) is None
    monkeypatch.setattr(speech_module, "find_spec", lambda name: None)
    assert speech_quality(SPEECH, SPEECH) is None


def coded_and_back(quality: int) -> Audio:
    decoded = compress.decode(compress.encode(SPEECH, "opus", {"quality": quality}, device="cpu").data)
    assert isinstance(decoded, Audio)
    return decoded


def test_a_tone_stands_at_its_frequency_and_level() -> None:
    time = np.arange(48_000) / 48_000
    found = levels(Audio.of(np.sin(2 * np.pi * 6000 * time)[None].astype(np.float32), 48_000))
    assert found.shape[0] == ROWS and found.shape[1] <= COLUMNS
    row = int(found[:, found.shape[1] // 2].argmax())
    assert abs(row - ROWS * (1 - 6000 / 24_000)) <= 2 and found.max() == pytest.approx(0, abs=1.5)
    assert found[:100].max() < -60
    assert levels(Audio.of(np.zeros((1, 1), np.int16), 8000)).shape == (ROWS, 1)
    shown = PIL.Image.open(io.BytesIO(level_picture(found)))
    assert shown.size == found.shape[::-1] and shown.mode == "P"
    differing = PIL.Image.open(io.BytesIO(error_picture(found, found - 12)))
    assert np.asarray(differing)[row, 1] == pytest.approx(12 / 30 * 90, abs=1)


def test_axes_are_named() -> None:
    drawn = rd_plot([Series("opus", ((6.0, 2.0), (24.0, 4.2)))], None, Scales("kbit/s", "kbit/s", "PESQ", ""))
    assert ">kbit/s (log scale)<" in drawn and ">PESQ<" in drawn and "opus: 6.000 kbit/s, 2.00<" in drawn


def sounds_of(page: str) -> list[dict[str, Any]]:
    found = re.search(r'<script type="application/json" id="sounds">(.*?)</script>', page)
    assert found is not None
    sounds: list[dict[str, Any]] = json.loads(found[1])
    return sounds


def content_of(url: str, media_type: str) -> bytes:
    return base64.b64decode(url.removeprefix(f"data:{media_type};base64,"))
