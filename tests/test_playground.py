"""The playground's files and routes: what is sent, under which policy, and that the page's parts fit together."""

from __future__ import annotations

import gzip
import http.client
import io
import re
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import httpx
import pytest

from laconic.service.logs import make_log
from laconic.service.routes_playground import CONTENT_SECURITY_POLICY, FILES
from laconic.service.serve import background
from laconic.service.settings import ServiceSettings

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "service" / "playground"
HTML = (FOLDER / "index.html").read_text()
SCRIPTS = {path.name: path.read_text() for path in FOLDER.glob("*.js")}
PARTS = [name for name in FILES if name != "index.html"]
OF_SOUND = {"listen.js", "sound.js", "spectrogram.js", "wav.js"}
MADE_BY_SCRIPTS = re.compile(r"\$\{|^(set|draw)-")


class Elements(HTMLParser):
    """Every element of the page: its tag, its attributes and the label around it, if any."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.in_label: list[str | None] = []
        self.open_label: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.found.append((tag, attributes))
        if tag == "label":
            self.open_label = attributes.get("for") or ""
        elif self.open_label is not None:
            self.in_label.append(attributes.get("id"))

    def handle_endtag(self, tag: str) -> None:
        if tag == "label":
            self.open_label = None


PAGE = Elements()
PAGE.feed(HTML)


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    settings = ServiceSettings(port=0, threads=1, codecs=("jpeg", "webp"))
    with background(settings, make_log(io.StringIO())) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


def test_the_page_is_linked_from_the_index(client: httpx.Client) -> None:
    link = client.get("/").json()["links"]["playground"]
    answer = client.get(link)
    assert answer.status_code == 200 and answer.text == HTML
    assert answer.headers["content-type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize("path", ["/playground", *(f"/playground/{name}" for name in PARTS)])
def test_every_file_is_sent_with_its_type_and_the_policy(client: httpx.Client, path: str) -> None:
    name = path.removeprefix("/playground").removeprefix("/") or "index.html"
    answer = client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, FILES[name])
    assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache" and answer.headers["vary"] == "Accept-Encoding"
    expected = files("laconic") / name if name == "photograph.png" else FOLDER / name
    assert answer.content == expected.read_bytes()
    head = client.head(path)
    assert head.content == b"" and head.headers["content-length"] == answer.headers["content-length"]


def test_the_policy_allows_this_service_and_nothing_else() -> None:
    rules = dict(rule.split(" ", 1) for rule in CONTENT_SECURITY_POLICY.split("; "))
    assert rules == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' blob: data:",
        "media-src": "blob:",
        "connect-src": "'self'",
        "form-action": "'none'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
    }


def test_a_copy_that_is_current_is_not_sent_again(client: httpx.Client) -> None:
    tags = {}
    for encoding in ("identity", "gzip"):
        first = client.get("/playground/main.js", headers={"Accept-Encoding": encoding})
        tags[encoding] = first.headers["etag"]
        headers = {"Accept-Encoding": encoding, "If-None-Match": f'"other", W/{tags[encoding]}'}
        again = client.get("/playground/main.js", headers=headers)
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tags[encoding])
        assert again.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert tags["identity"] != tags["gzip"]


@pytest.mark.parametrize(
    ("accept", "packed"),
    [("gzip", True), ("br, GZIP;q=0.5", True), ("gzip;q=0", False), ("gzip;q=0.0", False), ("br", False), ("", False)],
)
def test_text_is_packed_for_who_takes_it(client: httpx.Client, accept: str, packed: bool) -> None:
    with client.stream("GET", "/playground/main.js", headers={"Accept-Encoding": accept}) as answer:
        assert answer.headers.get("content-encoding") == ("gzip" if packed else None)
        body = b"".join(answer.iter_raw())
    assert (gzip.decompress(body) if packed else body).decode() == SCRIPTS["main.js"]


def test_the_page_is_small(client: httpx.Client) -> None:
    """Apart from what comes with the first sound, which nothing imports before."""
    sizes = {name: int(client.head(f"/playground/{name}").headers["content-length"]) for name in PARTS}
    at_once = sum(size for name, size in sizes.items() if name not in (*OF_SOUND, "photograph.png"))
    assert at_once + int(client.head("/playground").headers["content-length"]) < 40_000
    assert sum(sizes[name] for name in OF_SOUND) < 7_000
    for name, script in SCRIPTS.items():
        early = set(re.findall(r'^import [^;]*?"\./([\w.]+)";', script, re.MULTILINE)) & OF_SOUND
        assert not early or name in OF_SOUND, (name, early)


@pytest.mark.parametrize(
    "path",
    [
        "/playground/../../etc/passwd",
        "/playground/..%2f..%2fsettings.py",
        "/playground/%2e%2e/routes_playground.py",
        "/playground/..\\settings.py",
        "/playground/main.js%00.css",
        "/playground//main.js",
        "/playground/main.js/",
        "/playground/index.html",
        "/playground/MAIN.JS",
        "/playground/~root",
    ],
)
def test_no_path_leads_elsewhere(client: httpx.Client, path: str) -> None:
    connection = http.client.HTTPConnection(
        client.base_url.host, client.base_url.port or 80, timeout=10
    )  # sends paths as they are
    connection.request("GET", path)
    answer = connection.getresponse()
    assert answer.status == 404 and answer.headers["content-type"] == "application/problem+json"
    connection.close()


def test_a_trailing_slash_leads_to_the_page(client: httpx.Client) -> None:
    answer = client.get("/playground/")
    assert answer.status_code == 308 and client.get("/playground/", follow_redirects=True).text == HTML


def test_only_get_and_head_are_answered(client: httpx.Client) -> None:
    assert client.post("/playground", content=b"x").status_code == 405


def test_the_playground_can_be_left_out() -> None:
    settings = ServiceSettings(port=0, threads=1, codecs=("jpeg",), playground=False)
    with background(settings, make_log(io.StringIO())) as url:
        assert httpx.get(f"{url}/playground").status_code == httpx.get(f"{url}/playground/main.js").status_code == 404
        assert "playground" not in httpx.get(url).json()["links"]


def test_the_files_are_those_of_the_folder_and_of_the_wheel() -> None:
    assert {path.name for path in FOLDER.iterdir()} | {"photograph.png"} == set(FILES)
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["*"]
    packed = {path.name for pattern in patterns for path in (ROOT / "service").glob(pattern)}
    assert set(FILES) - {"photograph.png"} <= packed


def test_nothing_is_inline_and_nothing_comes_from_elsewhere() -> None:
    for tag, attributes in PAGE.found:
        assert not any(name.startswith("on") or name == "style" for name in attributes), (tag, attributes)
        if tag == "script":
            assert attributes["src"] == "playground/main.js" and attributes["type"] == "module"
        for name in ("src", "href"):
            target = attributes.get(name)
            assert target is None or target == "openapi.json" or target.removeprefix("playground/") in FILES
    assert "<style" not in HTML and re.search(r"<script[^>]*>[^<]", HTML) is None
    for name, text in SCRIPTS.items():
        assert set(re.findall(r"https?://[^\"'`\s]+", text)) <= {"http://www.w3.org/2000/svg"}, name
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|localStorage|cookie", text
        ), name
    assert "url(" not in (FOLDER / "style.css").read_text()


def test_scripts_import_what_is_served_and_say_why() -> None:
    for name, text in SCRIPTS.items():
        assert text.startswith("// "), f"{name} does not say what it is for"
        assert {f"{module}.js" for module in re.findall(r'from "\./(.+)\.js"', text)} <= set(FILES), name


def test_ids_are_unique_and_those_that_scripts_use_exist() -> None:
    ids = [attributes["id"] for _, attributes in PAGE.found if attributes.get("id")]
    assert len(ids) == len(set(ids))
    used = {name for text in SCRIPTS.values() for name in re.findall(r"byId\([\"`]([^\"`]+)[\"`]\)", text)}
    assert len(used) > 30 and {name for name in used if not MADE_BY_SCRIPTS.search(name)} <= set(ids)


def test_every_control_has_a_name() -> None:
    labelled = {attributes.get("for") for tag, attributes in PAGE.found if tag == "label"} | set(PAGE.in_label)
    controls = [attributes for tag, attributes in PAGE.found if tag in ("input", "select", "progress")]
    assert len(controls) >= 11
    assert [one for one in controls if "aria-label" not in one and one.get("id") not in labelled] == []
    ids = {attributes.get("id") for _, attributes in PAGE.found}
    for _, attributes in PAGE.found:
        for name in ("aria-labelledby", "aria-describedby", "for"):
            assert attributes.get(name) in ids | {None}
    assert re.findall(r"<button[^>]*></button>", HTML) == []
    assert any(attributes.get("role") == "status" for _, attributes in PAGE.found)
    assert dict(PAGE.found)["html"]["lang"] == "en"
