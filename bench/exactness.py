"""Whether a codec writes the same bytes and restores the same picture however it is run.

    python -m laconic.bench.exactness [--picture P ...] [--codec image-transform] [--device cuda]

Encodes every picture at every quality with 1 and 2 threads, alone and in a batch of 4, with oneDNN on and off, twice, and on
CUDA where there is a GPU: each time in a process of its own. Every way must write the bytes of the first way; every way then
decodes the first way's file, whose symbol digest is checked, and the pixels are compared with the first way's: so a file
written on CUDA decodes on the CPU and the other way round. Exit code 1 if bytes or symbols differ anywhere, or if pixels
differ by more than `--pixel-tolerance` (1: reconstruction is floating point).
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..codecs import container
from ..codecs.codec import BatchCodec
from ..codecs.errors import LaconicError
from ..codecs.registry import codec_class, open_codec
from ..codecs.signals import Image
from .pictures import load_picture, set_threads

__all__ = ["Outcome", "Way", "main", "run", "ways"]

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Way:
    """One way to run a codec; `batch` 1 codes pictures alone."""

    name: str
    device: str = "cpu"
    threads: int = 1
    batch: int = 1
    mkldnn: bool = True


@dataclass(frozen=True)
class Outcome:
    """One way on one picture at one quality, against the first way.

    `problem` says why it failed to code, `largest` and `differing` are over pixels of the first way's file decoded this way.
    """

    way: Way
    picture: str
    quality: int
    seconds: float
    bytes: int
    same_bytes: bool
    same_symbols: bool
    largest: int
    differing: int
    problem: str = ""

    def passes(self, tolerance: int) -> bool:
        """Whether bytes and symbols are the first way's, and pixels up to `tolerance` levels."""
        return not self.problem and self.same_bytes and self.same_symbols and self.largest <= tolerance


@dataclass(frozen=True)
class _Task:
    way: Way
    codec: str
    quality: int
    picture: Pixels
    reference: bytes | None  # the first way's file, decoded here; None: decode the file just written


@dataclass(frozen=True)
class _Coded:
    data: bytes
    pixels: Pixels
    digest: bytes
    seconds: float


def ways(device: str, batches: bool) -> list[Way]:
    """Return the ways to compare on this machine, the reference first."""
    found = [
        Way("1 thread"),
        Way("1 thread, again"),
        Way("2 threads", threads=2),
        Way("1 thread, oneDNN off", mkldnn=False),
        Way("2 threads, oneDNN off", threads=2, mkldnn=False),
    ]
    if batches:
        found += [Way("batch of 4", batch=4), Way("batch of 4, 2 threads", threads=2, batch=4)]
    if device == "cuda":
        found += [Way("CUDA", device="cuda"), Way("CUDA, again", device="cuda")]
        found += [Way("CUDA, batch of 4", device="cuda", batch=4)] if batches else []
    return found


def _code(task: _Task) -> _Coded:
    """Encode and decode in this process, which runs nothing else."""
    import torch

    set_threads(task.way.threads)
    torch.backends.mkldnn.enabled = task.way.mkldnn  # type: ignore[assignment]
    codec = open_codec(task.codec, task.way.device)
    settings = codec.Settings.model_validate({"quality": task.quality})
    started = time.perf_counter()
    if hasattr(codec, "tiles_at_once"):
        codec.tiles_at_once = task.way.batch
    if task.way.batch > 1 and isinstance(codec, BatchCodec):
        # Neighbours in the batch differ from the picture under test, which is its last.
        batch = [task.picture[::-1], task.picture[:, ::-1], 255 - task.picture, task.picture][-task.way.batch :]
        signals = [Image(np.ascontiguousarray(pixels)) for pixels in batch]
        stream = codec.encode_batch(signals, [settings] * len(signals))[-1]
    else:
        stream = codec.encode(Image(task.picture), settings)
    data = container.write(stream)
    seconds = time.perf_counter() - started
    source = container.read(data if task.reference is None else task.reference)
    if task.way.batch > 1 and isinstance(codec, BatchCodec):
        decoded = codec.decode_batch([source] * task.way.batch)[-1]
    else:
        decoded = codec.decode(source)
    return _Coded(data, np.asarray(decoded.array, np.uint8), stream.digest, seconds)


