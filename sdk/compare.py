"""Compare every codec on one picture at the same PSNR, and draw a self-contained HTML report of it."""

from __future__ import annotations

import base64
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from importlib.resources import files
from string import Template
from typing import cast

import numpy as np

from .codecs import compress, media
from .codecs.codec import Progress
from .codecs.compress import Encoded, Target
from .codecs.errors import InvalidSettings, LaconicError
from .codecs.metrics import psnr
from .codecs.registry import codec_class, codec_ids
from .codecs.signals import Image, Samples
from .plot import Series, rd_plot

__all__ = ["QUALITIES", "Comparison", "Entry", "compare", "image_codecs", "reference_psnr", "render"]

QUALITIES = (10, 30, 50, 70, 90)  # of each codec's curve
SHOWN_PIXELS = 2_000_000  # larger pictures are shown as a crop of their middle, so that the report stays readable
REFERENCE, REFERENCE_QUALITY = "image-transform", 50


@dataclass(frozen=True)
class Entry:
    """One codec at the common PSNR: its file's size, what it took in seconds, and the picture that came back.

    `bytes` is the smallest file that reaches the PSNR. Qualities are whole numbers, so most codecs overshoot a little:
    `even_bytes` is what the codec would take at the very PSNR, between that file and the one of the quality below.
    `curve` holds (bits per pixel, PSNR) at `QUALITIES`.
    """

    codec: str
    settings: Mapping[str, object]
    bytes: int
    psnr: float
    encode_seconds: float
    decode_seconds: float
    decoded: Image = field(repr=False)
    even_bytes: float
    curve: tuple[tuple[float, float], ...] = ()

    @property
    def bpp(self) -> float:
        """Bits per pixel."""
        return 8 * self.bytes / self.decoded.pixels

    @property
    def ratio(self) -> float:
        """Bytes of the samples for each byte of the file."""
        return self.decoded.array.nbytes / self.bytes


@dataclass(frozen=True)
class Comparison:
    """All codecs on one picture, the smallest file first; `skipped` says why others are missing."""

    name: str
    original: Image = field(repr=False)
    original_bytes: int
    target_psnr: float
    entries: tuple[Entry, ...]
    skipped: Mapping[str, str]


def image_codecs() -> list[str]:
    """Return the ids of the codecs that take pictures and have a quality to compare at."""
    return [name for name in codec_ids() if _comparable(name)]


def compare(
    original: Image,
    name: str,
    original_bytes: int,
    target_psnr: float | None = None,
    *,
    codecs: Sequence[str] | None = None,
    curves: bool = True,
    device: str = "auto",
    progress: Progress | None = None,
) -> Comparison:
    """Code a picture with every codec at `target_psnr` dB: each file is the codec's smallest that reaches it.

    The default target is what image-transform gives at quality 50. Codecs that are always lossless take part where they are
    named in `codecs`, with the one file that they make. Codecs that cannot take part are named in `skipped`.
    Raises `InvalidSettings` where none can, or where none has a quality.
    """
    chosen = list(codecs or image_codecs())
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
            entries.append(entry)
        except LaconicError as error:
            skipped[codec] = str(error)
    if not entries:
        raise InvalidSettings("no codec can be compared: " + "; ".join(f"{k}: {v}" for k, v in skipped.items()))
    report(1.0, "done")
    entries.sort(key=lambda entry: entry.even_bytes)
    return Comparison(name, original, original_bytes, target, tuple(entries), skipped)


def reference_psnr(original: Image, codecs: Sequence[str], device: str = "auto") -> float:
    """Return the PSNR that image-transform gives at quality 50, or without its weights the first codec that can."""
    ordered = sorted(codecs, key=lambda codec: codec != REFERENCE)
    for codec in ordered:
        try:
            return _code(original, codec, {"quality": REFERENCE_QUALITY}, device).psnr
        except LaconicError:
            continue
    raise InvalidSettings(f"none of {', '.join(codecs)} can code this picture")


def measure(original: Image, codec: str, target_psnr: float, device: str = "auto") -> Entry:
    """Return a codec's entry for its smallest file that reaches a PSNR; what codecs raise passes through."""
    if _always_lossless(codec):
        return _code(original, codec, {}, device)
    found = compress.encode(original, codec, {}, Target(psnr=target_psnr), device)
    entry = _code(original, codec, found.settings, device)
    quality = found.settings.get("quality")
    if not isinstance(quality, int) or quality == 0:
        return entry
    below = _code(original, codec, {**found.settings, "quality": quality - 1}, device)
    return replace(entry, even_bytes=_between(entry, below, target_psnr))


def _between(entry: Entry, below: Entry, psnr_wanted: float) -> float:
    """Return the bytes at a PSNR between two entries, by a straight line from PSNR to log(bytes)."""
    if not below.psnr < psnr_wanted < entry.psnr < math.inf:
        return entry.bytes
    part = (psnr_wanted - below.psnr) / (entry.psnr - below.psnr)
    return math.exp((1 - part) * math.log(below.bytes) + part * math.log(entry.bytes))


def _comparable(name: str) -> bool:
    try:
        kind = codec_class(name)
    except (LaconicError, ImportError):  # a third party's that does not import must not spoil the report
        return False
    return kind.signal == "image" and "quality" in kind.Settings.model_fields


def _always_lossless(name: str) -> bool:
    kind = codec_class(name)
    return kind.lossless and "quality" not in kind.Settings.model_fields


