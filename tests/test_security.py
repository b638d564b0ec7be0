"""Who may use the service, and what every answer says: the rules of docs/security.md. Keys as such are in test_keys.py."""

from __future__ import annotations

import asyncio
import io
import json
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import schemathesis
from fastapi import Request
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import load_all_checks

import laconic
from laconic.codecs import compress, media, registry, weights
from laconic.codecs.signals import Image
from laconic.errors import exit_code
from laconic.service.app import create_app
from laconic.service.authentication import is_open, scope_of
from laconic.service.keys import SCOPES, change_keys, new_key
from laconic.service.logs import make_log
from laconic.service.serve import background
from laconic.service.settings import ServiceSettings

PICTURE = Image((np.arange(48 * 64 * 3) % 251).astype(np.uint8).reshape(48, 64, 3))
PNG = media.write(PICTURE, "png")
STREAM = compress.encode(PICTURE, "webp", {"quality": 20}).data
BODIES = {"/v1/encode": PNG, "/v1/decode": STREAM, "/v1/inspect": STREAM}
OPEN = {"/", "/livez", "/readyz", "/openapi.json", "/v1/codecs", "/v1/codecs/{codec}"}


def add_key(path: Path, name: str = "alice", scopes: tuple[str, ...] = SCOPES, **options: Any) -> str:
    """Add a key to a file and return it."""
    key, text = new_key(name, scopes, **options)
    change_keys(path, lambda keys: (*keys, key))
    return text


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@contextmanager
def serving(log: io.StringIO | None = None, **fields: Any) -> Iterator[httpx.Client]:
    chosen = ServiceSettings(**{"port": 0, "threads": 1, "codecs": ("jpeg", "webp"), **fields})
    with background(chosen, make_log(log or io.StringIO())) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys.json"


@pytest.fixture(scope="module")
def scoped(keys_file: Path) -> dict[str, str]:
    """A key for each scope."""
    return {scope: add_key(keys_file, f"only-{scope}", (scope,)) for scope in SCOPES}


@pytest.fixture(scope="module")
def everything(keys_file: Path) -> str:
    """A key with every scope."""
    return add_key(keys_file, "everything")


@pytest.fixture(scope="module")
def log() -> io.StringIO:
    return io.StringIO()


@pytest.fixture(scope="module")
def client(keys_file: Path, everything: str, scoped: dict[str, str], log: io.StringIO) -> Iterator[httpx.Client]:
    with serving(log, keys_file=keys_file) as client:
        yield client


