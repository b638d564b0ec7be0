"""Media in processes of their own: the same results, and what happens to hostile files, hanging decoders and dead processes."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import PIL.Image
import pytest
from fastapi import FastAPI

from laconic.codecs import compress, media
from laconic.codecs.errors import CorruptMedia, CorruptStream, LimitExceeded, UnsupportedMedia
from laconic.codecs.limits import Limits
from laconic.codecs.signals import Image, Pictures
from laconic.service.app import create_app
from laconic.service.logs import Log, make_log
from laconic.service.problems import Unavailable
from laconic.service.sandbox import Sandbox
from laconic.service.serve import background
from laconic.service.settings import ServiceSettings

from .pictures import photograph

pytestmark = pytest.mark.skipif(os.name != "posix", reason="resource limits are POSIX's")

LIMITS = Limits(max_pixels=4_000_000, max_video_pixels=8_000_000)
HANG = "import time; from laconic.codecs import media; media.read = lambda *_: time.sleep(999)\n"
SPIN = "from laconic.codecs import media\ndef spin(*_):\n    while True: pass\nmedia.read = spin\n"
DIE = "import os; from laconic.codecs import media; media.write = lambda *_: os._exit(3)\n"
PNG = media.write(photograph(), "png")


def faulty(fault: str) -> str:
    """A program that runs `fault` once it has loaded everything."""
    return (
        "import laconic.service.media_worker as worker\nload = worker._load_everything\n"
        f"def load_and_break():\n    load()\n    exec({fault!r}, dict())\n"
        "worker._load_everything = load_and_break\nworker.main({memory}, {seconds})"
    )


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    box = Sandbox(2, LIMITS, 20)
    box.start()
    yield box
    box.stop()


def children(box: Sandbox) -> list[int]:
    """The process ids of workers that wait for tasks."""
    return [worker.process for worker in [*box._pictures.queue, *box._headers.queue] if worker is not None]


@pytest.mark.parametrize("form", ["png", "jpeg", "webp", "avif", "jxl", "npy", "ppm"])
def test_reading_and_writing_are_the_same_as_here(sandbox: Sandbox, form: str) -> None:
    for quality in (None, 40):
        file = sandbox.write(photograph(), form, quality)
        assert file == media.write(photograph(), form, quality)
    assert sandbox.read_header(file, LIMITS) == media.read_header(file, LIMITS)
    here, there = media.read(file, LIMITS), sandbox.read(file, LIMITS)
    assert np.array_equal(here.array, there.array) and here.metadata == there.metadata
    assert there.array.flags.writeable and there.array.dtype == here.array.dtype


@pytest.mark.parametrize("form", ["gif", "bmp", "tiff"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_formats_that_are_only_read(sandbox: Sandbox, form: str, mode: str) -> None:
    file = io.BytesIO()
    PIL.Image.fromarray(photograph().array).convert(mode).save(file, form)
    assert np.array_equal(sandbox.read(file.getvalue(), LIMITS).array, media.read(file.getvalue(), LIMITS).array)


def test_metadata_depth_and_stacks_travel(sandbox: Sandbox) -> None:
    exif = b"II*\0\x08\0\0\0\0\0\0\0\0\0"
    deep = Image((np.arange(20 * 30 * 4) * 13).astype(np.uint16).reshape(20, 30, 4), {"icc": bytes(300), "exif": exif})
    file = sandbox.write(deep, "png")
    there = sandbox.read(file, LIMITS)
    assert np.array_equal(there.array, deep.array) and there.metadata == media.read(file).metadata != {}
    stack = Pictures(np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5))
    assert sandbox.write(stack, "npy") == media.write(stack, "npy")


def test_errors_are_those_of_reading_here(sandbox: Sandbox) -> None:
    with pytest.raises(CorruptMedia, match="damaged"):
        sandbox.read(PNG[: len(PNG) // 2], LIMITS)
    with pytest.raises(UnsupportedMedia, match="png, jpeg"):
        sandbox.read_header(b"no picture", LIMITS)
    with pytest.raises(LimitExceeded) as caught:
        sandbox.read_header(PNG, Limits(max_pixels=100))
    assert (caught.value.allowed, caught.value.actual) == (100, photograph().pixels)
    assert caught.value.setting == "max_pixels" and "max_pixels" in str(caught.value)
    with pytest.raises(UnsupportedMedia, match="alpha"):
        sandbox.write(Image(np.zeros((4, 4, 4), np.uint8)), "jpeg")


@pytest.mark.parametrize("codec", ["jpeg", "webp", "avif", "jxl"])
def test_files_whose_payload_is_foreign_are_decoded_there(sandbox: Sandbox, codec: str) -> None:
    file = compress.encode(photograph(), codec).data
    assert np.array_equal(sandbox.decode(file, LIMITS).array, compress.decode(file, LIMITS).array)
    with pytest.raises(CorruptStream):
        sandbox.decode(file[:-1], LIMITS)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="there is no /proc")
def test_workers_are_confined_and_small(sandbox: Sandbox) -> None:
    sandbox.read(PNG, LIMITS)
    folder = Path(f"/proc/{children(sandbox)[0]}")
    limits = {line[:25].strip(): line[25:].split()[:2] for line in (folder / "limits").read_text().splitlines()[1:]}
    assert limits["Max file size"] == limits["Max core file size"] == ["0", "0"]
    assert limits["Max open files"] == ["3", "3"] and 42 <= int(limits["Max cpu time"][0]) <= 60
    assert limits["Max address space"] == [str(2**29 + 32 * 4_000_000)] * 2
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    assert int(status["VmRSS"].split()[0]) < 150 * 1024 and status["Threads"].strip() == "1"
    maps = (folder / "maps").read_text()
    assert "imagecodecs" in maps and "libtorch" not in maps and "llvmlite" not in maps
    environment = (folder / "environ").read_bytes()
    assert b"PATH=/" not in environment and b"HOME" not in environment


def test_a_killed_worker_is_replaced_before_the_next_task(sandbox: Sandbox) -> None:
    sandbox.read(PNG, LIMITS)
    before = children(sandbox)
    for process in before:
        os.kill(process, signal.SIGKILL)
    time.sleep(0.05)
    assert np.array_equal(sandbox.read(PNG, LIMITS).array, photograph().array)
    assert not set(children(sandbox)) & set(before[:1])


def test_a_process_is_replaced_after_many_tasks(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    def reader() -> int | None:
        sandbox.read_header(PNG, LIMITS)
        return next((worker.process for worker in sandbox._headers.queue if worker is not None), None)

    monkeypatch.setattr("laconic.service.sandbox.TASKS_EACH", 10**6)
    first = reader()
    assert first is not None and reader() == first
    monkeypatch.setattr("laconic.service.sandbox.TASKS_EACH", 1)
    assert reader() is None
    deadline = time.monotonic() + 10
    while _exists(first) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _exists(first)
    monkeypatch.setattr("laconic.service.sandbox.TASKS_EACH", 10**6)
    assert reader() not in (None, first)


def test_what_lengths_refuse_gets_to_no_process(sandbox: Sandbox) -> None:
    sandbox.read_header(PNG, LIMITS)
    (worker,) = (worker for worker in sandbox._headers.queue if worker is not None)
    tasks = worker.tasks
    frame = b",\0\0\0\0\1\0\1\0\0\2\2D\1\0"
    for data in (b"GIF89a\1\0\1\0\0\0\0" + frame * 9 + b";", b"no media", PNG * 1_000):
        with pytest.raises((LimitExceeded, UnsupportedMedia)):
            sandbox.read_header(data, Limits(max_frames=8, max_input_bytes=10 * len(PNG)))
    assert worker.tasks == tasks


def test_the_process_that_forks_is_replaced_too() -> None:
    box = Sandbox(1, LIMITS, 20)
    try:
        box.read_header(PNG, LIMITS)
        assert box._forks._process is not None
        box._forks._process.kill()
        box._forks._process.wait()
        assert box.read(PNG, LIMITS).shape == photograph().shape
    finally:
        box.stop()


def test_stopping_ends_every_worker() -> None:
    box = Sandbox(3, LIMITS, 20)
    box.warm()
    threads = [threading.Thread(target=box.write, args=(photograph(), "webp")) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    workers = children(box)
    assert len(workers) >= 3
    box.stop()
    deadline = time.monotonic() + 5
    while any(_exists(process) for process in workers) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert children(box) == [] and not any(map(_exists, workers))
    with pytest.raises(Unavailable):
        box.read(PNG, LIMITS)


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_task_whose_worker_is_killed_fails_alone() -> None:
    box = Sandbox(1, LIMITS, 20, faulty(HANG))
    caught: list[BaseException] = []

    def read() -> None:
        try:
            box.read(PNG, LIMITS)
        except BaseException as error:
            caught.append(error)

    try:
        box.write(photograph(), "png")
        worker = children(box)[0]
        thread = threading.Thread(target=read)
        thread.start()
        time.sleep(0.2)
        os.kill(worker, signal.SIGKILL)
        thread.join(10)
        assert [type(error) for error in caught] == [CorruptMedia]
        assert box.write(photograph(), "png") == PNG
    finally:
        box.stop()


def test_a_decoder_that_hangs_is_ended_in_time() -> None:
    box = Sandbox(1, LIMITS, 0.3, faulty(HANG))
    try:
        box._seconds = 60
        box.write(photograph(), "png")  # loads
        box._seconds = 0.3
        worker, began = children(box)[0], time.monotonic()
        with pytest.raises(LimitExceeded, match="LACONIC_MEDIA_TIMEOUT_S"):
            box.read(PNG, LIMITS)
        assert time.monotonic() - began < 3
        while _exists(worker) and time.monotonic() - began < 5:
            time.sleep(0.01)
        assert not _exists(worker)
        box._seconds = 60
        assert box.write(photograph(), "png") == PNG
    finally:
        box.stop()


def test_a_decoder_that_spins_is_ended_by_the_kernel() -> None:
    box = Sandbox(1, LIMITS, 60, faulty(SPIN).replace("{seconds}", "0"))
    try:
        with pytest.raises(CorruptMedia, match="ended the process"):
            box.read(PNG, LIMITS)
    finally:
        box.stop()


def test_a_writer_that_dies_is_no_fault_of_the_file() -> None:
    box = Sandbox(1, LIMITS, 60, faulty(DIE))
    try:
        with pytest.raises(MemoryError, match="png"):
            box.write(photograph(), "png")
    finally:
        box.stop()


def test_memory_beyond_the_limit_is_refused_there() -> None:
    hungry = "from laconic.codecs import media; media.read = lambda *_: bytes(2**31)\n"
    box = Sandbox(1, Limits(max_pixels=1000, max_video_pixels=1000), 60, faulty(hungry))
    try:
        with pytest.raises(CorruptMedia, match="memory"):
            box.read(PNG, LIMITS)
    finally:
        box.stop()


def test_the_service_goes_on_when_its_workers_are_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    apps: list[FastAPI] = []

    def make(settings: ServiceSettings, log: Log) -> FastAPI:
        apps.append(create_app(settings, log))
        return apps[-1]

    monkeypatch.setattr("laconic.service.serve.create_app", make)
    settings = ServiceSettings(port=0, threads=1, workers=1, codecs=("jpeg",))
    with background(settings, make_log(io.StringIO())) as url, httpx.Client(base_url=url, timeout=30) as client:
        box = apps[0].state.runtime.sandbox
        first = client.post("/v1/encode?codec=jpeg", content=PNG)
        assert first.status_code == 200 and children(box)
        for process in children(box):
            os.kill(process, signal.SIGKILL)
        time.sleep(0.05)
        assert client.post("/v1/encode?codec=jpeg", content=PNG).content == first.content
        assert client.post("/v1/decode", content=first.content).status_code == 200


def test_the_sandbox_can_be_switched_off() -> None:
    with background(ServiceSettings(port=0, threads=1, codecs=("jpeg",), sandbox=False), make_log(io.StringIO())) as url:
        assert httpx.post(f"{url}/v1/encode", content=PNG, timeout=30).status_code == 200
    assert ServiceSettings.from_environment({"LACONIC_SANDBOX": "0"}).sandbox is False
