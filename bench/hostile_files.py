"""Files that ask for more than they are worth: headers of giants, small files of many pixels, streams that promise a lot."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from google_crc32c import value as crc32c
from numpy.typing import NDArray

from ..codecs import compress, container, media
from ..codecs.codec import Stream, VideoFacts
from ..codecs.container import SIGNATURE
from ..codecs.settings import codecs_with, shortest_fit
from ..codecs.signals import Audio, Colour, Image, Signal, Video
from .fuzz import seal

__all__ = ["Bomb", "bombs", "small_files", "small_streams"]

GIANT = 65_535  # pixels a side
LARGEST = 8_000  # a side of the largest picture that the default limit allows: 64,000,000 pixels


@dataclass(frozen=True)
class Bomb:
    """A hostile request; `refusable` unless only decoding can tell that it is wrong, or nothing is but its price per byte."""

    name: str
    path: str
    body: bytes
    refusable: bool = True


def bombs() -> list[Bomb]:
    """Return all of them."""
    encode = "/v1/encode?codec=jpeg"
    pictures = [
        Bomb("PNG header of 65535 × 65535", encode, _png(GIANT, GIANT, 8, 2, b"\0\1\2\3")),
        Bomb("JPEG header of 65535 × 65535", encode, _jpeg(GIANT, GIANT)),
        Bomb("WebP header of 16384 × 16384", encode, b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\x3f\0\xff\x3f\0"),
        Bomb("WebP canvas of 2^24 × 2^24", encode, b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff" * 6),
        Bomb("JPEG XL header of 65535 × 65535", encode, _jxl(GIANT)),
        Bomb("AVIF header of 65535 × 65535", encode, _avif(GIANT)),
        Bomb("GIF header of 65535 × 65535", encode, b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\2L\1\0;"),
        Bomb("PPM header of 65535 × 65535", encode, b"P6 65535 65535 255\n" + bytes(100)),
        Bomb("PNG of 14000 × 14000, all there", encode, _flat_png(14_000)),
        Bomb("PNG with 50 MB of text", encode, _png(1, 1, 8, 2, b"\0\1\2\3", *_text(50_000_000))),
        Bomb("PNG of 8000 × 8000 with one row there", encode, _png(LARGEST, LARGEST, 8, 2, bytes(3 * LARGEST + 1))),
        Bomb("JPEG of 8000 × 8000 with next to nothing there", encode, _jpeg(LARGEST, LARGEST)),
        Bomb("PNG of 8000 × 8000, all there, one bit a pixel", encode, _flat_png(LARGEST), refusable=False),
        Bomb("PNG of 8000 × 8000, all there, RGB", encode, _flat_png(LARGEST, 8, 2, 3), refusable=False),
        Bomb("GIF of a million frames", encode, _gif(1_000_000)),
        Bomb("GIF of a million frames, as a video", "/v1/encode?codec=h264", _gif(1_000_000)),
        Bomb("Y4M header of 65535 × 65535", "/v1/encode?codec=h264", b"YUV4MPEG2 W65535 H65535 F25:1\nFRAME\n" + bytes(100)),
    ]  # fmt: skip
    return [*pictures, *_streams()]


def _streams() -> list[Bomb]:
    """Return .lcn files: bombs of the container, then files of each codec that promise the largest picture."""
    decode, head = "/v1/decode", SIGNATURE
    found = [
        Bomb("lcn: CBOR 60,000 deep", decode, head + _long_seal(1, b"\x81" * 60_000)),
        Bomb("lcn: CBOR maps 30,000 deep", decode, head + _long_seal(1, b"\xa1\x00" * 30_000)),
        Bomb("lcn: CBOR array of 2^63", decode, head + seal(1, bytes.fromhex("a1029b7fffffffffffffff"))),
        Bomb("lcn: header chunk of 4 GiB", decode, head + b"\1\xff\xff\xff\xff\x0f" + bytes(50)),
        Bomb("lcn: payload chunk of 4 GiB", decode, small_streams()["jpeg"][:30] + b"\2\xff\xff\xff\xff\x0f" + bytes(50)),
        Bomb("lcn: 65535 × 65535", decode, container.write(Stream("jpeg", (GIANT, GIANT, 3), (b"",)))),
        Bomb("lcn: 16 million chunks", decode, head + seal(1, bytes.fromhex("a300020282190100190100051a01000000"))),
        Bomb("lcn: 10 MB of tiny chunks", decode, head + seal(0xC5, b"") * 1_700_000),
    ]  # fmt: skip
    video = VideoFacts(Fraction(25), Colour())
    for name in codecs_with("video"):
        empty = Stream(name, (10_000, LARGEST // 8, LARGEST // 8, 3), (b"\0",), video=video)
        large = replace(empty, shape=(1, LARGEST, LARGEST, 3))
        found += [
            Bomb(f"lcn: {name} of 10,000 frames in a byte", decode, container.write(empty)),
            Bomb(f"lcn: {name} of one frame of 8000 × 8000 in a byte", decode, container.write(large), refusable=False),
        ]
    for name, data in small_streams().items():
        stream = container.read(data)
        shape = (LARGEST, LARGEST, stream.shape[2])
        found.append(
            Bomb(f"lcn: {name} of 8000 × 8000 in one small chunk", decode, container.write(replace(stream, shape=shape)))
        )
        if name in ("image-lossless", "image-transform", "image-circuit"):
            side = 512 if name == "image-circuit" else 1024
            tiles = (-(-LARGEST // side)) ** 2
            many = replace(stream, shape=shape, chunks=stream.chunks[:1] * tiles)
            title = f"lcn: {name} of 8000 × 8000 in {tiles} copies of a small tile"
            found.append(Bomb(title, decode, container.write(many), refusable=False))
    return found


def small_streams(height: int = 48, width: int = 64) -> dict[str, bytes]:
    """Return a valid file of every codec for pictures, by its id, of one picture of random and smooth parts."""
    picture = Image(_scene(height, width))
    return {name: _small_file(name, picture) for name in codecs_with("image")}


def small_files() -> dict[str, bytes]:
    """Return a valid file of every codec, by its id: of a picture, of six frames, of a quarter of a second of sound."""
    scene = _scene(24, 40)
    frames = np.stack([scene[:, at : at + 32] for at in range(6)])
    time = np.arange(4_000)
    tone = 9_000 * np.sin(time / 5) * np.cos(time / 900) + np.random.default_rng(6).normal(0, 40, time.size)
    sound = Audio.of(tone.astype(np.int16)[None], 16_000)
    videos = {name: _small_file(name, Video.of(frames)) for name in codecs_with("video")}
    return small_streams(24, 32) | videos | {name: _small_file(name, sound) for name in codecs_with("audio")}


def _scene(height: int, width: int) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[0:height, 0:width]
    smooth = np.stack([rows * 3, columns * 2, rows + columns], 2).astype(np.uint8)
    noise = np.random.default_rng(5).integers(0, 256, smooth.shape, np.uint8)
    return np.where((rows + columns < height // 2)[..., None], noise, smooth)


def _small_file(name: str, signal: Signal) -> bytes:
    return compress.encode(signal, name, shortest_fit(name), device="cpu").data


def _png(width: int, height: int, depth: int, colour: int, samples: bytes, *more: bytes) -> bytes:
    """Return a PNG with these samples, filter bytes included; `more` is the type and content of a chunk before them."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), *zip(more[::2], more[1::2], strict=True), (b"IDAT", zlib.compress(samples, 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(*chunk) for chunk in chunks)


