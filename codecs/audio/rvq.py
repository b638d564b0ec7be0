"""`audio-rvq`: speech or music as tokens of a residual vector quantiser, entropy-coded by an integer network.

Networks are in `rvq_networks`, what packets hold in `rvq_packets`, the tokens' coder in `rvq_tokens`. A packet is one second;
it decodes with the packet before it, which fills the memory of the causal networks, or without it where that one is lost.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ...entropy.digest import symbol_digest
from ...entropy.errors import EntropyError
from ..codec import AudioFacts, CodecSettings, Progress, Stream
from ..errors import CorruptStream, InvalidSettings, UnsupportedMedia, WeightsMissing
from ..signals import Audio, AudioSamples
from ..sources import dtype_of_bits
from ..weights import load_weights, pinned_weights
from .resampling import resampling
from .rvq_model import RvqModel, rvq_model
from .rvq_packets import Cut, LevelMeter, SequentialSamples, gain_of, integer_samples
from .rvq_tokens import decode_tokens, encode_tokens
from .samples import PacketSamples, audio_of_packets

__all__ = ["AudioRvq", "RvqSettings", "Tokens", "digest_of", "model_of", "stream_of_tokens", "tokens_of"]

LOWEST_RATE, HIGHEST_RATE = 4_000, 384_000
SAME = 255  # instead of a level: the channel is the first one again
PARAM_LEVELS = 16  # header key
KBPS_LOW, KBPS_HIGH = 1.5, 12.0  # of quality 0 and 100
MUSIC_RATE = 32_000  # from which a stereo sound is taken for music


class RvqSettings(CodecSettings):
    """Settings of `audio-rvq`."""

    quality: int = Field(67, ge=0, le=100, description="0 (1.5 kbit/s a channel) to 100 (12); 67 is about 6")
    kbps: float | None = Field(None, ge=1.0, le=16.0, description="about how many kbit/s a channel takes; instead of quality")
    model: Literal["auto", "speech", "music"] = Field(
        "auto",
        description="networks: speech (16 kHz), music (48 kHz), or auto: music for two channels or more at 32 kHz or more",
    )
    effort: int = Field(6, ge=1, le=9, description="how many beginnings of a frame's codes the search keeps")

    @property
    def aim(self) -> float:
        """Kilobits a second that a channel shall take."""
        return self.kbps or KBPS_LOW * (KBPS_HIGH / KBPS_LOW) ** (self.quality / 100)

    def model_for(self, signal: Audio) -> str:
        """Return the name of the networks that encode a sound."""
        if self.model != "auto":
            return self.model
        return "music" if signal.shape[0] > 1 and signal.rate >= MUSIC_RATE else "speech"


@dataclass(frozen=True, eq=False)
class Tokens:
    """The integers of a sound: `codes` int16 (C, levels, T), each 0 .. 255, of frames of which there are `rate` a second.

    Frame t is whole with the samples up to t + 1 times the hop. `loudness` uint8 (C, packets) is the level that each packet was
    brought from, in 1.5 dB, or 255 where a channel's codes are the first one's; `shape`, `bit_depth`, `audio` and `metadata`
    are the sound's, `weights` the digest of the networks that gave and understand the codes.
    """

    codes: NDArray[np.int16]
    loudness: NDArray[np.uint8]
    rate: float
    shape: tuple[int, int]
    bit_depth: int
    audio: AudioFacts
    weights: bytes
    metadata: Mapping[str, bytes] = field(default_factory=dict)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an .npz file, whole or not at all, that `laconic.from_tokens` takes and `numpy.load` opens."""
        from ..saving import replace_file  # both write what this module makes
        from .rvq_token_files import token_file

        replace_file(path, token_file(self))


class _Packet(NamedTuple):
    """Decoded symbols of a packet: codes (C, T, levels) and level numbers (C), `SAME` where they repeat the first channel's."""

    codes: NDArray[np.int16]
    numbers: bytes

    def gain(self, channel: int) -> NDArray[np.float32]:
        """Return what the frames of a channel are multiplied by, (T)."""
        number = self.numbers[channel] if self.numbers[channel] != SAME else self.numbers[0]
        return np.full(self.codes.shape[1], 1 / gain_of(number), np.float32)


@cache
def model_of(digest: bytes) -> RvqModel:
    """Return the networks of the weights with this digest."""
    return rvq_model(load_weights("audio-rvq", digest))


