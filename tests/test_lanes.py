"""Whose turn it is: short work passes long work, nothing starves, and what fails together is halved."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch

from laconic.codecs import registry
from laconic.codecs.batches import Request
from laconic.codecs.codec import CodecSettings, Progress, Stream
from laconic.codecs.limits import Limits
from laconic.codecs.signals import Image
from laconic.service.catalogue import Catalogue, Served
from laconic.service.coding import Coder, Outcome
from laconic.service.gate import Gate
from laconic.service.lanes import SHORT_S, STRETCH, Costs, Plan
from laconic.service.owner import DeviceOwner
from laconic.service.problems import QueueFull
from laconic.service.settings import ServiceSettings


class Job:
    """A piece of work with a name, for an owner that runs `work`."""

    def __init__(self, name: str, **plan: object) -> None:
        self.name, self.plan = name, Plan(**plan)  # type: ignore[arg-type]


@pytest.fixture
def own() -> Iterator[Callable[..., DeviceOwner[Job, str]]]:
    """Make owners that are stopped at the end."""
    owners: list[DeviceOwner[Job, str]] = []

    def make(run: Callable[[Sequence[Job]], list[str | BaseException]], **settings: int) -> DeviceOwner[Job, str]:
        owners.append(DeviceOwner(run, ServiceSettings(batch_wait_ms=0, **settings)))  # type: ignore[arg-type]
        owners[-1].start()
        return owners[-1]

    yield make
    for owner in owners:
        owner.stop(5)


def test_a_turn_depends_on_length_and_is_bounded() -> None:
    came = 100.0
    short, long = Plan(seconds=0.01), Plan(seconds=20.0)
    assert short.turn(came + 39) < long.turn(came) < short.turn(came + 41)
    assert long.turn(came) - came == STRETCH * 20 and short.short and not long.short


def test_the_device_takes_the_earliest_turn(own: Callable[..., DeviceOwner[Job, str]]) -> None:
    order: list[str] = []
    started, go = threading.Event(), threading.Event()

    def run(jobs: Sequence[Job]) -> list[str | BaseException]:
        order.extend(job.name for job in jobs)
        started.set()
        assert go.wait(5)
        return [job.name for job in jobs]

    owner = own(run)
    first = owner.submit(Job("first"))
    assert started.wait(5)
    jobs = [
        Job("long", seconds=20.0),
        Job("middle", seconds=2.0),
        Job("short", seconds=0.01),
        Job("short too", seconds=0.01),
    ]
    futures = [owner.submit(job) for job in jobs]
    go.set()
    assert [future.result(5) for future in [first, *futures]] == ["first", *(job.name for job in jobs)]
    assert order == ["first", "short", "short too", "middle", "long"]


def test_long_work_is_not_starved_by_a_stream_of_short_work(own: Callable[..., DeviceOwner[Job, str]]) -> None:
    """Short work comes faster than it is done for ever; the long job still runs after `STRETCH` times its length."""

    def run(jobs: Sequence[Job]) -> list[str | BaseException]:
        time.sleep(0.004)
        return [job.name for job in jobs]

    owner = own(run)
    pending = [owner.submit(Job("short", seconds=0.004)) for _ in range(20)]
    began = time.monotonic()
    long = owner.submit(Job("long", seconds=0.2))
    while not long.done() and time.monotonic() - began < 20:
        pending = [future for future in pending if not future.done()]
        pending += [owner.submit(Job("short", seconds=0.004)) for _ in range(20 - len(pending))]
        time.sleep(0.001)
    assert long.result(0) == "long"
    assert time.monotonic() - began >= 0.2  # others did pass them


def test_short_work_does_not_wait_for_long_work_that_keeps_every_worker(own: Callable[..., DeviceOwner[Job, str]]) -> None:
    release, running = threading.Event(), threading.Semaphore(0)

    def run(jobs: Sequence[Job]) -> list[str | BaseException]:
        if jobs[0].name.startswith("long"):
            running.release()
            assert release.wait(10)
        return [threading.current_thread().name for _ in jobs]

    owner = own(run, workers=2)
    long = [owner.submit(Job(f"long {i}", seconds=9.0, anywhere=True)) for i in range(4)]
    assert running.acquire(timeout=5) and running.acquire(timeout=5)
    assert owner.submit(Job("short", seconds=0.01, anywhere=True)).result(5) == "worker"
    assert owner.submit(Job("network", seconds=0.01)).result(5) == "device-owner"
    assert not running.acquire(timeout=0.1)  # no third long job runs beside two
    release.set()
    assert [future.result(5) for future in long] == ["worker"] * 4


def test_long_requests_leave_a_quarter_of_the_places(own: Callable[..., DeviceOwner[Job, str]]) -> None:
    owner = own(lambda jobs: [job.name for job in jobs], queue_size=4)
    long = Plan(seconds=SHORT_S * 2)
    with contextlib.ExitStack() as held:
        for plan in (long, long, long, Plan()):
            held.enter_context(owner.share(plan))
        with pytest.raises(QueueFull, match=r"long requests waiting is 3 of 3.*LACONIC_QUEUE_SIZE"), owner.share(long):
            pass
    with owner.share(long):
        pass


def test_refusals_name_the_time_that_the_work_is_expected_to_take(own: Callable[..., DeviceOwner[Job, str]]) -> None:
    go = threading.Event()

    def run(jobs: Sequence[Job]) -> list[str | BaseException]:
        assert go.wait(5)
        return [job.name for job in jobs]

    owner = own(run, queue_size=1)
    with owner.place():
        futures = [owner.submit(Job("a", seconds=7.0)), owner.submit(Job("b", seconds=4.5))]
        with pytest.raises(QueueFull) as refusal:
            owner.check_room()
        assert refusal.value.retry_after == 12
        go.set()
        for future in futures:
            future.result(5)
        with pytest.raises(QueueFull) as refusal:
            owner.check_room()
        assert refusal.value.retry_after == 1
    owner.check_room()


def test_long_work_never_holds_more_than_half_of_the_gate() -> None:
    async def visits() -> list[str]:
        gate, inside, leave = Gate(count=4, pixels=100), [], asyncio.Event()

        async def visit(name: str, seconds: float) -> None:
            async with gate.hold(1, Plan(seconds=seconds)):
                inside.append(name)
                await leave.wait()

        names = [("long", 9.0), ("long", 9.0), ("long", 9.0), ("short", 0.1), ("shorter", 0.01)]
        tasks = [asyncio.create_task(visit(*name)) for name in names]
        await asyncio.sleep(0.01)
        before = list(inside)
        leave.set()
        await asyncio.gather(*tasks)
        assert len(inside) == 5
        return before

    assert asyncio.run(visits()) == ["long", "long", "short", "shorter"]


def test_costs_are_learned_by_kind_and_pixels() -> None:
    costs = Costs()
    guess = costs.expect("a", 1_000_000)
    for _ in range(30):
        costs.learn("a", 500_000, 0.05)
        costs.learn("b", 1_000, 0.5)
    assert costs.expect("a", 1_000_000) == pytest.approx(0.1, rel=0.05)
    assert costs.expect("b", 1_000) == pytest.approx(0.5, rel=0.2)
    assert costs.expect("c", 1_000_000) == guess
    costs.learn("a", 500_000, 0.05)
    costs.learn("a", 50_000_000, 50.0)  # one large and slow picture tells more than many small ones
    assert costs.expect("a", 1_000_000) > 0.5


class NarrowSettings(CodecSettings):
    """Settings of the codec for these tests."""


class Narrow:
    """A codec whose device has memory for `fits` pictures at once, and that fails whole for a picture that is all 13."""

    id = "narrow"
    signal = "image"
    lossless = True
    Settings = NarrowSettings
    fits = 2
    tried: list[int]

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        Narrow.tried = []

    def encode(self, signal: Image, settings: NarrowSettings, progress: Progress | None = None) -> Stream:
        return self.encode_batch([signal], [settings])[0]

    def decode(self, stream: Stream, progress: Progress | None = None) -> Image:
        return Image(np.frombuffer(stream.chunks[0], np.uint8).reshape(stream.shape))

    def encode_batch(self, signals: Sequence[Image], settings: Sequence[NarrowSettings]) -> list[Stream]:
        self.tried.append(len(signals))
        if len(signals) > self.fits:
            raise torch.OutOfMemoryError(f"{len(signals)} pictures")
        if any((signal.array == 13).all() for signal in signals):
            raise ZeroDivisionError("thirteen")
        return [Stream(self.id, signal.shape, (signal.array.tobytes(),)) for signal in signals]

    def decode_batch(self, streams: Sequence[Stream]) -> list[Image]:
        return [self.decode(stream) for stream in streams]


@pytest.fixture
def coder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Coder]:
    module = types.ModuleType("narrow_codec_for_tests")
    vars(module)["Narrow"] = Narrow
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(registry.CODECS, "narrow", f"{module.__name__}:Narrow")
    registry.codec_class.cache_clear()
    registry.open_codec.cache_clear()
    catalogue = Catalogue({"narrow": Served(registry.open_codec("narrow"), "cpu", ())}, {}, "")
    yield Coder(catalogue, Limits(), "cpu")
    registry.codec_class.cache_clear()
    registry.open_codec.cache_clear()


def requests(*levels: int) -> list[Request]:
    return [Request(Image(np.full((8, 8, 3), level, np.uint8)), "narrow") for level in levels]


def test_memory_that_is_too_small_halves_the_batch(coder: Coder) -> None:
    jobs = [coder.encode_job(request) for request in requests(*range(1, 9))]
    assert len({job.plan.batch_key for job in jobs}) == 1 and jobs[0].plan.batch_key is not None
    outcomes = coder.run(jobs)
    assert all(isinstance(outcome, Outcome) for outcome in outcomes)
    assert Narrow.tried == [8, 4, 2, 2, 4, 2, 2]


def test_a_picture_that_fits_no_memory_fails_alone_as_out_of_memory(coder: Coder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Narrow, "fits", 0)
    outcomes = coder.run([coder.encode_job(request) for request in requests(1, 2)])
    assert [type(outcome) for outcome in outcomes] == [MemoryError, MemoryError] and Narrow.tried == [2, 1, 1]


def test_a_bad_picture_fails_alone(coder: Coder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Narrow, "fits", 8)
    outcomes = coder.run([coder.encode_job(request) for request in requests(1, 2, 3, 13)])
    assert [type(outcome) for outcome in outcomes] == [Outcome, Outcome, Outcome, ZeroDivisionError]


def test_large_pictures_run_without_company_and_networks_on_the_device(coder: Coder) -> None:
    assert coder.encode_plan("narrow", {}, None, 2**22).batch_key is not None
    assert coder.encode_plan("narrow", {}, None, 2**22 + 1).batch_key is None
    assert not coder.encode_plan("narrow", {}, None, 1).anywhere
    assert coder.decode_job(b"", "narrow", 2**23).plan.batch_key is None
