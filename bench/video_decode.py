"""Decode an .lcn file in a process of its own, from its bytes alone, and tell how long it took."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..codecs import compress
from ..codecs.errors import CorruptStream
from ..codecs.signals import Samples, Video

__all__ = ["Decoding", "decode_in_new_process"]

WARM = 2  # frames that are decoded before the clock runs: libraries load, kernels compile


@dataclass(frozen=True)
class Decoding:
    """Seconds for all frames, and for the frame in the middle alone, with the threads and load of the time."""

    seconds: float
    seek_seconds: float
    threads: int
    load_average: float


def decode_in_new_process(file: Path, frames: Path, device: str, threads: int) -> tuple[Samples, Decoding]:
    """Return the frames of a file, by way of an array file that is written for it, and what decoding took."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "NUMBA_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "laconic.bench.video_decode", str(file), str(frames), device, str(threads)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CorruptStream(f"{file} does not decode in a new process: {done.stderr[-500:]}")
    return np.lib.format.open_memmap(frames, "r"), Decoding(**json.loads(done.stdout))


def main(file: str, frames: str, device: str, threads: str) -> None:
    """Decode `file` into the array file `frames` and print a `Decoding` as JSON."""
    import torch

    torch.set_num_threads(int(threads))
    data = Path(file).read_bytes()
    video = _opened(data, device)
    count, middle = video.shape[0], video.shape[0] // 2
    for _ in video.source.read(0, min(WARM, count)):
        pass
    began = time.perf_counter()
    _opened(data, device).frames(middle, middle + 1)
    sought = time.perf_counter()
    out = np.lib.format.open_memmap(frames, "w+", np.uint8 if video.bit_depth == 8 else np.uint16, video.shape)
    started = time.perf_counter()
    for number, frame in enumerate(_opened(data, device).source.read(0, count)):
        out[number] = frame
    seconds = time.perf_counter() - started
    out.flush()
    print(json.dumps(asdict(Decoding(seconds, sought - began, int(threads), os.getloadavg()[0]))))


def _opened(data: bytes, device: str) -> Video:
    video = compress.decode(data, device=device, whole=False)
    if not isinstance(video, Video):
        raise CorruptStream("the file holds no video")
    return video


if __name__ == "__main__":
    main(*sys.argv[1:])
