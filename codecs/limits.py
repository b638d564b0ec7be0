"""What input may ask for. Every limit is checked before the memory it guards is taken."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import LimitExceeded

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """Upper bounds for one input, in bytes, pixels (width x height), frames, samples or chunks.

    `max_video_pixels` bounds the pixels of all frames of a video that are in memory at once, `max_samples` the samples of
    all channels of sound.
    """

    max_input_bytes: int = 256 * 2**20
    max_pixels: int = 64_000_000
    max_header_bytes: int = 65_536
    max_chunks: int = 65_536
    max_metadata_bytes: int = 16 * 2**20
    max_frames: int = 1_000_000
    max_video_pixels: int = 512_000_000
    max_audio_bytes: int = 128 * 2**20
    max_samples: int = 2**30

    def check(self, setting: str, actual: int, limit: str) -> None:
        """Raise `LimitExceeded` if `actual` is above the bound called `setting`; `limit` says in words what is bounded."""
        allowed: int = getattr(self, setting)
        if actual > allowed:
            raise LimitExceeded(limit, allowed, actual, setting)