def _text(length: int) -> tuple[bytes, bytes]:
    """Return a chunk of text that is compressed and so long."""
    return b"zTXt", b"k\0\0" + zlib.compress(bytes(length), 9)


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _flat_png(side: int, depth: int = 1, colour: int = 0, channels: int = 1) -> bytes:
    """Return a complete black PNG; of one bit a pixel, it has about a byte for 8,000 pixels."""
    return _png(side, side, depth, colour, bytes((side * depth * channels + 7) // 8 + 1) * side)


def _jpeg(width: int, height: int) -> bytes:
    """Return a small JPEG whose frame header says another size."""
    file = bytearray(media.write(Image(np.zeros((16, 16, 3), np.uint8)), "jpeg"))
    at = next(at for at in range(len(file)) if file[at] == 0xFF and file[at + 1] in (0xC0, 0xC2))
    file[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(file)


def _jxl(side: int) -> bytes:
    """Return a JPEG XL codestream's signature and size header (ISO/IEC 18181-1, D.2), both sides in 30 bits, and no more."""
    bits = 0 | 3 << 1 | (side - 1) << 3 | 0 << 33 | 3 << 36 | (side - 1) << 38 | 1 << 68
    return b"\xff\x0a" + bits.to_bytes(24, "little")


def _avif(side: int) -> bytes:
    """Return a small AVIF whose spatial extent says another size."""
    file = bytearray(media.write(Image(np.zeros((16, 16, 3), np.uint8)), "avif"))
    at = file.index(b"ispe") + 8
    file[at : at + 8] = struct.pack(">II", side, side)
    return bytes(file)


def _gif(frames: int) -> bytes:
    """Return a GIF of so many frames of one pixel."""
    frame = b",\0\0\0\0\1\0\1\0\0\2\2D\1\0"
    return b"GIF89a\1\0\1\0\x80\0\0\0\0\0\xff\xff\xff" + frame * frames + b";"


def _long_seal(number: int, payload: bytes) -> bytes:
    """Return a chunk of any length up to 2 MiB, with the right checksum."""
    size = len(payload)
    framed = bytes([number, size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14]) + payload
    checksum: int = crc32c(framed)
    return framed + checksum.to_bytes(4, "little")
