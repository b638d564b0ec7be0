"""No public bind without keys: which addresses are refused, and what allows them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from laconic import cli
from laconic.codecs.errors import InvalidSettings
from laconic.service.keys import change_keys
from laconic.service.serve import listen
from laconic.service.settings import ServiceSettings


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A keys file without keys: it lets nobody in, so it may be public."""
    change_keys(tmp_path / "keys.json", lambda keys: ())
    return tmp_path / "keys.json"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_a_public_bind_without_keys_is_refused(host: str, capsys: pytest.CaptureFixture[str], path: Path) -> None:
    assert cli.main(["serve", "--host", host, "--port", "0"]) == 2
    message = capsys.readouterr().err
    assert "laconic keys add" in message and "LACONIC_KEYS_FILE" in message and "--insecure" in message
    for allowed in ({"keys_file": path}, {"insecure": True}):
        listen(ServiceSettings(host=host, port=0, **allowed)).close()  # type: ignore[arg-type]


def test_loopback_needs_no_keys() -> None:
    for host in ("127.0.0.1", "localhost", "127.8.8.8", "::1"):
        with listen(ServiceSettings(host=host, port=0)) as listener:
            assert listener.getsockname()[1] > 0


def test_nothing_is_ever_accepted_on_an_address_that_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def listened(self: socket.socket, backlog: int = 0) -> None:
        raise AssertionError("it listened")

    monkeypatch.setattr(socket.socket, "listen", listened)
    with pytest.raises(InvalidSettings, match="other machines"):
        listen(ServiceSettings(host="0.0.0.0", port=0))


def test_the_environment_allows_a_public_bind(path: Path) -> None:
    assert ServiceSettings.from_environment({"LACONIC_INSECURE": "true"}).insecure
    assert ServiceSettings.from_environment({"LACONIC_KEYS_FILE": ""}).keys_file is None
    assert ServiceSettings.from_environment({"LACONIC_KEYS_FILE": str(path)}).keys_file == path


@pytest.fixture
def insecure_service(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`laconic serve --insecure` on all addresses, and its port."""
    command = [sys.executable, "-P", "-m", "laconic.cli", "serve", "--host", "0.0.0.0", "--port", "0", "--insecure"]
    environment = os.environ | {"LACONIC_CODECS": "jpeg", "LACONIC_THREADS": "1", "LACONIC_STATE_DIR": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = json.loads(process.stderr.readline())
        yield process, int(line["url"].rpartition(":")[2])
        process.kill()


def test_insecure_serves_and_stops(insecure_service: tuple[subprocess.Popen[str], int]) -> None:
    process, port = insecure_service
    assert httpx.get(f"http://127.0.0.1:{port}/livez", timeout=30).status_code == 200
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
