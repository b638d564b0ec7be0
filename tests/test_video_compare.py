"""The comparison of codecs on a video, its report, and the measures that it shows."""

from __future__ import annotations

import base64
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from laconic import cli
from laconic.codecs import compress, media
from laconic.codecs.metrics import ms_ssim, psnr
from laconic.codecs.signals import Image, Video
from laconic.codecs.video import vmaf as vmaf_module
from laconic.codecs.video.vmaf import vmaf
from laconic.compare import Comparison, compare, compared_codecs
from laconic.compare_page import render

from .pictures import noisy, photograph
from .test_compare import Balance
from .test_video_conventional import clip

CODECS = ["h264", "hevc", "av1"]


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    """A short clip through all codecs at 39 dB."""
    return compare(clip(9), "<b>.mp4", 12_345, 39.0, codecs=CODECS, curves=False, device="cpu")


def test_every_entry_reaches_the_target_with_a_real_file(comparison: Comparison) -> None:
    assert comparison.skipped == {} and {entry.codec for entry in comparison.entries} == set(CODECS)
    for entry in comparison.entries:
        file = compress.encode(clip(9), entry.codec, entry.settings, device="cpu").data
        assert len(file) == entry.bytes
        assert entry.psnr == pytest.approx(psnr(clip(9), compress.decode(file))) and 39 <= entry.psnr < 39.5
        assert 0.85 * entry.bytes < entry.even_bytes <= entry.bytes
        assert entry.bpp == pytest.approx(8 * entry.bytes / (9 * 72 * 80))
        assert entry.ratio == pytest.approx(9 * 72 * 80 * 3 / entry.bytes)
        assert entry.encode_seconds > 0 and entry.decode_seconds > 0
    assert [entry.even_bytes for entry in comparison.entries] == sorted(entry.even_bytes for entry in comparison.entries)


def test_only_codecs_that_take_no_minutes_are_compared_unless_named() -> None:
    assert set(CODECS) <= set(compared_codecs("video")) and "video-inr" not in compared_codecs("video")
    assert not set(CODECS) & set(compared_codecs())
    result = compare(replace(clip(2), metadata={"audio": bytes(9000)}), "clip.mp4", 1, codecs=["h264"], device="cpu")
    entry = result.entries[0]
    assert result.target_psnr == pytest.approx(
        psnr(clip(2), compress.decode(compress.encode(clip(2), "h264", {"quality": 50}).data))
    )
    assert len(entry.curve) == 4 and sorted(entry.curve) == list(entry.curve)
    assert entry.bytes < 9000, "sound is left out"


def test_the_report_shows_frames_and_plays(comparison: Comparison) -> None:
    page = render(comparison)
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    assert parser.references and all(one.startswith("data:video/mp4;base64,") for one in parser.references)
    assert not re.search(r"https?:|url\(|@import|\$[a-z]", re.sub(r"base64,[^\"]*", "", page))
    assert "&lt;b&gt;.mp4" in page and "9 frames, 25 a second" in page
    played = media.read(base64.b64decode(parser.references[0].partition(",")[2]))
    assert played.shape == (9, 72, 80, 3)
    found = re.search(r'<script type="application/json" id="pictures">(.*?)</script>', page)
    assert found is not None
    pictures = json.loads(found[1])
    assert [picture["name"] for picture in pictures] == ["original", *(entry.codec for entry in comparison.entries)]
    for picture, video in zip(pictures, [comparison.original, *(entry.decoded for entry in comparison.entries)], strict=True):
        for number, source in zip((0, 4, 8), (picture["source"], *picture["more"]), strict=True):
            shown = media.read(base64.b64decode(source.removeprefix("data:image/png;base64,")))
            assert np.array_equal(shown.array, video.array[number])
    assert re.findall(r'<option value="(\d)">(\d)</option>', page) == [("0", "0"), ("1", "4"), ("2", "8")]


