"""The clips of the video benchmark: read from media files, cropped in the centre, made smaller by means of pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..codecs import media
from ..codecs.errors import InvalidSettings
from ..codecs.signals import Samples, Video

__all__ = ["CLIPS", "load_clip"]

# Names of clips that papers use: their file, and the height and width that they are cropped to.
CLIPS: dict[str, tuple[str, tuple[int, int] | None]] = {
    "bunny": ("bigbuckbunny.mp4", (640, 1280)),
    "carphone": ("carphone_pristine.mp4", None),
}


def load_clip(clip: str, folder: Path, size: tuple[int, int] | None, limit: int | None = None) -> Video:
    """Return the first `limit` frames of a clip of `CLIPS`, whose file is in `folder`, or of a file, in memory, without sound.

    It is cropped to the shape of `size` (height, width) in the centre, then reduced by a whole factor, each pixel the mean of
    those it stands for. Raises `InvalidSettings` where the frames are too small or no whole factor leads there.
    """
    name, crop = CLIPS.get(clip, (clip, None))
    path = folder / name if clip in CLIPS else Path(name)
    if not path.is_file():
        raise InvalidSettings(f"there is no file {path}; say where the clips are with --clips FOLDER")
    video = media.read(path.read_bytes())
    if not isinstance(video, Video):
        raise InvalidSettings(f"{path} is no video")
    frames = video.frames(0, min(limit or video.shape[0], video.shape[0])).array
    if crop is not None:
        frames = _centre(frames, *crop)
    if size is not None:
        factor = min(frames.shape[1] // size[0], frames.shape[2] // size[1])
        if factor < 1:
            raise InvalidSettings(f"{clip} is {frames.shape[1]} x {frames.shape[2]}, smaller than {size[0]} x {size[1]}")
        frames = _reduced(_centre(frames, size[0] * factor, size[1] * factor), factor)
    return Video.of(frames, video.rate)


def _centre(frames: Samples, height: int, width: int) -> Samples:
    """Return frames cropped in the centre."""
    top, left = (frames.shape[1] - height) // 2, (frames.shape[2] - width) // 2
    return frames[:, top : top + height, left : left + width].copy()


def _reduced(frames: Samples, factor: int) -> Samples:
    """Return frames made smaller, each sample the mean of factor x factor."""
    if factor == 1:
        return frames
    _, height, width, channels = frames.shape
    out = frames[:, ::factor, ::factor].copy()
    for number, frame in enumerate(frames):
        blocks = frame.reshape(height // factor, factor, width // factor, factor, channels)
        out[number] = np.rint(blocks.mean((1, 3)))
    return out
