"""Postgres from Debian's binaries and S3 from moto, each in a process of its own, for tests of stores that machines share."""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

__all__ = ["S3", "Postgres", "postgres_server", "s3_server"]

START_S = 60.0
BUCKET = "laconic"


@dataclass(frozen=True)
class Postgres:
    """A server that listens on a socket in `folder`."""

    folder: Path

    def url(self) -> str:
        """The URL of a new schema, which is as good as a database of its own."""
        return self.url_of(f"test_{secrets.token_hex(6)}")

    def url_of(self, schema: str) -> str:
        """The URL of a schema, which is made if it is not there."""
        self.query(f"CREATE SCHEMA IF NOT EXISTS {schema}")
        return f"postgresql://laconic@/postgres?host={self.folder}&options=-csearch_path%3D{schema}"

    def query(self, query: str) -> None:
        """Run a statement."""
        import psycopg

        with psycopg.connect(f"postgresql://laconic@/postgres?host={self.folder}", autocommit=True) as connection:
            connection.execute(query.encode())


@dataclass(frozen=True)
class S3:
    """A server at `endpoint`, and the variables that lead there."""

    endpoint: str

    @property
    def environment(self) -> Mapping[str, str]:
        """What a client needs to know."""
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        return {"AWS_ENDPOINT_URL": self.endpoint, "AWS_REGION": "us-east-1", **dict.fromkeys(names, "testing")}

    def url(self) -> str:
        """The URL of a new prefix."""
        return f"s3://{BUCKET}/{secrets.token_hex(6)}"

    def objects(self, url: str) -> dict[str, bytes]:
        """The objects below a URL by the rest of their paths, as S3 itself tells them."""
        prefix = url.removeprefix(f"s3://{BUCKET}/")
        text = httpx.get(f"{self.endpoint}/{BUCKET}?list-type=2&prefix={prefix}").text
        keys = [unescape(part.partition("</Key>")[0]) for part in text.split("<Key>")[1:]]
        return {key.removeprefix(f"{prefix}/"): self._object(key) for key in keys}

    def put(self, url: str, content: bytes) -> None:
        """Write an object at its URL."""
        self._ask("PUT", url.removeprefix(f"s3://{BUCKET}/"), content)

    def _object(self, key: str) -> bytes:
        return self._ask("GET", key).content

    def _ask(self, method: str, key: str, content: bytes = b"") -> httpx.Response:
        signed = "AWS4-HMAC-SHA256 Credential=testing/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=none"
        url = f"{self.endpoint}/{BUCKET}/{quote(key)}"
        return httpx.request(method, url, content=content, headers={"Authorization": signed}).raise_for_status()


@contextmanager
def postgres_server() -> Iterator[Postgres]:
    """Run a server for as long as the block lasts, as a user without rights: it does not run as root."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not programs or importlib.util.find_spec("psycopg") is None:
        pytest.skip("needs Debian's postgresql and laconic[cluster-test]")
    user = None if os.geteuid() else _somebody()
    folder = Path(tempfile.mkdtemp(prefix="laconic-postgres-"))
    try:
        if user is not None:
            os.chown(folder, user, -1)
        made = [
            programs[-1].with_name("initdb"),
            "-D",
            folder / "data",
            "-U",
            "laconic",
            "--auth=trust",
            "--no-sync",
            "-E",
            "UTF8",
        ]
        subprocess.run([*made, "--locale=C"], user=user, check=True, capture_output=True, cwd=folder)
        command = [programs[-1], "-D", folder / "data", "-k", folder, "-c", "listen_addresses=", "-F"]
        with subprocess.Popen(command, user=user, cwd=folder, stderr=subprocess.DEVNULL) as process:
            try:
                _wait(lambda: (folder / ".s.PGSQL.5432").exists() and _answers(Postgres(folder)), process)
                yield Postgres(folder)
            finally:
                process.send_signal(signal.SIGQUIT)  # nothing of it is kept
                process.wait(START_S)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def s3_server() -> Iterator[S3]:
    """Run moto's server for as long as the block lasts, with one bucket."""
    if any(importlib.util.find_spec(name) is None for name in ("moto", "flask", "flask_cors", "obstore")):
        pytest.skip("needs laconic[cluster-test]")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        server = S3(f"http://127.0.0.1:{port}")
        try:
            _wait(lambda: _has_bucket(server), process)
            yield server
        finally:
            process.kill()


def _wait(ready: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while not ready():
        assert process.poll() is None and time.monotonic() < deadline, f"{process.args} does not start"
        time.sleep(0.05)


def _answers(server: Postgres) -> bool:
    import psycopg

    try:
        server.query("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True


def _has_bucket(server: S3) -> bool:
    try:
        return httpx.put(f"{server.endpoint}/{BUCKET}").status_code == 200
    except httpx.HTTPError:
        return False


def _somebody() -> int:
    """The number of a user that is not root."""
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
    pytest.skip("needs a user other than root")


def main(words: Sequence[str]) -> int:
    """Run a command beside both servers; see scripts/with-stores."""
    try:
        with postgres_server() as postgres, s3_server() as s3:
            urls = {"POSTGRES": postgres.url(), "S3": s3.url()}
            command = [urls.get(word, word) for word in words]
            return subprocess.run(command, env={**os.environ, **s3.environment}, check=False).returncode
    except pytest.skip.Exception as missing:
        print(missing, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
