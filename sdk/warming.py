"""Have numba compile every codec's kernels ahead of their first use, by coding media that go different ways."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from importlib.resources import files

import numpy as np

from .codecs import compress, media
from .codecs.codec import Codec, Progress, share_of
from .codecs.errors import UnsupportedMedia
from .codecs.registry import codec_class
from .codecs.settings import shortest_fit, takes
from .codecs.signals import Audio, Image, Signal, Video

__all__ = ["warmed"]


def warmed(names: Sequence[str], progress: Progress | None = None) -> Iterator[tuple[str, float, list[str]]]:
    """Code a few media with each codec on the CPU, both ways; yield its id, the seconds that took, and what it declined.

    A codec may decline (`UnsupportedMedia`) all but the first; raises whatever else it does.
    """
    for index, name in enumerate(names):
        report = share_of(progress, index / len(names), 1 / len(names))
        began, declined = time.perf_counter(), []
        for number, signal in enumerate(_signals(codec_class(name))):
            try:
                encoded = compress.encode(signal, name, shortest_fit(name), device="cpu", progress=report)
                compress.test(encoded.data, device="cpu")
            except UnsupportedMedia as reason:
                if number == 0:
                    raise
                declined.append(str(reason))
        yield name, time.perf_counter() - began, declined


def _signals(kind: type[Codec]) -> list[Signal]:
    if takes(kind, "image"):
        return [*_pictures()]
    if takes(kind, "audio"):
        return [*_sounds()]
    frames = np.stack([picture.array for picture in _pictures()[:1]] * 2)[:, :64, :64]
    return [Video.of(np.ascontiguousarray(frames))]


def _pictures() -> list[Image]:
    """Return pictures that go different ways: a photograph, also grey, 16 bits deep, with alpha, small, a JPEG; drawings."""
    photograph = media.read(files("laconic").joinpath("photograph.png").read_bytes()).array[128:384, 192:576]
    drawing = np.kron(np.indices((32, 48)).sum(0) % 5 * 40, np.ones((8, 8))).astype(np.uint8)[..., None]
    colours = np.concatenate([drawing, drawing[:, ::-1], drawing[::-1]], axis=2)
    deep = photograph.astype(np.uint16) * 257
    alpha = np.concatenate([photograph, drawing], axis=2)
    small = photograph[:24, :40]  # planes of one sample are contiguous, which kernels are compiled for of their own
    made = (photograph, photograph[..., :1], deep, deep[..., :1], alpha, colours, drawing, small)
    originals = [Image(np.ascontiguousarray(array)) for array in made]
    from_jpeg = media.read(media.write(originals[0], "jpeg"))
    assert isinstance(from_jpeg, Image)
    return [*originals, from_jpeg]


def _sounds() -> list[Audio]:
    """Return a chord with noise in stereo and mono, as integers of 16 bits, as floats, and at the rate of speech."""
    times = np.arange(48_000)[None, :] / 48_000
    noise = np.random.default_rng(0).normal(0, 0.01, (2, 48_000))
    chord = 0.3 * np.sin(2 * np.pi * times * np.array([[440.0], [554.4]])) + noise
    short = np.round(32767 * chord).astype(np.int16)
    return [Audio.of(short, 48_000), Audio.of(short[:1], 16_000), Audio.of(chord.astype(np.float32), 48_000)]
