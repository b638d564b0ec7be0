"""VMAF, Netflix's measure of how good a video looks, by the ffmpeg program of the package imageio-ffmpeg (extra `bench`)."""

from __future__ import annotations

import re
import subprocess
from importlib import import_module
from importlib.util import find_spec
from tempfile import TemporaryFile

import numpy as np

from ..signals import Samples, Video

__all__ = ["vmaf"]

SCORE = re.compile(rb"VMAF score: ([0-9.]+)")


def vmaf(reference: Video, decoded: Video) -> float | None:
    """Return VMAF (model v0.6.1) of two videos, 0 to 100, averaged over frames; None without imageio-ffmpeg or its libvmaf.

    Both are compared as 8-bit 4:2:0. Raises ValueError for videos of different shapes, and what reading raises.
    """
    if reference.shape != decoded.shape:
        raise ValueError(f"videos of {reference.shape} and {decoded.shape} do not compare")
    if find_spec("imageio_ffmpeg") is None:
        return None
    program = import_module("imageio_ffmpeg").get_ffmpeg_exe()
    count, height, width = reference.shape[:3]
    # One raw video goes in, each of its frames the decoded one above the original, so that there is nothing to align.
    halves = [f"[{name}]crop={width}:{height}:0:{top},format=yuv420p[{name}y]" for name, top in (("d", 0), ("r", height))]
    graph = f"[0:v]split[d][r];{';'.join(halves)};[dy][ry]libvmaf"
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{2 * height}", "-i", "pipe:0"]
    command = [program, "-hide_banner", "-nostdin", *source, "-filter_complex", graph, "-f", "null", "-"]
    with TemporaryFile() as log:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log)
        with process:
            assert process.stdin is not None
            try:
                pairs = zip(decoded.source.read(0, count), reference.source.read(0, count), strict=True)
                for above, below in pairs:
                    process.stdin.write(np.concatenate([_of_8_bits(above), _of_8_bits(below)]).tobytes())
            except BrokenPipeError:  # the program gave up, for want of libvmaf
                return None
            finally:
                process.communicate()
        log.seek(0)
        found = SCORE.search(log.read())
    return float(found[1]) if found else None


def _of_8_bits(frame: Samples) -> Samples:
    return frame if frame.dtype == np.uint8 else (frame // 257).astype(np.uint8)
