"""The service on Ray Serve: what Ray is told, what its proxy answers, the RayService; with Ray installed, two replicas."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import subprocess
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
import yaml
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from laconic import cli
from laconic.codecs.errors import DeviceUnavailable, InvalidSettings
from laconic.service import ray_engine
from laconic.service.ray_engine import Replica, deployment_options, replica_app
from laconic.service.ray_proxy import proxy_middleware
from laconic.service.serve import background
from laconic.service.settings import ServiceSettings

ROOT = Path(__file__).resolve().parent.parent
MANIFEST = yaml.safe_load((ROOT / "docker" / "kubernetes" / "ray-service.yaml").read_text())
CLUSTER = MANIFEST["spec"]["rayClusterConfig"]
PODS = [group["template"]["spec"] for group in (CLUSTER["headGroupSpec"], *CLUSTER["workerGroupSpecs"])]
HAS_RAY = getattr(importlib.util.find_spec("ray"), "origin", None) is not None  # a mere folder called ray has none


class TestOptions:
    def test_a_fixed_number_of_replicas(self) -> None:
        options = deployment_options(ServiceSettings(ray_replicas=3, threads=2, drain_seconds=7))
        assert options["num_replicas"] == 3 and "autoscaling_config" not in options
        assert options["ray_actor_options"] == {"num_cpus": 2, "num_gpus": 0}
        assert options["graceful_shutdown_timeout_s"] == 7

    def test_autoscaling(self) -> None:
        options = deployment_options(ServiceSettings(ray_replicas=2, ray_max_replicas=9, max_batch=5))
        assert options["autoscaling_config"] == {"min_replicas": 2, "max_replicas": 9, "target_ongoing_requests": 5}
        assert "num_replicas" not in options

    def test_replicas_refuse_before_ray_does(self) -> None:
        settings = ServiceSettings()
        assert deployment_options(settings)["max_ongoing_requests"] > 10 * settings.queue_size

    @pytest.mark.parametrize("gpus", [0.25, 1, 2])
    def test_gpus(self, gpus: float) -> None:
        options = deployment_options(ServiceSettings(device="cuda", ray_gpus_per_replica=gpus))
        assert options["ray_actor_options"]["num_gpus"] == gpus

    @pytest.mark.parametrize(
        ("settings", "named"),
        [
            ({"device": "cuda"}, "LACONIC_RAY_GPUS_PER_REPLICA"),
            ({"ray_gpus_per_replica": 1.5}, "LACONIC_RAY_GPUS_PER_REPLICA"),
            ({"ray_replicas": 4, "ray_max_replicas": 2}, "LACONIC_RAY_MAX_REPLICAS"),
        ],
    )
    def test_what_contradicts_itself_is_refused(self, settings: dict[str, Any], named: str) -> None:
        with pytest.raises(InvalidSettings, match=named):
            deployment_options(ServiceSettings(**settings))

    @pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed")
    def test_ray_takes_them(self) -> None:
        settings = {"ray_replicas": 2, "ray_max_replicas": 3, "insecure": True}
        script = f"from laconic.service.ray_engine import application; application({settings})"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray cannot be imported."""
    monkeypatch.setitem(sys.modules, "ray", None)


@pytest.mark.usefixtures("no_ray")
def test_without_ray_the_extra_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "--engine", "ray", "--port", "0"]) == 2
    assert "laconic[ray]" in capsys.readouterr().err


def test_an_unknown_engine_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "--engine", "gunicorn"]) == 2
    assert "uvicorn or ray" in capsys.readouterr().err