@cache
def digest_of(name: str) -> bytes:
    """Return the digest of the newest weights for speech or for music."""
    for pin in pinned_weights("audio-rvq"):
        if load_weights("audio-rvq", pin.digest).metadata.get("sounds", "speech") == name:
            return pin.digest
    raise WeightsMissing(f"no weights of audio-rvq for {name} are installed")


class AudioRvq:
    """The codec. Takes 1 to 8 channels at 4 to 384 kHz, and codes them at the rate of its networks, 16 or 48 kHz.

    Each channel is coded by itself, but for the two of a stereo sound coded by the networks for music.
    """

    id = "audio-rvq"
    signal = "audio"
    lossless = False
    devices = ("cpu",)  # one packet at a time, far faster than sound: a GPU would wait
    Settings = RvqSettings

    def __init__(self, device: str = "cpu") -> None:
        pass  # networks load when they are first needed: few users need both

    def encode(self, signal: Audio, settings: RvqSettings, progress: Progress | None = None) -> Stream:
        """Compress; raises `UnsupportedMedia` for rates below 4 or above 384 kHz."""
        digest = digest_of(settings.model_for(signal))
        model = model_of(digest)
        cut = _cut_of(model, signal.shape[1], signal.rate)
        encoder = _Encoder(model, signal, cut, model.operating_point(settings.aim), model.beams(settings.effort))
        chunks = []
        for packet in range(cut.packets):
            chunks.append(encoder(packet))
            if progress is not None:
                progress((packet + 1) / cut.packets, "encoding")
        return Stream(
            self.id,
            signal.shape,
            tuple(chunks),
            bit_depth=signal.bit_depth,
            params={PARAM_LEVELS: encoder.levels},
            weights=(digest,),
            metadata=signal.metadata,
            audio=AudioFacts(signal.rate, signal.layout),
        )

    def decode(self, stream: Stream, progress: Progress | None = None) -> Audio:
        """Restore sound whose packets are decoded when they are read; raises `CorruptStream`."""
        model, cut, levels, facts = _checked(stream)
        decoder = _Decoder(model, stream, cut, _symbols(model, stream, cut, levels))
        shape = (stream.shape[0], stream.shape[1])
        source = PacketSamples(shape, dtype_of_bits(stream.bit_depth), facts.rate, decoder, stream.lost)
        return audio_of_packets(source, facts.rate, stream.bit_depth)


class _Encoder:
    """Encodes the packets of a sound, in order."""

    def __init__(self, model: RvqModel, signal: Audio, cut: Cut, point: tuple[int, float], beams: int) -> None:
        self.model, self.cut, self.beams = model, cut, beams
        self.levels, self.price = point
        self.sound = SequentialSamples(signal)
        self.joint = _is_joint(model, signal.shape[0])
        self.meters = [LevelMeter(model.spec.hop) for _ in range(1 if self.joint else signal.shape[0])]

    def __call__(self, packet: int) -> bytes:
        """Return the bytes of a packet."""
        start, stop = self.cut.owned(packet)
        if start >= stop:
            return b""
        model, hop = self.model, self.model.spec.hop
        context = min(start, model.spec.encoder_reach)
        samples = _at_model_rate(self.sound, self.cut, (start - context - 1) * hop, stop * hop)
        second = (context + 1) * hop
        if self.joint:
            samples = np.stack([0.5 * (samples[0] + samples[1]), 0.5 * (samples[0] - samples[1])])
            levels = [self.meters[0](samples[:, second:])] * 2
        else:
            levels = [meter(channel[None, second:]) for meter, channel in zip(self.meters, samples, strict=True)]
        numbers, channels = [], []
        for c, level in enumerate(levels):
            if c and np.array_equal(samples[c], samples[0]):
                numbers.append(SAME)
                continue
            numbers.append(level)
            latents = model.latents(samples[c] * np.float32(gain_of(level)))[context:]
            channels.append(model.search(latents, self.levels, self.price, self.beams))
        return _chunk(model, bytes(numbers), np.stack(channels))


