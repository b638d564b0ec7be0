"""Sound files in and out: formats, depths, rates, channels, length to the sample, tags, damage, limits, long files."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from laconic.codecs import media
from laconic.codecs.audio import readers
from laconic.codecs.audio.readers import FileSamples
from laconic.codecs.audio.writers import write_to
from laconic.codecs.errors import CorruptMedia, LimitExceeded, UnsupportedMedia
from laconic.codecs.limits import Limits
from laconic.codecs.signals import ArraySamples, Audio, AudioSamples, Image, Video
from laconic.codecs.sources import LAYOUTS

from .checks import check_rejects
from .clips import clip, sound
from .tones import file_of_sound, snr, tone

LOSSY = ("ogg", "opus", "mp3", "m4a")
TAGS = {"artist": "Élodie", "title": "A tone"}


@pytest.fixture
def few_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """No samples stay in memory after a file is read."""
    monkeypatch.setattr(readers, "HELD_BYTES", 0)


def read(data: bytes, limits: Limits | None = None) -> Audio:
    """Sound in a file, which says its form."""
    found = media.read(data, limits)
    assert isinstance(found, Audio)
    return found


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
@pytest.mark.parametrize("channels", range(1, 9))
def test_wav_keeps_every_sample(channels: int, bits: int) -> None:
    for samples in (0, 1, 20_000):
        original = tone(channels, samples, bits, 44_100)
        data = media.write(original, "wav")
        back = read(data)
        assert media.sniff(data) == "wav" and media.write(original, "wav") == data
        assert (back.rate, back.bits, back.layout) == (44_100, bits, LAYOUTS[channels - 1])
        assert back.array.dtype == original.array.dtype and np.array_equal(back.array, original.array)


@pytest.mark.parametrize("bits", [16, 24])
@pytest.mark.parametrize("channels", [1, 2, 6, 8])
def test_flac_keeps_every_sample(channels: int, bits: int) -> None:
    for samples in (0, 1, 9_999):
        original = tone(channels, samples, bits, 96_000)
        back = read(media.write(original, "flac"))
        assert (back.rate, back.bits) == (96_000, bits) and np.array_equal(back.array, original.array)
    with pytest.raises(UnsupportedMedia, match="wav does"):
        media.write(tone(bits=32), "flac")


@pytest.mark.parametrize("form", ["wav", "flac"])
def test_other_depths_sound_the_same(form: str) -> None:
    for bits, wide in ((12, 16), (20, 24)):
        back = read(media.write(tone(bits=bits), form))
        assert back.bits == wide and np.array_equal(back.array >> (wide - bits), tone(bits=bits).array)


@pytest.mark.parametrize("form", LOSSY)
def test_lossy_files_keep_length_rate_and_layout(form: str) -> None:
    for channels in (1, 2) if form == "mp3" else (1, 2, 3, 5, 6, 7, 8):
        for samples in (1500, 20_001):
            original = tone(channels, samples)
            back = read(media.write(original, form, 90))
            assert back.shape == original.shape and (back.rate, back.bits) == (48_000, 32)
            assert back.layout == LAYOUTS[channels - 1] or channels == 3  # of which Opus has another
            if samples > 20_000:
                near = [
                    snr(a, b) for a, b in zip(original.array[:, 3000:-3000] / 32768, back.array[:, 3000:-3000], strict=True)
                ]
                assert min(near) > 5, (form, channels, near)  # every channel is in its place


@pytest.mark.parametrize("form", LOSSY)
def test_quality_is_followed(form: str) -> None:
    noise = Audio.of((np.random.default_rng(1).standard_normal((1, 24_000)) / 8).astype(np.float32), 48_000)
    sizes = [len(media.write(noise, form, quality)) for quality in (10, 50, 90)]
    assert sizes == sorted(sizes) and sizes[0] < 0.7 * sizes[2]


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 96_000])
def test_rates(rate: int) -> None:
    for form in ("wav", "flac"):
        assert read(media.write(tone(rate=rate), form)).rate == rate
    for form, kept in (("m4a", rate), ("mp3", min(rate, 48_000)), ("opus", 48_000)):
        back = read(media.write(tone(samples=rate // 2, rate=rate), form))
        assert back.rate == kept and abs(back.seconds - 0.5) < 0.001


@pytest.mark.parametrize("form", ["wav", "flac", *LOSSY])
def test_tags_come_back(form: str) -> None:
    original = replace(tone(), metadata={"tags": json.dumps(TAGS).encode()})
    assert json.loads(read(media.write(original, form)).metadata["tags"]) == TAGS
    for odd in (b"", b"[1]", b"{", b"\xff", b'{"title": 3, "a\\u0000": "\\ud800"}'):
        media.write(replace(tone(), metadata={"tags": odd}), form)


@pytest.mark.parametrize(
    ("name", "muxer", "encoder", "bits"),
    [
        ("aiff", "aiff", "pcm_s16be", 16),
        ("aiff", "aiff", "pcm_s24be", 24),
        ("wav", "wav", "pcm_alaw", 16),
        ("wav", "wav", "pcm_s32le", 32),
        ("wav", "wav", "pcm_f64le", 32),
        ("m4a", "ipod", "alac", 24),
        ("mkv", "matroska", "pcm_s24le", 24),
        ("mkv", "matroska", "aac", 32),
        ("webm", "webm", "libopus", 32),
        ("mp4", "mp4", "aac", 32),
        ("mp4", "mp4", "libopus", 32),
        ("mov", "mov", "pcm_s16le", 16),
        ("mp3", "mp3", "libmp3lame", 32),
    ],
)
def test_files_of_other_tools(name: str, muxer: str, encoder: str, bits: int) -> None:
    original = tone(2, 10_007, 24)
    data = file_of_sound(original, muxer, encoder)
    back = read(data)
    assert media.sniff(data) == name
    assert (back.shape[0], back.rate, back.bits) == (2, 48_000, bits)
    # Matroska says of Opus alone where it ends within a frame.
    assert back.shape[1] == (10_240 if (muxer, encoder) == ("matroska", "aac") else 10_007)
    scaled = back.array / 2.0 ** (0 if bits == 32 else bits - 1)
    assert snr(original.array[:, 2000:8007] / 2**23, scaled[:, 2000:8007]) > (60 if "pcm_s" in encoder or bits == 24 else 9)
    header = media.read_header(data)
    assert media.FORMATS[header.format].signal == "audio" and header.channels == 2
    assert back.shape[1] <= header.width + 64 <= back.shape[1] + 2500
    with pytest.raises(UnsupportedMedia, match="picture"):
        media.read(data, kind="image")


def test_adts_has_the_priming_that_it_does_not_tell() -> None:
    data = file_of_sound(tone(1, 10_000), "adts", "aac")
    assert media.sniff(data) == "aac" and 10_000 <= read(data).shape[1] <= 10_000 + 3 * 1024


def test_the_sound_of_a_video() -> None:
    data = file_of_sound(tone(1, 9_000), "matroska", "aac", video=True)
    assert isinstance(media.read(data), Video)
    heard = media.read(data, kind="audio")
    assert isinstance(heard, Audio) and heard.shape == (1, 9_216)  # as AAC has it in Matroska
    assert media.read(media.write(clip(8, metadata={"audio": sound()}), "mp4"), kind="audio").kind == "audio"
    for silent in (media.write(clip(4), "mp4"), media.write(Image(np.zeros((2, 2, 1), np.uint8)), "png")):
        with pytest.raises(UnsupportedMedia, match="sound"):
            media.read(silent, kind="audio")
    with pytest.raises(UnsupportedMedia, match="a picture is written as"):
        media.write(Image(np.zeros((2, 2, 1), np.uint8)), "wav")
    with pytest.raises(UnsupportedMedia, match="sound is not written as png"):
        media.write(tone(), "png")


def test_silence_and_clipping() -> None:
    silence = Audio.of(np.zeros((2, 5000), np.int16), 44_100)
    loud = Audio.of(np.where(np.arange(5000) % 200 < 100, 1.5, -1.5).astype(np.float32)[None], 44_100)
    for form in ("wav", "flac", *LOSSY):
        assert not read(media.write(silence, form)).array.any()
    assert np.array_equal(read(media.write(loud, "wav")).array, loud.array)
    for form in LOSSY:
        assert read(media.write(loud, form)).shape[0] == 1
    for form in LOSSY:
        with pytest.raises(UnsupportedMedia, match="without samples"):
            media.write(Audio.of(np.zeros((1, 0), np.int16), 8000), form)


def test_npy_and_saving(tmp_path: Path) -> None:
    original = tone(2, 1000, 24)
    for name in ("a.npy", "a.wav", "a.flac", "a.opus", "a.OGG"):
        original.save(tmp_path / name)
    assert np.array_equal(np.load(tmp_path / "a.npy"), original.array)
    assert np.array_equal(read((tmp_path / "a.flac").read_bytes()).array, original.array)
    with pytest.raises(UnsupportedMedia):
        original.save(tmp_path / "a.mp4")


@pytest.mark.usefixtures("few_held")
@pytest.mark.parametrize("form", ["wav", "flac", "mp3", "ogg", "m4a"])
def test_long_files_are_decoded_again_where_they_are_asked_for(form: str) -> None:
    original = tone(2, 21 * 8000, 16, 8000)
    back = read(media.write(original, form, 80))
    assert isinstance(back.source, FileSamples)
    whole = back.array
    assert len(back.source.marks) >= 4 and back.part(0, 0).shape == (2, 0)
    for start, stop in ((0, 10), (70_000, 70_001), (130_000, 131_000), (back.shape[1] - 7, back.shape[1])):
        part = back.part(start, stop).array
        assert np.abs(part.astype(np.float64) - whole[:, start:stop]).max() <= (0 if form in ("wav", "flac") else 2e-3)
    assert sum(block.shape[1] for block in back.source.read(5, back.shape[1])) == back.shape[1] - 5


@dataclass(frozen=True)
class Long:
    """Ten minutes of a slow saw tooth: a `SampleSource` that keeps nothing."""

    shape: tuple[int, int] = (1, 600 * 8000)
    dtype: np.dtype[np.int16] = field(default_factory=lambda: np.dtype(np.int16))

    def read(self, start: int, stop: int) -> object:
        for at in range(start, stop, 65_536):
            yield np.arange(at, min(at + 65_536, stop), dtype=np.int64).astype(np.int16)[None]


def test_long_sound_takes_constant_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "HELD_BYTES", 2**20)
    file = io.BytesIO()
    write_to(Audio(Long(), 8000), "flac", file)  # type: ignore[arg-type]
    tracemalloc.start()
    back = read(file.getvalue())
    read_back = sum(block.shape[1] for block in back.source.read(0, back.shape[1]))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert back.shape == Long().shape and read_back == back.shape[1]
    assert most < 4 * 2**20 < 2 * back.shape[1]


FILES: dict[str, Callable[[], bytes]] = {
    form: (lambda form=form: media.write(replace(tone(2, 12_000), metadata={"tags": json.dumps(TAGS).encode()}), form))  # type: ignore[misc]
    for form in ("wav", "flac", "ogg", "mp3", "m4a")
}
FILES["aiff"] = lambda: file_of_sound(tone(2, 12_000), "aiff", "pcm_s16be")
FILES["webm"] = lambda: file_of_sound(tone(2, 12_000), "webm", "libopus")
FILES["aac"] = lambda: file_of_sound(tone(2, 12_000), "adts", "aac")


@pytest.mark.parametrize("name", FILES)
def test_damaged_files_raise_laconic_errors_only(name: str) -> None:
    data = FILES[name]()
    limits = Limits(max_samples=2**20, max_pixels=10**6)

    def attack(damaged: bytes) -> None:
        signal = media.read(damaged, limits)
        assert isinstance(signal.array, np.ndarray)

    assert check_rejects(data, flips=60, truncations=25, open_file=attack) > 20


@pytest.mark.parametrize("name", FILES)
def test_truncated_files_say_so(name: str) -> None:
    data = FILES[name]()
    for length in (len(data) // 2, len(data) - 3):
        with pytest.raises(CorruptMedia):
            media.read(data[:length])
    if name in ("wav", "aiff", "flac", "ogg", "mp3", "webm"):
        with pytest.raises(CorruptMedia, match=r"too early|after 0\.\d+ seconds|bytes|End of file"):
            media.read(data[: len(data) // 2])


def wav_header(rate: int = 44_100, channels: int = 2, length: int = 0, riff: int | None = None) -> bytes:
    """The header of a WAV file of 16 bits that says what it likes."""
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * channels * 2 % 2**32, channels * 2 % 2**16, 16)
    head = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", length)
    return b"RIFF" + struct.pack("<I", len(head) + length if riff is None else riff) + head


def test_absurd_headers_are_refused() -> None:
    hundred_hours = wav_header(8000, 1, 100 * 3600 * 8000 * 2 % 2**32, 2**32 - 1)
    with pytest.raises(CorruptMedia, match="too early"):
        media.read(hundred_hours + bytes(1000))
    for rate, channels in ((2_000_000_000, 2), (1_000_000, 1), (44_100, 9), (44_100, 65_535)):
        with pytest.raises((UnsupportedMedia, CorruptMedia)):
            media.read(wav_header(rate, channels, 36 * channels) + bytes(36 * channels))
    with pytest.raises((UnsupportedMedia, CorruptMedia)):
        media.read(wav_header(0, 1, 10) + bytes(10))
    assert read(wav_header(length=2**32 - 1, riff=2**32 - 1) + bytes(400)).shape == (2, 100)  # as pipes are written
    assert read(wav_header()).shape == (2, 0)
    for empty in (b"", b"RIFF", b"fLaC", b"OggS", b"ID3", b"\xff\xfb\x90\x00", b"\xff\xf1\x50\x80"):
        with pytest.raises((UnsupportedMedia, CorruptMedia)):
            media.read(empty)


def test_limits() -> None:
    data = media.write(replace(tone(2, 5000), metadata={"tags": json.dumps({"title": "t" * 500}).encode()}), "flac")
    for limits, setting in (
        (Limits(max_input_bytes=100), "max_input_bytes"),
        (Limits(max_samples=9_999), "max_samples"),
        (Limits(max_metadata_bytes=500), "max_metadata_bytes"),
    ):
        with pytest.raises(LimitExceeded) as caught:
            media.read(data, limits)
        assert caught.value.setting == setting
    assert read(data, Limits(max_samples=10_000)).shape == (2, 5000)


def test_files_above_four_gibibytes_name_their_length() -> None:
    plain = media.write(tone(1, 100), "wav")
    at = plain.index(b"data")
    ds64 = b"ds64" + struct.pack("<IQQQI", 28, len(plain) + 28, 200, 100, 0)
    data = b"RF64\xff\xff\xff\xffWAVE" + ds64 + plain[12:at] + b"data\xff\xff\xff\xff" + plain[at + 8 :]
    assert np.array_equal(read(data).array, tone(1, 100).array)
    with pytest.raises(CorruptMedia, match="too early"):
        media.read(data[:-5])


def test_samples_in_memory_where_they_are_few() -> None:
    found = read(media.write(tone(), "ogg"))
    assert isinstance(found.source, ArraySamples)
    samples: AudioSamples = found.array
    assert samples.flags.c_contiguous
