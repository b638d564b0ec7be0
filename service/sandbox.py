"""Third-party media, read and written in processes that may do nothing else.

Decoders of picture formats are large C libraries that meet hostile bytes. Here they run in a few processes that stay warm and
that the kernel confines (`media_worker`): memory, processor time, no files, no new descriptors, and on Linux no system calls
but those that computing and answering take (`seccomp`). One that dies or takes too long is replaced within milliseconds, and
only the request at hand sees it.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ..codecs import errors
from ..codecs.errors import CorruptMedia, CorruptStream, LaconicError, LimitExceeded
from ..codecs.limits import Limits
from ..codecs.media import Header, checked_format
from ..codecs.signals import Signal
from .excerpts import Excerpt
from .media_worker import FRAME
from .packing import largest_payload, pack_signal, unpack_signal
from .problems import Unavailable
from .settings import variable

__all__ = ["Sandbox"]

START_S = 60.0  # for the first process to import what it needs
LARGEST_TEXT = 2**20  # bytes of a reply's description
BASE_MEMORY = 2**29  # bytes of address space: libraries, and pictures of next to no size
MEMORY_A_PIXEL = 32  # bytes: the picture of 16 bits with alpha, and three times as much for the decoder
MEMORY_A_VIDEO_PIXEL = 16  # bytes, of all frames: those of 16 bits, and as much again and more for reader or writer
PIXELS_A_TURN = 16_000_000  # of a video: each time as many have the time that a picture has
TASKS_EACH = 200  # of a worker: what its libraries lose, and what it shares no longer, goes with it
HEADER_PART = 1 / 6  # of a task's time: nobody else's header is read meanwhile
# One arena of memory for all threads: each would take 64 MiB of the address space for its own.
ENVIRONMENT = {"LANG": "C.UTF-8", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
BY_CODE: dict[str, type[LaconicError]] = {kind.code: kind for kind in (getattr(errors, name) for name in errors.__all__)}
PROGRAM = "from laconic.service.media_worker import main; main({memory}, {seconds})"


class _Died(Exception):
    """A worker ended, or did not end its task in time."""


class Sandbox:
    """Reads and writes media as `codecs.media` does, in at most `size` processes; safe to use from several threads.

    One process more reads nothing but headers, which so never wait for pictures. Each is replaced after `TASKS_EACH` tasks.
    `seconds` is the time that one task may take, one with a large video several times that. `program` is what the processes
    run, for tests.
    """

    def __init__(self, size: int, limits: Limits, seconds: float, program: str = PROGRAM) -> None:
        self._seconds, self._stopped = seconds, False
        memory = BASE_MEMORY + max(MEMORY_A_PIXEL * limits.max_pixels, MEMORY_A_VIDEO_PIXEL * limits.max_video_pixels)
        self._forks = _Forks(program.format(memory=memory, seconds=2 * int(seconds + 1)))
        self._pictures, self._headers = _places(size), _places(1)

    def start(self) -> None:
        """Have the first process load what it needs, without waiting for it."""
        self._forks.start()

    def warm(self) -> None:
        """Have a worker each for headers and pictures wait for its first task; returns when they do."""
        for places in (self._headers, self._pictures):
            self._give_back(places, places.get() or self._forks.fork())

    def unfiltered(self) -> str:
        """Return why the system calls of workers are not filtered (`seccomp`), "" where they are."""
        facts, _ = self._ask("confinement", {"times": 1}, [], 0, self._headers)
        return "; ".join(map(str, facts["unfiltered"]))

    def stop(self) -> None:
        """End all processes, those at work when they are through."""
        self._stopped = True
        self._forks.stop()
        for places in (self._pictures, self._headers):
            taken = []
            with contextlib.suppress(queue.Empty):
                while True:
                    taken.append(places.get_nowait())
            for worker in taken:
                self._give_back(places, worker)

    def read_header(self, data: bytes, limits: Limits) -> Header:
        """See `media.read_header`; what it refuses by lengths alone never gets to a process."""
        checked_format(data, limits)
        facts, _ = self._ask("read_header", {"limits": asdict(limits), "times": 1}, [data], 0, self._headers)
        name, *sides = facts["header"]
        return Header(str(name), *map(int, sides))

    def read(self, data: bytes, limits: Limits, kind: str | None = None) -> Signal:
        """See `media.read`; videos come with all frames. Raises `LimitExceeded` as well for a file that takes too long."""
        return self._signal("read", data, limits, kind=kind)

    def decode(self, data: bytes, limits: Limits, excerpt: Excerpt = Excerpt()) -> Signal:  # noqa: B008 (frozen)
        """Restore an .lcn file whose payload is a file of a third-party format; see `excerpts.restore`."""
        try:
            return self._signal("decode", data, limits, excerpt=asdict(excerpt))
        except CorruptMedia as error:
            raise CorruptStream(str(error)) from error

    def write(self, signal: Signal, form: str, quality: int | None = None) -> bytes:
        """See `media.write`; raises `MemoryError` where the process dies."""
        facts, parts = pack_signal(signal)
        asked = {"signal": facts, "form": form, "quality": quality, "times": _turns(signal.pixels)}
        try:
            return bytes(self._ask("write", asked, parts, 2 * sum(map(len, parts)) + 2**26)[1])
        except CorruptMedia as error:
            raise MemoryError(f"writing {form}: {error}") from error

    def _give_back(self, places: queue.LifoQueue[_Worker | None], worker: _Worker | None) -> None:
        spent = worker is not None and worker.tasks >= TASKS_EACH
        places.put(_ended(worker) if self._stopped or spent else worker)

    def _signal(self, task: str, data: bytes, limits: Limits, **asked: object) -> Signal:
        asked |= {"limits": asdict(limits), "times": _turns(limits.max_video_pixels)}
        facts, payload = self._ask(task, asked, [data], largest_payload(limits))
        try:
            return unpack_signal(facts, payload)
        except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
            raise CorruptMedia("the file made its reader give an answer without sense") from error

    def _ask(
        self,
        task: str,
        asked: Mapping[str, Any],
        parts: Sequence[bytes | memoryview],
        most: int,
        idle: queue.LifoQueue[_Worker | None] | None = None,
    ) -> tuple[Mapping[str, Any], memoryview]:
        """Return a worker's answer, of which the payload has at most `most` bytes."""
        idle = idle or self._pictures
        seconds = self._seconds * (float(asked["times"]) if idle is self._pictures else HEADER_PART)
        worker = idle.get()
        try:
            if worker is None or not worker.alive():
                worker = self._forks.fork()
            facts, payload = worker.call({"task": task, **asked}, parts, seconds, most)
        except TimeoutError as error:
            worker = _ended(worker)
            limit = f"the time in seconds that the file may take ({task})"
            allowed = int(seconds)
            raise LimitExceeded(limit, allowed, allowed + 1, variable("media_timeout_s")) from error
        except _Died as error:
            worker = _ended(worker)
            raise CorruptMedia("the file ended the process that was at work on it") from error
        finally:
            self._give_back(idle, worker)
        if "error" in facts:
            raise _error(facts)
        return facts, payload


