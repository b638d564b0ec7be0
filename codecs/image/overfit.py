"""`image-overfit`: small networks and latents that are fitted to one picture and sent with it.

Encoding is an optimisation that takes seconds to hours; decoding is quick and gives the same pixels on every machine. The
networks are in `overfit_spec`, fitting is in `overfit_fit`, what is in a file in `overfit_stream`. Large pictures are coded as
tiles of at most 2048 x 2048 pixels, each with networks of its own.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from pydantic import Field

from ...entropy.digest import joint_digest
from ..checkpoint import checkpoint_folder
from ..codec import CodecSettings, Progress, Stream, share_of
from ..compress import packed
from ..errors import CorruptStream, InvalidSettings
from ..metrics import psnr
from ..signals import Image
from ..target_search import approach
from ..targets import Target
from .alpha import encode_alpha
from .overfit_fit import Fit
from .overfit_parameters import initial_networks
from .overfit_render import Renderer, Run, to_samples
from .overfit_stream import decode_tile, encode_tile, tiles_of
from .rgb import check_shape, restore, rgb_planes

__all__ = ["EFFORTS", "ImageOverfit", "OverfitSettings", "weight_of"]

EFFORTS = {1: 60, 2: 120, 3: 300, 4: 800, 5: 2000, 6: 4000, 7: 8000, 8: 16_000, 9: 40_000}  # steps
COARSE_WEIGHT, FINE_WEIGHT = 0.05, 0.0001  # weight (lambda) of a bit per pixel at qualities 0 and 100
MIDDLE_BPP, MIDDLE_PSNR = 0.48, 30.6  # of eight photographs at quality 50
RATE_SLOPE, PSNR_SLOPE = 0.038, 0.17  # of the logarithm of the size, and of dB, over quality there
TRIALS = 6  # fits for a target that go on from the first
PARAM_NETWORK = 16  # header key: number of the initial network


class OverfitSettings(CodecSettings):
    """Settings of `image-overfit`."""

    quality: int = Field(50, ge=0, le=100, description="0 (smallest file) to 100 (best picture)")
    effort: int = Field(5, ge=1, le=9, description="1 (fastest) to 9 (smallest file): how many steps a fit takes")
    checkpoint: str | None = Field(
        None,
        description="a folder that keeps how far fits are: the same command again goes on from there",
        json_schema_extra={"local": True},  # a path of this machine: nothing that a service may be asked for
    )

    @property
    def weight(self) -> float:
        """The weight of a bit per pixel beside the squared error of samples in 0..1."""
        return weight_of(self.quality)


def weight_of(quality: float) -> float:
    """Return the weight (lambda) of a bit per pixel at a quality."""
    return float(COARSE_WEIGHT * (FINE_WEIGHT / COARSE_WEIGHT) ** (quality / 100))


class ImageOverfit:
    """The codec. Takes 8-bit grey and RGB; alpha travels losslessly beside it."""

    id = "image-overfit"
    signal = "image"
    lossless = False
    devices = ("cpu",)
    overlaps = True
    Settings = OverfitSettings

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def encode(self, signal: Image, settings: OverfitSettings, progress: Progress | None = None) -> Stream:
        """Fit and code; raises `UnsupportedMedia` for 16-bit samples, and what `progress` raises."""
        folder = _folder(settings, signal, settings.weight)
        with _threads() as run:
            return self._fitted(_Work(signal, settings, run), settings.weight, folder, progress)

    def encode_to(self, signal: Image, settings: OverfitSettings, target: Target, progress: Progress | None = None) -> Stream:
        """Fit, then go on with other weights of the rate until the target is met closely.

        Raises `InvalidSettings` that tells the best reached.
        """
        most = target.max_bytes(signal.pixels)
        if most is None:
            least = float(target.psnr or 0.0)
            start, slope, bounds = 50 + (least - MIDDLE_PSNR) / PSNR_SLOPE, PSNR_SLOPE, (0.0, 0.1)
        else:
            bpp = 8 * most / signal.pixels
            start, slope, bounds = 50 + math.log(bpp / MIDDLE_BPP) / RATE_SLOPE, RATE_SLOPE, (-0.03, 0.0)
        start = min(max(start, 0.0), 100.0)
        tried: list[tuple[float, int, Stream]] = []

        def gap(quality: float) -> float:
            if not tried:  # a fit from the beginning says little of what those will reach that go on from it
                self._fitted(work, weight_of(quality), folder, share_of(progress, 0, 0.5))
            left = 0.5 ** (len(tried) + 1)  # of the progress: each fit takes half of it
            stream = self._fitted(work, weight_of(quality), None, share_of(progress, 1 - left, left / 2))
            size = len(packed(stream, signal, settings, 0.0, self.device).data)
            reached = psnr(signal, self.decode(stream))
            tried.append((reached, size, stream))
            return reached - least if most is None else math.log(size / most)

        folder = _folder(settings, signal, weight_of(start))
        with _threads() as run:
            work = _Work(signal, settings, run)
            approach(gap, start, slope, (0.0, 100.0), bounds, closest=0.5, trials=TRIALS)
        met = [trial for trial in tried if (trial[0] >= least if most is None else trial[1] <= most)]
        if not met:
            best = (
                f"the highest PSNR is {max(tried)[0]:.2f} dB"
                if most is None
                else f"the smallest file has {min(t[1] for t in tried):,} bytes"
            )
            raise InvalidSettings(f"the target of {target} cannot be met: {best}, by {self.id}")
        return min(met, key=lambda trial: trial[1] if most is None else -trial[0])[2]

    def _fitted(self, work: _Work, weight: float, folder: Path | None, progress: Progress | None) -> Stream:
        """Return the stream of a fit with this weight of the rate, from where the first fit ended, if there was one."""
        signal, initial, settings = work.signal, initial_networks(), work.settings
        if not work.fits:
            work.number = initial.nearest(weight)
        chunks, digests = [], []
        for i, place in enumerate(work.tiles):
            before = work.fits.get(i)
            if before is None:
                target = np.ascontiguousarray(work.planes[(slice(None), *place)], np.float32) / np.float32(255)
                fit = work.fits[i] = Fit(target, weight, initial.entries[work.number], EFFORTS[settings.effort], work.run)
            else:
                fit = before.again(weight)
            report = share_of(progress, i / len(work.tiles), 1 / len(work.tiles)) or (lambda part, stage: None)
            quantised = fit.advance(folder and folder / f"{i}.safetensors", report)
            payload, digest = encode_tile(quantised.code, quantised.network, fit.picture.symbols())
            chunks.append(payload)
            digests.append(digest)
        if signal.has_alpha:
            chunks.append(encode_alpha(signal.array[:, :, -1].astype(np.uint8)))
        return Stream(
            self.id,
            signal.shape,
            tuple(chunks),
            params={PARAM_NETWORK: work.number},
            weights=(initial.digest,),
            digest=joint_digest(digests),
            metadata=signal.metadata,
        )

    def decode(self, stream: Stream, progress: Progress | None = None) -> Image:
        """Restore a picture; raises `CorruptStream` where symbols or sizes contradict the header."""
        number = stream.params.get(PARAM_NETWORK)
        check_shape(stream)
        height, width, channels = stream.shape
        tiles = tiles_of(height, width)
        if len(stream.chunks) != len(tiles) + (channels in (2, 4)):
            raise CorruptStream(f"there are {len(stream.chunks)} payloads where the picture has {len(tiles)} tiles")
        entries = initial_networks(stream.weights[0]).entries
        if type(number) is not int or not 0 <= number < len(entries):
            raise CorruptStream(f"there is no initial network {number!r}")
        pixels, digests = np.empty((3, height, width), np.uint8), []
        for i, (rows, columns) in enumerate(tiles):
            size = rows.stop - rows.start, columns.stop - columns.start
            network, latents, digest = decode_tile(stream.chunks[i], entries[number].network, *size)
            digests.append(digest)
            floats = [plane.astype(np.float32) for plane in latents]
            pixels[:, rows, columns] = to_samples(Renderer(*size).render(floats, network.tensors()))
            if progress:
                progress((i + 1) / len(tiles), "decoding")
        if joint_digest(digests) != stream.digest:
            raise CorruptStream("the decoded symbols do not have the checksum in the header")
        return restore(stream, pixels)


class _Work:
    """A picture under way: what stays from one fit of it to the next."""

    def __init__(self, signal: Image, settings: OverfitSettings, run: Run) -> None:
        self.signal, self.settings, self.run = signal, settings, run
        self.planes, self.tiles = rgb_planes(signal, ImageOverfit.id), tiles_of(*signal.shape[:2])
        self.fits: dict[int, Fit] = {}
        self.number = 0  # of the initial network


@contextmanager
def _threads() -> Iterator[Run]:
    """Yield `map` on as many threads as there are processors: the kernels let go of the interpreter's lock."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(count) as pool:
        yield pool.map if count > 1 else map


def _folder(settings: OverfitSettings, signal: Image, weight: float) -> Path | None:
    """Return the folder of a fit, by all that decides its outcome; None without a checkpoint."""
    if settings.checkpoint is None:
        return None
    digest = hashlib.sha256(f"{signal.shape} {weight!r} {settings.effort} {initial_networks().digest.hex()}".encode())
    digest.update(np.ascontiguousarray(signal.array).data)
    return checkpoint_folder(settings.checkpoint, digest.digest())
