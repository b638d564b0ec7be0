"""Compare every codec on one picture or video at the same PSNR; `compare_page` draws a report of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from .codecs import compress
from .codecs.codec import Progress, TargetCodec
from .codecs.compress import Encoded, Target
from .codecs.errors import InvalidSettings, LaconicError
from .codecs.metrics import psnr
from .codecs.registry import codec_class, codec_ids
from .codecs.settings import takes
from .codecs.signals import Image, Video
from .codecs.video.vmaf import vmaf

__all__ = ["QUALITIES", "Comparison", "Entry", "compare", "compared_codecs", "measure", "raw_bytes", "reference_psnr"]

QUALITIES = {"image": (10, 30, 50, 70, 90), "video": (10, 30, 50, 70)}  # of each codec's curve, by the kind of signal
REFERENCES, REFERENCE_QUALITY = ("image-transform", "av1"), 50  # whose PSNR is the default target


@dataclass(frozen=True)
class Entry:
    """One codec at the common PSNR: its file's size, what it took in seconds, and the picture or video that came back.

    `bytes` is the smallest file that reaches the PSNR. Qualities of pictures are whole numbers, so most codecs overshoot a
    little: `even_bytes` is what the codec would take at the very PSNR, between that file and the one of the quality below.
    `curve` holds (bits per pixel, PSNR) at `QUALITIES`. `vmaf` is None for pictures and where it cannot be measured.
    """

    codec: str
    settings: Mapping[str, object]
    bytes: int
    psnr: float
    encode_seconds: float
    decode_seconds: float
    decoded: Image | Video = field(repr=False)
    even_bytes: float
    curve: tuple[tuple[float, float], ...] = ()
    vmaf: float | None = None

    @property
    def bpp(self) -> float:
        """Bits per pixel."""
        return 8 * self.bytes / self.decoded.pixels

    @property
    def ratio(self) -> float:
        """Bytes of the samples for each byte of the file."""
        return raw_bytes(self.decoded) / self.bytes


@dataclass(frozen=True)
class Comparison:
    """All codecs on one picture or video, the smallest file first; `skipped` says why others are missing."""

    name: str
    original: Image | Video = field(repr=False)
    original_bytes: int
    target_psnr: float
    entries: tuple[Entry, ...]
    skipped: Mapping[str, str]


def raw_bytes(signal: Image | Video) -> int:
    """Return the number of bytes of all samples."""
    return math.prod(signal.shape) * signal.bit_depth // 8


def compared_codecs(kind: str = "image") -> list[str]:
    """Return the ids of the codecs that take "image" or "video", have a quality to compare at, and do not take minutes."""
    return [name for name in codec_ids() if _comparable(name, kind)]


def compare(
    original: Image | Video,
    name: str,
    original_bytes: int,
    target_psnr: float | None = None,
    *,
    codecs: Sequence[str] | None = None,
    curves: bool = True,
    device: str = "auto",
    progress: Progress | None = None,
) -> Comparison:
    """Code a picture or video with every codec at `target_psnr` dB: each file is the codec's smallest that reaches it.

    The default target is what image-transform, or av1, gives at quality 50. Codecs that are always lossless, and those that
    take minutes to meet a target, take part where they are named in `codecs`, the former with the one file that they make.
    Videos are compared without their sound. Codecs that cannot take part are named in `skipped`. Raises `InvalidSettings` where
    none can, or where none has a quality.
    """
    if isinstance(original, Video):
        original = replace(original, metadata={})
    chosen = list(codecs or compared_codecs(original.kind))
    if all(_always_lossless(codec) for codec in chosen):
        raise InvalidSettings(f"{', '.join(chosen)}: always lossless; name a codec with a quality as well, to compare with")
    report = progress or (lambda done, stage: None)
    target = reference_psnr(original, chosen, device) if target_psnr is None else target_psnr
    entries, skipped = [], {}
    for index, codec in enumerate(chosen):
        report(index / len(chosen), codec)
        try:
            entry = measure(original, codec, target, device)
            if curves and not _always_lossless(codec):
                entry = replace(entry, curve=_curve(original, codec, device, _part(report, index, len(chosen))))
            if isinstance(original, Video) and isinstance(entry.decoded, Video):
                entry = replace(entry, vmaf=vmaf(original, entry.decoded))
            entries.append(entry)
        except LaconicError as error:
            skipped[codec] = str(error)
    if not entries:
        raise InvalidSettings("no codec can be compared: " + "; ".join(f"{k}: {v}" for k, v in skipped.items()))
    report(1.0, "done")
    entries.sort(key=lambda entry: entry.even_bytes)
    return Comparison(name, original, original_bytes, target, tuple(entries), skipped)


def reference_psnr(original: Image | Video, codecs: Sequence[str], device: str = "auto") -> float:
    """Return the PSNR that image-transform or av1 gives at quality 50, or without its weights the first codec that can."""
    ordered = sorted(codecs, key=lambda codec: codec not in REFERENCES)
    for codec in ordered:
        try:
            return _code(original, codec, {"quality": REFERENCE_QUALITY}, device).psnr
        except LaconicError:
            continue
    raise InvalidSettings(f"none of {', '.join(codecs)} can code this {original.kind}")


def measure(original: Image | Video, codec: str, target_psnr: float, device: str = "auto") -> Entry:
    """Return a codec's entry for its smallest file that reaches a PSNR; what codecs raise passes through."""
    if _always_lossless(codec):
        return _code(original, codec, {}, device)
    found = compress.encode(original, codec, {}, Target(psnr=target_psnr), device)
    entry = _code(original, codec, found.settings, device)
    quality = found.settings.get("quality")
    if not isinstance(quality, int | float) or quality < 1:
        return entry
    below = _code(original, codec, {**found.settings, "quality": quality - 1}, device)
    return replace(entry, even_bytes=_between(entry, below, target_psnr))


