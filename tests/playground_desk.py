"""A page of the playground in Debian's Chromium, for the tests that drive it; they are skipped where there is none."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from laconic.codecs import media
from laconic.service.logs import make_log
from laconic.service.serve import background
from laconic.service.settings import ServiceSettings

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("there is no chromium", allow_module_level=True)

PHOTOGRAPH = Path(__file__).resolve().parent / "media" / "photograph.png"
SAMPLES = media.read(PHOTOGRAPH.read_bytes()).array
WAIT_MS = 30_000
expect = playwright.expect
expect.set_options(timeout=WAIT_MS)


@contextmanager
def opened_browser() -> Iterator[Any]:
    """Run Chromium for as long as the block lasts."""
    with playwright.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@contextmanager
def served(*codecs: str) -> Iterator[str]:
    """Serve codecs, by default jpeg, webp and jxl, and yield the URL."""
    settings = ServiceSettings(port=0, threads=1, codecs=codecs or ("jpeg", "webp", "jxl"), max_body_bytes=2_000_000)
    with background(settings, make_log(io.StringIO())) as url:
        yield url


class Desk:
    """A page of the playground, and what it must not do: complain, or speak to anyone but its service."""

    def __init__(self, page: Any, url: str) -> None:
        self.page, self.url = page, url
        self.complaints: list[str] = []
        self.asked: list[str] = []
        page.set_default_timeout(WAIT_MS)
        page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))

    def open(self) -> Desk:
        self.page.goto(f"{self.url}/playground")
        expect(self.page.locator("#status")).to_contain_text("Choose a picture")
        return self

    def take(self, path: Path, codec: str = "webp") -> None:
        """Choose a codec and a file, and wait for the figures."""
        self.page.select_option("#codec", codec)
        self.page.set_input_files("#file", path)
        expect(self.page.locator("#source-name")).to_contain_text(f"{path.name}, ")
        expect(self.page.locator("#source-name")).to_contain_text("×")  # it has been read
        self.coded(codec)

    def coded(self, codec: str = "") -> None:
        expect(self.page.locator("#status")).to_contain_text(re.compile(rf"{codec}.*Round trips"))

    def figure(self, name: str) -> str:
        return str(self.page.text_content(f"#figure-{name}"))

    def download(self, kind: str) -> bytes:
        with self.page.expect_download() as download:
            self.page.click(f"#download-{kind}")
        return Path(download.value.path()).read_bytes()

    def transform(self) -> str:
        return str(self.page.evaluate("document.getElementById('decoded').style.transform"))

    def pixel(self, part: float) -> list[int]:
        """The colour that the browser paints at a part of the stage's width, in the middle of its height."""
        box = self.page.locator("#stage").bounding_box()
        shot = PIL.Image.open(io.BytesIO(self.page.locator("#stage").screenshot()))
        return list(shot.convert("RGB").getpixel((int(part * box["width"]), int(box["height"] * 0.3))))


@contextmanager
def watched(browser: Any, url: str, **context: Any) -> Iterator[Desk]:
    """Yield a desk in a fresh page, and check at the end that the page kept quiet and to its service."""
    page = browser.new_page(**{"viewport": {"width": 1280, "height": 800}, **context})
    desk = Desk(page, url)
    yield desk
    page.close()
    assert not desk.complaints, desk.complaints
    elsewhere = [target for target in desk.asked if not target.startswith((f"{url}/", f"blob:{url}/", "data:"))]
    assert not elsewhere, elsewhere
