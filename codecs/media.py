"""Media files to signals and back: which formats there are, what a file is, how large it is, its content.

Kinds are told by their first bytes, never by name. The size is read from the header and checked before pixels are decoded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .audio import readers as audio_readers
from .audio import writers as audio_writers
from .errors import UnsupportedMedia
from .image import readers, writers
from .image.least_bytes import check_complete
from .image.readers import Header, from_pillow
from .limits import Limits
from .signals import Audio, Image, Pictures, Samples, Signal, Video
from .video import readers as video_readers
from .video import writers as video_writers
from .video.framing import gif_frames

__all__ = ["FORMATS", "Header", "MediaFormat", "checked_format", "from_pillow", "read", "read_header", "sniff", "write"]

DEFAULT_QUALITY = {"jpeg": 90, "avif": 80}  # the other formats are lossless unless a quality is asked for
AVIF_BRANDS = (b"avif", b"avis")
MP4_BRANDS = (b"iso", b"mp4", b"avc1", b"M4V", b"mmp4", b"3gp", b"3g2", b"f4v", b"dash", b"cmf", b"MSNV", b"NDS")
MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"\xff\x0a", "jxl"),
    (b"\x00\x00\x00\x0cJXL \x0d\x0a\x87\x0a", "jxl"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"BM", "bmp"),
    (b"II*\x00", "tiff"),
    (b"MM\x00*", "tiff"),
    (b"\x93NUMPY", "npy"),
    (b"YUV4MPEG2 ", "y4m"),
    (b"fLaC", "flac"),
    (b"OggS", "ogg"),
    (b"ID3", "mp3"),
)
RIFF = {b"WEBP": "webp", b"AVI ": "avi", b"WAVE": "wav"}
M4A_BRANDS = (b"M4A ", b"M4B ", b"F4A ")
EBML, DOCTYPE_WEBM = b"\x1aE\xdf\xa3", b"\x42\x82\x84webm"
QUICKTIME_BRAND, QUICKTIME_BOXES = b"qt  ", (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")


@dataclass(frozen=True)
class MediaFormat:
    """A kind of file: `signal` is the kind of signal in it, `writes` and `reads` whether `write` makes and `read` takes it."""

    name: str
    extension: str
    media_type: str
    signal: str
    writes: bool
    reads: bool = True


FORMATS: dict[str, MediaFormat] = {
    form.name: form
    for form in (
        MediaFormat("png", ".png", "image/png", "image", True),
        MediaFormat("jpeg", ".jpg", "image/jpeg", "image", True),
        MediaFormat("webp", ".webp", "image/webp", "image", True),
        MediaFormat("avif", ".avif", "image/avif", "image", True),
        MediaFormat("jxl", ".jxl", "image/jxl", "image", True),
        MediaFormat("npy", ".npy", "application/x-npy", "image", True),
        MediaFormat("ppm", ".ppm", "image/x-portable-anymap", "image", True),
        MediaFormat("gif", ".gif", "image/gif", "image", False),
        MediaFormat("bmp", ".bmp", "image/bmp", "image", False),
        MediaFormat("tiff", ".tiff", "image/tiff", "image", False),
        MediaFormat("mp4", ".mp4", "video/mp4", "video", True),
        MediaFormat("webm", ".webm", "video/webm", "video", True),
        MediaFormat("mkv", ".mkv", "video/x-matroska", "video", True),
        MediaFormat("y4m", ".y4m", "video/x-yuv4mpeg", "video", True),
        MediaFormat("mov", ".mov", "video/quicktime", "video", False),
        MediaFormat("avi", ".avi", "video/x-msvideo", "video", False),
        MediaFormat("zip", ".zip", "application/zip", "video", True, reads=False),
        MediaFormat("wav", ".wav", "audio/wav", "audio", True),
        MediaFormat("flac", ".flac", "audio/flac", "audio", True),
        MediaFormat("ogg", ".ogg", "audio/ogg", "audio", True),
        MediaFormat("opus", ".opus", "audio/ogg", "audio", True, reads=False),
        MediaFormat("mp3", ".mp3", "audio/mpeg", "audio", True),
        MediaFormat("m4a", ".m4a", "audio/mp4", "audio", True),
        MediaFormat("aac", ".aac", "audio/aac", "audio", False),
        MediaFormat("aiff", ".aiff", "audio/aiff", "audio", False),
        MediaFormat("weba", ".weba", "audio/webm", "audio", False),
        MediaFormat("mka", ".mka", "audio/x-matroska", "audio", False),
    )
}
WORDS = {"image": "a picture", "video": "a video", "audio": "sound"}
READ = [form.name for form in FORMATS.values() if form.reads]


def sniff(data: bytes) -> str:
    """Return the name of the format that the first bytes show; raises `UnsupportedMedia` that lists what is read."""
    start = data[:64]
    for magic, name in MAGIC:
        if start.startswith(magic):
            return name
    if start[:4] in (b"RIFF", b"RF64") and start[8:12] in RIFF:
        return RIFF[start[8:12]]
    if start[:4] == b"FORM" and start[8:12] in (b"AIFF", b"AIFC"):
        return "aiff"
    if start[:4] == EBML:
        return "webm" if DOCTYPE_WEBM in start else "mkv"
    if start[4:8] == b"ftyp":
        brands = _brands(start)
        if any(brand in AVIF_BRANDS for brand in brands):
            return "avif"
        if brands[:1] == [QUICKTIME_BRAND]:
            return "mov"
        if brands[:1] and brands[0] in M4A_BRANDS:
            return "m4a"
        if any(brand.startswith(MP4_BRANDS) for brand in brands):
            return "mp4"
    if start[4:8] in QUICKTIME_BOXES:
        return "mov"
    if frames := _frames_of(start):
        return frames
    if len(start) > 2 and start[:1] == b"P" and start[1:2] in b"123456" and start[2:3] in b" \t\r\n#":
        return "ppm"
    raise UnsupportedMedia(f"these bytes are no media that we read; we read {', '.join(READ)}")


def checked_format(data: bytes, limits: Limits) -> str:
    """Return the id of a file's format, as `sniff`; raises `LimitExceeded` for what can be told by looking at lengths alone.

    Cheap, and no library sees the bytes. A GIF does not say how many frames it has, so that FFmpeg would have to find them all.
    """
    limits.check("max_input_bytes", len(data), "the file's length in bytes")
    name = sniff(data)
    if name == "gif":
        limits.check("max_frames", gif_frames(data, limits.max_frames + 1), "the video's number of frames")
    return name


def read_header(data: bytes, limits: Limits | None = None) -> Header:
    """Return (format, height, width, channels, frames) without decoding pixels, but for the first frame of a video.

    Height and width are of the upright picture; how many frames a video has, its file may not know. Of sound height and frames
    are 1, and width is the number of samples of a channel, by how long the file says that it lasts. Raises
    `UnsupportedMedia`, `CorruptMedia`, and `LimitExceeded` for more bytes or pixels than the limits allow.
    """
    limits = limits or Limits()
    name = checked_format(data, limits)
    if audio_readers.has_only_sound(data, name, limits):
        name = audio_readers.SOUND_ONLY[name]
    if FORMATS[name].signal == "audio":
        return Header(name, 1, *audio_readers.stated_size(data, name, limits), 1)
    if FORMATS[name].signal == "video" or (name == "gif" and video_readers.is_animated(data, limits)):
        return video_readers.read_header(data, name, limits)
    if name == "npy" and (frames := readers.npy_frames(data, limits)) is not None:
        count, height, width, channels = frames.shape
        return Header(name, height, width, channels, count)
    header = readers.read_header(data, name)
    limits.check("max_pixels", header.height * header.width, "the picture's number of pixels")
    check_complete(data, name)
    return header


def read(data: bytes, limits: Limits | None = None, kind: str | None = None) -> Signal:
    """Return the signal in a media file, which must be of a `kind`, "image", "video" or "audio", where one is given.

    A GIF of several frames and an .npy file of four axes are videos, the GIF not where an image is asked for; of several
    pictures in another file the first is returned. Where sound is asked for, a video gives its own.

    Pictures come out upright; palettes as RGB, CMYK as RGB (without its profile), two levels as grey; 16 bits stay; an
    alpha channel that is opaque everywhere is dropped. ICC, EXIF and XMP payloads are kept. Raises as `read_header` does.
    """
    limits = limits or Limits()
    name = checked_format(data, limits)
    if kind in (None, "audio") and audio_readers.has_only_sound(data, name, limits):
        name = audio_readers.SOUND_ONLY[name]
    sounds, moves = FORMATS[name].signal == "audio", FORMATS[name].signal == "video"
    if kind == "audio" or (sounds and kind is None):
        if name not in audio_readers.DEMUXERS:
            raise UnsupportedMedia(f"sound is asked for, and {name} files hold none")
        return audio_readers.read_audio(data, name, limits)
    if sounds or (moves and kind == "image"):
        asked, held = WORDS[kind or ""], "sound" if sounds else "videos"
        raise UnsupportedMedia(f"{asked} is asked for, and {name} files hold {held}")
    if name == "gif" and kind != "image":
        moves = kind == "video" or video_readers.is_animated(data, limits)
    if moves:
        return video_readers.read_video(data, name, limits)
    if name == "npy" and kind != "image" and (frames := readers.npy_frames(data, limits)) is not None:
        return Video.of(frames)
    if kind == "video":
        raise UnsupportedMedia(f"a video is asked for, and {name} files hold pictures")
    header = read_header(data, limits)
    image = readers.read_image(data, header.format)
    limits.check("max_metadata_bytes", sum(map(len, image.metadata.values())), "the metadata's length in bytes")
    if image.has_alpha and image.array[..., -1].min() == 2**image.bit_depth - 1:
        return Image(image.array[..., :-1].copy(), image.metadata)
    return image


def write(signal: Signal, format: str, quality: int | None = None) -> bytes:  # noqa: A002
    """Return the signal as a media file with the metadata that the format can hold.

    Without a `quality` (0..100) png, webp, jxl, npy and ppm are lossless, jpeg is written at 90 and avif at 80; png, npy and
    ppm are always lossless. Videos: `video.writers.write_to`; sound:
    `audio.writers.write_to`. Raises `UnsupportedMedia` for a format that is not written or
    cannot hold the signal.
    """
    if isinstance(signal, Video):
        return video_writers.write(signal, format, quality)
    if isinstance(signal, Audio):
        return audio_writers.write(signal, format, quality)
    if isinstance(signal, Pictures):
        if format == "npy":
            return writers.npy(signal.array)
        signal = signal.strip()
    make = WRITERS.get(format)
    if make is None and format in FORMATS and FORMATS[format].signal != "image":
        held = WORDS[FORMATS[format].signal]
        raise UnsupportedMedia(f"{format} files hold {held}; a picture is written as {', '.join(WRITERS)}")
    if make is None or not isinstance(signal, Image):
        raise UnsupportedMedia(f"{format!r} is not a format that we write; we write {', '.join(WRITERS)}")
    return make(signal.array, DEFAULT_QUALITY.get(format) if quality is None else quality, signal.metadata)


def _frames_of(start: bytes) -> str | None:
    """Return "mp3" or "aac" for bytes that begin with the header of such a frame."""
    if len(start) < 4 or start[0] != 0xFF or start[1] & 0xE0 != 0xE0:
        return None
    version, layer, rate, speed = start[1] >> 3 & 3, start[1] >> 1 & 3, start[2] >> 4, start[2] >> 2 & 3
    if version >= 2 and layer == 0:
        return "aac" if start[1] & 0xF0 == 0xF0 and start[2] >> 2 & 15 < 13 else None
    return "mp3" if version != 1 and layer in (1, 2) and 0 < rate < 15 and speed < 3 else None


def _brands(start: bytes) -> list[bytes]:
    end = min(int.from_bytes(start[:4], "big"), len(start))
    return [start[at : at + 4] for at in (8, *range(16, end - 3, 4))]


def _webp(array: Samples, quality: int | None, metadata: writers.Metadata) -> bytes:
    if quality is None:
        return writers.webp_lossless(array, metadata=metadata)
    return writers.webp(array, quality, metadata=metadata)


def _jxl(array: Samples, quality: int | None, metadata: writers.Metadata) -> bytes:
    if array.dtype.itemsize == 2:  # the encoder would label the samples as linear light
        raise UnsupportedMedia("jxl files of 16 bits are not written; npy, png and ppm are")
    if quality is None:
        return writers.jxl_lossless(array, metadata=metadata)
    return writers.jxl(array, quality, metadata=metadata)


WRITERS: dict[str, Callable[[Samples, int | None, writers.Metadata], bytes]] = {
    "png": lambda array, quality, metadata: writers.png(array, metadata),
    "webp": _webp,
    "jpeg": lambda array, quality, metadata: writers.jpeg(array, quality or 0, metadata=metadata),
    "avif": lambda array, quality, metadata: writers.avif(array, quality or 0, metadata=metadata),
    "jxl": _jxl,
    "npy": lambda array, quality, metadata: writers.npy(array),
    "ppm": lambda array, quality, metadata: writers.ppm(array),
}