def _code(original: Image, codec: str, settings: Mapping[str, object], device: str) -> Entry:
    """Encode and decode once, both timed."""
    encoded: Encoded = compress.encode(original, codec, settings, None, device)
    start = time.perf_counter()
    decoded = cast(Image, compress.decode(encoded.data, device=device))
    seconds = time.perf_counter() - start
    quality = psnr(original, decoded)
    size = len(encoded.data)
    return Entry(codec, encoded.settings, size, quality, encoded.seconds, seconds, decoded, size)


def _curve(original: Image, codec: str, device: str, report: Callable[[float, str], None]) -> tuple[tuple[float, float], ...]:
    points = []
    for index, quality in enumerate(QUALITIES):
        report((index + 1) / (len(QUALITIES) + 1), f"{codec} at quality {quality}")
        entry = _code(original, codec, {"quality": quality}, device)
        points.append((entry.bpp, entry.psnr))
    return tuple(points)


def _part(report: Progress, index: int, count: int) -> Callable[[float, str], None]:
    return lambda done, stage: report((index + done) / count, stage)


def render(comparison: Comparison) -> str:
    """Return the report as one HTML page that needs nothing from anywhere else."""
    height, width, channels = comparison.original.shape
    crop = _crop(comparison.original)
    smallest = comparison.entries[0]
    template = Template(files("laconic").joinpath("compare.html").read_text(encoding="utf-8"))
    pages = template.substitute(
        title=escape(comparison.name),
        summary=f"At {comparison.target_psnr:.2f} dB, <b>{escape(smallest.codec)}</b> makes the smallest file: "
        f"<b>{smallest.bytes:,} bytes</b>, {smallest.bpp:.3f} bits per pixel.",
        facts=f"{width} × {height}, {channels} channel{'s' * (channels > 1)} of {comparison.original.bit_depth} bits; "
        f"{comparison.original.array.nbytes:,} bytes of samples, {comparison.original_bytes:,} in the file given.",
        rows="\n".join(_row(index, entry, smallest) for index, entry in enumerate(comparison.entries)),
        notes="".join(f'<p class="muted">{escape(codec)} is missing: {escape(why)}</p>' for codec, why in _skipped(comparison)),
        plot=rd_plot([Series(e.codec, e.curve, (e.bpp, e.psnr)) for e in comparison.entries], comparison.target_psnr),
        pictures=_pictures(comparison, crop),
        crop="" if crop is None else '<p class="muted">The middle of the picture is shown; all figures are of the whole.</p>',
    )
    return pages


def _skipped(comparison: Comparison) -> list[tuple[str, str]]:
    return sorted(comparison.skipped.items())


def _row(index: int, entry: Entry, smallest: Entry) -> str:
    more = "smallest" if entry is smallest else f"+{100 * (entry.even_bytes / smallest.even_bytes - 1):.1f} %"
    settings = ", ".join(_setting(name, value) for name, value in entry.settings.items() if value is not False)
    quality = "exact" if math.isinf(entry.psnr) else f"{entry.psnr:.2f} dB"
    cells = [
        f"{entry.bytes:,}",
        f"{entry.bpp:.3f}",
        f"{entry.ratio:.1f}",
        quality,
        more,
        f"{entry.encode_seconds:.3f} s",
        f"{entry.decode_seconds:.3f} s",
    ]
    least = ' class="least"' if entry is smallest else ""
    name = f'<span class="dot"></span>{escape(entry.codec)}'
    columns = "".join(f"<td>{cell}</td>" for cell in cells)
    return (
        f'<tr data-picture="{index + 1}" class="series-{index}"><td{least}>{name}</td>{columns}'
        f'<td class="settings">{escape(settings)}</td></tr>'
    )


def _setting(name: str, value: object) -> str:
    return name if value is True else f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"


def _crop(original: Image) -> tuple[slice, slice] | None:
    """Return the part of a large picture that is shown."""
    height, width = original.shape[:2]
    if height * width <= SHOWN_PIXELS:
        return None
    scale = math.sqrt(SHOWN_PIXELS / (height * width))
    rows, columns = max(1, int(height * scale)), max(1, int(width * scale))
    top, left = (height - rows) // 2, (width - columns) // 2
    return slice(top, top + rows), slice(left, left + columns)


def _pictures(comparison: Comparison, crop: tuple[slice, slice] | None) -> str:
    """Return the pictures as JSON for the page's script: the original first, then the table's rows in order."""
    shown = [("original", "", comparison.original)]
    shown += [(entry.codec, f"{entry.bytes:,} bytes", entry.decoded) for entry in comparison.entries]
    pictures = []
    for name, caption, image in shown:
        array = image.array if crop is None else image.array[crop]
        height, width = array.shape[:2]
        entry = {"name": name, "caption": caption, "width": width, "height": height, "source": _data_url(array, image.metadata)}
        pictures.append(entry)
    return json.dumps(pictures).replace("<", "\\u003c")


def _data_url(array: Samples, metadata: Mapping[str, bytes]) -> str:
    """Return a picture, in 8 bits as screens have them, as the data URL of a PNG with its colour profile."""
    pixels: Samples = array if array.dtype == np.uint8 else (array // 257).astype(np.uint8)
    profile = {"icc": metadata["icc"]} if "icc" in metadata else {}
    png = media.write(Image(pixels, profile), "png")
    return "data:image/png;base64," + base64.b64encode(png).decode()