class _Decoder:
    """Decodes a packet's samples from its tokens and those of the packet before it."""

    def __init__(self, model: RvqModel, stream: Stream, cut: Cut, symbols: Callable[[int], _Packet]) -> None:
        self.model, self.stream, self.cut, self.symbols = model, stream, cut, symbols

    def __call__(self, packet: int) -> AudioSamples:
        """Return the samples (C, n) of a packet."""
        cut, hop = self.cut, self.model.spec.hop
        start, stop = cut.span(packet)
        resample = None if cut.rate == cut.model_rate else resampling(cut.model_rate, cut.rate)
        first, last = resample.span(start, stop) if resample else (start, stop)
        hops = (first // hop, -(-last // hop))  # of which the last needs one frame more
        sound = self._sound(packet, *hops)[:, first - hops[0] * hop : last - hops[0] * hop]
        return integer_samples(resample(sound, start, stop) if resample else sound, self.stream.bit_depth)

    def _sound(self, packet: int, first: int, last: int) -> NDArray[np.float32]:
        """Return the hops first .. last - 1 (C, n) at the model's rate; silent outside of the frames there are."""
        spec = self.model.spec
        start = self.cut.owned(packet)[0]
        parts = [(start, self.symbols(packet))]
        if packet and packet - 1 not in self.stream.lost:
            parts.insert(0, (self.cut.owned(packet - 1)[0], self.symbols(packet - 1)))
        sound = np.zeros((self.stream.shape[0], (last - first) * spec.hop), np.float32)
        begin = max(parts[0][0], first - spec.decoder_reach)
        for c in range(len(sound)):
            codes = np.concatenate([part.codes[c] for _, part in parts])[begin - parts[0][0] :]
            gain = np.concatenate([part.gain(c) for _, part in parts])[begin - parts[0][0] :]
            frames = self.model.frames(codes, gain, begin)
            self._overlap(sound[c], frames, begin - first)
        if _is_joint(self.model, len(sound)):
            return np.stack([sound[0] + sound[1], sound[0] - sound[1]])
        return sound

    def _overlap(self, sound: NDArray[np.float32], frames: NDArray[np.float32], at: int) -> None:
        """Add frames (T, 2 hop), the first of which begins a hop before hop number `at` of the sound."""
        hop = self.model.spec.hop
        hops = sound.reshape(-1, hop)
        for half, shift in ((0, -1), (1, 0)):
            a = at + shift
            low, high = max(a, 0), min(a + len(frames), len(hops))
            if low < high:
                hops[low:high] += frames[low - a : high - a, half * hop : (half + 1) * hop]


def _is_joint(model: RvqModel, channels: int) -> bool:
    """Whether the channels are coded as half their sum and half their difference."""
    return model.spec.mid_side and channels == 2


def _cut_of(model: RvqModel, samples: int, rate: int) -> Cut:
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise UnsupportedMedia(f"audio-rvq takes {LOWEST_RATE:,} to {HIGHEST_RATE:,} samples a second, not {rate:,}")
    return Cut(samples, rate, model.spec.rate, model.spec.hop)


def _at_model_rate(sound: SequentialSamples, cut: Cut, first: int, last: int) -> NDArray[np.float32]:
    """Return samples first .. last - 1 at the model's rate (C, n); silence lies outside of the sound."""
    resample = None if cut.rate == cut.model_rate else resampling(cut.rate, cut.model_rate)
    start, stop = resample.span(first, last) if resample else (first, last)
    samples = sound.part(start, stop)
    return resample(samples, first, last) if resample else samples


def _symbols(model: RvqModel, stream: Stream, cut: Cut, levels: int) -> Callable[[int], _Packet]:
    """Return what decodes the tokens of a packet, and keeps those of the last one, as the next packet needs them again."""
    kept: dict[int, _Packet] = {}

    def symbols(packet: int) -> _Packet:
        if packet not in kept:
            found = _decode_symbols(model, stream.chunks[packet], stream.shape[0], cut.owned(packet), levels)
            for old in [number for number in kept if number != packet - 1]:
                del kept[old]
            kept[packet] = found
        return kept[packet]

    return symbols


def _decode_symbols(model: RvqModel, chunk: bytes, channels: int, owned: tuple[int, int], levels: int) -> _Packet:
    frames = owned[1] - owned[0]
    if frames <= 0:
        if chunk:
            raise CorruptStream("there are bytes in a packet without samples")
        return _Packet(np.zeros((channels, 0, levels), np.int16), bytes(channels))
    if len(chunk) <= channels:
        raise CorruptStream("a packet is too short")
    numbers, check, coded = chunk[:channels], chunk[channels : channels + 1], chunk[channels + 1 :]
    if numbers[0] == SAME:
        raise CorruptStream("the first channel of a packet repeats another")
    own = [c for c in range(channels) if numbers[c] != SAME]
    try:
        codes = decode_tokens(model.tokens, coded, len(own), frames, levels)
    except EntropyError as error:
        raise CorruptStream(f"a packet: {error}") from error
    if symbol_digest(codes)[1:] != check:
        raise CorruptStream("the decoded tokens do not have the checksum of their packet")
    places = [own.index(c) if c in own else 0 for c in range(channels)]
    return _Packet(codes[places], numbers)


def _chunk(model: RvqModel, numbers: bytes, codes: NDArray[np.int16]) -> bytes:
    """Return a packet's bytes: the channels' level numbers, a byte of the codes' checksum, the coded codes (C, T, levels)."""
    return numbers + symbol_digest(codes)[1:] + encode_tokens(model.tokens, codes)


def _checked(stream: Stream) -> tuple[RvqModel, Cut, int, AudioFacts]:
    """Return what a stream is decoded with, and its number of levels; raises `CorruptStream` for a header without sense."""
    levels, facts = stream.params.get(PARAM_LEVELS), stream.audio
    if facts is None or len(stream.shape) != 2 or len(stream.weights) != 1:
        raise CorruptStream(f"audio-rvq has no sound of shape {stream.shape}")
    model = model_of(stream.weights[0])
    if type(levels) is not int or not 1 <= levels <= model.spec.levels:
        raise CorruptStream(f"the number of levels is {levels!r}, not an integer of 1..{model.spec.levels}")
    cut = _cut_of(model, stream.shape[1], facts.rate)
    if len(stream.chunks) != cut.packets:
        raise CorruptStream(f"there are {len(stream.chunks)} packets where the sound has {cut.packets}")
    return model, cut, levels, facts


def tokens_of(stream: Stream) -> Tokens:
    """Return the codes of a stream of `audio-rvq`; raises `CorruptStream`, also where packets are lost."""
    model, cut, levels, facts = _checked(stream)
    if stream.lost:
        raise CorruptStream(f"{len(stream.lost)} packets are lost")
    symbols = _symbols(model, stream, cut, levels)
    packets = [symbols(packet) for packet in range(cut.packets)]
    return Tokens(
        np.concatenate([packet.codes for packet in packets], 1).transpose(0, 2, 1),
        np.stack([np.frombuffer(packet.numbers, np.uint8) for packet in packets], 1),
        model.spec.rate / model.spec.hop,
        (stream.shape[0], stream.shape[1]),
        stream.bit_depth,
        facts,
        stream.weights[0],
        dict(stream.metadata),
    )


def stream_of_tokens(tokens: Tokens) -> Stream:
    """Return the stream of codes: that of `tokens_of`, byte for byte, or another where codes were changed.

    Raises `InvalidSettings` for codes that the networks do not know or that do not fit the sound.
    """
    model = model_of(tokens.weights)
    cut = _cut_of(model, tokens.shape[1], tokens.audio.rate)
    _check_tokens(tokens, cut, model.spec.levels)
    channels, levels, _ = tokens.codes.shape
    chunks = []
    for packet in range(cut.packets):
        start, stop = cut.owned(packet)
        numbers = tokens.loudness[:, packet].tobytes()
        codes = tokens.codes[:, :, start:stop].astype(np.int16)
        own = [codes[c].T for c in range(channels) if numbers[c] != SAME]
        if any(numbers[c] == SAME and not np.array_equal(codes[c], codes[0]) for c in range(channels)):
            raise InvalidSettings("codes differ from the first channel's where `loudness` says 255: that they are the same")
        chunks.append(_chunk(model, numbers, np.stack(own)) if start < stop else b"")
    params, weights = {PARAM_LEVELS: levels}, (tokens.weights,)
    stream = Stream("audio-rvq", tokens.shape, tuple(chunks), 1, tokens.bit_depth, params, weights, audio=tokens.audio)
    return replace(stream, metadata=dict(tokens.metadata))


def _check_tokens(tokens: Tokens, cut: Cut, most_levels: int) -> None:
    """Raise `InvalidSettings` for codes and levels that are not of the sound's form, or that no file holds."""
    codes, loudness = tokens.codes, tokens.loudness
    if codes.ndim != 3 or codes.dtype.kind not in "iu" or loudness.dtype != np.uint8:
        raise InvalidSettings(f"codes are integers (C, levels, T), not {codes.dtype} of {codes.shape}, and loudness is uint8")
    channels, levels, frames = codes.shape
    if (channels, frames) != (tokens.shape[0], cut.total) or loudness.shape != (channels, cut.packets):
        raise InvalidSettings(f"a sound of shape {tokens.shape} has {cut.total} frames in {cut.packets} packets")
    if not 1 <= levels <= most_levels or (codes.size and not 0 <= codes.min() <= codes.max() < 256):
        raise InvalidSettings(f"there are 1 to {most_levels} levels of codes from 0 to 255")
    if not channels or (loudness[0] == SAME).any():
        raise InvalidSettings("the first channel has its own loudness in every packet, which is not 255")
