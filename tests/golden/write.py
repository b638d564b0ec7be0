"""Write the golden streams: small .lcn files, what they decode to, and digests of both. Run through scripts/write-golden.

    scripts/write-golden [--replace] [NAME ...]

Writes the streams that are missing, or those named. A stream that exists is never touched without --replace: it stands for
files that users have, which must decode for ever. Nothing is written where one of those asked for exists.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from laconic.codecs import compress, container, media
from laconic.codecs.audio.rvq import tokens_of
from laconic.codecs.registry import codec_class
from laconic.codecs.signals import Audio, Image, Pictures, Video
from laconic.entropy.digest import symbol_digest

FOLDER = Path(__file__).parent
DIGESTS = "digests.json"

# Codec and settings of each stream. Pixels of lossless codecs, image-overfit and conventional ones are pinned by digest; those
# of `DRIFT` may differ by so much between devices or versions of a library, so that a picture, or every `EVERY`-th sample of
# sound, is kept beside the stream. Opus: FFmpeg's own decoder and libopus differ by 1 on this stream.
STREAMS: dict[str, tuple[str, dict[str, object]]] = {
    "image-transform-corrected": ("image-transform", {"quality": 50, "effort": 4}),  # third weights
    "image-transform-50": ("image-transform", {"quality": 50}),  # second
    "image-transform-30": ("image-transform", {"quality": 30}),  # this and the next: first
    "image-transform-80": ("image-transform", {"quality": 80}),
    "image-overfit-10": ("image-overfit", {"quality": 10, "effort": 3}),  # third weights
    "image-overfit-50": ("image-overfit", {"quality": 50, "effort": 3}),  # second
    "image-overfit-20": ("image-overfit", {"quality": 20, "effort": 3}),  # this and the next: first
    "image-overfit-80": ("image-overfit", {"quality": 80, "effort": 3}),
    "jpeg-75": ("jpeg", {"quality": 75, "chroma": "444"}),
    "webp-lossless": ("webp", {"lossless": True}),
    "avif-lossless": ("avif", {"lossless": True}),
    "jxl-lossless": ("jxl", {"lossless": True}),
    "image-lossless-1": ("image-lossless", {"lossless": True, "effort": 1}),
    "image-lossless-5": ("image-lossless", {"lossless": True, "effort": 5}),
    "image-lossless-9": ("image-lossless", {"lossless": True, "effort": 9}),
    "image-lossless-origin": ("image-lossless", {"lossless": True}),
    "image-lossless-flat": ("image-lossless", {"lossless": True}),
    "audio-lossless-1": ("audio-lossless", {"lossless": True, "effort": 1}),
    "audio-lossless-5": ("audio-lossless", {"lossless": True, "effort": 5, "packet": 0.2}),
    "audio-lossless-9": ("audio-lossless", {"lossless": True, "effort": 9}),
    "audio-lossless-float": ("audio-lossless", {"lossless": True}),
    "audio-rvq": ("audio-rvq", {"kbps": 3}),
    "audio-rvq-music": ("audio-rvq", {"kbps": 2, "model": "music"}),
    "flac": ("flac", {"lossless": True}),
    "opus": ("opus", {"kbps": 48}),
    "image-circuit-photos": ("image-circuit", {"lossless": True}),
    "image-circuit-digits": ("image-circuit", {"lossless": True, "model": "digits"}),
    "image-circuit-fashion": ("image-circuit", {"lossless": True, "model": "fashion"}),
    "video-inr": ("video-inr", {"arch": "hnerv", "steps": 200, "parameters": 1500, "frames": 3, "jobs": 1}),
    "video-inr-nirvana": ("video-inr", {"arch": "nirvana", "steps": 900, "parameters": 1500, "jobs": 1}),
    "video-inr-exact": ("video-inr", {"steps": 200, "parameters": 1500, "frames": 3, "jobs": 1, "exact": True}),
    "av1-60": ("av1", {"quality": 60, "frames": 2}),
    "hevc-60": ("hevc", {"quality": 60, "frames": 2}),
    "h264-60": ("h264", {"quality": 60, "frames": 2}),
    "hevc-lossless": ("hevc", {"lossless": True}),
    "h264-lossless": ("h264", {"lossless": True}),
}
DRIFT = {"image-transform": 1, "video-inr": 1, "av1": 2, "hevc": 2, "h264": 2, "audio-rvq": 1, "opus": 1}
EVERY = 20
THIN = {"image-transform-corrected": 61}  # of a larger picture every so many-th sample is kept beside the stream
CUTS = {"audio-rvq": (4000, 5000), "flac": (8000, 500), "opus": (8000, 400)}  # of mono sound: its rate and samples

SMALL = {"image-circuit-digits": "digits", "image-circuit-fashion": "clothes"}  # files of 28 x 28 pictures


def sound(name: str = "") -> Audio:
    """The sound in a stream: stereo of 5000 samples (500 of float32), two tones made by integers alone, and a little noise.

    Of `CUTS` it is the beginning of one channel.
    """
    state, waves = 1, np.zeros((2, 500 if name.endswith("float") else 5000), np.int64)
    a, b = [0, 3000], [0, 900]  # resonators: x[n + 1] = 2 cos(w) x[n] - x[n - 1]
    for n in range(waves.shape[1]):
        state = (state * 1_103_515_245 + 12_345) % 2**31
        a, b = [a[1], a[1] * 253 // 128 - a[0]], [b[1], b[1] * 180 // 128 - b[0]]
        waves[:, n] = a[1] + b[1] + (state >> 16) % 2, a[0] - b[1] + (state >> 22) % 2
    integers = np.clip(waves, -32768, 32767).astype(np.int16)
    if name in CUTS:
        rate, samples = CUTS[name]
        return Audio.of(integers[:1, :samples].copy(), rate)
    return Audio.of(integers.astype(np.float32) / np.float32(3), 8000) if name.endswith("float") else Audio.of(integers, 8000)


def source(name: str = "") -> Image | Video | Audio:
    """What is in a stream; of pictures 64 x 96 pixels of a photograph, with some detail; small pictures for circuits of such.

    For codecs of videos it is three frames of 33 x 47 pixels that move over the photograph, eight for networks that share them.

    Part of the photograph has an origin that `image-lossless` recovers; the rest is too bright for that.
    """
    if name in STREAMS and codec_class(STREAMS[name][0]).signal == "audio":
        return sound(name)
    if small := SMALL.get(name):
        strip = media.read((FOLDER.parent / "media" / f"{small}.png").read_bytes())
        return Pictures(strip.array.reshape(-1, 28, 28)[:6].copy())
    photograph = media.read((FOLDER.parent / "media" / "photograph.png").read_bytes())
    if name in STREAMS and codec_class(STREAMS[name][0]).signal == "video":
        return Video.of(
            np.stack([photograph.array[40 + at : 73 + at, 2 * at : 47 + 2 * at] for at in range(8 if "inr" in name else 3)])
        )
    if name == "image-lossless-origin":
        return Image(photograph.array[32:96, :96].copy())
    if name in THIN:  # the same again and again: a correction pays, and the file stays small
        return Image(np.tile(photograph.array[-32:, -48:], (2, 3, 1)))
    pixels = photograph.array[-64:, -96:].copy()
    return Image(pixels // 128 * 128 if name == "image-lossless-flat" else pixels)


def pixel_digest(signal: Image | Video | Audio) -> str:
    """Return the SHA-256 of the samples in row order."""
    return hashlib.sha256(np.ascontiguousarray(signal.array).tobytes()).hexdigest()


def symbols_of(data: bytes) -> str:
    """Return the digest of a file's symbols, of audio-rvq, whose packets have their own, that of all tokens."""
    stream = container.read(data)
    return (symbol_digest(tokens_of(stream).codes) if stream.codec == "audio-rvq" else stream.digest).hex()


