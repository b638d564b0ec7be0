"""What a service does before the first request for a codec: no request waits for kernels to be compiled."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
import threading

import pytest

from laconic.service.app import create_app
from laconic.service.catalogue import open_catalogue, warm_late
from laconic.service.logs import make_log
from laconic.service.settings import ServiceSettings


@pytest.mark.parametrize("name", ["image-overfit", "video-inr"])
def test_codecs_that_fit_are_warmed_after_the_others(name: str) -> None:
    said = io.StringIO()
    log = make_log(said)
    catalogue = open_catalogue(ServiceSettings(codecs=(name, "jpeg"), threads=1), log, lambda *_: None)
    warm_late(catalogue, "cpu", log)
    events = [json.loads(line) for line in said.getvalue().splitlines()]
    assert [(event["event"], event["codec"]) for event in events] == [
        ("codec ready", name),
        ("codec ready", "jpeg"),
        ("codec warm", name),
    ]


def test_it_is_said_when_all_codecs_are_warm() -> None:
    app = create_app(ServiceSettings(codecs=("jpeg",), threads=1), make_log(io.StringIO()))
    warm = threading.Event()
    app.state.runtime.when_warm = warm.set

    async def start() -> bool:
        async with app.state.runtime.open():
            return await asyncio.to_thread(warm.wait, 60)

    assert asyncio.run(start())


def test_the_collector_passes_over_what_a_process_has_loaded() -> None:
    """And looks at what has grown old since after a hundred of its lesser collections, which it did not before."""
    program = (
        "import gc, weakref, laconic.service.app; from laconic.service.allocator import keep_objects; gc.disable()\n"
        "class Old: pass\n"
        "old = Old(); old.itself = old; gone = weakref.ref(old); del old; keep_objects()\n"
        "print(gone() is None, gc.get_freeze_count() > 50_000, len(gc.get_objects()) < 1_000)\n"
        "before = gc.get_stats()[2]['collections']; gc.enable()\n"
        "for number in range(200_000):\n"
        "    old = Old(); old.itself = old\n"
        "    if number % 100 == 0: kept = [old, *kept[:50]] if number else []\n"
        "print(gc.get_stats()[2]['collections'] > before)"
    )
    ran = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert ran.stdout.split() == ["True"] * 4, ran.stdout
