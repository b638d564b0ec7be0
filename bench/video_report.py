"""Files that the video benchmark leaves: a Markdown table and a plot of everything measured into a folder."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .sections import replace_section

__all__ = ["DOCS_BEGIN", "DOCS_END", "Measurement", "keep", "markdown_table", "write_report"]

DOCS_BEGIN, DOCS_END = "<!-- bench video: begin -->", "<!-- bench video: end -->"
# Resolved first: in an editable install this file is a link into the checkout, and the folder is beside the real file.
ANCHORS_FILE = Path(__file__).resolve().parent / "anchors" / "bunny.json"
BUNNY = "bunny-640x1280-132"  # the clip of the published rows
SIZES = {"paper-0.35m": "0.35M", "paper-0.75m": "0.75M", "paper-1.5m": "1.5M", "paper-3m": "3M"}


@dataclass(frozen=True)
class Measurement:
    """One file: its clip ("bunny-640x1280-132": name, height, width, frames), what made it, and what was measured.

    `psnr` is that of the frames that the file decodes to, for ours in a new process; `reported_psnr` is what encoding told,
    `float_psnr` that of the fit before quantisation. `seek_seconds` is the time for the frame in the middle alone.
    """

    clip: str
    codec: str
    label: str
    settings: Mapping[str, object]
    pixels: int
    bytes: int
    psnr: float
    ms_ssim: float
    encode_seconds: float
    decode_seconds: float
    frames: int
    device: str
    processor: str
    date: str
    load_average: float
    threads: int
    parameters: int | None = None
    reported_psnr: float | None = None
    float_psnr: float | None = None
    seek_seconds: float | None = None

    @property
    def bpp(self) -> float:
        """Bits per pixel of the bytes counted."""
        return 8 * self.bytes / self.pixels


def keep(out: Path, name: str, rows: Sequence[Measurement]) -> None:
    """Write measurements as `NAME.json`, which replaces those of an earlier run."""
    (out / f"{name}.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")


def write_report(out: Path, docs: Path | None = None) -> list[Measurement]:
    """Write `table.md` and a plot of each clip from all that `keep` left in `out`, which is returned; `docs` has a section."""
    from .plot import PlotFrame, PlottedCurve, write_plot  # matplotlib is an extra

    rows = [Measurement(**row) for path in sorted(out.glob("*.json")) for row in json.loads(path.read_text(encoding="utf-8"))]
    parts = []
    for clip in sorted({row.clip for row in rows}):
        own = [row for row in rows if row.clip == clip]
        curves = [
            PlottedCurve(label, [row.bpp for row in points], [row.psnr for row in points], True, points[0].codec == "video-inr")
            for label, points in _curves(own).items()
        ]
        if clip == BUNNY:
            curves += [PlottedCurve(f"{name} (published)", *points, False) for name, points in _published_curves().items()]
        write_plot(curves, out / f"rd-{clip}.svg", f"Rate and distortion on {clip}", PlotFrame.around(curves))
        parts.append(f"![Rate and distortion on {clip}](video-{clip}.svg)\n\n{markdown_table(clip, own)}")
        if docs is not None:
            (docs.parent / f"video-{clip}.svg").write_bytes((out / f"rd-{clip}.svg").read_bytes())
    (out / "table.md").write_text("\n".join(parts), encoding="utf-8")
    if docs is not None:
        replace_section(docs, DOCS_BEGIN, DOCS_END, "\n".join(parts))
    return rows


def markdown_table(clip: str, rows: Sequence[Measurement]) -> str:
    """Return the table of one clip: ours in bold, the papers' figures beside the rows that stand for them."""
    columns = [
        "file", "bpp", "PSNR, dB", "MS-SSIM", "bits per parameter", "below the fit, dB", "in the paper, dB", "fit, core s",
        "decode, frames/s", "seek, s",
    ]  # fmt: skip
    lines = [f"| {' | '.join(columns)} |", "|---" + "|---:" * (len(columns) - 1) + "|"]
    for row in sorted(rows, key=lambda row: (row.codec != "video-inr", row.label, -row.bpp)):
        ours = row.parameters is not None
        cells = [
            f"**{row.label}** at quality {row.settings['quality']}" if ours else f"{row.label} at {row.settings['quality']}"
        ]
        cells += [f"{row.bpp:.4f}", f"{row.psnr:.2f}", f"{row.ms_ssim:.4f}"]
        cells.append(_shown(8 * row.bytes / row.parameters if row.parameters else None, 2))
        cells.append(_shown(None if row.float_psnr is None else row.float_psnr - row.psnr, 2))
        cells.append(_shown(_in_paper(clip, row.settings), 2))
        cells += [f"{row.encode_seconds:.1f}", f"{row.frames / row.decode_seconds:.1f}", _shown(row.seek_seconds, 2)]
        lines.append(f"| {' | '.join(cells)} |")
    machines = sorted({f"{row.date}, {row.processor}, {row.device}, {row.threads} threads" for row in rows})
    loads = [row.load_average for row in rows]
    lines += ["", f"{clip}; {'; '.join(machines)}; load average {min(loads):.1f} to {max(loads):.1f}.", ""]
    return "\n".join(lines)


def _shown(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _curves(rows: Sequence[Measurement]) -> dict[str, list[Measurement]]:
    curves: dict[str, list[Measurement]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.psnr):
        if not curves[row.label] or row.psnr > curves[row.label][-1].psnr:
            curves[row.label].append(row)
    return {label: points for label, points in curves.items() if len(points) > 1}


def _in_paper(clip: str, settings: Mapping[str, object]) -> float | None:
    """Return the PSNR of the paper's row that a preset stands for, before quantisation."""
    size = SIZES.get(str(settings.get("preset")))
    if clip != BUNNY or size is None:
        return None
    published = json.loads(ANCHORS_FILE.read_text(encoding="utf-8"))["paper_300_epochs"]
    value = published.get(str(settings["arch"]), {}).get(size)
    return None if value is None else float(value)


def _published_curves() -> dict[str, tuple[list[float], list[float]]]:
    """Return bits per pixel and dB of what `anchors/bunny.json` has as files' rates."""
    anchors = json.loads(ANCHORS_FILE.read_text(encoding="utf-8"))
    curves = {"hnerv-boost, 720p": anchors["hnerv_boost_720p_bpp_psnr"]}
    curves |= anchors["conventional_bpp_psnr_measured"]
    return {name: ([bpp for bpp, _ in points], [level for _, level in points]) for name, points in curves.items()}
