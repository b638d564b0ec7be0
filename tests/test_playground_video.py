"""Videos in the playground: shown side by side and in step, coded in requests and as jobs, without console errors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from laconic.codecs import compress, media, metrics
from laconic.codecs.container import is_laconic
from laconic.codecs.signals import Video

from . import toy_video
from .playground_desk import PHOTOGRAPH, SAMPLES, Desk, expect, served, watched

FRAMES = 20
CLIP = Video.of(np.stack([SAMPLES[step : step + 90, 2 * step : 2 * step + 120] for step in range(FRAMES)]))


@pytest.fixture(scope="module")
def playground_url() -> Iterator[str]:
    with toy_video.installed(), served("jpeg", "webp", "h264", "toy-fit") as url:
        yield url


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    path.write_bytes(media.write(CLIP, "mp4"))
    return path


@pytest.fixture
def theatre(browser: Any, playground_url: str, clip: Path) -> Iterator[Desk]:
    """A page that has coded the clip."""
    with watched(browser, playground_url) as desk:
        desk.open().page.set_input_files("#file", clip)
        desk.coded("h264")
        yield desk


def moments(desk: Desk) -> list[float]:
    """Where the two videos stand, in seconds."""
    found: list[float] = desk.page.evaluate("[...document.querySelectorAll('video')].map((film) => film.currentTime)")
    return found


def test_original_and_decoded_are_shown_with_their_figures(theatre: Desk, clip: Path) -> None:
    page = theatre.page
    assert "clip.mp4, 120 × 90" in str(page.text_content("#source-name"))
    expect(page.locator("#original-film")).to_be_visible()
    expect(page.locator("#decoded-film")).to_be_visible()
    stream = theatre.download("stream")
    assert is_laconic(stream) and theatre.figure("bytes").startswith(f"{len(stream):,}")
    assert theatre.figure("frames") == f"{FRAMES} at 25/s"
    assert float(theatre.figure("kbps")) == pytest.approx(8 * len(stream) * 25 / FRAMES / 1000, abs=0.51)
    exact = metrics.psnr(media.read(clip.read_bytes()), compress.decode(stream))
    shown = re.fullmatch(r"≈ ([0-9.]+) dB", theatre.figure("psnr"))
    assert shown and abs(float(shown[1]) - exact) < 2.5, exact
    assert media.read(theatre.download("picture")).shape == CLIP.shape
    for control in ("#curves", "#tables"):
        expect(page.locator(control)).to_be_hidden()


def test_both_play_pause_and_seek_together(theatre: Desk) -> None:
    page = theatre.page
    page.focus("#stage")
    for key, frame in ((".", 2), (".", 3), (",", 2)):
        page.keyboard.press(key)
        expect(page.locator("#moment")).to_contain_text(f"frame {frame} of {FRAMES}")
        assert moments(theatre) == pytest.approx([(frame - 0.5) / 25] * 2)
    page.keyboard.press(" ")
    expect(page.locator("#play")).to_have_attribute("aria-label", "Pause")
    expect(page.locator("#moment")).to_contain_text(f"frame {FRAMES} of")  # the end, where they stop
    expect(page.locator("#play")).to_have_attribute("aria-label", "Play")
    page.locator("#seek").fill("4")
    expect(page.locator("#moment")).to_contain_text("frame 5 of")
    assert moments(theatre) == pytest.approx([4.5 / 25] * 2)
    page.focus("#seek")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#seek")).to_have_attribute("aria-valuetext", f"frame 6 of {FRAMES}")


def test_the_difference_is_that_of_the_frame(theatre: Desk) -> None:
    page = theatre.page
    page.locator("#set-quality").fill("5")
    expect(page.locator("#figure-psnr")).not_to_have_text(re.compile("≈ [4-9]"))
    page.focus("#stage")
    page.keyboard.press("d")
    expect(page.locator("#difference")).to_be_visible()
    paint = "document.getElementById('difference').toDataURL()"
    first = page.evaluate(paint)
    page.keyboard.press(".")
    expect(page.locator("#moment")).to_contain_text("frame 2 of")
    page.wait_for_timeout(500)
    assert page.evaluate(paint) != first
    page.keyboard.press(" ")
    expect(page.locator("#difference")).to_be_hidden()  # not while they move


def test_what_no_browser_plays_is_shown_as_a_copy(theatre: Desk, tmp_path: Path) -> None:
    path = tmp_path / "clip.y4m"
    path.write_bytes(media.write(CLIP, "y4m"))
    theatre.page.set_input_files("#file", path)
    expect(theatre.page.locator("#source-name")).to_contain_text("clip.y4m, 120 × 90")
    expect(theatre.page.locator("#source-name")).to_contain_text("a copy that plays here")
    theatre.coded("h264")
    assert theatre.figure("psnr").startswith("≈ ")


def test_a_stream_is_played_alone_and_a_picture_takes_its_place(theatre: Desk, tmp_path: Path) -> None:
    page = theatre.page
    stream = tmp_path / "old.lcn"
    stream.write_bytes(compress.encode(CLIP, "h264", {"quality": 40}).data)
    page.set_input_files("#file", stream)
    expect(page.locator("#inspected table")).to_have_count(2)
    theatre.coded("h264")
    assert theatre.figure("psnr") == "–" and theatre.figure("frames") == f"{FRAMES} at 25/s"
    expect(page.locator("#original-film")).to_be_hidden()
    expect(page.locator("#transport")).to_be_visible()
    page.set_input_files("#file", PHOTOGRAPH)
    expect(page.locator("#decoded")).to_be_visible()
    expect(page.locator("#transport")).to_be_hidden()
    expect(page.locator("#decoded-film")).to_be_hidden()
    assert page.locator("#codec option").all_inner_texts()[1:] == ["jpeg", "webp"]


def test_a_fit_is_a_job_with_its_quality_so_far(theatre: Desk) -> None:
    page = theatre.page
    page.select_option("#codec", "toy-fit")
    expect(page.locator("#as-job")).to_be_checked()
    expect(page.locator("#as-job")).to_be_disabled()
    assert "Prefer: respond-async" in str(page.text_content("#copy-text"))
    page.select_option("#copy-kind", "python")
    assert "client.submit" in str(page.text_content("#copy-text"))
    page.locator("#set-steps").fill("3000")  # not below "more settings"
    page.click("#encode")
    expect(page.locator("#status")).to_contain_text(re.compile(r"step \d+, [\d.]+ dB, \d+ %"))
    page.click("#cancel")
    expect(page.locator("#status")).to_have_text("Cancelled.")
    page.locator("#set-steps").fill("20")
    page.click("#encode")
    theatre.coded("toy-fit")
    assert theatre.figure("psnr").startswith("≈ ")
    page.select_option("#codec", "h264")
    expect(page.locator("#as-job")).not_to_be_checked()