def problem_of(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["code"] == code and problem["request_id"] == response.headers["x-request-id"]
    return problem


# Which requests need a key


def routes_of(router: Any) -> Iterator[tuple[str, str]]:
    """Every path template and method, through routers that are included; a mount counts as GET of its path."""
    for route in router.routes:
        if included := getattr(route, "original_router", None):
            yield from routes_of(included)
        else:
            yield from ((route.path, method) for method in getattr(route, "methods", None) or ("GET",))


def test_no_route_answers_without_a_key_but_those_listed(client: httpx.Client) -> None:
    """Every route of the application, with every method that it takes; a new one must be added to a table to be reached."""
    routes = list(routes_of(create_app(ServiceSettings(), make_log(io.StringIO()))))
    assert len(routes) >= 10 and {path for path, _ in routes} >= {*OPEN, *BODIES, "/metrics"}
    for template, method in routes:
        path = re.sub(r"\{[^}]*\}", "webp", template)
        response = client.request(method, path)
        if template in OPEN or template.startswith("/playground"):
            assert response.status_code not in (401, 403), (method, path)
        elif method == "HEAD":
            assert response.status_code == 401
        else:
            problem_of(response, 401, "unauthenticated")
            assert response.headers["www-authenticate"] == 'Bearer realm="laconic"'
            assert scope_of(path) in SCOPES, f"no key reaches {path}: add it to service/authentication.py"


@pytest.mark.parametrize(
    "path",
    [
        *(
            "//v1/encode",
            "/v1//encode",
            "/v1/encode/",
            "/v1%2fencode",
            "/%76%31/encode",
            "/v1/encode%00",
            "/v1/encode%0a",
            "/V1/ENCODE",
        ),
        *(
            "/playground/../v1/encode",
            "/playground/..%2f..%2fv1/encode",
            "/playground//v1/encode",
            "/playground%2f..%2fmetrics",
        ),
        *(
            "/livez/../v1/encode",
            "/livez%0a",
            "/livez;/v1/encode",
            "/./v1/encode",
            "/v1/codecs/../encode",
            "/v1/codecs/..%2fencode",
        ),
        *("/metrics/", "/metrics%2f", "/nothing", "/v1", "/v1/", "/v1/jobs/x/../../encode", "/docs", "/redoc", "/.env"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_paths_that_only_look_open_are_closed(client: httpx.Client, method: str, path: str) -> None:
    """Sent as they are: the client must not tidy them up."""
    host, port = client.base_url.host, client.base_url.port or 0
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(PNG)}\r\nConnection: close\r\n\r\n"
    with socket.create_connection((host, port), timeout=10) as connection:
        connection.sendall(head.encode() + PNG)
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 401 "), answer[:80]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "HEAD", "BREW"])
def test_methods_do_not_open_anything(client: httpx.Client, everything: str, method: str) -> None:
    assert client.request(method, "/v1/encode").status_code == 401
    assert client.request(method, "/metrics").status_code == 401
    if method != "HEAD":
        assert client.request(method, "/livez").status_code == 401
        assert client.request(method, "/livez", headers=bearer(everything)).status_code == 405


def test_what_is_open_is_open(client: httpx.Client) -> None:
    for path in ("/", "/livez", "/readyz", "/openapi.json", "/v1/codecs", "/v1/codecs/webp"):
        assert client.get(path).status_code == 200
        assert client.get(path, headers=bearer("wrong")).status_code == 200
    for path in ("/playground", "/playground/", "/playground/app.js", "/playground/img/icon-1.svg"):
        assert is_open("GET", path) and not is_open("POST", path)


def test_a_route_that_is_in_no_table_does_not_exist(keys_file: Path, everything: str) -> None:
    """A forgotten route is closed to everyone, whatever the key."""
    app = create_app(ServiceSettings(keys_file=keys_file, codecs=("webp",)), make_log(io.StringIO()))

    @app.get("/v1/forgotten")
    async def forgotten() -> str:
        return "reached"

    async def ask() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as service:
            headers = ({}, bearer(everything))
            return [(await service.get("/v1/forgotten", headers=header)).status_code for header in headers]

    assert asyncio.run(ask()) == [401, 404]


def test_a_path_that_does_not_exist_is_not_found_with_a_key(client: httpx.Client, everything: str) -> None:
    problem_of(client.get("/nothing", headers=bearer(everything)), 404, "not-found")
    problem_of(client.post("//v1/encode", content=PNG, headers=bearer(everything)), 404, "not-found")


def test_a_mounted_application_compares_the_same_path_as_its_routes(keys_file: Path, everything: str) -> None:
    app = create_app(ServiceSettings(keys_file=keys_file, codecs=("webp",)), make_log(io.StringIO()))
    answers: list[int] = []

    async def ask() -> None:
        transport = httpx.ASGITransport(app, root_path="/media")
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as mounted:
            for path in ("/media/livez", "/media/metrics", "/media/v1/encode", "/media"):
                answers.append((await mounted.get(path)).status_code)
            answers.append((await mounted.get("/media/metrics", headers=bearer(everything))).status_code)

    asyncio.run(ask())
    assert answers == [200, 401, 401, 401, 200]


def test_a_refused_body_is_not_read(client: httpx.Client) -> None:
    """The answer comes while the body is still held back; a client that asks first (Expect) is never told to go on."""
    with socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=10) as connection:
        connection.sendall(b"POST /v1/encode HTTP/1.1\r\nHost: x\r\nContent-Length: 30000000\r\nExpect: 100-continue\r\n\r\n")
        began = time.monotonic()
        assert connection.recv(4096).startswith(b"HTTP/1.1 401 ") and time.monotonic() - began < 1.5
        while connection.recv(4096):  # and the connection ends, as the body never did
            pass
        assert time.monotonic() - began < 6


# Keys


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        "Basic YTpi",
        "Bearer x",
        "bearer lcn_0123456789ab_" + 43 * "a",
        "Bearer lcn_é",
        "Bearer {} x",
        "{}",
    ],
)
def test_what_is_no_good_key_gets_401(client: httpx.Client, everything: str, value: str) -> None:
    header = value.format(everything).encode("latin-1")
    problem = problem_of(client.get("/metrics", headers={b"Authorization": header}), 401, "unauthenticated")
    assert everything not in problem["detail"]


def test_a_key_is_taken_from_one_header_only(client: httpx.Client, everything: str) -> None:
    assert client.get("/metrics", headers=bearer(everything)).status_code == 200
    assert client.get("/metrics", headers={"authorization": f"bearer  {everything}"}).status_code == 200
    assert client.get(f"/metrics?api_key={everything}").status_code == 401
    assert client.get("/metrics", headers=[("Authorization", f"Bearer {everything}")] * 2).status_code == 401
    wrong = everything[:-1] + ("A" if everything[-1] != "A" else "B")
    response = client.get("/metrics", headers=bearer(wrong))
    assert response.status_code == 401 and 'error="invalid_token"' in response.headers["www-authenticate"]


