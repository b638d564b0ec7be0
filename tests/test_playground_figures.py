"""What the playground shows, in a real browser: figures, pictures, curves and texts are Laconic's own."""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageCms
import pytest

from laconic.cli import main
from laconic.codecs import compress, media
from laconic.codecs.metrics import psnr
from laconic.codecs.signals import Image

from .playground_desk import PHOTOGRAPH, SAMPLES, Desk, expect, watched


@pytest.fixture(scope="module")
def one_desk(browser: Any, playground_url: str) -> Iterator[Desk]:
    """A page that many pictures go through, one after another."""
    with watched(browser, playground_url) as desk:
        yield desk.open()


@pytest.fixture
def desk(browser: Any, playground_url: str) -> Iterator[Desk]:
    with watched(browser, playground_url) as desk:
        yield desk


def profiled() -> bytes:
    """A picture in a colour space far from the screen's, which a browser converts before it paints."""
    content = io.BytesIO()
    profile = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("LAB"))
    PIL.Image.fromarray(SAMPLES).save(content, "png", icc_profile=profile.tobytes())
    return content.getvalue()


def turned() -> bytes:
    """A JPEG that is to be shown turned by its EXIF."""
    content = io.BytesIO()
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.fromarray(SAMPLES).save(content, "jpeg", quality=95, exif=exif)
    return content.getvalue()


def with_alpha() -> bytes:
    """A picture whose colours under transparent parts differ, which a canvas would lose."""
    alpha = np.tile(np.linspace(0, 255, SAMPLES.shape[1]).astype(np.uint8), (SAMPLES.shape[0], 1))
    return media.write(Image(np.dstack([SAMPLES, alpha])), "png")


def palette() -> bytes:
    content = io.BytesIO()
    PIL.Image.fromarray(SAMPLES).quantize(64).save(content, "png")
    return content.getvalue()


KINDS = {
    "plain.png": (lambda: PHOTOGRAPH.read_bytes(), "jpeg"),
    "grey.png": (lambda: media.write(Image(SAMPLES[:, :, :1]), "png"), "webp"),
    "profile.png": (profiled, "webp"),
    "alpha.png": (with_alpha, "webp"),
    "palette.png": (palette, "webp"),
    "turned.jpg": (turned, "webp"),
    "no-browser-shows-it.ppm": (lambda: media.write(Image(SAMPLES), "ppm"), "jpeg"),
    "samples.npy": (lambda: media.write(Image(SAMPLES), "npy"), "webp"),
}


@pytest.mark.parametrize("name", KINDS)
def test_figures_are_laconics_own(one_desk: Desk, tmp_path: Path, name: str) -> None:
    desk = one_desk
    make, codec = KINDS[name]
    path = tmp_path / name
    path.write_bytes(make())
    original = media.read(path.read_bytes())
    desk.take(path, codec)
    stream, picture = desk.download("stream"), desk.download("picture")
    decoded = compress.decode(stream)
    assert np.array_equal(media.read(picture).array, decoded.array)
    assert float(desk.figure("psnr").removesuffix(" dB")) == pytest.approx(psnr(original, decoded), abs=0.01)
    assert desk.figure("bytes").split(" ")[0].replace(",", "") == str(len(stream))
    assert float(desk.figure("bpp")) == pytest.approx(8 * len(stream) / original.pixels, abs=6e-4)
    assert float(desk.figure("ratio").split(" ")[0]) == pytest.approx(original.array.nbytes / len(stream), abs=0.06)
    assert all(re.fullmatch(r"[\d.]+ m?s", desk.figure(name)) for name in ("encode", "decode"))
    height, width = original.shape[:2]
    shown = desk.page.evaluate(
        "['original', 'decoded'].map((id) => document.getElementById(id)).map((i) => [i.naturalWidth, i.naturalHeight])"
    )
    assert shown == [[width, height]] * 2


