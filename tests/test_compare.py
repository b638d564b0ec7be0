"""The comparison, its report and the demonstration."""

from __future__ import annotations

import base64
import json
import math
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import laconic
from laconic import cli, demo
from laconic.codecs import media
from laconic.codecs.metrics import psnr
from laconic.codecs.signals import Image
from laconic.compare import Comparison, compare, compared_codecs, measure
from laconic.compare_page import render
from laconic.plot import Series, rd_plot

from .pictures import photograph, smooth


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    """The photograph through two codecs at 32 dB, with a name that HTML must not take for markup."""
    return compare(photograph(), "<b>&</b>.png", 12_345, 32.0, codecs=["jpeg", "webp"], device="cpu")


def test_every_entry_reaches_the_target_with_a_real_file(comparison: Comparison) -> None:
    for entry in comparison.entries:
        stream = laconic.encode(photograph(), entry.codec, **entry.settings)
        assert len(stream) == entry.bytes
        assert entry.psnr == pytest.approx(psnr(photograph(), laconic.decode(stream))) and entry.psnr >= 32.0
        assert 0.9 * entry.bytes < entry.even_bytes <= entry.bytes
        assert entry.bpp == pytest.approx(8 * entry.bytes / (112 * 160))
        assert len(entry.curve) == 5 and sorted(entry.curve) == list(entry.curve)
    assert [entry.even_bytes for entry in comparison.entries] == sorted(entry.even_bytes for entry in comparison.entries)


def test_codecs_that_cannot_take_part_are_named() -> None:
    result = compare(smooth(24, 24, 4), "alpha.png", 1, 30.0, codecs=["jpeg", "webp"], curves=False, device="cpu")
    assert [entry.codec for entry in result.entries] == ["webp"] and "alpha" in result.skipped["jpeg"]
    assert "jpeg is missing" in render(result)
    with pytest.raises(laconic.InvalidSettings, match="alpha"):
        compare(smooth(24, 24, 4), "alpha.png", 1, 30.0, codecs=["jpeg"], curves=False)


def test_default_codecs_and_target() -> None:
    assert {"image-transform", "jpeg", "webp", "avif", "jxl"} <= set(compared_codecs())
    result = compare(photograph(48, 48), "photo.png", 1, codecs=["webp"], curves=False, device="cpu")
    same = laconic.encode(photograph(48, 48), "webp", quality=50)
    assert result.target_psnr == pytest.approx(psnr(photograph(48, 48), laconic.decode(same)))
    assert result.entries[0].bytes <= len(same) and result.entries[0].psnr >= result.target_psnr


def test_codecs_that_are_always_lossless_take_part_where_named() -> None:
    assert "image-lossless" not in compared_codecs()
    result = compare(photograph(32, 32), "photo.png", 1, 30.0, codecs=["image-lossless", "jpeg"], device="cpu")
    exact = next(entry for entry in result.entries if entry.codec == "image-lossless")
    assert (
        math.isinf(exact.psnr)
        and exact.curve == ()
        and exact.bytes == len(laconic.encode(photograph(32, 32), "image-lossless"))
    )
    assert "<td>exact</td>" in render(result)
    with pytest.raises(laconic.InvalidSettings, match="always lossless; name a codec with a quality"):
        compare(photograph(32, 32), "photo.png", 1, codecs=["image-lossless"])


class Balance(HTMLParser):
    """Collects what a page refers to, and checks that its tables and figures are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "action", "data")]
        if tag in ("table", "thead", "tbody", "tr", "td", "th", "div", "svg", "script", "style", "select"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()


def test_report_is_one_page_that_needs_nothing_else(comparison: Comparison) -> None:
    page = render(comparison)
    parser = Balance()
    parser.feed(page)
    assert parser.open == [] and parser.references == []
    assert not re.search(r"https?:|url\(|@import|\$[a-z]", page)
    assert "&lt;b&gt;&amp;&lt;/b&gt;.png" in page and "<b>&</b>.png" not in page
    for entry in comparison.entries:
        assert f"{entry.bytes:,}" in page and f"{entry.psnr:.2f} dB" in page
    assert "prefers-color-scheme: dark" in page


def test_report_holds_the_pictures_exactly(comparison: Comparison) -> None:
    page = render(comparison)
    found = re.search(r'<script type="application/json" id="pictures">(.*?)</script>', page)
    assert found is not None
    pictures = json.loads(found[1])
    assert [picture["name"] for picture in pictures] == ["original", *(entry.codec for entry in comparison.entries)]
    for picture, image in zip(pictures, [comparison.original, *(entry.decoded for entry in comparison.entries)], strict=True):
        content = base64.b64decode(picture["source"].removeprefix("data:image/png;base64,"))
        assert (media.read(content).array == image.array).all()


def test_large_and_deep_pictures_are_shown_as_a_crop_of_8_bits() -> None:
    array = np.full((1500, 1600, 1), 257 * 9, np.uint16)
    entry = replace(measure(smooth(8, 8), "webp", 30.0), decoded=Image(array))
    page = render(Comparison("deep.png", Image(array), 1, 30.0, (entry,), {}))
    assert "middle of the picture" in page
    found = re.search(r'<script type="application/json" id="pictures">(.*?)</script>', page)
    assert found is not None
    first = json.loads(found[1])[0]
    assert first["width"] * first["height"] <= 2_000_000


def test_plot_is_valid_svg_in_its_frame() -> None:
    curves = [
        Series("a", ((0.1, 28.0), (0.5, 33.0), (1.0, 36.0)), (0.5, 33.0)),
        Series("<b>", ((0.2, 28.5), (2.0, 36.0), (3.0, math.inf))),
    ]
    svg = ElementTree.fromstring(rd_plot(curves, 31.0))
    circles = svg.findall(".//circle")
    assert len(circles) == 3 + 1 + 2
    assert all(0 < float(c.get("cx", "")) < 760 and 0 < float(c.get("cy", "")) < 440 for c in circles)
    heights = [float(text.get("y", "")) for text in svg.findall(".//text[@class='name']")]
    assert abs(heights[0] - heights[1]) >= 15
    assert rd_plot([Series("lossless", ((1.0, math.inf),))]) == ""


def test_command_writes_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photograph(48, 64).save(tmp_path / "photo.png")
    assert cli.main(["compare", str(tmp_path / "photo.png"), "--codec", "webp", "--codec", "jpeg", "--target-psnr", "30"]) == 0
    assert "<title>photo.png" in (tmp_path / "photo-compare.html").read_text()
    assert "the smallest is" in capsys.readouterr().err
    assert cli.main(["compare", str(tmp_path / "photo.png"), "--codec", "nothing", "-f"]) == 2


def test_demo_prints_figures_beside_its_peers(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The real service in a process of its own, with one codec that needs no weights."""
    monkeypatch.setenv("LACONIC_CODECS", "jxl")
    monkeypatch.setattr(demo, "PEERS", ("jpeg", "webp"))
    assert cli.main(["serve", "--demo", "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^ *jxl +[\d,]+ +[\d.]+", shown, re.MULTILINE) and "jpeg" in shown and "webp" in shown
    assert re.search(r"jxl is [\d.]+ % (smaller|larger) than", shown)


def test_demo_tells_why_a_service_does_not_start(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("LACONIC_MAX_PIXELS", "many")
    assert cli.main(["serve", "--demo"]) == 6
    assert "LACONIC_MAX_PIXELS" in capsys.readouterr().err
