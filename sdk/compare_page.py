"""The report of a comparison: one HTML page that needs nothing from anywhere else."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from string import Template

import numpy as np

from .codecs import media
from .codecs.errors import UnsupportedMedia
from .codecs.signals import Image, Samples, Video
from .compare import Comparison, Entry, raw_bytes
from .plot import Series, rd_plot

__all__ = ["fill", "missing_text", "render", "settings_text"]

SHOWN_PIXELS = 2_000_000  # larger pictures are shown as a crop of their middle, so that the report stays readable
SHOWN_FRAMES = 3  # of a video: the first, the middle and the last
PLAYED_PIXELS = 150_000_000  # of all frames: of longer or larger videos nothing is played
PLAYED_BYTES = 12_000_000
PLAYED_QUALITY = 85


def render(comparison: Comparison) -> str:
    """Return the report as one HTML page that needs nothing from anywhere else."""
    crop = _crop(comparison.original)
    smallest = comparison.entries[0]
    return fill(
        "compare.html",
        title=escape(comparison.name),
        summary=f"At {comparison.target_psnr:.2f} dB, <b>{escape(smallest.codec)}</b> makes the smallest file: "
        f"<b>{smallest.bytes:,} bytes</b>, {smallest.bpp:.3f} bits per pixel.",
        facts=f"{_size_text(comparison.original)} of {comparison.original.bit_depth} bits; "
        f"{raw_bytes(comparison.original):,} bytes of samples, {comparison.original_bytes:,} in the file given.",
        further="<th>VMAF</th>" if _has_vmaf(comparison) else "",
        rows="\n".join(_row(index, entry, smallest, _has_vmaf(comparison)) for index, entry in enumerate(comparison.entries)),
        notes=missing_text(comparison.skipped),
        plot=rd_plot([Series(e.codec, e.curve, (e.bpp, e.psnr)) for e in comparison.entries], comparison.target_psnr),
        pictures=_pictures(comparison, crop),
        crop="" if crop is None else '<p class="muted">The middle of the picture is shown; all figures are of the whole.</p>',
        moments=_moments(comparison.original),
        players=_players(comparison),
    )


def fill(template: str, **parts: str) -> str:
    """Return the page that a template of this package makes of its parts, with the style that the reports share."""
    page, style = (files("laconic").joinpath(name).read_text(encoding="utf-8") for name in (template, "compare.css"))
    return Template(page).substitute(parts, style=style)


def _size_text(original: Image | Video) -> str:
    height, width, channels = original.shape[-3:]
    if isinstance(original, Video):
        moving = f"{original.shape[0]:,} frames, {float(original.rate):.4g} a second"
        return f"{width} × {height}, {moving}, without sound, {channels} channels"
    return f"{width} × {height}, {channels} channel{'s' * (channels > 1)}"


def _has_vmaf(comparison: Comparison) -> bool:
    return any(entry.vmaf is not None for entry in comparison.entries)


def missing_text(skipped: Mapping[str, str]) -> str:
    """Return what a report says of codecs that could not be compared, and why."""
    return "".join(f'<p class="muted">{escape(codec)} is missing: {escape(why)}</p>' for codec, why in sorted(skipped.items()))


def _row(index: int, entry: Entry, smallest: Entry, with_vmaf: bool) -> str:
    more = "smallest" if entry is smallest else f"+{100 * (entry.even_bytes / smallest.even_bytes - 1):.1f} %"
    settings = settings_text(entry.settings)
    quality = "exact" if math.isinf(entry.psnr) else f"{entry.psnr:.2f} dB"
    cells = [
        f"{entry.bytes:,}",
        f"{entry.bpp:.3f}",
        f"{entry.ratio:.1f}",
        quality,
        *(["" if entry.vmaf is None else f"{entry.vmaf:.1f}"] if with_vmaf else []),
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


def settings_text(settings: Mapping[str, object]) -> str:
    """Return the settings that say something, in words."""
    return ", ".join(_setting(name, value) for name, value in settings.items() if value is not False and value is not None)


def _setting(name: str, value: object) -> str:
    return name if value is True else f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"


def _crop(original: Image | Video) -> tuple[slice, slice] | None:
    """Return the part of a large picture that is shown."""
    height, width = original.shape[-3:-1]
    if height * width <= SHOWN_PIXELS:
        return None
    scale = math.sqrt(SHOWN_PIXELS / (height * width))
    rows, columns = max(1, int(height * scale)), max(1, int(width * scale))
    top, left = (height - rows) // 2, (width - columns) // 2
    return slice(top, top + rows), slice(left, left + columns)


def _pictures(comparison: Comparison, crop: tuple[slice, slice] | None) -> str:
    """Return the pictures as JSON for the page's script: the original first, then the table's rows in order.

    Each has its `source`, and of a video `more` sources, one for each further frame that is shown.
    """
    signals = [("original", "", comparison.original)]
    signals += [(entry.codec, f"{entry.bytes:,} bytes", entry.decoded) for entry in comparison.entries]
    pictures = []
    for name, caption, signal in signals:
        arrays = [array if crop is None else array[crop] for array in _shown(signal)]
        height, width = arrays[0].shape[:2]
        profile = signal.metadata if isinstance(signal, Image) else {}
        first, *more = [_data_url(array, profile) for array in arrays]
        picture = {"name": name, "caption": caption, "width": width, "height": height, "source": first}
        pictures.append({**picture, "more": more} if more else picture)
    return json.dumps(pictures).replace("<", "\\u003c")


def _shown_frames(video: Video) -> list[int]:
    """Return the numbers of the frames that are shown."""
    last = video.shape[0] - 1
    return sorted({round(last * number / (SHOWN_FRAMES - 1)) for number in range(SHOWN_FRAMES)})


def _shown(signal: Image | Video) -> list[Samples]:
    if isinstance(signal, Image):
        return [signal.array]
    return [next(signal.source.read(number, number + 1)) for number in _shown_frames(signal)]


def _moments(original: Image | Video) -> str:
    """Return the choice of the frame to show, nothing for pictures."""
    if isinstance(original, Image) or original.shape[0] == 1:
        return ""
    options = (f'<option value="{at}">{number:,}</option>' for at, number in enumerate(_shown_frames(original)))
    return f'<label>Frame <select id="moment">{"".join(options)}</select></label>'


def _players(comparison: Comparison) -> str:
    """Return the original and the smallest file's video as H.264 that browsers play; nothing where they are large."""
    original, smallest = comparison.original, comparison.entries[0]
    if not (isinstance(original, Video) and isinstance(smallest.decoded, Video)) or original.pixels > PLAYED_PIXELS:
        return ""
    figures, total = [], 0
    for name, video in (("original", original), (smallest.codec, smallest.decoded)):
        try:
            content = media.write(video, "mp4", PLAYED_QUALITY)
        except UnsupportedMedia:  # frames that H.264 in mp4 cannot hold
            return ""
        total += len(content)
        source = "data:video/mp4;base64," + base64.b64encode(content).decode()
        caption = f"<figcaption>{escape(name)}</figcaption>"
        figures.append(
            f'<figure><video controls muted loop playsinline preload="auto" src="{source}"></video>{caption}</figure>'
        )
    if total > PLAYED_BYTES:
        return ""
    note = '<p class="muted">Coded once more for browsers, as H.264 of high quality; figures and frames are of the files.</p>'
    return f'<h2>In motion</h2><div class="players">{"".join(figures)}</div>{note}'


def _data_url(array: Samples, metadata: Mapping[str, bytes]) -> str:
    """Return a picture, in 8 bits as screens have them, as the data URL of a PNG with its colour profile."""
    pixels: Samples = array if array.dtype == np.uint8 else (array // 257).astype(np.uint8)
    profile = {"icc": metadata["icc"]} if "icc" in metadata else {}
    png = media.write(Image(pixels, profile), "png")
    return "data:image/png;base64," + base64.b64encode(png).decode()
