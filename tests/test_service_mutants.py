"""Mutated files of sound and of videos through the service: whatever the bytes, an answer below 500, in time."""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from laconic.bench.mutations import ALLOWED, mutants
from laconic.codecs import compress
from laconic.codecs.signals import Audio
from laconic.service.logs import make_log
from laconic.service.serve import background
from laconic.service.settings import ServiceSettings

from .clips import clip
from .sounds import voice

GOLDEN = Path(__file__).parent / "golden"
SOUNDS, VIDEOS = ("audio-rvq", "audio-lossless", "opus", "flac"), ("h264", "hevc", "av1", "video-inr")
MUTANTS, SLOWEST_S = 36, 10.0
SPEECH = Audio.of((32_767 * voice(16_000)).astype(np.int16), 16_000)


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    settings = ServiceSettings(
        port=0, threads=1, codecs=(*SOUNDS, *VIDEOS), max_pixels=250_000, max_video_pixels=2_000_000, max_samples=1_000_000
    )
    with background(settings, make_log(io.StringIO())) as url, httpx.Client(base_url=url, timeout=2 * SLOWEST_S) as client:
        yield client


def file_of(codec: str) -> bytes:
    if codec == "video-inr":
        return (GOLDEN / "video-inr.lcn").read_bytes()
    return compress.encode(SPEECH if codec in SOUNDS else replace(clip(6), metadata={}), codec, device="cpu").data


@pytest.mark.parametrize("codec", [*SOUNDS, *VIDEOS])
def test_no_mutant_is_a_500_or_hangs(client: httpx.Client, codec: str) -> None:
    data = file_of(codec)
    assert client.post("/v1/decode", content=data, timeout=300).status_code == 200  # the first compiles its kernels
    part = "seconds=0.2:0.4" if codec in SOUNDS else "frames=1:3"
    answers = Counter[str]()
    for number, body in enumerate(mutants(data, MUTANTS, 1)):
        query = ("", f"?{part}", "?salvage=true", f"?salvage=true&{part}")[number % 4]
        began = time.perf_counter()
        answer = client.post(f"/v1/decode{query}", content=body or b"\0")
        assert time.perf_counter() - began < SLOWEST_S
        assert str(answer.status_code) in ALLOWED, (number, query, answer.text)
        answers[str(answer.status_code)] += 1
    assert answers["400"] > MUTANTS // 4 and answers.total() == MUTANTS, answers