def _between(entry: Entry, below: Entry, psnr_wanted: float) -> float:
    """Return the bytes at a PSNR between two entries, by a straight line from PSNR to log(bytes)."""
    if not below.psnr < psnr_wanted < entry.psnr < math.inf:
        return entry.bytes
    part = (psnr_wanted - below.psnr) / (entry.psnr - below.psnr)
    return min(float(entry.bytes), math.exp((1 - part) * math.log(below.bytes) + part * math.log(entry.bytes)))


def _comparable(name: str, signal: str) -> bool:
    try:
        kind = codec_class(name)
    except (LaconicError, ImportError):  # a third party's that does not import must not spoil the report
        return False
    return takes(kind, signal) and "quality" in kind.Settings.model_fields and not issubclass(kind, TargetCodec)


def _always_lossless(name: str) -> bool:
    kind = codec_class(name)
    return kind.lossless and "quality" not in kind.Settings.model_fields


def _code(original: Image | Video, codec: str, settings: Mapping[str, object], device: str) -> Entry:
    """Encode and decode once, both timed."""
    encoded: Encoded = compress.encode(original, codec, settings, None, device)
    start = time.perf_counter()
    decoded = cast("Image | Video", compress.decode(encoded.data, device=device, whole=False))
    if isinstance(decoded, Video):  # whose frames are decoded as they are asked for
        for _ in decoded.source.read(0, decoded.shape[0]):
            pass
    seconds = time.perf_counter() - start
    quality = psnr(original, decoded)
    size = len(encoded.data)
    return Entry(codec, encoded.settings, size, quality, encoded.seconds, seconds, decoded, size)


def _curve(
    original: Image | Video, codec: str, device: str, report: Callable[[float, str], None]
) -> tuple[tuple[float, float], ...]:
    points = []
    qualities = QUALITIES[original.kind]
    for index, quality in enumerate(qualities):
        report((index + 1) / (len(qualities) + 1), f"{codec} at quality {quality}")
        entry = _code(original, codec, {"quality": quality}, device)
        points.append((entry.bpp, entry.psnr))
    return tuple(points)


def _part(report: Progress, index: int, count: int) -> Callable[[float, str], None]:
    return lambda done, stage: report((index + done) / count, stage)