def _outcome(task: _Task, name: str, first: _Coded | None, coded: _Coded | LaconicError) -> Outcome:
    if isinstance(coded, LaconicError):
        return Outcome(task.way, name, task.quality, 0.0, 0, False, False, 0, 0, f"{coded.code}: {coded}")
    first = first or coded
    difference = np.abs(coded.pixels.astype(np.int16) - first.pixels.astype(np.int16))
    return Outcome(
        way=task.way,
        picture=name,
        quality=task.quality,
        seconds=coded.seconds,
        bytes=len(coded.data),
        same_bytes=coded.data == first.data,
        same_symbols=coded.digest == first.digest,
        largest=int(difference.max()),
        differing=int(np.count_nonzero(difference)),
    )


def _attempt(task: _Task) -> _Coded | LaconicError:
    """Code in a new process; errors of the codec are results."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=set_threads, initargs=(task.way.threads,)) as pool:
        try:
            return pool.submit(_code, task).result()
        except LaconicError as error:
            return error


def run(
    pictures: dict[str, Pixels], codec: str = "image-transform", qualities: Sequence[int] = (20, 60), device: str = "cpu"
) -> list[Outcome]:
    """Compare all ways on every picture (name: uint8, H x W x 3) at every quality, and return what was seen.

    Prints one line for each on standard output as it comes.
    """
    batches = hasattr(codec_class(codec), "encode_batch")
    outcomes = []
    print("way | picture | quality | seconds | bytes | bytes equal | symbols equal | largest pixel difference | differing")
    for name, picture in pictures.items():
        for quality in qualities:
            first: _Coded | None = None
            for way in ways(device, batches):
                task = _Task(way, codec, quality, picture, None if first is None else first.data)
                coded = _attempt(task)
                outcomes.append(_outcome(task, name, first, coded))
                if first is None and isinstance(coded, _Coded):
                    first = coded
                print(_line(outcomes[-1]), flush=True)
            if first is not None:
                print(f"SHA-256 {hashlib.sha256(first.data).hexdigest()}  {name} at quality {quality}", flush=True)
    return outcomes


def _line(seen: Outcome) -> str:
    if seen.problem:
        return f"{seen.way.name} | {seen.picture} | {seen.quality} | {seen.problem}"
    equal = ["yes" if same else "NO" for same in (seen.same_bytes, seen.same_symbols)]
    cells = (seen.way.name, seen.picture, seen.quality, f"{seen.seconds:.2f}", seen.bytes, *equal, seen.largest, seen.differing)
    return " | ".join(str(cell) for cell in cells)


def synthetic_picture(height: int = 301, width: int = 453) -> Pixels:
    """Return a picture of gradients, edges and noise, the same on every machine: integer arithmetic alone."""
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(2).integers(-9, 10, (height, width, 3))
    waves = np.stack([(x * x + 3 * y) // 61 % 256, (5 * x + y * y // 7) // 11 % 256, (x * y) // 83 % 256], axis=2)
    blocks = 90 * ((x // 37 + y // 29) % 2)[..., None]
    picture: Pixels = np.clip(waves // 2 + blocks + noise, 0, 255).astype(np.uint8)
    return picture


def cuda_present() -> bool:
    """Whether torch sees a GPU."""
    import torch

    return torch.cuda.is_available()


def main(arguments: Iterable[str] | None = None) -> int:
    """Run from the command line; returns 0 if all ways agree, else 1."""
    parser = argparse.ArgumentParser(prog="laconic.bench.exactness")
    parser.add_argument("--picture", type=Path, action="append", help="a picture (repeat; default: a synthetic one)")
    parser.add_argument("--codec", default="image-transform")
    parser.add_argument("--quality", type=int, action="append", help="a quality (repeat; default: 20 and 60)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: CUDA too if there is a GPU")
    parser.add_argument("--pixel-tolerance", type=int, default=1, help="largest difference of a decoded sample")
    options = parser.parse_args(None if arguments is None else list(arguments))
    device = options.device
    if device == "auto":
        device = "cuda" if cuda_present() else "cpu"
    pictures = {path.name: np.asarray(load_picture(path).array, np.uint8) for path in options.picture or ()}
    outcomes = run(pictures or {"synthetic": synthetic_picture()}, options.codec, options.quality or (20, 60), device)
    failed = [seen for seen in outcomes if not seen.passes(options.pixel_tolerance)]
    largest = max(seen.largest for seen in outcomes)
    print(f"{len(outcomes) - len(failed)} of {len(outcomes)} agree; largest pixel difference {largest}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