def test_the_command_takes_videos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "clip.mkv").write_bytes(media.write(clip(3), "mkv"))
    assert cli.main(["compare", str(tmp_path / "clip.mkv"), "--codec", "h264", "--target-psnr", "34"]) == 0
    assert "<title>clip.mkv" in (tmp_path / "clip-compare.html").read_text()
    assert "the smallest is h264" in capsys.readouterr().err


def test_vmaf_orders_videos(comparison: Comparison) -> None:
    pytest.importorskip("imageio_ffmpeg")
    video = clip(6)
    scores = [vmaf(video, coded_and_back(video, quality)) for quality in (10, 50, 90)]
    assert all(score is not None for score in scores) and scores == sorted(scores, key=float)  # type: ignore[arg-type]
    assert vmaf(video, video) > 95  # type: ignore[operator]
    deep = Video.of(video.array.astype(np.uint16) * 257)
    assert vmaf(deep, deep) == vmaf(video, video)
    assert all(entry.vmaf is not None and 0 < entry.vmaf <= 100 for entry in comparison.entries)
    assert f"<td>{comparison.entries[0].vmaf:.1f}</td>" in render(comparison)
    with pytest.raises(ValueError, match="do not compare"):
        vmaf(video, clip(5))


def test_nothing_depends_on_vmaf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vmaf_module, "find_spec", lambda name: None)
    assert vmaf(clip(2), clip(2)) is None
    result = compare(clip(2), "clip.mp4", 1, 34.0, codecs=["h264"], curves=False, device="cpu")
    assert result.entries[0].vmaf is None and "VMAF" not in render(result)


def coded_and_back(video: Video, quality: int) -> Video:
    decoded = compress.decode(compress.encode(video, "h264", {"quality": quality}, device="cpu").data)
    assert isinstance(decoded, Video)
    return decoded


def test_structural_similarity() -> None:
    picture = photograph()
    assert ms_ssim(picture, picture) == pytest.approx(1)
    halves = [Image(np.clip(picture.array.astype(int) + noise, 0, 255).astype(np.uint8)) for noise in (8, 40)]
    noise = (noisy(112, 160).array.astype(int) - 128) // 8
    worse = Image(np.clip(picture.array.astype(int) + noise, 0, 255).astype(np.uint8))
    assert 1 > ms_ssim(picture, halves[0]) > ms_ssim(picture, halves[1]) > ms_ssim(picture, worse) > 0.5
    deep, deep_worse = (Image(one.array.astype(np.uint16) * 257) for one in (picture, worse))
    assert ms_ssim(deep, deep_worse) == pytest.approx(ms_ssim(picture, worse), abs=1e-9)
    videos = [Video.of(np.stack([picture.array, second.array])) for second in (picture, worse)]
    assert ms_ssim(*videos) == pytest.approx((1 + ms_ssim(picture, worse)) / 2)


def test_structural_similarity_is_the_published_measure() -> None:
    """At one scale, against sums written out for one pixel: a window of 11 x 11 in a picture of that size."""
    one, other = noisy(11, 11, 1), noisy(11, 11, 1)
    other = Image(np.roll(other.array, 3, axis=0))
    line = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    x, y = (picture.array[..., 0].astype(float) for picture in (one, other))
    mean_x, mean_y = (window * x).sum(), (window * y).sum()
    var_x, var_y = (window * (x - mean_x) ** 2).sum(), (window * (y - mean_y) ** 2).sum()
    cov = (window * (x - mean_x) * (y - mean_y)).sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    expected = (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    weights = 0.0448 + 0.2856 + 0.3001 + 0.2363 + 0.1333
    assert ms_ssim(one, other) == pytest.approx(max(expected, 0) ** weights)
    assert math.isclose(weights, 1.0, abs_tol=2e-4)
    with pytest.raises(ValueError, match="11 x 11"):
        ms_ssim(noisy(10, 30), noisy(10, 30))
    with pytest.raises(ValueError, match="do not compare"):
        ms_ssim(noisy(12, 30), noisy(30, 12))
