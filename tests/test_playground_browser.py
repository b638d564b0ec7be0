"""The playground in a real browser: every flow, by pointer and keyboard, without console errors or violations of its policy."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from laconic.codecs import compress, media
from laconic.codecs.signals import Image

from .playground_desk import PHOTOGRAPH, SAMPLES, Desk, expect, watched


def test_the_form_is_the_codecs_schema(desk: Desk) -> None:
    page = desk.open().page
    page.select_option("#codec", "jpeg")
    assert page.locator("#set-quality").get_attribute("type") == "range"
    assert page.locator("#set-effort").count() == 0
    assert page.locator("#aim option").all_inner_texts() == [
        "a quality",
        "at least this PSNR",
        "at most these bits per pixel or sample",
        "at most these bytes",
    ]
    page.click("#more summary")
    assert page.locator("#set-chroma option").all_inner_texts() == ["420", "444"]
    page.select_option("#codec", "webp")
    assert page.locator("#set-effort").get_attribute("min") == "1" and page.locator("#more").is_hidden()
    assert "no loss" in page.locator("#aim option").all_inner_texts()
    page.select_option("#aim", "target_bytes")
    page.fill("#set-target_bytes", "700")
    page.set_input_files("#file", PHOTOGRAPH)
    desk.coded("webp")
    assert len(desk.download("stream")) <= 700


def test_a_change_codes_again_only_when_asked_to(desk: Desk) -> None:
    page = desk.open().page
    desk.take(PHOTOGRAPH)
    before = desk.figure("bytes")
    page.uncheck("#live")
    page.fill("#set-quality", "10")
    page.wait_for_timeout(500)
    assert desk.figure("bytes") == before
    page.click("#encode")
    expect(page.locator("#figure-bytes")).not_to_have_text(before)
    page.check("#live")
    page.focus("#set-quality")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert page.locator("#set-quality + output").inner_text() == "13"
    expected = len(compress.encode(Image(SAMPLES), "webp", {"quality": 13}).data)
    expect(page.locator("#figure-bytes")).to_contain_text(f"{expected:,}")


def test_all_of_the_viewer_works_from_the_keyboard(desk: Desk) -> None:
    page = desk.open().page
    desk.take(PHOTOGRAPH)
    page.focus("#split")
    page.keyboard.press("Home")
    assert page.evaluate("document.getElementById('stage').style.getPropertyValue('--split')") == "0%"
    page.keyboard.press("End")
    assert page.evaluate("document.getElementById('stage').style.getPropertyValue('--split')") == "100%"
    page.focus("#stage")
    fitted = desk.transform()
    page.keyboard.press("1")
    assert page.text_content("#zoom-one") == "100 %"
    for _ in range(16):
        page.keyboard.press("+")
    zoomed = desk.transform()
    page.keyboard.press("ArrowRight")
    moved = desk.transform()
    assert len({fitted, zoomed, moved}) == 3
    page.keyboard.press("-")
    page.keyboard.press("0")
    assert desk.transform() == fitted
    page.keyboard.press("d")
    expect(page.locator("#difference")).to_be_visible()
    page.keyboard.press("d")
    expect(page.locator("#difference")).to_be_hidden()
    page.keyboard.down("s")
    expect(page.locator("#tag-left")).to_have_text("decoded")
    page.keyboard.up("s")
    expect(page.locator("#tag-left")).to_have_text("original")
    page.focus("#swap")
    page.keyboard.press("Enter")
    expect(page.locator("#swap")).to_have_attribute("aria-pressed", "true")


def test_wheel_zooms_and_dragging_moves(desk: Desk) -> None:
    page = desk.open().page
    desk.take(PHOTOGRAPH)
    box = page.locator("#stage").bounding_box()
    x, y = box["x"] + box["width"] / 4, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    fitted = desk.transform()
    page.mouse.wheel(0, -600)
    expect(page.locator("#stage")).to_have_class(re.compile("movable"))
    zoomed = desk.transform()
    page.mouse.down()
    page.mouse.move(x - 60, y - 30)
    page.mouse.up()
    assert len({fitted, zoomed, desk.transform()}) == 3
    assert page.evaluate("scrollY") == 0
    page.click("#zoom-fit")
    page.mouse.move(x, y)
    page.mouse.wheel(0, 300)  # at its smallest the picture lets the page scroll
    expect(page.locator("#stage")).not_to_be_in_viewport(ratio=1)


def test_copy_puts_the_text_on_the_clipboard(browser: Any, playground_url: str) -> None:
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    desk = Desk(context.new_page(), playground_url).open()
    desk.page.click("#copy")
    expect(desk.page.locator("#copy-status")).to_have_text("Copied.")
    assert desk.page.evaluate("navigator.clipboard.readText()") == desk.page.text_content("#copy-text")
    context.close()
    assert desk.complaints == []


def give(page: Any, event: str, path: Path, name: str) -> None:
    """Drop or paste a file."""
    script = """([event, bytes, name]) => {
      const transfer = new DataTransfer();
      transfer.items.add(new File([new Uint8Array(bytes)], name));
      const init = { bubbles: true, cancelable: true };
      document.body.dispatchEvent(event === "paste"
        ? new ClipboardEvent("paste", { ...init, clipboardData: transfer })
        : new DragEvent(event, { ...init, dataTransfer: transfer }));
    }"""
    page.evaluate(script, [event, list(path.read_bytes()), name])


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_pictures_are_dropped_and_pasted(desk: Desk, event: str) -> None:
    page = desk.open().page
    page.select_option("#codec", "webp")
    give(page, event, PHOTOGRAPH, "dropped.png")
    desk.coded("webp")
    assert "dropped.png, 160 × 112" in str(page.text_content("#source-name"))


def test_a_dropped_stream_is_inspected_and_shown_alone(desk: Desk, tmp_path: Path) -> None:
    stream = tmp_path / "old.lcn"
    stream.write_bytes(compress.encode(Image(SAMPLES), "jxl", {"quality": 40}).data)
    page = desk.open().page
    desk.take(PHOTOGRAPH)  # of another picture nothing may remain
    give(page, "drop", stream, "old.lcn")
    desk.coded("jxl")
    expect(page.locator("#inspected table")).to_have_count(2)
    text = str(page.text_content("#inspected"))
    assert "[112,160,3]" in text and "jxl" in text
    assert desk.figure("psnr") == desk.figure("encode") == "–"
    expect(page.locator("#original")).to_be_hidden()
    expect(page.locator("#decoded")).to_be_visible()
    for control in ("#split", "#swap", "#show-difference", "#encode", "#curve-run", "#table-run"):
        expect(page.locator(control)).to_be_disabled()
    assert np.array_equal(media.read(desk.download("picture")).array, compress.decode(stream.read_bytes()).array)


def test_the_example_is_the_demos_photograph(desk: Desk) -> None:
    page = desk.open().page
    page.select_option("#codec", "jpeg")
    page.click("#example")
    desk.coded("jpeg")
    assert str(page.text_content("#source-name")).startswith("photograph.png, 768 × 512, 557,596 bytes")


UNNAMED = """[...document.querySelectorAll("button, select, input, summary, a, progress")]
  .filter((e) => !(e.getAttribute("aria-label") || e.labels?.length || e.textContent.trim())).map((e) => e.outerHTML)"""
PLACES = """["stage", "codec", "figures", "download-stream", "curve-title"]
  .map((id) => document.getElementById(id).getBoundingClientRect().top + scrollY)"""


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (820, "light"), (1600, "dark")])
def test_the_page_fits_and_stays_where_it_is(browser: Any, playground_url: str, width: int, scheme: str) -> None:
    """No sideways scrolling at any width, no jump when results come, names and readable text everywhere."""
    preferences = {"color_scheme": scheme, "reduced_motion": "reduce"}
    with watched(browser, playground_url, viewport={"width": width, "height": 780}, **preferences) as desk:
        page = desk.open().page
        page.select_option("#codec", "webp")
        before = page.evaluate(PLACES)
        desk.take(PHOTOGRAPH)
        assert page.evaluate(PLACES) == before
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(UNNAMED) == []
        assert page.evaluate("getComputedStyle(document.getElementById('activity'), '::before').animationName") == "none"
        for selector in ("body", ".muted", ".primary", ".tag", "dt"):
            assert contrast(page, selector) >= 4.5, selector


def contrast(page: Any, selector: str) -> float:
    """The contrast of an element's text with what is behind it (WCAG 2.2, 1.4.3)."""
    script = """(selector) => {
      const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
      let element = document.querySelector(selector);
      const text = numbers(getComputedStyle(element).color);
      for (; element; element = element.parentElement) {
        const ground = numbers(getComputedStyle(element).backgroundColor);
        if (ground.length < 4 || ground[3] > 0.5) return [text, ground];
      }
      return [text, [255, 255, 255]];
    }"""
    lights = [luminance(colour[:3]) for colour in page.evaluate(script, selector)]
    return (max(lights) + 0.05) / (min(lights) + 0.05)


def luminance(colour: list[float]) -> float:
    linear = [
        value / 12.92 if value <= 0.03928 else math.pow((value + 0.055) / 1.055, 2.4) for value in (c / 255 for c in colour)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
