"""`audio-lossless`: sound without loss, by long adaptive predictions of every sample and mixed probabilities.

How it works and what it costs: docs/codecs/audio-lossless.md. Everything is adaptive, so that there are no weights.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import cast

import numpy as np
from pydantic import Field

from ..codec import CodecSettings, Progress, Stream
from ..errors import CorruptStream
from ..signals import Audio, AudioSamples
from ..sources import dtype_of_bits
from .lossless_packets import decode_packet, encode_packet
from .samples import PacketSamples, audio_of_packets

__all__ = ["AudioLossless", "AudioLosslessSettings"]

PARAM_EFFORT, PARAM_PACKET = 16, 17
DEFAULT_EFFORT, HIGHEST_EFFORT = 5, 9
DEFAULT_SECONDS = 10.0
LARGEST_PACKET = 2**24  # samples of all channels: what memory a packet takes depends on it


class AudioLosslessSettings(CodecSettings):
    """Settings of `audio-lossless`."""

    effort: int = Field(
        DEFAULT_EFFORT, ge=1, le=HIGHEST_EFFORT, description="1 (fastest) to 9 (smallest file); decoding takes as long"
    )
    packet: float = Field(
        DEFAULT_SECONDS,
        ge=0.1,
        le=60,
        description="seconds of a packet, which seeking decodes and damage costs: shorter ones make larger files",
    )


class AudioLossless:
    """The codec. Takes all sound: 8 to 24 bits and float32, 1 to 8 channels, of any rate and length."""

    id = "audio-lossless"
    signal = "audio"
    lossless = True
    overlaps = True
    devices = ("cpu",)
    Settings = AudioLosslessSettings

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def encode(self, signal: Audio, settings: AudioLosslessSettings, progress: Progress | None = None) -> Stream:
        """Compress sound, packets on all cores; raises `UnsupportedMedia` for samples of more bits than it says."""
        channels, count = signal.source.shape
        length = min(max(round(settings.packet * signal.rate), 1), LARGEST_PACKET // channels)
        chunks = list[bytes]()
        for coded in _each(_packets(signal, length), signal.bits, settings.effort):
            chunks.append(coded)
            if progress:
                progress(min(len(chunks) * length / count, 1.0), self.id)
        params = {} if settings.effort == DEFAULT_EFFORT else {PARAM_EFFORT: settings.effort}
        if len(chunks) > 1:
            params[PARAM_PACKET] = length
        return Stream(self.id, (channels, count), tuple(chunks) or (b"",), bit_depth=signal.bits, params=params)

    def decode(self, stream: Stream, progress: Progress | None = None) -> Audio:
        """Restore the sound, whose packets are decoded as their samples are asked for; raises `CorruptStream`, then as well."""
        effort = stream.params.get(PARAM_EFFORT, DEFAULT_EFFORT)
        if type(effort) is not int or not 1 <= effort <= HIGHEST_EFFORT:
            raise CorruptStream(f"the effort is {effort!r}, not an integer of 1..{HIGHEST_EFFORT}")
        if stream.audio is None or stream.version != 1:
            raise CorruptStream(f"audio-lossless has no version {stream.version} of what is no sound")
        channels, count = stream.shape
        length = stream.params.get(PARAM_PACKET, max(count, 1))
        if type(length) is not int or not 0 < length <= LARGEST_PACKET // channels:
            raise CorruptStream(f"the length of a packet is {length!r}, not 1 to {LARGEST_PACKET // channels}")
        if len(stream.chunks) != max(-(-count // length), 1):
            raise CorruptStream(f"{count} samples in packets of {length} are not {len(stream.chunks)} packets")
        bits = stream.bit_depth

        def decode(packet: int) -> AudioSamples:
            here = min(length, count - packet * length)
            return decode_packet(stream.chunks[packet], (channels, here), bits, effort)

        if progress:
            progress(1.0, self.id)
        source = PacketSamples((channels, count), dtype_of_bits(bits), length, decode, stream.lost)
        return audio_of_packets(source, stream.audio.rate, bits)


def _packets(signal: Audio, length: int) -> Iterator[AudioSamples]:
    """Yield the samples in packets of `length`, the last one shorter."""
    blocks, held = deque[AudioSamples](), 0
    for block in signal.source.read(0, signal.shape[1]):
        blocks.append(block)
        held += block.shape[1]
        while held >= length:
            joined = cast(AudioSamples, np.concatenate(blocks, axis=1))
            yield joined[:, :length]
            blocks, held = deque([joined[:, length:]]), held - length
    if held:
        yield cast(AudioSamples, np.concatenate(blocks, axis=1))


def _each(packets: Iterator[AudioSamples], bits: int, effort: int) -> Iterator[bytes]:
    """Yield the packets coded, on as many cores as this process may use; no more are read ahead than are being coded."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores == 1:
        for packet in packets:
            yield encode_packet(packet, bits, effort)
        return
    with ThreadPoolExecutor(cores) as pool:
        coded = deque[Future[bytes]]()
        try:
            for packet in packets:
                coded.append(pool.submit(encode_packet, packet, bits, effort))
                if len(coded) > cores:
                    yield coded.popleft().result()
            while coded:
                yield coded.popleft().result()
        finally:
            for future in coded:
                future.cancel()
