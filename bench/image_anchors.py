"""Published rate-distortion curves on Kodak, shipped in `anchors/kodak_lossy.json`.

The points are mean bits per pixel and mean RGB PSNR (dB), averaged per image over the 24 pictures, as the codecs' own
repositories publish them: CAI is CompressAI's results folder, C3repo, CoolChic, SegPIC and HPCM-Large their authors'.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from .bd_rate import RateCurve

__all__ = ["Anchor", "load_anchors"]

# Resolved first: in an editable install this file is a link into the checkout, and the folder is beside the real file.
ANCHORS_FILE = Path(__file__).resolve().parent / "anchors" / "kodak_lossy.json"


@dataclass(frozen=True)
class Anchor:
    """One published curve: `bpp` and `psnr` point by point, and where they are from."""

    name: str
    bpp: tuple[float, ...]
    psnr: tuple[float, ...]
    source: str

    @property
    def curve(self) -> RateCurve:
        """The curve to interpolate and compare with."""
        return RateCurve.of(self.bpp, self.psnr)


def load_anchors() -> dict[str, Anchor]:
    """Return the published curves by name."""
    rows = json.loads(ANCHORS_FILE.read_text(encoding="utf-8"))["rows"]
    return {name: Anchor(name, tuple(row["bpp"]), tuple(row["psnr"]), row["source"]) for name, row in rows.items()}