def test_the_difference_is_eight_times_the_samples(desk: Desk) -> None:
    desk.open().take(PHOTOGRAPH, "jpeg")
    decoded = compress.decode(desk.download("stream")).array
    desk.page.click("#show-difference")
    expect(desk.page.locator("#tag-right")).to_have_text("difference × 8")
    drawn = desk.page.evaluate(
        "(() => { const c = document.getElementById('difference'); "
        "return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]; })()"
    )
    expected = np.minimum(255, 8 * np.abs(SAMPLES.astype(int) - decoded.astype(int)))
    assert np.array_equal(np.array(drawn).reshape(*SAMPLES.shape[:2], 4)[:, :, :3], expected)
    desk.page.click("#show-difference")
    expect(desk.page.locator("#tag-right")).to_have_text("decoded")


@pytest.mark.parametrize("depth", [8, 16])
def test_without_loss_the_picture_is_exact(desk: Desk, tmp_path: Path, depth: int) -> None:
    samples = SAMPLES if depth == 8 else SAMPLES.astype(np.uint16) * 256 + 77
    path = tmp_path / "exact.png"
    path.write_bytes(media.write(Image(samples), "png"))
    page = desk.open().page
    page.select_option("#codec", "jxl")
    page.select_option("#aim", "lossless")
    desk.take(path, "jxl")
    assert (desk.figure("psnr"), "16 bits" in str(page.text_content("#source-name"))) == ("exact", depth == 16)
    assert np.array_equal(compress.decode(desk.download("stream")).array, samples)


def test_the_split_shows_both_pictures_and_the_swap_exchanges_them(desk: Desk, tmp_path: Path) -> None:
    """A grey picture and a decoder's answer that is white: left grey, right white, and the other way round."""
    grey, white = tmp_path / "grey.png", media.write(Image(np.full((60, 90, 3), 255, np.uint8)), "png")
    grey.write_bytes(media.write(Image(np.full((60, 90, 3), 128, np.uint8)), "png"))
    desk.page.route("**/v1/decode", lambda route: route.fulfill(body=white, content_type="image/png"))
    desk.open().take(grey)
    assert (desk.pixel(0.3), desk.pixel(0.7)) == ([128] * 3, [255] * 3)
    desk.page.focus("#stage")
    desk.page.keyboard.down("s")
    assert (desk.pixel(0.3), desk.pixel(0.7)) == ([255] * 3, [128] * 3)
    desk.page.keyboard.up("s")
    handle = desk.page.locator("#divider").bounding_box()
    desk.page.mouse.move(handle["x"] + handle["width"] / 2, handle["y"] + 40)
    desk.page.mouse.down()
    desk.page.mouse.move(handle["x"] - 250, handle["y"] + 40)
    desk.page.mouse.up()
    assert desk.pixel(0.4) == [255] * 3


def run_text(kind: str, text: str) -> None:
    if kind == "cli":
        for line in text.strip().splitlines():
            assert main(shlex.split(line)[1:]) == 0, line
        return
    command = ["bash", "-ec", text] if kind == "curl" else [sys.executable, "-c", text]
    subprocess.run(command, check=True, timeout=60, capture_output=True, env=os.environ | {"API_KEY": "k"})


