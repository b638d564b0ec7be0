"""Resumable uploads over real sockets: the protocol, its limits, hostile requests, and death of the process in the middle."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from laconic.bench import crash
from laconic.codecs import compress, media
from laconic.service.blobs import BlobFolder, blob_name
from laconic.service.keys import SCOPES, change_keys, new_key
from laconic.service.logs import make_log
from laconic.service.problems import NoSuchUpload, UploadConflict, UploadLocked
from laconic.service.serve import background
from laconic.service.settings import ServiceSettings
from laconic.service.uploads import UploadFolder

from .pictures import smooth

PNG = media.write(smooth(40, 56, 3), "png")
STREAM = compress.encode(media.read(PNG), "webp", {"quality": 30}).data
TUS = {"Tus-Resumable": "1.0.0"}
BYTES = {**TUS, "Content-Type": "application/offset+octet-stream"}
ENCODE = "/v1/jobs?op=encode&codec=webp&quality=30&upload="


@contextmanager
def service(folder: Path | None, **given: Any) -> Iterator[httpx.Client]:
    fields = {"port": 0, "threads": 1, "codecs": ("jpeg", "webp"), "state_dir": folder, "max_pixels": 1_000_000, **given}
    with (
        background(ServiceSettings(**fields), make_log(io.StringIO())) as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with service(tmp_path_factory.mktemp("state"), max_body_bytes=1000, max_upload_bytes=100_000) as client:
        yield client


def created(client: httpx.Client, length: int = len(PNG), name: str = "", **headers: str) -> str:
    metadata = {"Upload-Metadata": f"filename {base64.b64encode(name.encode()).decode()}"} if name else {}
    answer = client.post("/v1/uploads", headers={**TUS, "Upload-Length": str(length), **metadata, **headers})
    assert answer.status_code == 201 and answer.headers["upload-offset"] == "0", answer.text
    assert answer.headers["tus-resumable"] == "1.0.0"
    return answer.headers["location"]


def sent(client: httpx.Client, path: str, offset: int, content: bytes, **headers: str) -> httpx.Response:
    return client.patch(path, content=content, headers={**BYTES, "Upload-Offset": str(offset), **headers})


def offset_of(client: httpx.Client, path: str, seconds: float = 10) -> int:
    deadline = time.monotonic() + seconds
    while (answer := client.head(path, headers=TUS)).status_code == 423 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert answer.status_code == 200, answer.headers
    return int(answer.headers["upload-offset"])


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    assert answer.headers["tus-resumable"] == "1.0.0"
    problem = answer.json()
    assert problem["code"] == code, problem
    return dict(problem)


def result_of(client: httpx.Client, job: httpx.Response, **headers: str) -> bytes:
    assert job.status_code == 202, job.text
    path = job.json()["links"]["self"]
    status = client.get(path, params={"wait": 30}, headers=headers).json()
    assert status["state"] == "succeeded", status
    return client.get(f"{path}/result", headers=headers).content


def test_what_the_service_speaks(client: httpx.Client) -> None:
    answer = client.options("/v1/uploads")
    assert answer.status_code == 204
    assert (answer.headers["tus-version"], answer.headers["tus-max-size"]) == ("1.0.0", "100000")
    assert answer.headers["tus-extension"] == "creation,creation-with-upload,expiration,termination,checksum"
    assert answer.headers["tus-checksum-algorithm"] == "sha1,sha256"
    assert client.get("/v1/codecs").json()["limits"]["max_upload_bytes"] == 100_000


def test_an_upload_in_parts_becomes_a_job_larger_than_a_body(client: httpx.Client) -> None:
    assert len(PNG) > 1000, "more than max_body_bytes"
    path = created(client, name="holiday.png")
    for offset in range(0, len(PNG), 700):
        assert offset_of(client, path) == offset
        answer = sent(client, path, offset, PNG[offset : offset + 700])
        assert (answer.status_code, answer.headers["upload-offset"]) == (204, str(min(offset + 700, len(PNG))))
        assert 0 < parsedate_to_datetime(answer.headers["upload-expires"]).timestamp() - time.time() <= 86_401
    head = client.head(path, headers=TUS)
    assert (head.headers["upload-offset"], head.headers["upload-length"]) == (str(len(PNG)), str(len(PNG)))
    assert head.headers["upload-metadata"] == "filename aG9saWRheS5wbmc=" and head.headers["cache-control"] == "no-store"
    job = client.post(ENCODE + path.rpartition("/")[2], headers={"Idempotency-Key": "once"})
    assert result_of(client, job) == STREAM
    assert client.get(job.json()["links"]["self"]).json()["result"]["name"] == "holiday.lcn"
    again = client.post(ENCODE + path.rpartition("/")[2], headers={"Idempotency-Key": "once"})
    assert again.json()["id"] == job.json()["id"]
    other = client.post(ENCODE.replace("30", "60") + path.rpartition("/")[2])
    assert result_of(client, other) == compress.encode(media.read(PNG), "webp", {"quality": 60}).data
    assert client.delete(path, headers=TUS).status_code == 204
    assert client.post(ENCODE + path.rpartition("/")[2]).json()["code"] == "no-such-upload"


def test_the_first_bytes_may_come_with_the_creation(client: httpx.Client) -> None:
    answer = client.post("/v1/uploads", content=PNG[:500], headers={**BYTES, "Upload-Length": str(len(PNG))})
    assert (answer.status_code, answer.headers["upload-offset"]) == (201, "500")
    path = answer.headers["location"]
    assert sent(client, path, 500, PNG[500:]).status_code == 204
    whole = client.post("/v1/uploads", content=STREAM, headers={**BYTES, "Upload-Length": str(len(STREAM))})
    job = client.post(f"/v1/jobs?op=decode&upload={whole.headers['location'].rpartition('/')[2]}")
    assert (media.read(result_of(client, job)).array == compress.decode(STREAM).array).all()
    wrong = {**TUS, "Upload-Length": "500", "Content-Type": "image/png"}
    refused(client.post("/v1/uploads", content=PNG[:500], headers=wrong), 415, "unsupported-media")
    refused(client.post("/v1/uploads", content=PNG[:500], headers={**BYTES, "Upload-Length": "499"}), 413, "limit-exceeded")


def test_bytes_go_to_their_offset_and_nowhere_else(client: httpx.Client) -> None:
    path = created(client)
    assert sent(client, path, 0, PNG[:100]).status_code == 204
    for wrong in (0, 99, 101, len(PNG)):
        refused(sent(client, path, wrong, b"" if wrong else b"x"), 409, "upload-conflict")
    refused(sent(client, path, 100, PNG[100:] + b"x"), 413, "limit-exceeded")
    refused(sent(client, path, 10**17, b"x"), 413, "limit-exceeded")
    refused(client.patch(path, content=b"x", headers={**TUS, "Upload-Offset": "100"}), 415, "unsupported-media")
    refused(sent(client, path, 100, b"x", **{"Content-Encoding": "gzip"}), 415, "unsupported-media")
    assert offset_of(client, path) == 100
    early = client.post(ENCODE + path.rpartition("/")[2])
    assert (early.status_code, early.json()["code"]) == (409, "upload-conflict") and "100 of" in early.json()["detail"]
    assert sent(client, path, 100, PNG[100:]).status_code == 204
    assert sent(client, path, len(PNG), b"").status_code == 204, "an empty part changes nothing"
    refused(sent(client, path, 0, b"x"), 409, "upload-conflict")
    refused(sent(client, path, len(PNG), b"x"), 413, "limit-exceeded")
    assert result_of(client, client.post(ENCODE + path.rpartition("/")[2])) == STREAM


def test_a_body_of_unknown_length_ends_where_the_upload_does(client: httpx.Client) -> None:
    def pieces() -> Iterator[bytes]:
        yield from (PNG[:1000], PNG[1000:])

    path = created(client)
    answer = client.patch(path, content=pieces(), headers={**BYTES, "Upload-Offset": "0"})
    assert answer.status_code == 204 and answer.headers["upload-offset"] == str(len(PNG))
    short = created(client, 10)
    refused(client.patch(short, content=pieces(), headers={**BYTES, "Upload-Offset": "0"}), 413, "limit-exceeded")
    assert offset_of(client, short) <= 10


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_checksums(client: httpx.Client, algorithm: str) -> None:
    def summed(content: bytes) -> dict[str, str]:
        return {"Upload-Checksum": f"{algorithm} {base64.b64encode(hashlib.new(algorithm, content).digest()).decode()}"}

    path = created(client)
    assert sent(client, path, 0, PNG[:300], **summed(PNG[:300])).status_code == 204
    refused(sent(client, path, 300, PNG[300:], **summed(PNG)), 460, "checksum-mismatch")
    assert offset_of(client, path) == 300, "what came is thrown away"
    assert sent(client, path, 300, PNG[300:], **summed(PNG[300:])).status_code == 204
    for bad in ("md5 AAAA", "sha1", "sha1 *", "sha256 AAAA\xe9"):
        headers = [
            (name.encode(), value.encode()) for name, value in {**BYTES, "Upload-Offset": "0", "Upload-Checksum": bad}.items()
        ]
        refused(client.patch(path, content=b"x", headers=headers), 400, "bad-request")


@pytest.mark.parametrize("length", ["", "-1", "+1", "1e3", "0x10", "1.0", "\u00b2", "\u0663", "9" * 19, "nan"])
def test_hostile_numbers(client: httpx.Client, length: str) -> None:
    given = {name.encode(): value.encode("utf-8") for name, value in {**TUS, "Upload-Length": length}.items()}
    refused(client.post("/v1/uploads", headers=list(given.items())), 400, "bad-request")
    path = created(client)
    headers = {**{name.encode(): value.encode() for name, value in BYTES.items()}, b"Upload-Offset": length.encode("utf-8")}
    refused(client.patch(path, content=b"x", headers=list(headers.items())), 400, "bad-request")
    assert offset_of(client, path) == 0


def test_requests_that_are_not_of_the_protocol(client: httpx.Client) -> None:
    length = {"Upload-Length": "9"}
    for version in ({}, {"Tus-Resumable": "0.2.2"}, {"Tus-Resumable": "1.0.0, 1.0.0"}):
        answer = client.post("/v1/uploads", headers={**version, **length})
        refused(answer, 412, "wrong-protocol")
        assert answer.headers["tus-version"] == "1.0.0"
    twice = [*TUS.items(), ("Upload-Length", "9"), ("Upload-Length", "10")]
    refused(client.post("/v1/uploads", headers=twice), 400, "bad-request")
    refused(client.post("/v1/uploads", headers={**TUS, "Upload-Defer-Length": "1"}), 400, "bad-request")
    refused(client.post("/v1/uploads?name=x", headers={**TUS, **length}), 422, "invalid-settings")
    refused(client.get("/v1/uploads/" + "0" * 32, headers=TUS), 405, "method-not-allowed")
    for unknown in ("0" * 32, "nope", "..%2Fjobs.sqlite", "lock", "\u00e9", "A" * 32, "0" * 5000):
        assert client.patch(f"/v1/uploads/{unknown}", headers={**BYTES, "Upload-Offset": "0"}).status_code == 404
        assert client.head(f"/v1/uploads/{unknown}", headers=TUS).status_code == 404
        assert client.delete(f"/v1/uploads/{unknown}", headers=TUS).status_code == 404
        assert client.post("/v1/jobs", params={"op": "encode", "upload": unknown}).json()["code"] == "no-such-upload"


@pytest.mark.parametrize(
    "metadata",
    [
        "filename a",
        "filename  aGk=",
        "filename aGk=,filename aGk=",
        ",",
        "a b c",
        "filename /w==",
        "k\u00e9y aGk=",
        "k " + "A" * 5000,
    ],
)
def test_metadata_is_read_strictly(client: httpx.Client, metadata: str) -> None:
    headers = [(b"Tus-Resumable", b"1.0.0"), (b"Upload-Length", b"9"), (b"Upload-Metadata", metadata.encode())]
    refused(client.post("/v1/uploads", headers=headers), 400, "bad-request")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd", "passwd.lcn"),
        ("C:\\Windows\\x.png", "x.lcn"),
        ("..", "picture.lcn"),
        ("a\r\nSet-Cookie: b.png", "aSet-Cookie: b.lcn"),
        ("\u0000\u202e.png", "picture.lcn"),
        ("Straße.tar.gz", "Straße.tar.lcn"),
        ("x" * 500, "x" * 100 + ".lcn"),
    ],
)
def test_a_file_name_is_a_label_and_no_path(client: httpx.Client, name: str, shown: str) -> None:
    path = created(client, name=name)
    assert sent(client, path, 0, PNG).status_code == 204
    job = client.post(ENCODE + path.rpartition("/")[2])
    assert result_of(client, job) == STREAM
    assert client.get(job.json()["links"]["self"]).json()["result"]["name"] == shown


def test_metadata_without_a_name_is_kept_as_it_came(client: httpx.Client) -> None:
    for metadata in ("is_confidential", "filetype aW1hZ2UvcG5n, empty ,x AA==", "filename"):
        answer = client.post("/v1/uploads", headers={**TUS, "Upload-Length": "9", "Upload-Metadata": metadata})
        assert answer.status_code == 201, answer.text
        assert client.head(answer.headers["location"], headers=TUS).headers["upload-metadata"] == metadata


def test_what_is_uploaded_is_held_to_the_limits_of_media(client: httpx.Client) -> None:
    large = media.write(smooth(1001, 1000, 3), "jpeg", 5)
    for content, status, code in (
        (large, 413, "limit-exceeded"),
        (b"no picture", 415, "unsupported-media"),
        (b"", 400, "bad-request"),
    ):
        path = created(client, len(content))
        assert sent(client, path, 0, content).status_code == 204
        answer = client.post(ENCODE + path.rpartition("/")[2])
        assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    whole = created(client)
    sent(client, whole, 0, PNG)
    both = client.post(ENCODE + whole.rpartition("/")[2], content=PNG[:10])
    assert (both.status_code, both.json()["code"]) == (400, "bad-request")
    twice = client.post(f"{ENCODE}{whole.rpartition('/')[2]}&upload=x")
    assert twice.status_code == 422
    assert client.post(f"/v1/encode?codec=webp&upload={whole.rpartition('/')[2]}", content=PNG[:900]).status_code == 422


def test_uploads_are_bounded_in_number_and_bytes(tmp_path: Path) -> None:
    with service(tmp_path, max_uploads=2, max_upload_bytes=600, max_job_bytes=1000) as client:

        def ask(length: int) -> httpx.Response:
            return client.post("/v1/uploads", headers={**TUS, "Upload-Length": str(length)})

        problem = refused(ask(601), 413, "limit-exceeded")
        assert (problem["limit"], problem["actual"], problem["setting"]) == (600, 601, "LACONIC_MAX_UPLOAD_BYTES")
        refused(ask(10**18 - 1), 413, "limit-exceeded")
        assert list((tmp_path / "uploads").glob("*.*")) == [], "nothing is written before"
        first = ask(600)
        full = ask(500)
        assert refused(full, 429, "queue-full")["setting"] == "LACONIC_MAX_JOB_BYTES" and full.headers["retry-after"] == "60"
        assert ask(400).status_code == 201
        assert refused(ask(0), 429, "queue-full")["setting"] == "LACONIC_MAX_UPLOADS"
        assert client.delete(first.headers["location"], headers=TUS).status_code == 204
        assert ask(10).status_code == 201


def test_uploads_expire_and_their_bytes_go(tmp_path: Path) -> None:
    with service(tmp_path, upload_retention_s=1.0) as client:
        half, whole = created(client), created(client)
        assert sent(client, half, 0, PNG[:9]).status_code == sent(client, whole, 0, PNG).status_code == 204
        job = client.post(ENCODE + whole.rpartition("/")[2])
        deadline = time.monotonic() + 10
        while list((tmp_path / "uploads").glob("*.*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert list((tmp_path / "uploads").glob("*.*")) == []
        for path in (half, whole):
            assert client.head(path, headers=TUS).status_code == 404
        assert result_of(client, job) == STREAM, "the job keeps what it was made from"


def test_uploads_belong_to_the_name_of_the_key_that_made_them(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    made = [new_key(name, SCOPES) for name in ("alice", "alice", "bob")] + [new_key("carol", ("encode",))]
    change_keys(keys, lambda known: (*known, *(key for key, _ in made)))
    alice, renewed, bob, carol = ({"Authorization": f"Bearer {text}"} for _, text in made)
    with service(tmp_path / "state", keys_file=keys) as client:
        refused(client.post("/v1/uploads", headers={**TUS, "Upload-Length": "1"}), 401, "unauthenticated")
        refused(client.post("/v1/uploads", headers={**TUS, "Upload-Length": "1", **carol}), 403, "forbidden")
        assert client.options("/v1/uploads").status_code == 401
        path = created(client, **alice)
        assert client.head(path, headers={**TUS, **bob}).status_code == 404
        refused(sent(client, path, 0, PNG, **bob), 404, "no-such-upload")
        refused(client.delete(path, headers={**TUS, **bob}), 404, "no-such-upload")
        assert sent(client, path, 0, PNG, **renewed).status_code == 204
        assert client.post(ENCODE + path.rpartition("/")[2], headers=bob).json()["code"] == "no-such-upload"
        assert result_of(client, client.post(ENCODE + path.rpartition("/")[2], headers=alice), **alice) == STREAM


@contextmanager
def part_under_way(client: httpx.Client, path: str, content: bytes, length: int, headers: str = "") -> Iterator[socket.socket]:
    """A PATCH that has sent some of the `length` bytes that it announced; yields its connection."""
    url = client.base_url
    with socket.create_connection((url.host, url.port or 80), 10) as connection:
        head = f"PATCH {path} HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\nContent-Length: {length}\r\n"
        connection.sendall(f"{head}Content-Type: {BYTES['Content-Type']}\r\n{headers}\r\n".encode() + content)
        deadline = time.monotonic() + 10
        while client.head(path, headers=TUS).status_code != 423:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield connection


def test_one_part_at_a_time(client: httpx.Client) -> None:
    path = created(client)
    with part_under_way(client, path, PNG[:200], len(PNG)) as connection:
        busy = sent(client, path, 0, PNG)
        refused(busy, 423, "upload-locked")
        assert busy.headers["retry-after"] == "1"
        refused(client.delete(path, headers=TUS), 423, "upload-locked")
        connection.sendall(PNG[200:])
        assert connection.recv(100).startswith(b"HTTP/1.1 204")
    assert offset_of(client, path) == len(PNG)
    assert result_of(client, client.post(ENCODE + path.rpartition("/")[2])) == STREAM


def test_many_that_send_the_same_part_write_it_once(client: httpx.Client) -> None:
    path = created(client)
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.append(sent(client, path, 0, PNG).status_code)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses.count(204) == 1 and set(statuses) <= {204, 409, 423}, statuses
    assert result_of(client, client.post(ENCODE + path.rpartition("/")[2])) == STREAM


def test_what_came_before_a_connection_broke_is_kept(client: httpx.Client) -> None:
    path, checked = created(client), created(client)
    with part_under_way(client, path, PNG[:777], len(PNG)):
        pass
    assert offset_of(client, path) == 777
    assert sent(client, path, 777, PNG[777:]).status_code == 204
    assert result_of(client, client.post(ENCODE + path.rpartition("/")[2])) == STREAM
    with part_under_way(client, checked, PNG[:777], len(PNG), "Upload-Checksum: sha1 AAAA\r\n"):
        pass
    assert offset_of(client, checked) == 0, "with a checksum all of a part or nothing is kept"


def test_a_slow_part_is_kept_as_far_as_it_came(tmp_path: Path) -> None:
    with service(tmp_path, body_timeout_s=0.4) as client:
        path = created(client)
        with part_under_way(client, path, PNG[:50], len(PNG)) as connection:
            answer = connection.recv(4096)
            assert answer.startswith(b"HTTP/1.1 408") and b"tus-resumable: 1.0.0" in answer.lower()
        assert offset_of(client, path) == 50


def test_an_upload_outlives_the_service(tmp_path: Path) -> None:
    with service(tmp_path) as client:
        path, whole = created(client, name="a.png"), created(client)
        assert sent(client, path, 0, PNG[:100]).status_code == sent(client, whole, 0, PNG).status_code == 204
    with service(tmp_path) as client:
        assert (offset_of(client, path), offset_of(client, whole)) == (100, len(PNG))
        assert sent(client, path, 100, PNG[100:]).status_code == 204
        for upload in (path, whole):
            assert result_of(client, client.post(ENCODE + upload.rpartition("/")[2])) == STREAM


def test_kill_9_in_the_middle_of_a_part_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """A real process, killed while a part comes in: HEAD then tells an offset from which the rest makes the same bytes."""
    content = os.urandom(5_000_000)
    port, killed = crash._free_port(), False
    url = f"http://127.0.0.1:{port}"
    with crash._service(tmp_path, port, 3), httpx.Client(base_url=url, timeout=30) as client:
        path = created(client, len(content))
        assert sent(client, path, 0, content[:1_000_000]).status_code == 204
        with socket.create_connection(("127.0.0.1", port), 10) as connection:
            head = f"PATCH {path} HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 1000000\r\n"
            head += f"Content-Type: {BYTES['Content-Type']}\r\nContent-Length: 4000000\r\n\r\n"
            connection.sendall(head.encode() + content[1_000_000:4_500_000])
            part = tmp_path / "uploads" / f"{path.rpartition('/')[2]}.part"
            deadline = time.monotonic() + 10
            while part.stat().st_size < 2_000_000:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            killed = True
    assert killed
    with crash._service(tmp_path, port, 3), httpx.Client(base_url=url, timeout=30) as client:
        offset = offset_of(client, path)
        assert 2_000_000 <= offset <= 4_500_000
        assert sent(client, path, offset, content[offset:]).status_code == 204
        digest = hashlib.sha256(content).hexdigest()
        assert (tmp_path / "blobs" / digest[:2] / digest).read_bytes() == content


def test_a_crash_between_the_last_byte_and_the_blob_is_made_good(tmp_path: Path) -> None:
    blobs = BlobFolder(tmp_path / "blobs")
    uploads = UploadFolder(tmp_path / "uploads", blobs, ServiceSettings())
    name = blob_name(PNG)
    upload = uploads.create(None, len(PNG), "", "x")
    with pytest.raises(UploadConflict):
        uploads.complete(upload)
    part = uploads.hold(upload)
    part.append(PNG)
    part.close()  # and here the process dies
    moved: list[str] = []

    class DyingBlobs(BlobFolder):
        def adopt(self, path: Path, name: str) -> None:
            moved.append(name)
            raise OSError("the process dies before the file has moved")

    with pytest.raises(OSError, match="dies"):
        dying = UploadFolder(tmp_path / "uploads", DyingBlobs(tmp_path / "blobs"), ServiceSettings())
        dying.complete(uploads.find(upload.id, None))
    assert moved == [name] and uploads.expire() == {name}
    for _ in range(2):
        assert uploads.complete(uploads.find(upload.id, None)).digest == name
        assert blobs.get(name) == PNG
    (tmp_path / "uploads" / f"{upload.id}.json").write_bytes(b"{")
    with pytest.raises(NoSuchUpload):
        uploads.find(upload.id, None)
    assert uploads.expire() == set() and [path.name for path in (tmp_path / "uploads").iterdir()] == ["lock"]


@pytest.mark.parametrize("verb", ["complete", "delete"])
def test_whoever_gets_the_lock_too_late_has_nothing_to_write_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """The file is opened, then somebody else completes or ends the upload, then it is locked: it is no part any more."""
    from laconic.service import uploads as module

    blobs, lock = BlobFolder(tmp_path / "blobs"), module._locked
    folder = UploadFolder(tmp_path / "uploads", blobs, ServiceSettings())
    upload = folder.create(None, 3, "", "x")
    part = folder.hold(upload)
    part.append(b"abc")
    part.close()

    def late(file: io.FileIO, how: int) -> bool:
        monkeypatch.setattr(module, "_locked", lock)
        _ = folder.complete(upload) if verb == "complete" else folder.delete(upload)
        return lock(file, how)

    monkeypatch.setattr(module, "_locked", late)
    with pytest.raises(UploadLocked, match="just been"):
        folder.hold(upload)
    assert list((tmp_path / "blobs").glob("??/*")) == ([blobs.path(blob_name(b"abc"))] if verb == "complete" else [])


def test_a_disk_that_is_full_is_said_and_what_fitted_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from laconic.service.uploads import FilePart

    def full(part: FilePart, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    with service(tmp_path) as client:
        path = created(client)
        assert sent(client, path, 0, PNG[:10]).status_code == 204
        with monkeypatch.context() as patch:
            patch.setattr(FilePart, "append", full)
            problem = refused(sent(client, path, 10, PNG[10:]), 503, "storage-failed")
            assert "No space left" in problem["detail"]
        assert offset_of(client, path) == 10
        assert sent(client, path, 10, PNG[10:]).status_code == 204
