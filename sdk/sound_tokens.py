"""Sound as the integers that `audio-rvq` makes of it, for models that are trained on them, and back."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from .api import file_bytes, read_source
from .codecs import compress, container
from .codecs.audio.rvq import Tokens, stream_of_tokens, tokens_of
from .codecs.audio.rvq_token_files import holds_tokens, tokens_in
from .codecs.errors import InvalidSettings, UnsupportedMedia
from .codecs.limits import Limits

if TYPE_CHECKING:
    from .api import Source
    from .codecs.codec import Progress

__all__ = ["CODEC", "check_no_settings", "from_tokens", "token_stream", "tokens"]

CODEC = "audio-rvq"


def tokens(source: Source, *, rate: float | None = None, limits: Limits | None = None, **settings: object) -> Tokens:
    """Return the tokens of a sound: `codes` int16 (C, levels, T), each 0 .. 255, of `rate` frames a second.

    `source` is a sound as `laconic.encode` takes it (`rate` in Hz beside samples), or the path or bytes of an .lcn file of
    audio-rvq, whose tokens are those in it, or of an .npz file of tokens. Further keywords, for a sound only, are settings of
    audio-rvq: `kbps` or `quality`, and `effort`.

    >>> import numpy
    >>> found = tokens(numpy.zeros(16000, numpy.int16), rate=16000, kbps=3)
    >>> found.codes.shape[::2], found.codes.dtype, found.rate
    ((1, 51), dtype('int16'), 50.0)

    Raises `InvalidSettings`, `UnsupportedMedia` for what is no sound or an .lcn file of another codec, `CorruptStream`,
    `CorruptMedia`, `LimitExceeded`, `WeightsMissing`.
    """
    if isinstance(source, str | os.PathLike | bytes | bytearray | memoryview):
        source = file_bytes(source)
    if isinstance(source, bytes) and holds_tokens(source):
        check_no_settings(settings, rate)
        return tokens_in(source, limits)
    return tokens_of(container.read(token_stream(source, settings, rate, limits), limits))


def from_tokens(source: Tokens | str | os.PathLike[str] | bytes, *, limits: Limits | None = None) -> bytes:
    """Return the .lcn file of tokens, given as such or as the path or bytes of an .npz file.

    It is, byte for byte, the file that they were taken from; tags are kept. For codes that were changed, as by
    `dataclasses.replace(tokens, codes=...)`, it is the file of those.

    >>> import laconic, numpy
    >>> stream = laconic.encode(numpy.zeros(16000, numpy.int16), rate=16000, codec="audio-rvq")
    >>> from_tokens(tokens(stream)) == stream
    True

    Raises `InvalidSettings` for codes that do not fit the sound or that the networks do not know, `CorruptMedia` and
    `LimitExceeded` for an .npz file that is none, `WeightsMissing`.
    """
    if not isinstance(source, Tokens):
        content = file_bytes(source)
        if not holds_tokens(content):
            raise UnsupportedMedia("tokens are in .npz files; laconic.tokens makes them of sound and .lcn files")
        source = tokens_in(content, limits)
    return container.write(stream_of_tokens(source))


def token_stream(
    source: Source,
    settings: Mapping[str, object],
    rate: float | None = None,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> bytes:
    """Return the .lcn file of audio-rvq that holds a sound's tokens: the source itself where it is one."""
    limits = limits or Limits()
    if isinstance(source, str | os.PathLike | bytes | bytearray | memoryview):
        source = file_bytes(source)
    if isinstance(source, bytes) and container.is_laconic(source):
        check_no_settings(settings, rate)
        header = container.read_header(source, limits)
        if header.codec != CODEC:
            raise UnsupportedMedia(f"the file is coded by {header.codec}, which has no tokens: decode it first")
        limits.check("max_samples", math.prod(header.shape), "the sound's number of samples, of all channels")
        return source
    return compress.encode(read_source(source, limits, CODEC, rate), CODEC, settings, progress=progress).data


def check_no_settings(settings: Mapping[str, object], rate: float | None = None) -> None:
    """Raise `InvalidSettings` for settings of tokens that are there already."""
    if settings or rate is not None:
        name = next(iter(settings), "rate")
        raise InvalidSettings(f"the tokens are in the file already: {name} is for sound")