class FakeRay:
    """Stands for the modules `ray`, `ray.serve` and `ray.serve.config`; notes what is called."""

    def __init__(self) -> None:
        self.called: list[tuple[str, tuple[Any, ...], Mapping[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            self.called.append((name, given, named))
            return {"GPU": 1.0} if name == "cluster_resources" else self

        return call

    def __call__(self, *given: Any, **named: Any) -> FakeRay:
        return self

    def named(self, name: str) -> Mapping[str, Any]:
        """The keyword arguments of the only call of a name."""
        (found,) = [named for called, _, named in self.called if called == name]
        return found


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    ray = FakeRay()
    monkeypatch.setattr(ray_engine, "_ray", lambda module: ray)
    monkeypatch.setattr(ray_engine.threading.Event, "wait", lambda self, timeout=None: True)
    monkeypatch.setattr(ray_engine.signal, "signal", lambda number, action: None)
    monkeypatch.setattr(ray_engine.os, "environ", dict(os.environ))
    ray_engine.os.environ.pop("RAY_ADDRESS", None)
    return ray


def settings_given(monkeypatch: pytest.MonkeyPatch) -> list[ServiceSettings]:
    """Where the settings that replicas get are noted."""
    given: list[ServiceSettings] = []
    before = deployment_options
    monkeypatch.setattr(ray_engine, "deployment_options", lambda settings: given.append(settings) or before(settings))
    return given


def test_replicas_on_one_machine_share_a_folder_of_jobs(fake: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    given = settings_given(monkeypatch)
    ray_engine.serve(ServiceSettings(port=0, state_dir=None, threads=3, ray_replicas=40))
    (settings,) = given
    assert settings.jobs and settings.state_dir is not None and not settings.state_dir.exists()  # it was temporary
    assert fake.named("init")["include_dashboard"] is False and fake.named("init")["num_cpus"] == 120
    assert fake.named("start")["http_options"]["host"] == "127.0.0.1"
    order = [name for name, *_ in fake.called]
    assert order.index("run") < order.index("delete") < order.index("shutdown"), "requests in flight would be lost"


def test_on_a_cluster_there_are_no_jobs(fake: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    given = settings_given(monkeypatch)
    ray_engine.os.environ["RAY_ADDRESS"] = "ray.example.org:6379"
    ray_engine.serve(ServiceSettings(port=0))
    ray_engine.application({"ray_replicas": "2", "codecs": "jpeg", "insecure": "true"})
    assert [settings.jobs for settings in given] == [False, False]
    assert given[1].ray_replicas == 2 and given[1].codecs == ("jpeg",)


def test_on_a_cluster_with_common_stores_there_are_jobs(fake: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    given = settings_given(monkeypatch)
    stores = {"job_store": "postgresql://db.example.org/laconic", "blob_store": "s3://bucket"}
    for left_out in ("", "blob_store", "job_store"):
        ray_engine.application({"insecure": "true", **{name: url for name, url in stores.items() if name != left_out}})
    ray_engine.application({"insecure": "true", "jobs": "false", **stores})
    assert [settings.jobs for settings in given] == [True, False, False, False]


def test_a_ray_service_needs_keys(fake: FakeRay) -> None:
    with pytest.raises(InvalidSettings, match="LACONIC_KEYS_FILE"):
        ray_engine.application({})


def test_mistakes_end_it_before_ray_starts(fake: FakeRay) -> None:
    for settings, said in (
        ({"codecs": ("nothing",)}, "nothing"),
        ({"state_dir": Path("/proc/nowhere")}, "LACONIC_STATE_DIR"),
        ({"keys_file": Path("/proc/nowhere")}, "/proc/nowhere"),
    ):
        with pytest.raises(InvalidSettings, match=said):
            ray_engine.serve(ServiceSettings(port=0, **settings))  # type: ignore[arg-type]
    assert [name for name, *_ in fake.called if name in ("init", "start", "run")] == []


def test_gpus_that_are_not_there_are_not_waited_for(fake: FakeRay) -> None:
    with pytest.raises(InvalidSettings, match="needs 2 of the 1 GPUs"):
        ray_engine.serve(ServiceSettings(port=0, ray_replicas=2, ray_gpus_per_replica=0.75))
    assert not [name for name, *_ in fake.called if name == "run"]


def test_haproxy_mode_needs_keys(fake: FakeRay) -> None:
    ray_engine.os.environ["RAY_SERVE_ENABLE_HA_PROXY"] = "1"
    with pytest.raises(InvalidSettings, match="LACONIC_KEYS_FILE"):
        ray_engine.serve(ServiceSettings(port=0))
    ray_engine.serve(ServiceSettings(port=0, insecure=True))


def test_a_proxy_that_does_not_start_is_said(fake: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    class RayError(Exception):
        pass

    def dies(**options: Any) -> None:
        raise RayError("The actor died unexpectedly.\n\tname: ProxyActor")

    monkeypatch.setattr(fake, "start", dies, raising=False)
    monkeypatch.setattr(fake, "exceptions", types.SimpleNamespace(RayError=RayError), raising=False)
    with pytest.raises(DeviceUnavailable, match=r"did not start: The actor died unexpectedly\. name: ProxyActor"):
        ray_engine.serve(ServiceSettings(port=0))
    assert fake.called[-1][0] == "shutdown"


def test_a_public_bind_needs_keys_on_ray_too(fake: FakeRay) -> None:
    with pytest.raises(InvalidSettings, match="laconic keys add"):
        ray_engine.serve(ServiceSettings(host="0.0.0.0", port=0))
    assert not [name for name, *_ in fake.called if name in ("init", "start", "run")]


async def got(app: Any, path: str) -> httpx.Response:
    """What an ASGI application answers."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
        return await client.get(path)


def test_a_replica_starts_when_its_codecs_are_open(tmp_path: Path) -> None:
    app = replica_app(ServiceSettings(codecs=("jpeg",), state_dir=tmp_path, sandbox=False))
    replica = Replica()
    replica.app = app

    async def start() -> None:
        async with app.router.lifespan_context(app):
            assert (await got(app, "/readyz")).status_code == 200  # at once
            replica.check_health()
            app.state.runtime.owner.failure = DeviceUnavailable("the device is lost")
            with pytest.raises(DeviceUnavailable, match="lost"):
                replica.check_health()

    asyncio.run(start())


def test_a_replica_that_cannot_start_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = replica_app(ServiceSettings(codecs=("jpeg",), state_dir=tmp_path, sandbox=False))

    def fails() -> None:
        raise DeviceUnavailable("there is no device")

    monkeypatch.setattr(app.state.runtime.owner, "_prepare", fails)

    async def start() -> None:
        async with app.router.lifespan_context(app):
            raise AssertionError("it started")

    with pytest.raises(DeviceUnavailable, match="no device"):
        asyncio.run(asyncio.wait_for(start(), 30))


def ray_answers(status: int) -> Any:
    """An answer as Ray's proxy makes it."""

    async def answer(request: Request) -> Response:
        return PlainTextResponse("Request dropped", status, {"x-request-id": "one", "retry-after": "1"})

    return answer


async def application_answers(request: Request) -> Response:
    return JSONResponse({"code": "ours"}, 429, {"x-content-type-options": "nosniff", "x-request-id": "one"})


PROXY_ROUTES = [Route(f"/{status}", ray_answers(status)) for status in (200, 404, 408, 429, 500, 503)]
PROXY = Starlette(
    routes=[*PROXY_ROUTES, Route("/ours", application_answers), Route("/-/healthz", ray_answers(503))],
    middleware=[Middleware(entry.cls, *entry.args, **entry.kwargs) for entry in proxy_middleware()],
)


@pytest.mark.parametrize(
    ("status", "code"),
    [(404, "not-found"), (408, "request-timeout"), (429, "queue-full"), (500, "internal-error"), (503, "unavailable")],
)
def test_what_the_proxy_refuses_is_a_problem(status: int, code: str) -> None:
    answer = asyncio.run(got(PROXY, f"/{status}"))
    assert answer.status_code == {408: 504}.get(status, status)
    assert answer.headers["content-type"] == "application/problem+json" and answer.json()["code"] == code
    assert answer.json()["request_id"] == answer.headers["x-request-id"] == "one"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert ("retry-after" in answer.headers) == (status in (429, 503))


def test_what_the_application_answers_passes_the_proxy() -> None:
    assert asyncio.run(got(PROXY, "/ours")).json() == {"code": "ours"}
    assert asyncio.run(got(PROXY, "/200")).text == "Request dropped"
    assert asyncio.run(got(PROXY, "/-/healthz")).headers["content-type"].startswith("text/plain")  # Ray's own


def test_the_proxy_does_not_say_what_it_is() -> None:
    assert not uvicorn.Config(PROXY).server_header  # as Ray makes it, once it has called `proxy_middleware`
    assert uvicorn.Config(PROXY, server_header=True).server_header


def test_jobs_can_be_off(tmp_path: Path) -> None:
    picture = (ROOT / "tests" / "media" / "photograph.png").read_bytes()
    with background(ServiceSettings(port=0, codecs=("jpeg",), state_dir=tmp_path, jobs=False)) as url:
        for path, headers in (("/v1/jobs?op=encode", {}), ("/v1/encode", {"Prefer": "respond-async"})):
            answer = httpx.post(url + path, content=picture, headers=headers)
            assert answer.status_code == 501 and answer.json()["code"] == "jobs-off", answer.text
            assert "LACONIC_JOBS" in answer.json()["detail"]
        begun = httpx.post(url + "/v1/uploads", headers={"Tus-Resumable": "1.0.0", "Upload-Length": "9"})
        assert begun.status_code == 501 and begun.json()["code"] == "jobs-off", begun.text
        assert httpx.get(url + "/v1/jobs").json()["jobs"] == []
        assert httpx.post(url + "/v1/encode", content=picture).status_code == 200


class TestManifest:
    def test_pods_pass_the_schema(self, tmp_path: Path) -> None:
        beside = Path(sys.executable).parent / "kubernetes-validate"
        validate = str(beside) if beside.exists() else shutil.which("kubernetes-validate")
        if validate is None:
            pytest.skip("there is no kubernetes-validate")
        for index, pod in enumerate(PODS):
            file = tmp_path / f"{index}.yaml"
            file.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod}))
            done = subprocess.run([validate, "--strict", file], capture_output=True, text=True, check=False, timeout=60)
            assert done.returncode == 0, done.stdout + done.stderr

    def test_the_application_is_there_and_takes_its_settings(self) -> None:
        assert (MANIFEST["apiVersion"], MANIFEST["kind"]) == ("ray.io/v1", "RayService")
        config = yaml.safe_load(MANIFEST["spec"]["serveConfigV2"])
        (application,) = config["applications"]
        module, name = application["import_path"].split(":")
        assert getattr(importlib.import_module(module), name) is ray_engine.application
        settings = ServiceSettings.from_environment({}, **application["args"])
        options = deployment_options(settings)
        for pod in PODS:
            (container,) = pod["containers"]
            assert float(container["resources"]["requests"]["cpu"]) >= options["ray_actor_options"]["num_cpus"]
            assert config["http_options"]["port"] in [port["containerPort"] for port in container["ports"]]
            mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
            assert str(settings.keys_file and settings.keys_file.parent) in mounts
            assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        assert sum(group["maxReplicas"] for group in CLUSTER["workerGroupSpecs"]) >= (settings.ray_max_replicas or 1)

    def test_proxies_answer_with_problems(self) -> None:
        for pod in PODS:
            environment = {entry["name"]: entry["value"] for entry in pod["containers"][0]["env"]}
            path = environment["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"]
            assert path == ray_engine.PROXY["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"]
            module, _, name = path.rpartition(".")
            assert getattr(importlib.import_module(module), name) is proxy_middleware

    def test_pods_have_no_rights(self) -> None:
        for pod in PODS:
            assert pod["securityContext"]["runAsNonRoot"] and pod["automountServiceAccountToken"] is False
            assert pod["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}

    def test_ray_is_one_that_the_extra_allows(self) -> None:
        project = (ROOT / "pyproject.toml").read_text()
        assert f'ray = ["ray[data,serve]>={CLUSTER["rayVersion"].rpartition(".")[0]},' in project


@pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed")
def test_two_replicas(tmp_path: Path) -> None:
    """What scripts/ray-check checks, without its measurements and its other ways of running."""
    spec = importlib.util.spec_from_file_location("replicas", ROOT / "tests" / "replicas.py")
    assert spec is not None and spec.loader is not None
    replicas = importlib.util.module_from_spec(spec)
    sys.modules["replicas"] = replicas
    spec.loader.exec_module(replicas)
    with replicas.running("ray", tmp_path, ray_replicas=2) as service:
        with service.client() as client:
            replicas.check_coding(client)
            replicas.check_problems(client)
            replicas.check_jobs(client)
        replicas.check_drain(service)
