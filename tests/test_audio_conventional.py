"""The codecs `flac` and `opus`: samples, lengths, rates, channels, seams, targets, damage, bounds."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest

from laconic.codecs import compress, container
from laconic.codecs.audio.flac import LENGTH
from laconic.codecs.codec import AudioFacts, Stream
from laconic.codecs.compress import Target
from laconic.codecs.errors import CorruptStream, InvalidSettings, LaconicError, UnsupportedMedia
from laconic.codecs.limits import Limits
from laconic.codecs.registry import open_codec
from laconic.codecs.signals import Audio, Signal

from .checks import check_rejects
from .tones import snr, tone

TAGS = {"tags": b'{"title": "A tone"}'}


def there_and_back(audio: Audio, codec: str, **settings: object) -> tuple[bytes, Audio]:
    """The file of a sound and what it decodes to, once what every codec must do has been looked at."""
    given = replace(audio, metadata=TAGS)
    encoded = compress.encode(given, codec, settings, device="cpu")
    decoded = compress.decode(encoded.data, device="cpu")
    assert isinstance(decoded, Audio)
    assert (decoded.shape, decoded.rate, decoded.bits, decoded.layout) == (audio.shape, audio.rate, audio.bits, audio.layout)
    assert decoded.array.dtype == audio.array.dtype and decoded.metadata == TAGS and decoded.lost == ()
    assert compress.encode(given, encoded.codec, encoded.settings, device="cpu").data == encoded.data
    compress.test(encoded.data, device="cpu")
    return encoded.data, decoded


def noise(channels: int, samples: int, rate: int = 48_000) -> Audio:
    """Noise that swells and ebbs."""
    swell = 0.1 * np.abs(np.sin(np.arange(samples) / 30_000)) + 0.01
    return Audio.of((swell * np.random.default_rng(3).standard_normal((channels, samples))).astype(np.float32), rate)


@pytest.mark.parametrize("bits", [8, 12, 16, 20, 24])
def test_flac_keeps_every_sample(bits: int) -> None:
    for channels, samples, rate in ((1, 0, 8000), (2, 1, 44_100), (8, 4097, 96_000), (1, 40_000, 8000), (2, 9000, 700_001)):
        original = tone(channels, samples, bits, rate)
        _, decoded = there_and_back(original, "flac", effort=1 + bits % 9)
        assert np.array_equal(decoded.array, original.array)


def test_flac_of_extremes_and_effort() -> None:
    loudest = np.array([[-(2**23), 2**23 - 1] * 500, [0, -1] * 500], np.int32)
    assert np.array_equal(there_and_back(Audio.of(loudest, 48_000), "flac")[1].array, loudest)
    sizes = [len(there_and_back(tone(2, 50_000), "flac", effort=effort)[0]) for effort in (1, 9)]
    assert sizes[1] < sizes[0] < 200_000
    with pytest.raises(UnsupportedMedia, match="opus takes it"):
        compress.encode(tone(bits=32), "flac")


@pytest.mark.parametrize("channels", range(1, 9))
def test_opus_keeps_channels_in_their_places(channels: int) -> None:
    original = tone(channels, 24_000)
    _, decoded = there_and_back(original, "opus", quality=90)
    assert min(snr(a, b) for a, b in zip(original.array, decoded.array, strict=True)) > 12
    if channels >= 6:  # in a layout without a channel of low frequencies none is cut to these
        layout = {6: "hexagonal", 7: "7 channels", 8: "octagonal"}[channels]
        wide = replace(tone(channels, 24_000, first=700), layout=layout)
        decoded = there_and_back(wide, "opus", quality=90)[1]
        assert min(snr(a, b) for a, b in zip(wide.array, decoded.array, strict=True)) > 30


@pytest.mark.parametrize("rate", [4000, 11_025, 44_101, 48_000, 96_000])
def test_opus_has_no_seams(rate: int) -> None:
    original = tone(1, int(10.4 * rate), 16, rate, first=440)
    data, decoded = there_and_back(original, "opus", kbps=64)
    assert len(container.read(data).chunks) == 2
    short = rate // 50
    ratios = [
        snr(original.array[:, at : at + short], decoded.array[:, at : at + short])
        for at in (5 * rate, 10 * rate - short, 10 * rate - short // 2, 10 * rate, 10 * rate + short)
    ]
    assert min(ratios) > 35
    step = np.abs(np.diff(decoded.array[0, 9 * rate :].astype(int))).max()
    assert step < 1.1 * np.abs(np.diff(original.array[0].astype(int))).max() + 200


@pytest.mark.parametrize("bits", [8, 16, 20, 24, 32])
def test_opus_keeps_lengths_and_depths(bits: int) -> None:
    for samples in (0, 1, 961, 24_000):
        original = tone(2, samples, bits, 44_100)
        decoded = there_and_back(original, "opus")[1]
        if samples == 24_000:
            assert snr(original.array, decoded.array) > 20
    clipped = Audio.of(np.where(np.arange(9000) % 100 < 50, 32_767, -32_768).astype(np.int16)[None], 48_000)
    assert np.sign(there_and_back(clipped, "opus")[1].array[0, 2010:2040]).min() == 1, "samples wrapped around"


def test_opus_bit_rates() -> None:
    original = noise(2, 2 * 48_000)
    for kbps in (6, 24, 96, 320):
        size = len(there_and_back(original, "opus", kbps=kbps)[0])
        assert 0.6 * kbps < 8 * size / 2000 < 1.15 * kbps + 1
    sizes = [len(there_and_back(original, "opus", quality=quality, effort=3)[0]) for quality in (0, 40, 100)]
    assert sizes == sorted(sizes) and 5 * sizes[0] < sizes[2]
    for frame in ("20", "60"):
        there_and_back(original, "opus", frame=frame, kbps=32)
    for wrong in ({"kbps": 5}, {"kbps": 511}, {"kbps": 64, "quality": 50}, {"frame": "30"}):
        with pytest.raises(InvalidSettings):
            compress.encode(tone(), "opus", wrong)
    for rate in (3999, 800_000):
        with pytest.raises(UnsupportedMedia, match="kHz"):
            compress.encode(tone(rate=rate), "opus")


def test_packets_are_read_alone_and_lost_alone() -> None:
    for codec, seconds in (("flac", 4.096), ("opus", 10)):
        original = tone(1, 24 * 8000, 16, 8000)
        data, whole = there_and_back(original, codec)
        damaged = bytearray(data)
        second = [chunk for chunk in container.describe(data).chunks if chunk.type == "payload"][1]
        damaged[second.offset + 20] ^= 1
        with pytest.raises(CorruptStream, match="packet 1"):
            compress.decode(bytes(damaged))
        salvaged = compress.decode(bytes(damaged), salvage=True)
        assert isinstance(salvaged, Audio)
        start, stop = round(seconds * 8000), round(2 * seconds * 8000)
        assert salvaged.lost == ((start, stop),)
        expected = whole.array.copy()
        expected[:, start:stop] = 0
        assert np.array_equal(salvaged.array, expected)
        part = whole.part(start - 5, start + 5)
        assert np.array_equal(part.array, whole.array[:, start - 5 : start + 5])


@pytest.mark.parametrize("codec", ["flac", "opus"])
def test_damaged_files_raise_laconic_errors_only(codec: str) -> None:
    data, _ = there_and_back(tone(2, 12_000), codec)
    stream = container.read(data)

    def attack(file: bytes) -> Signal:
        signal = compress.decode(file, Limits(max_samples=2**22), device="cpu")
        assert signal.array.shape == signal.shape
        return signal

    assert check_rejects(data, 200, 100, attack) > 250
    # Behind the checksums too: the payload and the header as an attacker writes them.
    for seed in range(2):
        payload = stream.chunks[0]

        def attack_payload(inner: bytes) -> Signal:
            return attack(container.write(replace(stream, chunks=(inner,))))

        check_rejects(payload, 150, 60, attack_payload, seed=seed)
    for shape in ((1, 12_000), (2, 12_001), (2, 11_999), (8, 12_000), (2, 2**40), (2, 500_000)):
        # Opus packets hold as many channels as one asks for, and whole frames.
        harmless = codec == "opus" and shape[0] < 8 and shape[1] < 400_000
        with nullcontext() if harmless else pytest.raises(LaconicError):
            attack(container.write(replace(stream, shape=shape)))
    for facts in (AudioFacts(1, "mono"), AudioFacts(2**31 - 1, "mono")):
        if codec == "opus":
            with pytest.raises(LaconicError):
                attack(container.write(replace(stream, audio=facts)))
    for params in ({LENGTH: 0}, {LENGTH: 2**40}, {LENGTH: True}, {LENGTH: b"x"}, {LENGTH: 1}):
        with pytest.raises(LaconicError):
            attack(container.write(replace(stream, params=params)))
    with pytest.raises(CorruptStream):
        open_codec(codec).decode(Stream(codec, (8, 8, 3), (b"",)))


def test_headers_that_name_codecs_of_other_signals() -> None:
    stream = container.read(compress.encode(tone(2, 2000), "flac").data)
    for codec in ("webp", "hevc", "h264", "av1", "jpeg", "image-lossless", "image-circuit"):
        with pytest.raises(CorruptStream, match="does not code such"):
            compress.decode(container.write(replace(stream, codec=codec)))


def test_auto_and_lossless() -> None:
    assert compress.encode(tone(2, 24_000)).codec == "opus"
    lossless = compress.encode(tone(2, 24_000), settings={"lossless": True})
    assert np.array_equal(compress.decode(lossless.data).array, tone(2, 24_000).array)
    with pytest.raises(UnsupportedMedia):
        compress.encode(noise(1, 4800), "flac")
    with pytest.raises(UnsupportedMedia, match="takes image"):
        compress.encode(tone(), "webp")


@pytest.mark.parametrize("target", [Target(kbps=16), Target(kbps=64), Target(kbps=200), Target(bytes=20_000), Target(bpp=0.5)])
def test_targets_of_size_are_met_within_two_percent(target: Target) -> None:
    original = noise(2, 3 * 48_000)
    encoded = compress.encode(original, target=target)
    most = target.sized(original).max_bytes(original.pixels)
    assert most is not None and 0.975 * most <= len(encoded.data) <= most
    assert compress.encode(original, encoded.codec, encoded.settings).data == encoded.data


def test_targets_that_cannot_be_met() -> None:
    for target, words in ((Target(psnr=30), "not for sound"), (Target(kbps=2), "cannot be met: the smallest file has")):
        for codec in ("auto", "opus"):
            with pytest.raises(InvalidSettings, match=words):
                compress.encode(tone(1, 48_000), codec, target=target)
    assert len(compress.encode(tone(1, 48_000), target=Target(kbps=5000)).data) < 70_000  # the best that there is
    for codec, settings in (("flac", {}), ("opus", {"kbps": 20}), ("opus", {"quality": 20})):
        with pytest.raises(InvalidSettings):
            compress.encode(tone(), codec, settings, target=Target(kbps=64))
