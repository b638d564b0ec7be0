"""Sound in the playground: seen as spectrograms, heard on either side at the same place, coded, measured and drawn."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from laconic.codecs import compress, media
from laconic.codecs.container import is_laconic
from laconic.codecs.metrics import snr
from laconic.codecs.signals import Audio

from .playground_desk import PHOTOGRAPH, Desk, expect, served, watched
from .sounds import voice

SECONDS = 3
SPEECH = Audio.of((30_000 * voice(24_000 * SECONDS, 24_000, 2)).astype(np.int16), 24_000)


@pytest.fixture(scope="module")
def playground_url() -> Iterator[str]:
    with served("jpeg", "webp", "opus", "flac", "audio-lossless") as url:
        yield url


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same sound as files of four kinds."""
    path = tmp_path_factory.mktemp("sounds")
    for form in ("wav", "flac", "mp3", "ogg"):
        (path / f"speech.{form}").write_bytes(media.write(SPEECH, form))
    return path


@pytest.fixture
def studio(browser: Any, playground_url: str, folder: Path) -> Iterator[Desk]:
    """A page that has coded the WAV file."""
    with watched(browser, playground_url) as desk:
        desk.open().page.set_input_files("#file", folder / "speech.wav")
        desk.coded("opus")
        yield desk


def waits_for(page: Any, condition: str) -> None:
    """Wait until a condition of the page holds; Playwright's own wait would need a policy that lets strings be scripts."""
    for _ in range(300):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(condition)


def test_original_and_decoded_are_shown_with_their_figures(studio: Desk) -> None:
    page = studio.page
    assert "speech.wav, 3.00 s, stereo, 24,000 Hz, 16 bits" in str(page.text_content("#source-name"))
    for side in ("original", "decoded"):
        expect(page.locator(f"#{side}")).to_be_visible()
        assert "spectrogram" in str(page.get_attribute(f"#{side}", "alt"))
    stream = studio.download("stream")
    back = compress.decode(stream)
    assert is_laconic(stream) and isinstance(back, Audio)
    assert studio.figure("bytes").startswith(f"{len(stream):,}") and studio.figure("frames") == "3.00 s"
    assert float(studio.figure("kbps")) == pytest.approx(8 * len(stream) / SECONDS / 1000, abs=0.51)
    assert studio.figure("psnr") == f"{snr(SPEECH, back):.2f} dB" and page.text_content("#name-psnr") == "SNR"
    assert float(studio.figure("bpp")) == pytest.approx(8 * len(stream) / SPEECH.pixels, abs=0.001)
    wav = media.read(studio.download("picture"))
    assert isinstance(wav, Audio) and np.array_equal(wav.array, back.array)
    expect(page.locator("#tables")).to_be_hidden()


def test_who_switches_stays_at_the_same_place(studio: Desk) -> None:
    page = studio.page
    page.locator("#sound-seek").fill("0.5")
    expect(page.locator("#sound-moment")).to_have_text("0.50 of 3.00 s")
    page.click("#sound-play")
    expect(page.locator("#sound-play")).to_have_attribute("aria-label", "Pause")
    waits_for(page, "Number(document.getElementById('sound-seek').value) > 0.7")
    before = float(page.input_value("#sound-seek"))
    page.check("#hear-original")
    after = float(page.input_value("#sound-seek"))
    assert before <= after < before + 0.5
    page.focus("#stage")
    page.keyboard.press("h")
    expect(page.locator("#hear-decoded")).to_be_checked()
    page.keyboard.press(" ")
    expect(page.locator("#sound-play")).to_have_attribute("aria-label", "Play")
    place = page.input_value("#sound-seek")
    page.wait_for_timeout(200)
    assert page.input_value("#sound-seek") == place
    page.keyboard.press(" ")
    expect(page.locator("#sound-moment")).to_have_text("3.00 of 3.00 s")  # the end, where it stops
    expect(page.locator("#sound-play")).to_have_attribute("aria-label", "Play")