def drift(name: str) -> int:
    """Return by how much a stream's samples may differ from those beside it; 0 where there are none."""
    codec, settings = STREAMS[name]
    return 0 if settings.get("lossless") or settings.get("exact") else DRIFT.get(codec, 0)


def kept_samples(name: str, decoded: Image | Video | Audio) -> NDArray[Any] | None:
    """Return the samples that are kept beside a stream in place of its picture, None where that is kept."""
    if isinstance(decoded, Audio):
        return decoded.array[:, ::EVERY]
    return decoded.array.ravel()[:: THIN[name]] if name in THIN else None


def write_stream(folder: Path, name: str) -> dict[str, object]:
    """Write one stream, and its picture (frames one below the other) or samples where they drift; returns its digests."""
    codec, settings = STREAMS[name]
    data = compress.encode(source(name), codec, settings, device="cpu").data
    decoded = compress.decode(data, device="cpu")
    (folder / f"{name}.lcn").write_bytes(data)
    entry: dict[str, object] = {"file": hashlib.sha256(data).hexdigest(), "shape": list(decoded.shape)}
    if drift(name) and (kept := kept_samples(name, decoded)) is not None:
        np.save(folder / f"{name}.npy", kept)
    elif drift(name):
        picture = decoded.array.reshape(-1, *decoded.shape[-2:])
        PIL.Image.fromarray(picture).save(folder / f"{name}.webp", lossless=True, quality=100, method=6)
    if drift(name):
        entry["symbols"] = symbols_of(data)
    else:
        entry["pixels"] = pixel_digest(decoded)
    return entry


def main(arguments: Iterable[str] | None = None, folder: Path = FOLDER) -> int:
    """Run from the command line; returns 0, or 1 where streams that exist were asked for without --replace."""
    parser = argparse.ArgumentParser(prog="write-golden", description="Write the golden streams of the tests.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"streams to write (default: all): {', '.join(STREAMS)}")
    parser.add_argument("--replace", action="store_true", help="write streams that exist again, with the codecs of today")
    options = parser.parse_args(None if arguments is None else list(arguments))
    if unknown := set(options.names) - STREAMS.keys():
        parser.error(f"no stream is called {', '.join(sorted(unknown))}")
    present = {path.stem for path in folder.glob("*.lcn")}
    names = options.names or [name for name in STREAMS if options.replace or name not in present]
    if not options.replace and (kept := sorted(present.intersection(names))):
        print(f"kept, because --replace was not given: {', '.join(kept)}")
        return 1
    path = folder / DIGESTS
    digests = json.loads(path.read_text()) if path.exists() else {}
    for name in names:
        digests[name] = write_stream(folder, name)
        print(f"wrote {name}.lcn")
    lines = (f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in sorted(digests.items()))
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
