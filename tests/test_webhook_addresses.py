"""Where webhooks may go: a job whose callback is no public address is refused when it is submitted."""

from __future__ import annotations

import io
from collections.abc import Iterator

import httpx
import pytest

from laconic.codecs import media
from laconic.service.logs import make_log
from laconic.service.serve import background
from laconic.service.settings import ServiceSettings

from .pictures import smooth

PNG = media.write(smooth(40, 56, 3), "png")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    given = {"port": 0, "threads": 1, "codecs": ("webp",), "webhook_secret": "s"}
    settings = ServiceSettings(**given, state_dir=tmp_path_factory.mktemp("state"))
    with background(settings, make_log(io.StringIO())) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9/",
        "http://localhost/",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://0.0.0.0/",
        "http://10.1.2.3/",
        "http://172.16.0.1/",
        "http://192.168.0.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://100.64.0.1/",
        "http://224.0.0.1/",
        "http://255.255.255.255/",
        "http://[::1]/",
        "http://[::]/",
        "http://[fe80::1]/",
        "http://[fc00::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[2002:7f00:1::]/",
        "http://user:password@93.184.216.34/",
        "ftp://93.184.216.34/",
        "file:///etc/passwd",
        "//93.184.216.34/",
        "http://",
        "http://nothing.invalid/",
        "http://93.184.216.34/" + "x" * 2000,
    ],
)
def test_webhooks_go_to_public_addresses_only(client: httpx.Client, url: str) -> None:
    answer = client.post("/v1/jobs", params={"op": "encode", "codec": "webp", "callback": url}, content=PNG)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-settings"), answer.text
    detail = answer.json()["detail"]
    assert "callback" in detail and "LACONIC_WEBHOOK_SECRET" not in detail  # without which every callback is refused