def test_what_is_heard_is_the_sound_of_the_side(browser: Any, playground_url: str, folder: Path) -> None:
    """Both run at once, with one gain at 1 and the other at 0; the samples are those of the two files."""
    watch = """
    window.gains = []; window.buffers = [];
    const gain = AudioContext.prototype.createGain;
    AudioContext.prototype.createGain = function () { const made = gain.call(this); window.gains.push(made); return made; };
    const buffer = AudioContext.prototype.createBuffer;
    AudioContext.prototype.createBuffer = function (...of) {
      const made = buffer.apply(this, of); window.buffers.push(made); return made;
    };
    """
    with watched(browser, playground_url) as desk:
        desk.page.add_init_script(watch)
        desk.open().page.set_input_files("#file", folder / "speech.wav")
        desk.coded("opus")
        page = desk.page
        page.click("#sound-play")
        waits_for(page, "gains.length === 2 && gains[1].gain.value === 1 && gains[0].gain.value === 0")
        page.check("#hear-original")
        waits_for(page, "gains[0].gain.value > 0.999 && gains[1].gain.value < 0.001")
        heard = page.evaluate("buffers.map((one) => [0, 1].map((c) => [...one.getChannelData(c).subarray(0, 20000)]))")
        stream = compress.decode(desk.download("stream"))
        for samples, sound in zip(heard, (SPEECH, stream), strict=True):
            assert np.array_equal(np.array(samples), sound.array[:, :20_000] / 32_768)


@pytest.mark.parametrize("form", ["flac", "mp3", "ogg"])
def test_other_files_are_read_by_the_service(studio: Desk, folder: Path, form: str) -> None:
    studio.page.set_input_files("#file", folder / f"speech.{form}")
    expect(studio.page.locator("#source-name")).to_contain_text(re.compile(rf"speech\.{form}, 3\.0\d s, stereo"))
    studio.coded("opus")
    assert re.fullmatch(r"-?[0-9.]+ dB", studio.figure("psnr"))
    studio.page.select_option("#codec", "audio-lossless")
    studio.coded("audio-lossless")
    assert studio.figure("psnr") == "exact"


def test_the_difference_and_the_curve(studio: Desk) -> None:
    page = studio.page
    page.focus("#stage")
    page.keyboard.press("d")
    expect(page.locator("#difference")).to_be_visible()
    before = page.evaluate("document.getElementById('difference').toDataURL()")
    page.locator("#set-quality").fill("5")
    expect(page.locator("#figure-kbps")).to_have_text(re.compile(r"^1?\d(\.\d+)?$"))
    page.wait_for_timeout(300)
    assert page.evaluate("document.getElementById('difference').toDataURL()") != before
    assert page.locator("#curve-codecs label").all_inner_texts() == ["opus"]
    page.click("#curve-run")
    expect(page.locator("#curve-status")).to_contain_text("Done.")
    expect(page.locator("#curve svg")).to_have_attribute("aria-label", "Rate and distortion of opus: SNR in dB over kbit/s")
    page.click("#curve-details summary")
    rows = [row.split("\t") for row in page.locator("#curve-table tbody tr").all_inner_texts()]
    assert [float(row[3]) for row in rows] == sorted(float(row[3]) for row in rows) and len(rows) == 5


def test_a_stream_is_heard_alone_and_a_picture_takes_its_place(studio: Desk, tmp_path: Path) -> None:
    page = studio.page
    stream = tmp_path / "old.lcn"
    stream.write_bytes(compress.encode(SPEECH, "opus", {"quality": 40}).data)
    page.set_input_files("#file", stream)
    expect(page.locator("#inspected table")).to_have_count(2)
    assert studio.figure("psnr") == "–" and studio.figure("frames") == "3.00 s"
    expect(page.locator("#original")).to_be_hidden()
    expect(page.locator("#hear-original")).to_be_disabled()
    expect(page.locator("#hear-decoded")).to_be_enabled()
    page.set_input_files("#file", PHOTOGRAPH)
    studio.coded("jpeg")
    expect(page.locator("#sound-transport")).to_be_hidden()
    assert page.text_content("#name-psnr") == "PSNR" and "picture" in str(page.get_attribute("#decoded", "alt"))
    assert page.locator("#codec option").all_inner_texts()[1:] == ["jpeg", "webp"]


def test_what_is_copied_makes_the_same_file(studio: Desk, playground_url: str, folder: Path) -> None:
    page = studio.page
    text = str(page.text_content("#copy-text"))
    path = re.search(r"(/v1/encode\S+?)'? -o speech.lcn", text)
    assert path and "speech-decoded.wav" in text
    answer = httpx.post(playground_url + path[1], content=(folder / "speech.wav").read_bytes())
    assert answer.content == studio.download("stream")
    page.select_option("#copy-kind", "python")
    assert 'save("speech-decoded.wav")' in str(page.text_content("#copy-text"))
