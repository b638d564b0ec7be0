"""Frames of an .lcn file, decoded a group at a time as they are asked for: constant memory, and seeking."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from ..signals import Samples, Video

__all__ = ["GroupFrames", "video_of_groups"]


@dataclass(frozen=True, eq=False)
class GroupFrames:
    """A `FrameSource` of groups: group g holds the frames starts[g] .. starts[g + 1] - 1, the last one those to the end.

    `decode(g)` returns a group's frames in order, each uint8 or uint16 of (H, W, 3): an array of (n, H, W, 3), or an iterator
    that decodes them as they are asked for, or a `Sequence` that decodes each without those before it. Frames of a group in
    `lost` repeat the last frame before it that was decoded, or are grey where there is none.
    """

    shape: tuple[int, int, int, int]
    bit_depth: int
    starts: tuple[int, ...]
    decode: Callable[[int], Iterable[Samples]]
    lost: frozenset[int] = frozenset()

    def span(self, group: int) -> tuple[int, int]:
        """Return the first frame of a group and the one after its last."""
        return self.starts[group], self.starts[group + 1] if group + 1 < len(self.starts) else self.shape[0]

    def read(self, start: int, stop: int) -> Iterator[Samples]:
        """Yield the frames start .. stop - 1; only their groups are decoded, and one more where the first is lost."""
        first, last = bisect_right(self.starts, start) - 1, bisect_right(self.starts, stop - 1) - 1
        shown = self._before(first) if first in self.lost else None
        for group in range(first, last + 1):
            a, b = self.span(group)
            if group in self.lost:
                yield from (shown for _ in range(max(start, a), min(stop, b)) if shown is not None)
            else:
                for shown in _part(self.decode(group), max(start, a) - a, min(stop, b) - a, stop >= b):
                    yield shown

    def _before(self, group: int) -> Samples:
        """Return the frame that lost frames at the start of a group repeat."""
        while group > 0:
            group -= 1
            if group not in self.lost:
                frames = self.decode(group)
                return frames[-1] if isinstance(frames, Sequence) else deque(frames, maxlen=1)[0]
        grey, shape = 2 ** (self.bit_depth - 1), self.shape[1:]
        return np.full(shape, grey, np.uint8) if self.bit_depth == 8 else np.full(shape, grey, np.uint16)


def _part(frames: Iterable[Samples], start: int, stop: int, to_end: bool) -> Iterator[Samples]:
    """Yield the frames start .. stop - 1 of a group."""
    if isinstance(frames, Sequence):
        yield from (frames[number] for number in range(start, stop))
        return
    decoded = iter(frames)
    yield from islice(decoded, start, stop)
    if to_end:  # a decoder that has more frames than it should says so at its end
        deque(decoded, maxlen=0)


def video_of_groups(source: GroupFrames) -> Video:
    """Return the video of groups, with the frames of those that are lost."""
    return Video(source, lost=tuple(source.span(group) for group in sorted(source.lost)))
