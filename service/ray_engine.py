"""Run the service on Ray Serve: the same application in several replicas, on one machine or on a cluster.

`serve` starts a Ray of its own, or joins the one that RAY_ADDRESS names, and stays until a signal. A KubeRay RayService takes
`application` by its import path. Ray is the extra `[ray]` and is imported only here, when it is used.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from ..codecs.errors import DeviceUnavailable, InvalidSettings
from ..codecs.extras import extra_module
from .allocator import keep_memory, keep_objects
from .app import create_app
from .logs import make_log
from .runtime import Runtime
from .serve import SWITCH_S, listen, url_of
from .settings import ServiceSettings, variable

__all__ = ["application", "deployment_options", "serve"]

NAME = "laconic"
PROXY = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "laconic.service.ray_proxy.proxy_middleware"}
QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}  # tells nobody
PATIENT = {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30"}  # after 5 s Ray kills a proxy that a busy machine is still starting
START_S = 0.05  # how often a replica that starts looks whether its codecs are open


def serve(settings: ServiceSettings) -> None:
    """Serve until SIGTERM or SIGINT, then answer what has begun and return.

    Raises `InvalidSettings` where Ray is missing or the settings do not fit it, `OSError` when the port is taken,
    `DeviceUnavailable` when no replica starts.
    """
    ray, ray_serve = _ray("ray"), _ray("ray.serve")
    own = os.environ.get("RAY_ADDRESS", "") in ("", "local")
    with ExitStack() as stack:
        if not own:
            settings = _on_many_machines(settings)
        elif settings.state_dir is None:  # one for all replicas
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="laconic-jobs-"))
            settings = settings.model_copy(update={"state_dir": Path(folder)})
        with listen(settings) as listener:
            host, port = listener.getsockname()[:2]
            url = url_of(listener)
        _check_proxy(settings, host)
        if own:
            _try(settings)
        deployment = application_of(settings)
        for name, value in {**PROXY, **QUIET, **PATIENT}.items():
            os.environ.setdefault(name, value)
        stack.callback(ray.shutdown)
        if own:
            ray.init("local", num_cpus=_processors(settings), include_dashboard=False, logging_level="warning")
            _check_gpus(settings, ray.cluster_resources().get("GPU", 0))
        else:
            ray.init(logging_level="warning")
        try:
            ray_serve.start(proxy_location="EveryNode", http_options={"host": host, "port": port})
            ray_serve.run(deployment, name=NAME, route_prefix="/")
        except RuntimeError as error:
            raise DeviceUnavailable(f"no replica started: {error}") from error
        except ray.exceptions.RayError as error:  # a proxy, or Ray itself, has died or is late
            raise DeviceUnavailable(f"Ray Serve did not start: {' '.join(str(error).split())}") from error
        _run(ray_serve, settings, url)


def _run(ray_serve: Any, settings: ServiceSettings, url: str) -> None:
    log, stop = make_log(), threading.Event()
    log.info("listening", url=url, engine="ray", settings=settings.model_dump(mode="json"))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
    ray_serve.delete(NAME)  # waits for what the replicas have begun, while the proxies still carry the answers
    ray_serve.shutdown()
    log.info("stopped")


def application(arguments: Mapping[str, str]) -> Any:
    """Return the application for `serve run` and for a RayService; `arguments` are settings by their fields' names.

    What they leave out comes from `LACONIC_*` variables.
    """
    given: dict[str, Any] = dict(arguments)
    settings = _on_many_machines(ServiceSettings.from_environment(None, **given))
    if settings.keys_file is None and not settings.insecure:
        raise InvalidSettings(
            f"other machines may reach Ray's proxies, and there are no keys: set {variable('keys_file')}, keys_file in args, "
            f"or {variable('insecure')}=true where something else decides who may use it"
        )
    return application_of(settings)


def _on_many_machines(settings: ServiceSettings) -> ServiceSettings:
    """Switch jobs off unless the settings name stores that every machine can reach: replicas may be on several."""
    return settings.model_copy(update={"jobs": settings.jobs and settings.shares_stores})


def application_of(settings: ServiceSettings) -> Any:
    """Return the Ray Serve application that has these settings in every replica."""
    ray_serve = _ray("ray.serve")
    options = deployment_options(settings)
    config = _ray("ray.serve.config")
    backpressure = config.BackpressureConfig(status_code=429, retry_after_s=1)
    ingress = ray_serve.ingress(lambda: replica_app(settings))(Replica)
    return ray_serve.deployment(backpressure_config=backpressure, **options)(ingress).bind()


def deployment_options(settings: ServiceSettings) -> dict[str, Any]:
    """Return what Ray Serve is told of a deployment; raises `InvalidSettings` for settings that contradict each other.

    Replicas refuse what is beyond `queue_size` themselves; Ray's own bound, `max_connections`, is far above that. Replicas are
    added while those there have more than `max_batch` requests each.
    """
    gpus, most = settings.ray_gpus_per_replica, settings.ray_max_replicas
    if gpus > 1 and gpus != int(gpus):
        raise InvalidSettings(f"{variable('ray_gpus_per_replica')} is {gpus:g}: a part of one GPU, or whole ones")
    if settings.device == "cuda" and gpus == 0:
        raise InvalidSettings(
            f"the device is cuda, and Ray shows a replica no GPU unless {variable('ray_gpus_per_replica')} is set"
        )
    if most is not None and most < settings.ray_replicas:
        raise InvalidSettings(f"{variable('ray_max_replicas')} is {most}, below {variable('ray_replicas')}")
    options: dict[str, Any] = {
        "name": NAME,
        "max_ongoing_requests": settings.max_connections,
        "max_queued_requests": settings.max_connections,
        "graceful_shutdown_timeout_s": settings.drain_seconds,
        "graceful_shutdown_wait_loop_s": 0.5,
        "ray_actor_options": {"num_cpus": settings.threads, "num_gpus": gpus},
        "logging_config": {"enable_access_log": False},
    }
    if most is None:
        return {**options, "num_replicas": settings.ray_replicas}
    scaling = {"min_replicas": settings.ray_replicas, "max_replicas": most, "target_ongoing_requests": settings.max_batch}
    return {**options, "autoscaling_config": scaling}


class Replica:
    """What Ray wraps around the application: a replica whose device has failed is replaced."""

    app: FastAPI  # Ray gives it

    def check_health(self) -> None:
        """Raise what ended the device's owner."""
        runtime: Runtime = self.app.state.runtime
        if runtime.owner.failure is not None:
            raise runtime.owner.failure