@pytest.mark.parametrize("scope", SCOPES)
def test_a_scope_opens_its_paths_and_no_others(client: httpx.Client, scoped: dict[str, str], scope: str) -> None:
    key = scoped[scope]
    for path, needed in {
        "/v1/encode": "encode",
        "/v1/decode": "decode",
        "/v1/inspect": "decode",
        "/metrics": "metrics",
    }.items():
        method = "GET" if path == "/metrics" else "POST"
        response = client.request(method, path, content=BODIES.get(path), headers=bearer(key))
        if needed == scope:
            assert response.status_code == 200
        else:
            assert repr(needed) in problem_of(response, 403, "forbidden")["detail"]
            assert f'error="insufficient_scope", scope="{needed}"' in response.headers["www-authenticate"]
    jobs = client.get("/v1/jobs/1", headers=bearer(key))
    assert (jobs.status_code == 403) == (scope != "jobs")


def test_asking_for_a_job_needs_the_scope_of_jobs(client: httpx.Client, scoped: dict[str, str]) -> None:
    """Whatever the path: `Prefer: respond-async` makes a job of a request (RFC 7240)."""
    for preferences in (["respond-async"], ["wait=3, Respond-Async;x=1"], ["wait=3", "respond-async"]):
        headers = [*bearer(scoped["encode"]).items(), *(("Prefer", preference) for preference in preferences)]
        assert "'jobs'" in problem_of(client.post("/v1/encode", content=PNG, headers=headers), 403, "forbidden")["detail"]
    assert client.post("/v1/encode", content=PNG, headers={**bearer(scoped["encode"]), "Prefer": "wait=3"}).status_code == 200


def test_the_key_is_named_in_the_log_and_never_shown(client: httpx.Client, everything: str, log: io.StringIO) -> None:
    client.get("/metrics", headers=bearer(everything))
    client.post("/v1/inspect", content=STREAM, headers=bearer(everything) | {"X-Request-Id": "named"})
    deadline = time.monotonic() + 10
    while '"named"' not in log.getvalue() and time.monotonic() < deadline:  # written once the answer is sent
        time.sleep(0.01)
    line = next(json.loads(line) for line in log.getvalue().splitlines() if '"named"' in line)
    assert (line["key"], line["path"]) == ("everything", "/v1/inspect")
    assert everything.split("_", 2)[2] not in log.getvalue()


def test_routes_see_the_name_of_the_key(keys_file: Path, everything: str) -> None:
    """Jobs belong to the name; it is there, as None, without keys too."""
    names: list[str | None] = []
    for fields in ({}, {"keys_file": keys_file}):
        app = create_app(ServiceSettings(codecs=("webp",), **fields), make_log(io.StringIO()))

        @app.get("/v1/jobs/x/name")
        async def job(request: Request) -> None:
            names.append(request.state.key_name)

        async def ask(app: Any = app) -> None:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as service:
                assert (await service.get("/v1/jobs/x/name", headers=bearer(everything))).status_code == 200

        asyncio.run(ask())
    assert names == [None, "everything"]


def test_a_key_that_is_added_while_the_service_runs_is_good_at_once(client: httpx.Client, keys_file: Path) -> None:
    key = add_key(keys_file, "late")
    began = time.monotonic()
    while client.get("/metrics", headers=bearer(key)).status_code == 401:
        assert time.monotonic() - began < 3
        time.sleep(0.05)


def test_jobs_belong_to_the_name_of_the_key(client: httpx.Client, everything: str, scoped: dict[str, str]) -> None:
    made = client.post("/v1/jobs?op=encode&codec=webp&quality=30", content=PNG, headers=bearer(everything))
    assert made.status_code == 202
    for path in (made.headers["location"], f"{made.headers['location']}/result", f"{made.headers['location']}/events"):
        assert client.get(path).status_code == 401
        problem_of(client.get(path, headers=bearer(scoped["jobs"])), 404, "no-such-job")
    assert client.delete(made.headers["location"], headers=bearer(scoped["jobs"])).status_code == 404
    assert made.json()["id"] in client.get("/v1/jobs", headers=bearer(everything)).text
    assert made.json()["id"] not in client.get("/v1/jobs", headers=bearer(scoped["jobs"])).text
    assert client.get(made.headers["location"], headers=bearer(everything)).status_code == 200


