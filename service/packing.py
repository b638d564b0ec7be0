"""Signals as messages between the service and the processes that read and write media: facts for JSON, and bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple
from fractions import Fraction
from typing import Any

import numpy as np

from ..codecs.limits import Limits
from ..codecs.signals import ArrayFrames, ArraySamples, Audio, Colour, Image, Pictures, Signal, Video
from ..codecs.sources import dtype_of_bits

__all__ = ["Reply", "largest_payload", "pack_signal", "unpack_signal"]

Reply = tuple[Mapping[str, Any], list[bytes | memoryview]]  # what the JSON says, the parts of the payload


def largest_payload(limits: Limits) -> int:
    """Return the bytes of the largest signal that the limits allow: pictures of 16 bits with alpha, videos, sound."""
    samples = max(8 * limits.max_pixels, 6 * limits.max_video_pixels, 4 * limits.max_samples)
    return samples + 8 * limits.max_frames + limits.max_metadata_bytes + limits.max_audio_bytes


def pack_signal(signal: Signal) -> Reply:
    """Return a picture, sound, or a video with all of its frames, as what describes it, and its samples, times and metadata."""
    array, names = np.ascontiguousarray(signal.array), list(signal.metadata)
    facts = {
        "kind": signal.kind,
        "shape": array.shape,
        "depth": 8 * array.dtype.itemsize,
        "metadata": {name: len(signal.metadata[name]) for name in names},
    }
    times: list[bytes | memoryview] = []
    if isinstance(signal, Video):
        facts |= {"rate": signal.rate.as_integer_ratio(), "colour": astuple(signal.colour), "lost": signal.lost}
        facts["timed"] = signal.times is not None
        times = [] if signal.times is None else [signal.times.astype("<i8").tobytes()]
    if isinstance(signal, Audio):
        facts |= {"rate": signal.rate, "bits": signal.bits, "layout": signal.layout, "lost": signal.lost}
    samples = memoryview(array.reshape(-1).view(np.uint8).data)
    return facts, [samples, *times, *(signal.metadata[name] for name in names)]


def unpack_signal(facts: Mapping[str, Any], payload: memoryview) -> Signal:
    """Return the signal; raises `ValueError`, `KeyError`, `TypeError` or `ZeroDivisionError` where the two disagree."""
    shape, depth = tuple(int(side) for side in facts["shape"]), int(facts["depth"])
    sounds = facts["kind"] == "audio"
    dtype: Any = dtype_of_bits(int(facts["bits"])) if sounds else {8: np.uint8, 16: np.uint16}[depth]
    count = int(np.prod(shape, dtype=object))
    array: Any = np.frombuffer(payload, dtype, count).reshape(shape)
    at, metadata, times = count * depth // 8, {}, None
    if facts.get("timed"):
        times = np.frombuffer(payload, "<i8", shape[0], at).astype(np.int64)
        at += 8 * shape[0]
    for name, length in facts["metadata"].items():
        metadata[str(name)] = bytes(payload[at : at + length])
        at += length
    if at != len(payload):
        raise ValueError(f"a signal of {at} bytes in {len(payload)}")
    if sounds:
        sound = ArraySamples(array), int(facts["rate"]), int(facts["bits"]), str(facts["layout"])
        return Audio(*sound, metadata, tuple((int(start), int(stop)) for start, stop in facts["lost"]))
    if facts["kind"] == "video":
        rate, colour = Fraction(*map(int, facts["rate"])), Colour(*facts["colour"])
        lost = tuple((int(start), int(stop)) for start, stop in facts["lost"])
        return Video(ArrayFrames(array), rate, times, colour, metadata, lost)
    return {"image": Image, "pictures": Pictures}[facts["kind"]](array, metadata)
