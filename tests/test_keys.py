"""Keys: the file, its changes under a running service, what a key may use, and `laconic keys`."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import io
import json
import os
import stat
import threading
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from laconic import cli
from laconic.codecs.errors import InvalidSettings, LimitExceeded
from laconic.service import keys as keys_module
from laconic.service.allowances import Allowances
from laconic.service.app import create_app
from laconic.service.keys import SCOPES, Key, Keys, change_keys, new_key, read_keys
from laconic.service.logs import make_log
from laconic.service.problems import RateLimited, Unauthenticated
from laconic.service.settings import ServiceSettings

from .clocks import Clock


def add_key(path: Path, name: str = "alice", scopes: tuple[str, ...] = SCOPES, **options: Any) -> str:
    """Add a key to a file and return it."""
    key, text = new_key(name, scopes, **options)
    change_keys(path, lambda keys: (*keys, key))
    return text


def keys_of(path: Path, log: io.StringIO | None = None) -> Keys:
    return Keys(path, make_log(log or io.StringIO()))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that tells when the file is looked at again."""
    clock = Clock(1000.0)
    monkeypatch.setattr(keys_module.time, "monotonic", clock)
    return clock


# The file


def test_the_file_has_digests_only_and_is_its_owners_alone(path: Path) -> None:
    text = add_key(path)
    prefix, identity, secret = text.split("_", 2)
    assert prefix == "lcn" and len(secret) == 43 and secret not in path.read_text()
    (key,) = read_keys(path)
    assert (key.name, key.id, key.scopes) == ("alice", identity, SCOPES)
    assert key.sha256 == hashlib.sha256(secret.encode()).hexdigest()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert add_key(path).split("_", 2)[2] != secret and len(read_keys(path)) == 2


def test_a_change_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = add_key(path)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        add_key(path)
    assert path.read_bytes() == before and [entry.name for entry in path.parent.iterdir()] == ["keys.json"]
    assert keys_of(path).authenticate([f"Bearer {text}"]).name == "alice"


def test_changes_at_the_same_time_lose_no_key(path: Path) -> None:
    threads = [threading.Thread(target=add_key, args=(path, f"user-{number}")) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.name for key in read_keys(path)} == {f"user-{number}" for number in range(12)}


def test_permissions_that_were_given_stay(path: Path) -> None:
    add_key(path)
    path.chmod(0o640)
    add_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "damaged"),
        ("[]", "damaged"),
        ('{"keys": [{"name": "x"}]}', "keys.0.id"),
        ('{"version": 2, "keys": []}', "version"),
        ('{"keys": [], "kyes": []}', "kyes"),
        ("[" * 100_000, "damaged"),
        ("x" * 2**20 + "y", "bytes"),
    ],
)
def test_a_damaged_file_says_what_is_wrong(path: Path, content: str, says: str) -> None:
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(InvalidSettings, match=says):
        read_keys(path)
    with pytest.raises(InvalidSettings, match=says):
        create_app(ServiceSettings(keys_file=path), make_log(io.StringIO()))


@pytest.mark.parametrize(
    "change",
    [
        {"name": "a b"},
        {"name": "x" * 65},
        {"name": "x\n"},
        {"sha256": "0" * 63},
        {"id": "../../etc/pw"},
        {"scopes": []},
        {"scopes": ["all"]},
        {"created": "2026-01-01T00:00:00"},
        {"requests_per_minute": 0},
        {"bytes_per_hour": -1},
        {"secret": "x"},
    ],
)
def test_an_entry_that_does_not_fit_is_refused(path: Path, change: dict[str, Any]) -> None:
    add_key(path)
    whole = json.loads(path.read_text())
    whole["keys"][0] |= change
    path.write_text(json.dumps(whole))
    with pytest.raises(InvalidSettings, match="damaged") as caught:
        read_keys(path)
    assert whole["keys"][0]["sha256"] not in str(caught.value) or change.get("sha256")
    whole["keys"] = [json.loads(new_key("a", SCOPES)[0].model_dump_json())] * 2
    path.write_text(json.dumps(whole))
    with pytest.raises(InvalidSettings, match="same id"):
        read_keys(path)


def test_a_file_that_others_may_write_or_that_is_not_there_is_refused(path: Path) -> None:
    with pytest.raises(InvalidSettings, match="no such file"):
        keys_of(path)
    add_key(path)
    for mode in (0o620, 0o602):
        path.chmod(mode)
        with pytest.raises(InvalidSettings, match="chmod 600"):
            keys_of(path)


# Who is let in


