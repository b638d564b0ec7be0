"""Video files in and out: formats, times, rotation, depth, colour, sound, damage, limits, long videos."""

from __future__ import annotations

import io
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import PIL.Image
import pytest

from laconic.codecs import media
from laconic.codecs.errors import Cancelled, CorruptMedia, CorruptStream, LimitExceeded, UnsupportedMedia
from laconic.codecs.limits import Limits
from laconic.codecs.metrics import psnr
from laconic.codecs.signals import TICKS, Colour, Image, Samples, Video
from laconic.codecs.video import readers
from laconic.codecs.video.ffmpeg import decode_frames, encode_frames
from laconic.codecs.video.framing import gif_frames
from laconic.codecs.video.readers import FileFrames
from laconic.codecs.video.writers import write_to

from .checks import check_rejects
from .clips import clip, file_of, sound
from .pictures import smooth

CONTAINERS = ("mp4", "webm", "mkv", "y4m")
LOSSY = {"mp4": 36, "webm": 36, "mkv": 36, "y4m": 50, "npy": 200}  # dB at least
X265 = {"x265-params": "log-level=none"}


@pytest.fixture
def few_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """No frames stay in memory after a file is read."""
    monkeypatch.setattr(readers, "HELD_BYTES", 0)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("size", [(48, 64), (33, 27), (34, 46)])
@pytest.mark.parametrize("form", [*CONTAINERS, "npy"])
def test_round_trip(form: str, size: tuple[int, int], bits: int) -> None:
    video = clip(5, *size, bits, rate=Fraction(30_000, 1001))
    data = media.write(video, form)
    assert media.sniff(data) == form
    back = media.read(data)
    assert media.read_header(data) == (form, *size, 3, 5)
    assert isinstance(back, Video) and back.times is None and back.metadata == {}
    assert (back.shape, back.bit_depth) == (video.shape, bits)
    assert back.rate == (25 if form == "npy" else video.rate)
    assert psnr(video, back) > LOSSY[form]
    assert media.write(video, form) == data


@pytest.mark.parametrize("form", CONTAINERS)
@pytest.mark.parametrize("size", [(1, 1), (1, 17), (2, 2)])
def test_tiny_and_single_frames(form: str, size: tuple[int, int]) -> None:
    for frames in (1, 2):
        back = media.read(media.write(clip(frames, *size), form, 100))
        assert back.shape == (frames, *size, 3)
        assert np.abs(back.array.astype(int) - clip(frames, *size).array).max() < 40


def test_quality_is_followed() -> None:
    for form in ("mp4", "webm"):
        files = [media.write(clip(), form, quality) for quality in (10, 50, 90)]
        assert sorted(files, key=len) == files
        assert [psnr(clip(), media.read(file)) for file in files] == sorted(psnr(clip(), media.read(file)) for file in files)


def test_numbered_pictures() -> None:
    video = clip(3, 9, 11)
    with zipfile.ZipFile(io.BytesIO(media.write(video, "zip"))) as archive:
        assert archive.namelist() == ["000000.png", "000001.png", "000002.png"]
        for name, frame in zip(archive.namelist(), video.array, strict=True):
            assert np.array_equal(media.read(archive.read(name)).array, frame)


@pytest.mark.parametrize(
    ("name", "muxer", "encoder", "pixel_format"),
    [
        ("avi", "avi", "mpeg4", "yuv420p"),
        ("avi", "avi", "libx264", "yuv420p"),
        ("mov", "mov", "mjpeg", "yuvj420p"),
        ("mp4", "mp4", "libsvtav1", "yuv420p"),
        ("mp4", "mp4", "libx265", "yuv420p"),
        ("mkv", "matroska", "ffv1", "yuv422p"),
    ],
)
def test_files_of_other_tools(name: str, muxer: str, encoder: str, pixel_format: str) -> None:
    options = X265 if encoder == "libx265" else {}
    video = clip(8, 48, 64, rate=Fraction(24))
    data = file_of(video, muxer, encoder, pixel_format, **options)
    back = media.read(data)
    assert isinstance(back, Video)
    assert media.sniff(data) == name == media.read_header(data).format
    assert (back.shape, back.rate, back.times) == (video.shape, 24, None)
    assert psnr(video, back) > 30
    with av.open(io.BytesIO(data)) as container:
        plain = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert np.abs(plain.astype(int) - back.array).max() <= 2