def replica_app(settings: ServiceSettings) -> FastAPI:
    """Return the application of one replica, which starts only when its codecs are open: until then Ray sends it nothing."""
    keep_memory()
    sys.setswitchinterval(SWITCH_S)
    app = create_app(settings)
    runtime: Runtime = app.state.runtime
    runtime.when_warm = keep_objects
    lifespan = app.router.lifespan_context

    @asynccontextmanager
    async def opened(app: FastAPI) -> AsyncIterator[None]:
        async with lifespan(app):
            while not runtime.owner.ready:
                if runtime.owner.failure is not None:
                    raise runtime.owner.failure
                await asyncio.sleep(START_S)
            yield

    app.router.lifespan_context = opened
    return app


def _check_proxy(settings: ServiceSettings, host: str) -> None:
    """Refuse HAProxy mode where it would undo the refusal of a public bind: replicas then listen on every address."""
    open_to_all = settings.keys_file is None and not settings.insecure
    if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1" and open_to_all and ip_address(host).is_loopback:
        raise InvalidSettings(
            "with RAY_SERVE_ENABLE_HA_PROXY=1 Ray's replicas listen on every address of this machine, and there are no keys: "
            f"set {variable('keys_file')}, or {variable('insecure')}=true where something else decides who may reach them"
        )


def _try(settings: ServiceSettings) -> None:
    """Raise here, at once, what replicas would raise one after another: unknown codecs, a bad keys file or folder."""
    runtime: Runtime = create_app(settings).state.runtime
    try:
        runtime.jobs.open()
    finally:
        runtime.jobs.close()


def _check_gpus(settings: ServiceSettings, there: float) -> None:
    """Refuse to wait for GPUs that this machine does not have."""
    part, replicas = settings.ray_gpus_per_replica, settings.ray_replicas
    needed = math.ceil(replicas / int(1 / part + 1e-6)) if 0 < part < 1 else part * replicas  # a part is of one GPU
    if needed > there:
        name = variable("ray_gpus_per_replica")
        raise InvalidSettings(
            f"{name} is {part:g}: {replicas} x that needs {needed:g} of the {there:g} GPUs that this machine has"
        )


def _processors(settings: ServiceSettings) -> int:
    """Return how many processors a Ray of our own counts: enough that as many replicas start as were asked for."""
    return max(os.cpu_count() or 1, settings.threads * (settings.ray_max_replicas or settings.ray_replicas))


def _ray(module: str) -> Any:
    return extra_module(module, "ray", "the engine ray needs Ray Serve")
