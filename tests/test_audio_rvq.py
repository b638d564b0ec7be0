"""The speech codec: what comes back, packets, tokens, the model of the tokens, damage."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from laconic.codecs import compress, container
from laconic.codecs.audio.resampling import resampling
from laconic.codecs.audio.rvq import AudioRvq, digest_of, model_of, stream_of_tokens, tokens_of
from laconic.codecs.audio.rvq_networks import RvqNetwork, RvqSpec
from laconic.codecs.audio.rvq_packets import Cut, LevelMeter, SequentialSamples, gain_of
from laconic.codecs.audio.rvq_quantiser import SCHEMES, ResidualQuantiser, masks_of
from laconic.codecs.audio.rvq_tokens import LIMIT, LOGIT_BITS, POWERS, TokenModel
from laconic.codecs.errors import CorruptStream, InvalidSettings, UnsupportedMedia
from laconic.codecs.limits import Limits
from laconic.codecs.signals import Audio, AudioSamples

from .checks import check_rate, check_rejects
from .sounds import BlockSamples, voice

TAGS = {"tags": b'{"title": "t"}'}


def as_dtype(samples: np.ndarray, bits: int) -> AudioSamples:
    if bits == 32:
        return samples.astype(np.float32)
    return np.rint(samples * 2 ** (bits - 1)).astype(np.int16 if bits <= 16 else np.int32)


def coded(sound: Audio, **settings: object) -> bytes:
    return compress.encode(sound, "audio-rvq", settings, device="cpu").data


def decoded(data: bytes, salvage: bool = False) -> Audio:
    sound = compress.decode(data, device="cpu", salvage=salvage)
    assert isinstance(sound, Audio)
    return sound


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))


@pytest.fixture(scope="module")
def speech() -> Audio:
    return Audio.of(as_dtype(voice(40_123), 16), 16_000)


@pytest.fixture(scope="module")
def file(speech: Audio) -> bytes:
    return coded(speech)


@pytest.mark.parametrize(
    ("samples", "rate", "channels", "bits"),
    [(30_000, 16_000, 1, 16), (60_001, 44_100, 2, 24), (9_000, 8_000, 1, 32), (30_000, 22_050, 1, 16), (17_000, 16_000, 3, 16)],
)
def test_shape_rate_and_depth_come_back(samples: int, rate: int, channels: int, bits: int) -> None:
    original = voice(samples, rate, channels)
    sound = replace(Audio.of(as_dtype(original, bits), rate, bits), metadata=TAGS)
    encoded = compress.encode(sound, "audio-rvq", {"kbps": 12}, device="cpu")
    restored = decoded(encoded.data)
    assert (restored.shape, restored.rate, restored.bits, restored.metadata) == (sound.shape, rate, bits, TAGS)
    assert restored.array.dtype == sound.array.dtype
    assert correlation(restored.array.astype(float), sound.array.astype(float)) > 0.8
    again = compress.encode(sound, "audio-rvq", encoded.settings, device="cpu")
    assert again.data == encoded.data, "the settings reported are not the ones used"


@pytest.mark.parametrize("samples", [0, 1, 319, 320, 16_000, 16_001])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_sounds_of_any_length(samples: int, rate: int) -> None:
    sound = Audio.of(as_dtype(voice(samples, rate), 16), rate)
    assert decoded(coded(sound)).array.shape == (1, samples)


def test_silence_clipping_and_what_is_no_number() -> None:
    silence = decoded(coded(Audio.of(np.zeros((1, 20_000), np.int16), 16_000)))
    assert np.abs(silence.array).max() <= 16
    loud = decoded(coded(Audio.of(np.full((1, 5000), 32767, np.int16), 16_000)))
    assert loud.array.dtype == np.int16
    broken = np.full((1, 5000), np.nan, np.float32)
    broken[0, :100] = np.inf
    assert np.isfinite(decoded(coded(Audio.of(broken, 16_000))).array).all()


@pytest.fixture(scope="module")
def stereo() -> Audio:
    left, right = voice(100_000, 48_000, seed=1)[0], voice(100_000, 48_000, seed=2)[0]
    return Audio.of(as_dtype(np.stack([left + 0.3 * right, left - 0.3 * right]), 16), 48_000)


def test_music_is_stereo_at_48_khz(stereo: Audio) -> None:
    data = coded(stereo, kbps=10)
    assert data == coded(stereo, kbps=10, model="music") != coded(stereo, kbps=10, model="speech")
    assert container.read(data).weights == (digest_of("music"),)
    restored, original = decoded(data).array.astype(float), stereo.array.astype(float)
    assert all(correlation(a, b) > 0.6 for a, b in zip(restored, original, strict=True))
    assert correlation(restored[0] - restored[1], original[0] - original[1]) > 0.6
    for start, stop in [(0, 1), (47_999, 48_001), (48_000, 100_000), (30_000, 99_000)]:
        assert np.array_equal(decoded(data).part(start, stop).array, restored[:, start:stop])


def test_music_of_equal_channels_comes_back_equal(stereo: Audio) -> None:
    mono = np.repeat(stereo.array[:1, :50_000], 2, axis=0)
    data = coded(Audio.of(mono, 48_000), kbps=6)
    restored = decoded(data).array.astype(int)
    assert np.abs(restored[0] - restored[1]).max() < 0.02 * np.abs(restored).max()
    assert len(data) < 1.5 * len(coded(Audio.of(mono[:1], 48_000), kbps=6, model="music"))  # a silent difference is cheap
    right_only = mono * np.array([[0], [1]], np.int16)
    assert np.abs(decoded(coded(Audio.of(right_only, 48_000))).array[0].astype(int)).max() < 0.3 * np.abs(mono).max()


def test_auto_takes_music_for_stereo_of_high_rates() -> None:
    for channels, rate, name in [(1, 48_000, "speech"), (2, 16_000, "speech"), (2, 32_000, "music"), (6, 48_000, "music")]:
        sound = Audio.of(as_dtype(voice(2000, rate, channels), 16), rate)
        assert container.read(coded(sound)).weights == (digest_of(name),)
        assert decoded(coded(sound)).shape == sound.shape


def test_parts_are_equal_to_the_whole(file: bytes) -> None:
    whole = decoded(file).array
    for start, stop in [(0, 1), (15_999, 16_001), (16_000, 40_123), (39_000, 39_001), (5, 33_000)]:
        assert np.array_equal(decoded(file).part(start, stop).array, whole[:, start:stop])


def test_a_source_in_blocks_gives_the_same_file(speech: Audio, file: bytes) -> None:
    for size in (7001, 320, 39_999):
        assert coded(replace(speech, source=BlockSamples(speech.array, size))) == file


def test_threads_and_runs_give_the_same_file(speech: Audio, file: bytes) -> None:
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            assert coded(speech) == file
            assert np.abs(decoded(file).array.astype(int) - decoded(file).array).max() <= 1
    finally:
        torch.set_num_threads(before)


def test_quality_takes_bytes() -> None:
    sound = Audio.of(as_dtype(voice(32_000), 16), 16_000)
    sizes = [len(coded(sound, quality=quality)) for quality in (0, 30, 67, 100)]
    assert sizes == sorted(sizes) and sizes[3] > 3 * sizes[0]
    with pytest.raises(InvalidSettings):
        coded(sound, kbps=100)


def test_equal_channels_are_coded_once() -> None:
    one = as_dtype(voice(30_000), 16)
    both = decoded(data := coded(Audio.of(np.repeat(one, 2, 0), 16_000)))
    assert np.array_equal(both.array[0], both.array[1])
    assert len(data) < len(coded(Audio.of(one, 16_000))) + 30


@pytest.mark.parametrize("rate", [100, 400_000])
def test_other_rates_are_refused(rate: int) -> None:
    with pytest.raises(UnsupportedMedia, match="samples a second"):
        coded(Audio.of(np.zeros((1, 10), np.int16), rate))


def test_a_lost_packet_costs_itself(file: bytes) -> None:
    whole = decoded(file)
    chunk = [chunk for chunk in container.describe(file).chunks if chunk.type == "payload"][1]
    damaged = bytearray(file)
    damaged[chunk.offset + 20] ^= 4
    with pytest.raises(CorruptStream):
        decoded(bytes(damaged))
    saved = decoded(bytes(damaged), salvage=True)
    assert saved.lost == ((16_000, 32_000),)
    assert not saved.array[:, 16_000:32_000].any()
    assert np.array_equal(saved.array[:, :16_000], whole.array[:, :16_000])
    spec = model_of(container.read(file).weights[0]).spec
    known = 32_000 + (spec.decoder_reach + 1) * spec.hop  # from here on the networks remember nothing of the lost packet
    assert np.array_equal(saved.array[:, known:], whole.array[:, known:])


def test_damaged_files_raise_or_decode(file: bytes) -> None:
    def read(data: bytes) -> object:
        return decoded(data).array if len(data) < 10**6 else None

    assert check_rejects(file, flips=40, truncations=20, open_file=read) >= 55


def test_tokens_come_out_and_go_back(speech: Audio, file: bytes) -> None:
    stream = container.read(file)
    tokens = tokens_of(stream)
    assert tokens.codes.shape == (1, stream.params[16], 127) and tokens.rate == 50
    assert tokens.codes.min() >= 0 and tokens.codes.max() <= 255
    assert container.write(stream_of_tokens(tokens)) == file
    for wrong in (tokens.codes[:, :, 1:], tokens.codes + 256):
        with pytest.raises(InvalidSettings):
            stream_of_tokens(replace(tokens, codes=wrong))
    fewer = stream_of_tokens(replace(tokens, codes=tokens.codes[:, :4]))
    assert compress.finished(AudioRvq().decode(fewer), fewer).shape == speech.shape


def ideal_bits(model: TokenModel, codes: np.ndarray) -> float:
    """The distribution of codes (T, levels) computed a second time, frame by frame with whole arrays."""
    bits, channels = 0.0, model.vectors.shape[2]
    before = np.zeros((3, channels), np.int64)
    for frame in codes:
        inputs = np.append(np.clip(before >> model.shifts, -LIMIT, LIMIT), len(frame) * 256 // len(model.vectors))
        context = np.clip((inputs @ model.context + model.context_bias) >> model.scales[0], 0, LIMIT)
        total = np.zeros(channels, np.int64)
        for level, code in enumerate(frame):
            seen = np.append(context, np.clip(total >> model.shifts, -LIMIT, LIMIT))
            hidden = (seen @ model.inner[level] + model.inner_bias[level]) >> model.scales[1 + level]
            logits = np.clip(hidden, 0, LIMIT) @ model.outer[level] + model.outer_bias[level]
            below = (logits >> model.scales[1 + len(model.vectors) + level]).max()
            below = below - (logits >> model.scales[1 + len(model.vectors) + level])
            weights = np.maximum(1, POWERS[below & (2**LOGIT_BITS - 1)] >> np.minimum(below >> LOGIT_BITS, 30))
            bits -= math.log2(weights[code] / weights.sum())
            total += model.vectors[level, code]
        before = np.stack([total, before[0], before[2] + ((total - before[2]) >> 3)])
    return bits


def test_tokens_take_the_bits_that_their_model_says(file: bytes) -> None:
    stream = container.read(file)
    model = model_of(stream.weights[0]).tokens
    codes = tokens_of(stream).codes[0].T
    cut = Cut(40_123, 16_000, 16_000, 320)
    for packet, chunk in enumerate(stream.chunks):
        check_rate(chunk, ideal_bits(model, codes[slice(*cut.owned(packet))]))


def test_the_model_of_tokens_saves() -> None:
    sound = Audio.of(as_dtype(voice(48_000), 16), 16_000)
    data = coded(sound)
    levels = container.read(data).params[16]
    assert isinstance(levels, int) and 8 * len(data) < 0.95 * levels * 8 * 50 * 3


@pytest.mark.parametrize("scheme", SCHEMES)
def test_quantisers_halve_the_error_and_use_their_codes(scheme: str) -> None:
    torch.manual_seed(1)
    latents = torch.randn(2000, 12) * torch.linspace(2, 0.2, 12)
    quantiser = ResidualQuantiser(12, levels=6, codes=16, scheme=scheme)
    quantiser.start(latents, generator=torch.Generator().manual_seed(0))
    errors = []
    for count in (1, 3, 6):
        quantised = quantiser(latents, torch.full((2000,), count))
        assert (quantised.codes[:, count:] == -1).all() and (quantised.codes[:, :count] >= 0).all()
        assert torch.allclose(quantised.latents, quantiser.vectors(quantised.codes), atol=1e-5)
        errors.append(float(quantised.commitment))
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.5 * float((latents**2).mean())
    usage = quantiser.usage(quantiser.choose(latents, torch.full((2000,), 6)))
    assert all(used > 0.9 and entropy > 3 for used, entropy in usage)
    cheap = quantiser.usage(quantiser.choose(latents, torch.full((2000,), 6), price=4.0))
    assert sum(entropy for _, entropy in cheap) < sum(entropy for _, entropy in usage)


def test_masks_of_the_schemes() -> None:
    assert masks_of("residual", 4, 6).all()
    grouped = masks_of("grouped", 4, 6)
    assert torch.equal(grouped[0], grouped[2]) and torch.equal(grouped[0] + grouped[1], torch.ones(6))
    masked = masks_of("masked", 5, 6)
    assert torch.equal(masked[:3].sum(0), torch.ones(6)) and masked[3:].all()
    with pytest.raises(ValueError, match="quantiser"):
        ResidualQuantiser(4, 2, 4, "scalar")


def test_dead_codes_start_again() -> None:
    torch.manual_seed(0)
    quantiser = ResidualQuantiser(2, levels=1, codes=8)
    quantiser.start(torch.randn(500, 2))
    quantiser.codebooks[0, 3] = quantiser.sums[0, 3] = 1000.0
    for _ in range(300):
        quantiser.choose(torch.randn(500, 2), torch.ones(500), learn=True)
    assert quantiser.codebooks.abs().max() < 10


@pytest.fixture(scope="module")
def network() -> RvqNetwork:
    torch.manual_seed(0)
    model = RvqNetwork(RvqSpec(width=16, hidden=16)).eval()
    for branch in (model.analysis.branch, model.synthesis.branch):
        torch.nn.init.normal_(branch.outward.weight, std=0.1)
    return model


@torch.no_grad()
def test_the_lapped_transform_inverts_itself(network: RvqNetwork) -> None:
    samples = torch.from_numpy(voice(3200))
    restored = network.synthesis.samples(network.analysis.spectrum(samples))
    assert torch.allclose(restored, samples[:, 320:-320], atol=1e-5)


@torch.no_grad()
def test_networks_look_back_only_as_far_as_they_say(network: RvqNetwork) -> None:
    spec = network.spec
    samples = torch.from_numpy(voice(320 * 61))
    changed = samples.clone()
    changed[:, 320 * 30 : 320 * 31] += 0.1  # hop 30: in frames 29 and 30
    a, b = (network.analysis(network.analysis.spectrum(x)) for x in (samples, changed))
    differs = ((a - b).abs().amax((0, 2)) > 1e-6).nonzero()[:, 0]
    assert (int(differs.min()), int(differs.max())) == (29, 30 + spec.encoder_reach)
    c = a.clone()
    c[:, 20] += 0.1
    frames = [network.synthesis.frames(network.synthesis.spectrum(z)) for z in (a, c)]
    differs = ((frames[0] - frames[1]).abs().amax((0, 2)) > 1e-7).nonzero()[:, 0]
    assert (int(differs.min()), int(differs.max())) == (20, 20 + spec.decoder_reach)
    assert spec.decoder_reach + 2 < spec.rate // spec.hop, "a packet must fill the memory of the decoder"


@pytest.mark.parametrize(("source", "target"), [(44_100, 16_000), (16_000, 44_100), (8_000, 16_000), (96_000, 16_000)])
def test_resampling_keeps_tones_and_does_not_depend_on_cuts(source: int, target: int) -> None:
    change = resampling(source, target)
    first, last = change.span(0, target // 2)
    tone = lambda n, rate: np.sin(2 * np.pi * 440 * n / rate).astype(np.float32)[None]  # noqa: E731
    found = change(tone(np.arange(first, last), source), 0, target // 2)
    assert np.abs(found - tone(np.arange(target // 2), target)).max() < 2e-3
    a, b = change.span(1000, 1777)
    assert np.array_equal(change(tone(np.arange(a, b), source), 1000, 1777), found[:, 1000:1777])


def test_packets_own_every_frame_once() -> None:
    for samples, rate in [(1, 16_000), (16_000, 16_000), (100_001, 44_100), (48_000, 8_000), (2**40, 384_000)]:
        cut = Cut(samples, rate, 16_000, 320)
        packets = [0, 1, cut.packets - 2, cut.packets - 1] if cut.packets > 4 else range(cut.packets)
        assert cut.owned(0)[0] == 0 and cut.owned(cut.packets - 1)[1] == cut.total
        for packet in packets:
            start, stop = cut.owned(packet)
            assert start < stop and (packet == 0 or cut.owned(packet - 1)[1] == start)


def test_levels_follow_speech_and_not_pauses() -> None:
    meter, loud = LevelMeter(320), voice(16_000)
    first = meter(loud)
    assert 0.5 < gain_of(first) * np.sqrt((loud**2).mean()) / 0.05 < 2
    assert meter(loud * np.float32(1e-3)) == first
    assert all(meter(loud * np.float32(4)) > first for _ in range(3))


def test_sequential_samples_are_the_samples() -> None:
    array = as_dtype(voice(5000), 16)
    samples = SequentialSamples(Audio(BlockSamples(array, 333), 16_000))
    padded = np.pad(array, ((0, 0), (1000, 1000))).astype(np.float32) / 32768
    for start, stop in [(-500, 200), (-100, 200), (150, 1500), (1499, 1501), (4000, 5600), (5000, 5900)]:
        assert np.array_equal(samples.part(start, stop), padded[:, start + 1000 : stop + 1000])


def test_headers_that_contradict_themselves(file: bytes) -> None:
    stream = container.read(file)
    for wrong in ({"params": {}}, {"params": {16: 41}}, {"params": {16: 0}}, {"chunks": stream.chunks[:-1]}, {"weights": ()}):
        with pytest.raises(CorruptStream):
            AudioRvq().decode(replace(stream, **wrong))  # type: ignore[arg-type]
    for chunk in (b"", b"\xff" + stream.chunks[0][1:], stream.chunks[0][:1] + b"\x00" + stream.chunks[0][2:]):
        with pytest.raises(CorruptStream):
            _ = AudioRvq().decode(replace(stream, chunks=(chunk, *stream.chunks[1:]))).array


def test_an_hour_takes_the_memory_of_a_second() -> None:
    class Long:
        shape, dtype = (1, 16_000 * 3600), np.dtype(np.int16)

        def read(self, start: int, stop: int) -> object:
            for at in range(start, min(stop, 40_000), 4000):
                yield np.full((1, 4000), at % 7, np.int16)

    samples = SequentialSamples(Audio(Long(), 16_000))  # type: ignore[arg-type]
    for packet in range(2):
        samples.part(packet * 16_000 - 4000, (packet + 1) * 16_000)
    assert samples._kept.shape[1] <= 24_000
    assert compress.decode(coded(Audio.of(np.zeros((1, 100), np.int16), 16_000)), Limits(max_samples=100)).shape == (1, 100)