@pytest.mark.parametrize("muxer", ["mp4", "matroska"])
def test_frames_that_are_not_evenly_spaced(muxer: str) -> None:
    stamps = [0, 1, 2, 7, 8, 30]
    video = media.read(file_of(clip(6), muxer, stamps=stamps))
    assert isinstance(video, Video) and video.times is not None
    assert video.times.tolist() == [stamp * TICKS // 25 for stamp in stamps]
    for form in ("mp4", "webm", "mkv"):
        again = media.read(media.write(video, form))
        assert isinstance(again, Video) and again.times is not None
        assert np.abs(again.times - video.times).max() <= (0 if form == "mp4" else TICKS // 2000)


def test_times_that_stand_still_ascend() -> None:
    rate, times = readers._timing([0, 10, 10, 9, 50], 5, Fraction(1, 1000), [Fraction(25)])
    assert times is not None and times.tolist() == [0, 900, 901, 902, 4500]
    assert rate == Fraction(4 * TICKS, 4500)
    with pytest.raises(CorruptMedia, match="six hours"):
        readers._timing([0, 1, 2**40], 3, Fraction(1, 1000), [Fraction(25)])
    assert readers._timing([0, None, 7], 3, Fraction(1, 1000), [Fraction(24)]) == (24, None)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("mirror", [False, True])
def test_frames_are_upright(degrees: int, mirror: bool) -> None:
    data = file_of(clip(2, 48, 64), "mp4", turn=(degrees, mirror))
    shown = np.rot90(media.read(file_of(clip(2, 48, 64), "mp4")).array, degrees // 90, (1, 2))
    expected = shown[:, :, ::-1] if mirror else shown
    video = media.read(data)
    assert np.array_equal(video.array, expected)
    assert media.read_header(data)[1:3] == video.shape[1:3]


@pytest.mark.parametrize(("pixel_format", "least"), [("yuv420p10le", 40), ("yuv444p10le", 45)])
def test_ten_bits_become_sixteen(pixel_format: str, least: int) -> None:
    video = clip(3, 40, 52, bits=16)
    back = media.read(file_of(video, "mp4", "libx264", pixel_format, crf="4"))
    assert back.bit_depth == 16 and psnr(video, back) > least
    assert abs(int(back.array[0, 2, 2, 0]) - 65535) < 1500  # white is white


@pytest.mark.parametrize(
    "colour", [Colour(1, 1, 1), Colour(5, 6, 5), Colour(9, 16, 9, True), Colour(9, 14, 9), Colour(6, 6, 7)]
)
def test_colour_is_labelled_and_kept(colour: Colour) -> None:
    red = np.zeros((2, 16, 16, 3), np.uint8)
    red[..., 0], red[:, 8:] = 220, 255
    video = replace(Video.of(red), colour=colour)
    for form in ("mp4", "webm", "mkv"):
        back = media.read(media.write(video, form, 100))
        assert isinstance(back, Video) and back.colour == colour
        assert np.abs(back.array[:, 2:6].astype(int) - red[:, 2:6]).max() <= 6
    back = media.read(media.write(video, "y4m"))
    assert np.abs(back.array.astype(int) - red).max() <= 3
    unsaid = media.read(media.write(Video.of(red), "mp4"))
    assert isinstance(unsaid, Video) and unsaid.colour == Colour(matrix=6)  # says what it was converted with


def packets_of(data: bytes) -> list[tuple[float, bytes]]:
    with cast(Any, av.open(io.BytesIO(data))) as container:
        stream = container.streams.audio[0]
        return [(float(p.pts * p.time_base), bytes(p)) for p in container.demux(stream) if p.size]


@pytest.mark.parametrize(
    ("encoder", "copied"), [("aac", "mp4 mkv"), ("libopus", "mp4 webm mkv"), ("flac", "mp4 mkv"), ("pcm_s16le", "mkv")]
)
def test_sound_is_copied_where_the_container_holds_it(encoder: str, copied: str) -> None:
    original = sound(encoder)
    video = clip(8, metadata={"audio": original})
    for form in ("mp4", "webm", "mkv"):
        data = media.write(video, form)
        back = media.read(data)
        payloads = [payload for _, payload in packets_of(data)]
        assert [payload for _, payload in packets_of(back.metadata["audio"])] == payloads
        assert (payloads == [payload for _, payload in packets_of(original)]) == (form in copied.split())
        with cast(Any, av.open(io.BytesIO(data))) as container:
            samples = sum(frame.samples for frame in container.decode(audio=0))
        assert samples / 48_000 == pytest.approx(0.3, abs=0.05)
        again = packets_of(media.write(back, form))  # stays as it is, and where it was
        assert [payload for _, payload in again] == payloads
        assert np.allclose([at for at, _ in again], [at for at, _ in packets_of(data)], atol=0.0021)


def test_sound_stays_in_time() -> None:
    early = media.read(media.write(clip(8, metadata={"audio": sound("aac")}), "mp4"))
    late = media.write(replace(early, metadata={"audio": shifted(early.metadata["audio"], 13_500)}), "mkv")
    for data in (late, media.write(cast(Video, media.read(late)), "mp4")):
        assert packets_of(data)[0][0] == pytest.approx(0.15, abs=0.002)


def shifted(audio: bytes, ticks: int) -> bytes:
    """The sound of a video as it would be had it begun later."""
    target = io.BytesIO()
    with cast(Any, av.open(io.BytesIO(audio))) as source, cast(Any, av.open(target, "w", format="matroska")) as container:
        copy = container.add_stream_from_template(source.streams.audio[0])
        container.metadata.update({"LACONIC_START": str(ticks)})
        for packet in source.demux(source.streams.audio[0]):
            if packet.size:
                packet.stream = copy
                container.mux(packet)
    return target.getvalue()


def test_sound_alone_and_nothing_are_no_video() -> None:
    for data in (sound("aac", muxer="mp4"), sound("libopus")):
        with pytest.raises(UnsupportedMedia, match="sound but no video"):
            media.read(data, kind="video")
    for data in (b"YUV4MPEG2 W4 H4 F25:1\n", b"\x1aE\xdf\xa3", b"RIFF\0\0\0\0AVI ", b"\0\0\0\x14ftypisom\0\0\0\0mp42"):
        with pytest.raises((CorruptMedia, UnsupportedMedia)):
            media.read(data)
    with pytest.raises(CorruptMedia, match="sound"):
        media.write(clip(metadata={"audio": b"no Matroska"}), "mp4")


def test_kinds_are_asked_for() -> None:
    movie, picture = media.write(clip(2), "mp4"), media.write(smooth(9, 9), "png")
    assert media.read(movie, kind="video").kind == "video"
    with pytest.raises(UnsupportedMedia, match="a picture is asked for"):
        media.read(movie, kind="image")
    with pytest.raises(UnsupportedMedia, match="a video is asked for"):
        media.read(picture, kind="video")
    with pytest.raises(UnsupportedMedia, match="mp4, webm"):
        media.write(clip(2), "png")
    with pytest.raises(UnsupportedMedia, match="png, webp"):
        media.write(smooth(9, 9), "mp4")


DAMAGED = {
    "mp4": lambda: media.write(clip(5, 34, 46, metadata={"audio": sound("aac", 0.1)}), "mp4"),
    "webm": lambda: media.write(clip(5, 34, 46, metadata={"audio": sound("libopus", 0.1)}), "webm"),
    "mkv": lambda: media.write(clip(5, 34, 46), "mkv"),
    "y4m": lambda: media.write(clip(3, 9, 11), "y4m"),
    "avi": lambda: file_of(clip(4, 32, 32), "avi", "mpeg4"),
    "mov": lambda: file_of(clip(4, 32, 32), "mov", "mjpeg", "yuvj420p"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_reported(name: str) -> None:
    data = DAMAGED[name]()
    check_rejects(data, flips=400, truncations=60, open_file=lambda file: media.read(file, Limits(max_pixels=10**5)))
    assert media.read(data).kind == "video"
    for end in range(len(data) // 8, len(data), len(data) // 40):
        with pytest.raises((CorruptMedia, UnsupportedMedia)):
            media.read(data[:end])
    with pytest.raises(CorruptMedia, match="ends too early"):
        media.read(data[:-1])


def test_where_it_broke_is_told() -> None:
    data = bytearray(file_of(clip(20), "avi", "mjpeg", "yuvj420p"))
    at = [place for place in range(len(data)) if data.startswith(b"\xff\xd8\xff", place)][13]
    end = data.find(b"00dc", at)  # the next frame's chunk
    data[at:end] = bytes(end - at)
    with pytest.raises(CorruptMedia, match="after 13 frames"):
        media.read(bytes(data))


def test_limits() -> None:
    data = media.write(clip(6, 48, 64, metadata={"audio": sound()}), "mp4")
    for bound, setting in (
        (Limits(max_input_bytes=1000), "max_input_bytes"),
        (Limits(max_pixels=48 * 64 - 1), "max_pixels"),
        (Limits(max_frames=5), "max_frames"),
        (Limits(max_audio_bytes=100), "max_audio_bytes"),
    ):
        with pytest.raises(LimitExceeded) as caught:
            media.read(data, bound)
        assert caught.value.setting == setting
    assert media.read(data, Limits(max_pixels=48 * 64, max_frames=6)).shape == (6, 48, 64, 3)
    lies = media.write(clip(6, 16, 16), "mkv")  # does not say how many frames there are
    with pytest.raises(LimitExceeded, match="max_frames"):
        media.read(lies, Limits(max_frames=5))
    few = media.read(data, Limits(max_video_pixels=3 * 48 * 64))
    assert isinstance(few, Video) and isinstance(few.source, FileFrames)


def test_boxes_that_promise_more_than_there_is() -> None:
    data = bytearray(media.write(clip(3), "mp4"))
    at = data.find(b"stsz") + 8
    data[at : at + 8] = struct.pack(">II", 1, 100_000_000)
    with pytest.raises(CorruptMedia, match="100,000,000 samples"):
        media.read(bytes(data))
    array = media.write(clip(2, 3, 3), "npy")
    with pytest.raises(CorruptMedia, match="longer or shorter"):
        media.read(array[:-1])
    with pytest.raises(LimitExceeded, match="max_video_pixels"):
        media.read(array, Limits(max_video_pixels=17))


def test_a_size_that_changes_is_refused() -> None:
    first, second = media.write(clip(2, 16, 16), "y4m"), file_of(clip(4, 32, 32), "avi", "mjpeg", "yuvj420p")
    small = file_of(clip(4, 16, 16), "avi", "mjpeg", "yuvj420p")
    start, end = (small.find(b"\xff\xd8\xff"), small.find(b"\xff\xd9") + 2)
    picture, at = small[start:end], second.rfind(b"\xff\xd8\xff")
    mixed = second[:at] + picture + second[at + len(picture) :]
    with pytest.raises(CorruptMedia):
        media.read(mixed)
    assert media.read(first).shape == (2, 16, 16, 3)


@pytest.mark.usefixtures("few_held")
@pytest.mark.parametrize(("form", "encoder"), [("mp4", "libx264"), ("matroska", "libvpx-vp9"), ("avi", "libx264"), ("gif", "")])
def test_frames_are_read_again_from_the_nearest_key_frame(form: str, encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = file_of(clip(30), form, encoder, g="8") if encoder else animation(30)
    video = media.read(data)
    assert isinstance(video, Video) and isinstance(video.source, FileFrames)
    whole = video.array
    monkeypatch.setattr(readers, "HELD_BYTES", 2**30)
    assert np.array_equal(media.read(data).array, whole)
    for start, stop in ((0, 3), (7, 9), (8, 9), (15, 30), (29, 30), (0, 30)):
        assert np.array_equal(np.stack(list(video.source.read(start, stop))), whole[start:stop])
    first, second = video.source.read(20, 24), video.source.read(2, 4)
    assert np.array_equal(next(first), whole[20]) and np.array_equal(next(second), whole[2])
    assert np.array_equal(next(first), whole[21])
    if form in ("mp4", "matroska"):
        assert [number for number, _ in video.source.keys][:3] == [0, 8, 16]


def animation(frames: int) -> bytes:
    import PIL.Image

    pictures = [PIL.Image.fromarray(frame).quantize(32) for frame in clip(frames).array]
    file = io.BytesIO()
    pictures[0].save(file, "GIF", save_all=True, append_images=pictures[1:], duration=[40, 80] * (frames // 2))
    return file.getvalue()


def test_an_animation() -> None:
    video = media.read(animation(6))
    assert isinstance(video, Video) and video.times is not None
    assert video.times.tolist() == [0, 3600, 10800, 14400, 21600, 25200]
    assert video.shape == (6, 48, 64, 3) and psnr(clip(6), video) > 20


@dataclass(frozen=True)
class Drawn:
    """Frames that are made as they are asked for; `breaks` is the first that raises."""

    shape: tuple[int, int, int, int]
    breaks: int = 10**9
    bit_depth: int = 8

    def read(self, start: int, stop: int) -> Iterator[Samples]:
        for number in range(start, stop):
            if number == self.breaks:
                raise Cancelled("enough")
            yield np.full(self.shape[1:], number % 256, np.uint8)


@pytest.mark.parametrize("name", ["long.mp4", "long.y4m", "long.npy", "long.zip"])
def test_long_videos_are_saved_in_little_memory(name: str, tmp_path: Path) -> None:
    shape = (60, 240, 320, 3)
    tracemalloc.start()
    try:
        Video(Drawn(shape)).save(tmp_path / name, 30)
        assert tracemalloc.get_traced_memory()[1] < 8 * 240 * 320 * 3
    finally:
        tracemalloc.stop()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    if not name.endswith(".zip"):
        assert media.read((tmp_path / name).read_bytes()).shape == shape


@pytest.mark.parametrize("name", ["part.mp4", "part.webm", "part.zip"])
def test_a_video_that_breaks_off_leaves_no_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        Video(Drawn((20, 16, 16, 3), breaks=7)).save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UnsupportedMedia, match=r"mp4"):
        clip(2).save(tmp_path / "clip.png")
    with pytest.raises(UnsupportedMedia, match=r"png"):
        Image(smooth(4, 4).array).save(tmp_path / "picture.mp4")


class Full(io.BytesIO):
    """A file on a disk that has room for 2,000 bytes."""

    def write(self, content: Any) -> int:
        if self.tell() + len(content) > 2000:
            raise OSError(28, "No space left on device")
        return super().write(content)


@pytest.mark.parametrize("form", ["mp4", "mkv", "y4m", "zip"])
def test_a_full_disk_is_told_as_such(form: str) -> None:
    with pytest.raises(OSError, match="No space left"):
        write_to(clip(30), form, Full(), 100)


def test_frames_to_packets_and_back() -> None:
    video = clip(6, 48, 64)
    frames = list(video.array)
    blob = encode_frames(frames, Fraction(25), "libx264rgb", {"qp": "0"}, "rgb24", Colour())
    assert np.array_equal(np.stack(list(decode_frames(blob, "h264", video.shape, 8, Colour()))), video.array)
    assert len(blob) < video.array.nbytes
    for shape in ((5, 48, 64, 3), (7, 48, 64, 3), (6, 48, 32, 3)):
        with pytest.raises(CorruptStream):
            list(decode_frames(blob, "h264", shape, 8, Colour()))
    check_rejects(blob, 200, 100, lambda data: list(decode_frames(data, "h264", video.shape, 8, Colour())))
    with pytest.raises(UnsupportedMedia):
        encode_frames(frames, Fraction(25), "libx264", {}, "pal8", Colour())


def test_frames_of_a_gif_are_counted_before_any_is_decoded() -> None:
    pictures = [PIL.Image.fromarray(np.full((7, 9, 3), 20 * number, np.uint8)) for number in range(8)]
    file = io.BytesIO()
    pictures[0].save(file, "gif", save_all=True, append_images=pictures[1:], duration=40)
    data = file.getvalue()
    assert gif_frames(data, 99) == 8 and gif_frames(data, 5) == 5
    assert 0 < gif_frames(data[: len(data) // 2], 99) < 8
    assert [gif_frames(data[:length], 99) for length in (0, 6, 13)] == [0, 0, 0]
    with pytest.raises(LimitExceeded, match="frames is 8, more than the 7 allowed"):
        media.read(data, Limits(max_frames=7))
    assert len(media.read(data, Limits(max_frames=8)).array) == 8
    head = b"GIF89a\1\0\1\0\0\0\0,\0\0\0\0\1\0\1\0\0\2"
    began = time.process_time()
    assert gif_frames(head + b"\1a" * 10_000_000, 20_000) == 1  # blocks of a byte: looked at for a while only
    assert time.process_time() - began < 0.5