def test_the_texts_make_the_same_file(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a name that a shell would take apart, and settings of every kind."""
    picture = tmp_path / "it's a photo.png"
    shutil.copy(PHOTOGRAPH, picture)
    page = desk.open().page
    page.select_option("#codec", "jpeg")
    page.fill("#set-quality", "33")
    page.click("#more summary")
    page.select_option("#set-chroma", "444")
    desk.take(picture, "jpeg")
    expected, back = desk.download("stream"), desk.download("picture")
    assert expected == compress.encode(Image(SAMPLES), "jpeg", {"quality": 33, "chroma": "444"}).data
    monkeypatch.chdir(tmp_path)
    for kind in ("curl", "python", "cli"):
        page.select_option("#copy-kind", kind)
        run_text(kind, str(page.text_content("#copy-text")))
        assert Path("it's a photo.lcn").read_bytes() == expected, kind
        assert np.array_equal(media.read(Path("it's a photo-decoded.png").read_bytes()).array, media.read(back).array)
        Path("it's a photo.lcn").unlink()
        Path("it's a photo-decoded.png").unlink()


@pytest.mark.parametrize("aim", ["lossless", "target_psnr"])
def test_the_texts_say_every_aim(desk: Desk, aim: str) -> None:
    page = desk.open().page
    page.select_option("#codec", "webp")
    page.select_option("#aim", aim)
    said = {
        "lossless": ("lossless=true", "lossless=True", "--lossless"),
        "target_psnr": ("target_psnr=38", "target_psnr=38", "--target-psnr 38"),
    }
    for kind, part in zip(("curl", "python", "cli"), said[aim], strict=True):
        page.select_option("#copy-kind", kind)
        text = str(page.text_content("#copy-text"))
        assert part in text and "quality" not in text


def test_curves_are_drawn_and_can_be_stopped(desk: Desk) -> None:
    page = desk.open().page
    desk.take(PHOTOGRAPH, "webp")
    assert page.locator("#curve-codecs input:checked").count() == 3
    page.click("#curve-run")
    expect(page.locator("#curve-status")).to_have_text("Done.")
    assert page.locator("#curve circle").count() == 15 and page.locator("#curve .mark").count() == 1
    label = str(page.locator("#curve svg").get_attribute("aria-label"))
    assert all(codec in label for codec in ("jpeg", "webp", "jxl"))
    row = page.locator("#curve-table tr", has_text="jpeg").nth(2).locator("th, td").all_text_contents()
    made = compress.encode(Image(SAMPLES), "jpeg", {"quality": 50})
    quality = psnr(Image(SAMPLES), compress.decode(made.data))
    assert row == ["jpeg", "50", f"{len(made.data):,} bytes", f"{made.bpp:.3f}", f"{quality:.2f} dB"]
    page.route("**/v1/encode*", lambda route: None)  # never answered
    page.click("#curve-run")
    expect(page.locator("#curve-progress")).to_be_visible()
    page.click("#curve-cancel")
    expect(page.locator("#curve-status")).to_have_text("Cancelled.")
    expect(page.locator("#curve-progress")).to_be_hidden()
    expect(page.locator("#curve-run")).to_be_focused()


def test_all_codecs_are_compared_at_the_same_psnr(desk: Desk) -> None:
    page = desk.open().page
    desk.take(PHOTOGRAPH, "webp")
    page.fill("#table-psnr", "34")
    page.click("#table-run")
    expect(page.locator("#table-status")).to_contain_text("Done")
    rows = [row.locator("th, td").all_text_contents() for row in page.locator("#table tbody tr").all()]
    expected = {
        codec: len(compress.encode(Image(SAMPLES), codec, {}, compress.Target(psnr=34.0)).data)
        for codec in ("jpeg", "webp", "jxl")
    }
    assert [(row[0], int(row[1].replace(",", ""))) for row in rows] == sorted(expected.items(), key=lambda entry: entry[1])
    assert all(float(row[4].removesuffix(" dB")) >= 33.995 for row in rows)
    page.locator("#table tbody tr", has_text="jpeg").get_by_role("button").click()
    desk.coded("jpeg")
    assert desk.figure("bytes").startswith(f"{expected['jpeg']:,} ")
    page.select_option("#table-aim", "lossless")
    page.click("#table-run")
    expect(page.locator("#table-status")).to_contain_text("every sample")
    rows = [row.locator("th, td").all_text_contents() for row in page.locator("#table tbody tr").all()]
    assert {row[0] for row in rows} == {"webp", "jxl"} and {row[4] for row in rows} == {"exact"}