def test_secrets_are_compared_in_constant_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for each key that is offered, whether or not anyone has its id, and over digests of one length."""
    text = add_key(path)
    keys = keys_of(path)
    compared: list[tuple[str, str]] = []

    def compare(left: str, right: str) -> bool:
        compared.append((left, right))
        return hmac_compare(left, right)

    hmac_compare: Callable[[str, str], bool] = hmac.compare_digest
    monkeypatch.setattr(keys_module.hmac, "compare_digest", compare)
    assert keys.authenticate([f"Bearer {text}"]).name == "alice"
    for wrong in (text[:-1] + ("A" if text[-1] != "A" else "B"), "lcn_000000000000_" + text[-43:]):
        with pytest.raises(Unauthenticated):
            keys.authenticate([f"Bearer {wrong}"])
    assert len(compared) == 3 and {len(part) for pair in compared for part in pair} == {64}


def test_nobody_has_the_digest_that_stands_for_nobody(path: Path) -> None:
    change_keys(path, lambda keys: ())
    with pytest.raises(Unauthenticated):
        keys_of(path).authenticate(["Bearer lcn_000000000000_" + "A" * 43])


def test_an_expired_key_is_refused_and_says_when(path: Path) -> None:
    good, late = add_key(path, expires_days=1), add_key(path, "bob", expires_days=0)
    keys = keys_of(path)
    assert keys.authenticate([f"Bearer {good}"]).expires is not None
    with pytest.raises(Unauthenticated, match=f"of bob expired at {datetime.now(UTC):%Y}"):
        keys.authenticate([f"Bearer {late}"])


def test_several_keys_of_a_name_are_good_at_once_until_one_is_revoked(path: Path, clock: Clock) -> None:
    old, new = add_key(path), add_key(path)
    keys = keys_of(path)
    assert {keys.authenticate([f"Bearer {key}"]).name for key in (old, new)} == {"alice"}
    assert cli.main(["keys", "revoke", "alice", "--id", old.split("_")[1], "--file", str(path)]) == 0
    clock.now += 1.01
    assert keys.authenticate([f"Bearer {new}"]).name == "alice"
    with pytest.raises(Unauthenticated, match="revoked"):
        keys.authenticate([f"Bearer {old}"])


def test_a_changed_file_counts_and_a_broken_one_does_not(path: Path, clock: Clock) -> None:
    first = add_key(path)
    log = io.StringIO()
    keys = keys_of(path, log)
    second = add_key(path, "bob")
    with pytest.raises(Unauthenticated):
        keys.authenticate([f"Bearer {second}"])  # not looked at yet
    clock.now += 1.01
    assert keys.authenticate([f"Bearer {second}"]).name == "bob"
    for broken in (b"{", b"", None):
        if broken is None:
            path.unlink()
        else:
            path.write_bytes(broken)
        for _ in range(3):
            clock.now += 1.01
            assert keys.authenticate([f"Bearer {first}"]).name == "alice"
    errors = [line for line in map(json.loads, log.getvalue().splitlines()) if line["level"] == "error"]
    assert [line["event"] for line in errors] == ["keys not read"] * 3  # once for each state of the file
    assert errors[0]["kept"] == 2 and str(path) in errors[0]["reason"]
    change_keys(path, lambda keys: ())
    clock.now += 1.01
    with pytest.raises(Unauthenticated):  # no key left: everything is closed, not open
        keys.authenticate([f"Bearer {first}"])


# How much a key may use


def key_with(name: str = "alice", **limits: int) -> Key:
    return new_key(name, SCOPES, **limits)[0]


def test_requests_are_counted_by_the_minute() -> None:
    clock = Clock(1000.0)
    allowances, key = Allowances(clock), key_with(requests_per_minute=3)
    for left in (2, 1, 0):
        allowances.of(key).take_request(0)
        assert allowances.of(key).headers()["RateLimit"] == f'"requests";r={left};t=60'
    clock.now += 20
    with pytest.raises(RateLimited, match="3 requests a minute") as caught:
        allowances.of(key).take_request(0)
    assert caught.value.retry_after == 40
    assert caught.value.headers == {"RateLimit-Policy": '"requests";q=3;w=60', "RateLimit": '"requests";r=0;t=40'}
    allowances.of(key_with("bob", requests_per_minute=3)).take_request(0)  # another's share
    with pytest.raises(RateLimited):
        allowances.of(key_with(requests_per_minute=3)).take_request(0)  # the same name's next key gives nothing anew
    clock.now += 40
    allowances.of(key).take_request(0)


def test_bytes_are_counted_by_the_hour() -> None:
    clock = Clock(1000.0)
    allowances, key = Allowances(clock), key_with(bytes_per_hour=1000)
    allowance = allowances.of(key)
    allowance.take_request(900)  # claimed, not yet come
    allowance.take_bytes(900)
    assert allowance.headers()["RateLimit"] == '"bytes";r=100;t=3600'
    assert allowance.headers()["RateLimit-Policy"] == '"bytes";q=1000;w=3600;qu="content-bytes"'
    with pytest.raises(RateLimited):
        allowance.take_request(101)
    allowance.take_bytes(100)
    with pytest.raises(RateLimited, match="1,000 bytes an hour and has 0 left"):
        allowance.take_bytes(1)
    with pytest.raises(LimitExceeded, match="more bytes an hour"):  # a body that would be too large for ever
        allowance.take_request(1001)
    clock.now += 3600
    allowance.take_request(1000)


def test_a_key_without_limits_has_none() -> None:
    allowance = Allowances(Clock(1000.0)).of(key_with())
    for _ in range(1000):
        allowance.take_request(10**12)
        allowance.take_bytes(10**12)
    assert allowance.headers() == {}


def test_windows_of_names_long_gone_are_forgotten() -> None:
    clock = Clock(1000.0)
    allowances = Allowances(clock)
    for number in range(30_000):
        allowances.of(key_with(f"user-{number}", requests_per_minute=1)).take_request(0)
        clock.now += 1
    assert len(allowances._windows) <= 10_002


def ask(path: Path, clock: Clock, requests: list[tuple[str, Any]], key: str) -> list[httpx.Response]:
    """Send requests, one after the other, to an application whose allowances have this clock; /v1/inspect reads bodies."""
    app = create_app(ServiceSettings(keys_file=path, codecs=("webp",)), make_log(io.StringIO()))
    app.state.runtime.allowances = Allowances(clock)

    async def send() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://s", headers={"Authorization": f"Bearer {key}"}
        ) as client:
            return [await client.request("POST" if body else "GET", to, content=body) for to, body in requests]

    return asyncio.run(send())


def test_too_many_requests_get_429_with_the_time_to_wait(path: Path) -> None:
    key = add_key(path, requests_per_minute=2)
    answers = ask(path, Clock(1000.0), [("/metrics", None)] * 3 + [("/livez", None)], key)
    assert [answer.status_code for answer in answers] == [200, 200, 429, 200]
    assert answers[1].headers["ratelimit"] == '"requests";r=0;t=60'
    assert answers[0].headers["ratelimit-policy"] == answers[2].headers["ratelimit-policy"] == '"requests";q=2;w=60'
    assert answers[2].json()["code"] == "rate-limited" and answers[2].headers["retry-after"] == "60"
    assert "ratelimit" not in answers[3].headers


async def pieces(count: int, size: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"x" * size


def test_bytes_are_counted_as_they_come_not_as_they_are_claimed(path: Path) -> None:
    """Chunked bodies claim nothing. The one that passes the limit is cut where it does."""
    key = add_key(path, bytes_per_hour=10_000)
    bodies = [pieces(4, 1000), pieces(100, 1000), pieces(1, 500), b"x" * 5000, b"x" * 10_001]
    answers = ask(path, Clock(1000.0), [("/v1/inspect", body) for body in bodies], key)
    # 415: read whole, and no .lcn file; the second left nothing of the 6,000
    assert [answer.status_code for answer in answers] == [415, 429, 429, 429, 413]
    assert [answer.json()["code"] for answer in answers[1:]] == ["rate-limited"] * 3 + ["limit-exceeded"]
    assert int(answers[1].headers["retry-after"]) <= 3600 and '"bytes";r=0;' in answers[1].headers["ratelimit"]


# The command line


def run(*arguments: str) -> int:
    return cli.main(["keys", *arguments])


def test_keys_are_made_listed_and_revoked(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LACONIC_KEYS_FILE", str(path))
    limits = ("--requests-per-minute", "5", "--bytes-per-hour", "1000000")
    assert run("add", "alice", "--scope", "encode", "--scope", "metrics", "--expires", "30", *limits) == 0
    captured = capsys.readouterr()
    text = captured.out.strip()
    key = keys_of(path).authenticate([f"Bearer {text}"])
    assert (key.scopes, key.requests_per_minute, key.bytes_per_hour) == (("encode", "metrics"), 5, 1_000_000)
    assert key.expires is not None and key.expires - key.created == timedelta(days=30)
    assert text not in captured.err and "alice" in captured.err
    assert run("add", "bob", "--file", str(path)) == 0
    assert read_keys(path)[1].scopes == ("encode", "decode", "jobs") and read_keys(path)[1].expires is None
    capsys.readouterr()
    assert run("list") == 0
    shown = capsys.readouterr().out
    assert "alice" in shown and "bob" in shown and key.sha256 not in shown
    assert run("list", "--json") == 0
    assert [entry["name"] for entry in json.loads(capsys.readouterr().out)] == ["alice", "bob"]
    assert run("revoke", "alice") == 0 and [entry.name for entry in read_keys(path)] == ["bob"]
    assert run("revoke", "alice") == 2 and "bob" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ("add", "a b"),
        ("add", "a", "--scope", "all"),
        ("add", "a", "--expires", "1e300"),
        ("add", "a", "--requests-per-minute", "0"),
    ],
)
def test_keys_that_do_not_fit_are_usage_errors(path: Path, arguments: tuple[str, ...]) -> None:
    assert run(*arguments, "--file", str(path)) == 2 and not path.exists()


def test_the_file_must_be_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("LACONIC_KEYS_FILE", raising=False)
    assert run("list") == 2 and "LACONIC_KEYS_FILE" in capsys.readouterr().err
