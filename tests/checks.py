"""What every codec must pass. Each codec's test file calls these with its own pictures and settings."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from laconic.codecs import compress, container
from laconic.codecs.batches import Request, decode_many, encode_many
from laconic.codecs.errors import LaconicError
from laconic.codecs.limits import Limits
from laconic.codecs.metrics import psnr
from laconic.codecs.signals import Image, Video

__all__ = [
    "check_batches",
    "check_deterministic",
    "check_rate",
    "check_rejects",
    "check_round_trip",
    "check_salvages",
]

METADATA = {"icc": b"a colour profile", "exif": b"II*\x00\x08\x00\x00\x00\x00\x00", "xmp": b"<x:xmpmeta/>"}
Settings = Mapping[str, object]


def check_round_trip(codec: str, image: Image | Video, settings: Settings, least_psnr: float = math.inf) -> bytes:
    """Encode, decode and compare; shape, depth and metadata come back, and the picture with `least_psnr` dB (inf: exactly).

    Returns the file. Its header must say what is in it.
    """
    metadata = METADATA if isinstance(image, Image) else {"audio": b"the sound"}
    given = replace(image, metadata=metadata)
    encoded = compress.encode(given, codec, settings, device="cpu")
    decoded = compress.decode(encoded.data, device="cpu")
    assert decoded.shape == image.shape
    assert decoded.array.dtype == image.array.dtype
    assert decoded.metadata == metadata
    assert psnr(image, decoded) >= least_psnr
    assert given.metadata == metadata, "the input was changed"
    stream = container.read(encoded.data)
    assert (stream.codec, stream.shape, stream.bit_depth) == (codec, image.shape, image.bit_depth)
    again = compress.encode(given, encoded.codec, encoded.settings, device="cpu")
    assert again.data == encoded.data, "the settings reported are not the ones used"
    compress.test(encoded.data, device="cpu")
    return encoded.data


def check_deterministic(codec: str, image: Image | Video, settings: Settings) -> None:
    """Two runs, and torch on one thread and on two, give the same file and the same decoded samples."""
    import torch

    before = torch.get_num_threads()
    try:
        files, decoded = [], []
        for threads in (1, 1, 2):
            torch.set_num_threads(threads)
            files.append(compress.encode(image, codec, settings, device="cpu").data)
            decoded.append(compress.decode(files[0], device="cpu").array)
    finally:
        torch.set_num_threads(before)
    assert files[0] == files[1] == files[2]
    # Reconstruction is float and may differ by one in the last place.
    assert all(np.abs(decoded[0].astype(int) - other).max() <= 1 for other in decoded[1:])


def check_batches(codec: str, images: Sequence[Image], settings: Settings) -> None:
    """Signals coded together give the bytes that they give alone, and decode together to the same samples (within 1)."""
    alone = [compress.encode(image, codec, settings, device="cpu").data for image in images]
    together = encode_many([Request(image, codec, settings) for image in images], device="cpu")
    assert [file if isinstance(file, LaconicError) else file.data for file in together] == alone
    for data, signal in zip(alone, decode_many(alone, device="cpu"), strict=True):
        assert not isinstance(signal, LaconicError)
        expected = compress.decode(data, device="cpu")
        assert signal.shape == expected.shape
        assert np.abs(signal.array.astype(int) - expected.array).max() <= 1


def check_rejects(
    data: bytes, flips: int, truncations: int = 400, open_file: Callable[[bytes], object] | None = None, seed: int = 0
) -> int:
    """Damaged files raise a `LaconicError` or decode; nothing else happens. Returns how many raised.

    Tries at most `truncations` lengths, spread evenly with both ends dense, and `flips` single flipped bits. `open_file` is
    what is attacked: `compress.decode` unless given.
    """
    attacked = open_file or (lambda damaged: compress.decode(damaged, Limits(max_pixels=10**6), device="cpu"))
    generator = random.Random(seed)
    step = max(1, len(data) // truncations)
    lengths = sorted({*range(0, len(data), step), *range(min(64, len(data))), *range(max(0, len(data) - 16), len(data))})
    files = [data[:length] for length in lengths]
    for _ in range(flips):
        damaged = bytearray(data)
        damaged[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        files.append(bytes(damaged))
    raised = 0
    for damaged_file in files:
        try:
            attacked(damaged_file)
        except LaconicError:
            raised += 1
    return raised


def check_salvages(data: bytes, flips: int, seed: int = 0) -> None:
    """A flipped bit costs at most one group of a video's frames, which is named; all others are as they were."""
    whole = compress.decode(data, device="cpu")
    assert isinstance(whole, Video)
    frames, generator = whole.array, random.Random(seed)
    groups = len(container.read(data).chunks)
    for number in range(flips):
        damaged = bytearray(data)
        damaged[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        video = compress.decode(bytes(damaged), device="cpu", salvage=True)
        assert isinstance(video, Video)
        assert len(video.lost) <= 1
        assert sum(stop - start for start, stop in video.lost) <= -(-len(frames) // groups)
        if number % 10 == 0:  # frames are as they were wherever the group is
            kept = np.ones(len(frames), bool)
            for start, stop in video.lost:
                kept[start:stop] = False
            assert np.array_equal(video.array[kept], frames[kept])


def check_rate(data: bytes, ideal_bits: float) -> None:
    """A file has at most 0.5 % and 64 bytes more than the probabilities of its symbols call for."""
    assert 8 * len(data) <= 1.005 * ideal_bits + 8 * 64
