"""Encode and decode speed of the image codecs, warm, on a fixed number of cores.

Every core count gets a fresh process that is bound to that many cores before any library starts its threads, so that
codecs with their own thread pools are held to the same cores. Timed is the way from pixels to file bytes and back;
reading and writing PNG is outside. Peers, whose way is the same, are timed through the same calls.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ..codecs import compress
from ..codecs.orphans import end_with_parent
from .image_points import Scalar
from .pictures import load_picture, set_threads

__all__ = ["TIMED_NEAR", "Timing", "TimingJob", "time_jobs"]

TIMED_NEAR = 34.0  # dB: speed is measured at the setting whose mean PSNR is nearest


@dataclass(frozen=True)
class TimingJob:
    """One codec at one setting, timed on several pictures."""

    codec: str
    settings: dict[str, Scalar]
    pictures: tuple[Path, ...]
    repeats: int
    device: str


@dataclass(frozen=True)
class Timing:
    """Medians over pictures and repeats, after one unmeasured round; speeds in megapixels a second."""

    cores: int
    settings: dict[str, Scalar]
    pictures: int
    repeats: int
    encode_seconds: float
    decode_seconds: float
    encode_mps: float
    decode_mps: float
    load_average: float


def time_jobs(jobs: Sequence[TimingJob], cores: int) -> list[Timing]:
    """Return the timing of every job on `cores` cores, one after another in one process of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_bind, initargs=(cores,)) as pool:
        return [pool.submit(_time, job, cores).result() for job in jobs]


def _bind(cores: int) -> None:
    end_with_parent()
    if hasattr(os, "sched_setaffinity"):  # Linux
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-cores:])
    set_threads(cores)


def _time(job: TimingJob, cores: int) -> Timing:
    pictures = [load_picture(path) for path in job.pictures]
    encode_seconds, decode_seconds, encode_speeds, decode_speeds = [], [], [], []
    for repeat in range(job.repeats + 1):
        for picture in pictures if repeat else pictures[:1]:
            started = time.perf_counter()
            data = compress.encode(picture, job.codec, job.settings, device=job.device).data
            encoded = time.perf_counter()
            compress.decode(data, device=job.device)
            decoded = time.perf_counter()
            if repeat:
                encode_seconds.append(encoded - started)
                decode_seconds.append(decoded - encoded)
                encode_speeds.append(picture.pixels / 1e6 / (encoded - started))
                decode_speeds.append(picture.pixels / 1e6 / (decoded - encoded))
    median = statistics.median
    return Timing(
        cores=cores,
        settings=job.settings,
        pictures=len(pictures),
        repeats=job.repeats,
        encode_seconds=median(encode_seconds),
        decode_seconds=median(decode_seconds),
        encode_mps=median(encode_speeds),
        decode_mps=median(decode_speeds),
        load_average=os.getloadavg()[0],
    )
