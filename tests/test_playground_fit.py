"""A codec that fits a picture in steps, in the playground: a job that tells how far it is, and nothing that waits for it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from laconic.codecs import compress
from laconic.codecs.signals import Image

from .playground_desk import PHOTOGRAPH, SAMPLES, expect, served, watched


@pytest.fixture(scope="module")
def playground_url() -> Iterator[str]:
    compress.encode(Image(SAMPLES[:32, :32].copy()), "image-overfit", {"effort": 1})  # compiles its kernels
    with served("image-overfit", "webp") as url:
        yield url


def test_a_picture_is_fitted_as_a_job(browser: Any, playground_url: str) -> None:
    with watched(browser, playground_url) as desk:
        page = desk.open().page
        page.select_option("#codec", "image-overfit")
        expect(page.locator("#as-job")).to_be_checked()
        page.set_input_files("#file", PHOTOGRAPH)
        expect(page.locator("#status")).to_have_text("This codec fits the picture in steps, as a job: press Encode.")
        page.click("#encode")
        expect(page.locator("#status")).to_contain_text(re.compile(r"fitting [\d.]+ dB at [\d.]+ bpp, \d+ %"))
        page.click("#cancel")
        expect(page.locator("#status")).to_have_text("Cancelled.")
        page.locator("#set-effort").fill("1")
        page.click("#encode")
        desk.coded("image-overfit")
        expected = compress.encode(Image(SAMPLES), "image-overfit", {"effort": 1}).data
        assert desk.download("stream") == expected
        labels = page.locator("#curve-codecs").all_inner_texts()
        assert "webp" in labels[0] and "image-overfit" not in labels[0]  # a curve needs many encodings