def _turns(pixels: int) -> float:
    """Return how many times the time of a picture is for a video of so many pixels in all frames, or less."""
    return max(1.0, pixels / PIXELS_A_TURN)


def _places(size: int) -> queue.LifoQueue[_Worker | None]:
    """Return so many places whose worker is yet to start; last in, first out, so that few are in use."""
    places: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
    for _ in range(size):
        places.put(None)
    return places


def _ended(worker: _Worker | None) -> _Worker | None:
    """Kill a worker; returns None, which in its place stands for one to start."""
    if worker is not None:
        worker.kill()
    return None


def _error(facts: Mapping[str, Any]) -> Exception:
    """Return the error that a worker met, as it would have been raised here."""
    detail, kind = str(facts["detail"]), BY_CODE.get(str(facts["error"]))
    if facts["error"] == "out-of-memory":
        return CorruptMedia(f"the file does not fit its size: {detail}")
    if kind is None:
        return RuntimeError(detail)
    if kind is LimitExceeded:
        return LimitExceeded(str(facts["limit"]), int(facts["allowed"]), int(facts["actual"]), str(facts["setting"]))
    return kind(detail)


class _Worker:
    """One process and the socket that it listens to."""

    def __init__(self, channel: socket.socket, process: int) -> None:
        self._channel, self.process, self.tasks = channel, process, 0
        self._handle = os.pidfd_open(process) if hasattr(os, "pidfd_open") else None

    def alive(self) -> bool:
        """Whether it waits for a task: one that has ended has closed the socket, which then can be read."""
        if select.select([self._channel], [], [], 0)[0]:
            self.kill()
            return False
        return True

    def call(
        self, asked: Mapping[str, Any], parts: Sequence[bytes | memoryview], seconds: float, most: int
    ) -> tuple[Mapping[str, Any], memoryview]:
        """Send a task and return the answer; raises `TimeoutError`, and `_Died` for anything that is no answer."""
        self.tasks += 1
        deadline = time.monotonic() + seconds
        text = json.dumps(asked).encode()
        try:
            for part in (FRAME.pack(len(text), sum(map(len, parts))), text, *parts):
                self._channel.settimeout(max(1e-3, deadline - time.monotonic()))
                self._channel.sendall(part)
            text_length, length = FRAME.unpack(self._receive(FRAME.size, deadline))
            if text_length > LARGEST_TEXT or length > most:
                raise _Died(f"an answer of {text_length} and {length} bytes")
            facts = json.loads(bytes(self._receive(text_length, deadline)))
            return facts, self._receive(length, deadline)
        except TimeoutError:
            raise
        except (OSError, ValueError) as error:
            raise _Died(str(error)) from error

    def _receive(self, length: int, deadline: float) -> memoryview:
        content = np.empty(length, np.uint8).data if length else memoryview(b"")
        view = content
        while view:
            self._channel.settimeout(max(1e-3, deadline - time.monotonic()))
            received = self._channel.recv_into(view)
            if received == 0:
                raise _Died("the channel ended")
            view = view[received:]
        return content

    def kill(self) -> None:
        """End the process, whatever it does, and forget it."""
        with contextlib.suppress(ProcessLookupError):
            if self._handle is not None:
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)
                os.close(self._handle)
                self._handle = None
            else:
                os.kill(self.process, signal.SIGKILL)
        self._channel.close()