# Answers


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/livez", 200),
        ("GET", "/v1/codecs", 200),
        ("GET", "/metrics", 401),
        ("POST", "/v1/decode", 200),
        ("GET", "/no", 404),
    ],
)
def test_what_every_answer_says(client: httpx.Client, everything: str, method: str, path: str, status: int) -> None:
    headers = {"Origin": "https://elsewhere.example", **(bearer(everything) if status != 401 else {})}
    response = client.request(method, path, content=BODIES.get(path), headers=headers)
    assert response.status_code == status
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["cross-origin-resource-policy"] == "same-origin"
    assert response.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert response.headers["cache-control"] == "no-store"
    assert "server" not in response.headers
    assert [name for name in response.headers if name.startswith("access-control")] == []


def test_the_client_gets_typed_errors(client: httpx.Client, scoped: dict[str, str], everything: str) -> None:
    url = str(client.base_url)
    with laconic.Client(url) as nobody, pytest.raises(laconic.Unauthenticated, match="laconic keys add") as caught:
        nobody.encode(PNG)
    assert caught.value.status == 401 and caught.value.request_id and exit_code(caught.value) == 6
    with laconic.Client(url, scoped["metrics"]) as monitor, pytest.raises(laconic.Forbidden, match="'encode'") as refused:
        monitor.encode(PNG)
    assert refused.value.status == 403 and exit_code(refused.value) == 6
    with laconic.Client(url, everything) as service:
        assert service.decode(service.encode(PICTURE, codec="webp", lossless=True)).shape == PICTURE.shape


def test_the_description_says_what_needs_a_key(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert paths["/v1/encode"]["post"]["security"] == [{"key": []}] and paths["/metrics"]["get"]["x-scope"] == "metrics"
    assert "security" not in paths["/livez"]["get"] and {"401", "403", "429"} <= set(paths["/v1/decode"]["post"]["responses"])
    without = create_app(ServiceSettings(), make_log(io.StringIO())).openapi()["paths"]
    assert not any("security" in operation for methods in without.values() for operation in methods.values())


@pytest.mark.parametrize(("method", "path"), [("POST", path) for path in BODIES] + [("GET", "/metrics")])
def test_what_is_described_as_closed_is_closed(client: httpx.Client, everything: str, method: str, path: str) -> None:
    """Schemathesis sends good requests again without the key and with a made-up one (`ignored_auth`)."""
    load_all_checks()
    schemathesis.serializer.alias("application/vnd.laconic", "application/octet-stream")
    operation = schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")[path][method]
    checked = schemathesis.checks.CHECKS.get_one("ignored_auth")
    statuses = []

    @settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    @given(case=operation.as_strategy())
    def check(case: schemathesis.Case[Any]) -> None:
        case.query = {}
        if path in BODIES:
            case.body = BODIES[path]
        response = case.call(headers=bearer(everything))
        statuses.append(response.status_code)
        case.validate_response(response, checks=[checked], headers=bearer(everything))

    check()
    assert statuses and set(statuses) <= {200, 202}


# Weights


@pytest.mark.parametrize(
    ("codec", "file"),
    [("image-transform", "image-transform-3.safetensors"), ("image-circuit", "image-circuit-digits-1.safetensors")],
)
def test_tampered_weights_are_not_served(codec: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One bit of one file, be it one that is read only when it is needed: the codec is listed as missing, others are served."""
    for original in Path(weights.__file__).parents[1].joinpath("weights").glob("*.*"):
        shutil.copy(original, tmp_path)
    content = bytearray((tmp_path / file).read_bytes())
    content[-1] ^= 1
    (tmp_path / file).write_bytes(content)
    monkeypatch.setattr(weights, "files", lambda package: tmp_path)
    caches = (weights.load_weights, weights.pinned_weights, registry.open_codec)
    try:
        for cached in caches:
            cached.cache_clear()
        with serving(codecs=("jpeg", codec)) as service:
            listed = service.get("/v1/codecs").json()
            assert [entry["id"] for entry in listed["codecs"]] == ["jpeg"]
            assert listed["missing"][codec] == f"{file} differs from the pinned file: install it again"
            assert service.post(f"/v1/encode?codec={codec}", content=PNG).status_code == 422
        with pytest.raises(laconic.WeightsMissing, match="differs from the pinned file"), serving(codecs=(codec,)):
            pass
    finally:
        for cached in caches:
            cached.cache_clear()


# The document


def test_every_test_that_the_document_names_exists() -> None:
    root = Path(__file__).resolve().parent.parent
    named = set(re.findall(r"`(test_\w+)`", (root / "docs" / "security.md").read_text()))
    defined = {
        name for path in (root / "tests").glob("test_*.py") for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    }
    assert len(named) > 40 and named - defined == set()
