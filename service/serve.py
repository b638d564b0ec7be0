"""Run the service: `serve` in this process until a signal, `background` in a thread for as long as a block lasts."""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from types import FrameType
from typing import cast

import uvicorn
from fastapi import FastAPI

from ..codecs.errors import DeviceUnavailable, InvalidSettings
from .allocator import keep_memory, keep_objects
from .app import create_app
from .connection import Connection, sweep
from .logs import Log, make_log, uvicorn_log_config
from .runtime import Runtime
from .settings import ServiceSettings, variable

__all__ = ["background", "serve"]

SWEEP_TICKS = 2  # of uvicorn's main loop, a tenth of a second each
BACKLOG = 2048  # connections that wait in the system to be accepted
KEEP_ALIVE_S = 10  # twice what common clients keep a connection for: one must not close what the other is about to use
ACCEPTED_AT_ONCE = 64  # before others get their turn
OTHER_DESCRIPTORS = 256  # files and sockets beside clients' connections
SWITCH_S = 0.0005  # a codec that comes back from C waits so long for the event loop to let go, not Python's 5 ms


class DrainingServer(uvicorn.Server):
    """Uvicorn that drains before it closes: after the first signal `/readyz` answers 503 while requests in flight finish.

    They get `drain_seconds`; a second signal closes at once.
    """

    def __init__(self, app: FastAPI, settings: ServiceSettings) -> None:
        config = uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            lifespan="on",
            access_log=False,
            server_header=False,
            log_config=uvicorn_log_config(),
            backlog=ACCEPTED_AT_ONCE,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=1,  # only closes connections: requests were waited for before
        )
        super().__init__(config)
        self.runtime: Runtime = app.state.runtime
        self._drain_ends: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept. To asyncio one number is how many may wait and how many it accepts at a time: set them apart."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; the second time, stop."""
        if self._drain_ends is not None:
            self.should_exit = self.force_exit = True
            return
        self.runtime.draining = True
        self.runtime.jobs.closing = True  # whoever waits for news of a job goes home within a second
        self._drain_ends = time.monotonic() + self.runtime.settings.drain_seconds

    async def on_tick(self, counter: int) -> bool:
        """Return whether to leave the main loop: told to, failed to start, or drained."""
        if self.runtime.owner.failure is not None:
            return True
        if counter % SWEEP_TICKS == 0:
            connections = cast(set[Connection], self.server_state.connections)
            sweep(connections, asyncio.get_running_loop().time(), self.runtime.settings.max_buffered_bytes)
        if self._drain_ends is not None and (self.runtime.in_flight == 0 or time.monotonic() > self._drain_ends):
            self.should_exit = True
        return await super().on_tick(counter)


def listen(settings: ServiceSettings) -> socket.socket:
    """Return a listening socket for the settings' host and port; raises `OSError` when that is taken.

    Raises `InvalidSettings` where other machines could reach it and there are no keys, unless `insecure` says that they may.

    It is made with TCP named as its protocol: asyncio turns Nagle's algorithm off only then, and 40 ms per answer with it.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
        _check_reach(listener, settings)
        listener.listen(BACKLOG)
    except (OSError, InvalidSettings):
        listener.close()
        raise
    return listener


def _check_reach(listener: socket.socket, settings: ServiceSettings) -> None:
    """Look at the address itself, bound but not yet listening: a name may stand for any."""
    if settings.keys_file is None and not settings.insecure and not ip_address(listener.getsockname()[0]).is_loopback:
        raise InvalidSettings(
            f"host {settings.host!r} can be reached from other machines, and there are no keys: make one with "
            f"`laconic keys add NAME --file F` and set {variable('keys_file')}=F, or, where something in front of the service "
            f"decides who may use it, --insecure or {variable('insecure')}=true"
        )


def _with_descriptors(settings: ServiceSettings, log: Log) -> ServiceSettings:
    """Raise the process's limit on open files to what `max_connections` needs; where it may not, have fewer connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = settings.max_connections + OTHER_DESCRIPTORS
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return settings
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed == needed:
        return settings
    connections = max(1, allowed - OTHER_DESCRIPTORS)
    log.warning("fewer connections", max_connections=connections, open_files=allowed, setting=variable("max_connections"))
    return settings.model_copy(update={"max_connections": connections})


def serve(settings: ServiceSettings | None = None) -> None:
    """Serve until SIGTERM or SIGINT; returns when drained.

    Logs `listening` with the address as soon as connections are accepted. Raises `OSError` when the port is taken,
    `DeviceUnavailable` or another `LaconicError` when no codec can be opened.
    """
    log = make_log()
    settings = _with_descriptors(settings or ServiceSettings.from_environment(), log)
    keep_memory()
    sys.setswitchinterval(SWITCH_S)
    app = create_app(settings, log)
    server = DrainingServer(app, settings)
    server.runtime.when_warm = keep_objects
    server.runtime.jobs.open()
    with listen(settings) as listener:
        url = url_of(listener)
        playground = f"{url}/playground" if settings.playground else None
        server.runtime.log.info("listening", url=url, playground=playground, settings=settings.model_dump(mode="json"))
        server.run(sockets=[listener])
    server.runtime.log.info("stopped")
    if server.runtime.owner.failure is not None:
        raise server.runtime.owner.failure


@contextmanager
def background(settings: ServiceSettings, log: Log | None = None, wait_s: float = 120.0) -> Iterator[str]:
    """Serve from a thread of this process and yield the service's URL once ready; port 0 takes a free one."""
    server = DrainingServer(create_app(settings, log), settings)
    with listen(settings) as listener:
        url = url_of(listener)
        thread = threading.Thread(target=server.run, args=([listener],), name="service", daemon=True)
        thread.start()
        try:
            _wait_ready(server.runtime, thread, wait_s)
            yield url
        finally:
            server.handle_exit(signal.SIGTERM, None)
            thread.join(settings.drain_seconds + 5)


def _wait_ready(runtime: Runtime, thread: threading.Thread, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while not runtime.owner.ready:
        if runtime.owner.failure is not None:
            raise runtime.owner.failure
        if not thread.is_alive() or time.monotonic() > deadline:
            raise DeviceUnavailable("the service did not start; its log says why")
        time.sleep(0.02)


def url_of(listener: socket.socket) -> str:
    """Return the URL that reaches a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


if __name__ == "__main__":
    serve()