class _Forks:
    """The process that has loaded everything and forks workers; started again should it end."""

    def __init__(self, program: str) -> None:
        paths = [path for path in sys.path if os.path.isabs(path)]
        self._command = [sys.executable, "-I", "-c", f"import sys; sys.path[:] = {paths!r}; {program}"]
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._stopped = False

    def start(self) -> None:
        """Start the process unless it runs."""
        with self._lock:
            self._started()

    def _started(self) -> socket.socket:
        if self._control is not None and self._process is not None and self._process.poll() is None:
            return self._control
        self._end()
        if self._stopped:
            raise Unavailable("the service is shutting down")
        self._control, theirs = socket.socketpair()
        self._control.settimeout(START_S)
        libraries = {name: value for name, value in os.environ.items() if name == "LD_LIBRARY_PATH"}
        with theirs:
            self._process = subprocess.Popen(
                self._command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=ENVIRONMENT | libraries,
                start_new_session=True,  # a Ctrl-C in the terminal is the service's to handle
            )
        return self._control

    def fork(self) -> _Worker:
        """Return a new worker; raises `Unavailable` where none can be had."""
        with self._lock:
            ours, theirs = socket.socketpair()
            try:
                with theirs:
                    control = self._started()
                    socket.send_fds(control, [b"f"], [theirs.fileno()])
                    answer = control.recv(4)
                if len(answer) == 4:
                    return _Worker(ours, int.from_bytes(answer, "little"))
                raise EOFError("the process that forks workers ended")
            except Unavailable:
                ours.close()
                raise
            except (OSError, EOFError) as error:
                ours.close()
                self._end()
                raise Unavailable(f"no process to read media in can be started: {error}") from error

    def stop(self) -> None:
        """End the process; the workers end when they have no more to read."""
        with self._lock:
            self._stopped = True
            self._end()

    def _end(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._control = self._process = None
