"""What a request asks for, from its query string; nothing unknown is ignored."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from starlette.datastructures import QueryParams

from ..codecs import compress
from ..codecs.codec import Codec
from ..codecs.errors import InvalidSettings
from ..codecs.parts import check_one_part, frame_range, seconds_range
from ..codecs.settings import make_settings
from ..codecs.targets import Target
from .catalogue import Catalogue
from .excerpts import Excerpt

__all__ = [
    "FRAMES_PATTERN",
    "SECONDS_PATTERN",
    "TARGETS",
    "DecodeOptions",
    "EncodeOptions",
    "check_names",
    "decode_options",
    "encode_options",
    "entity_tag",
    "no_options",
    "single_values",
]

FRAMES_PATTERN = "^(-?[0-9]{1,9})?:(-?[0-9]{1,9})?$"  # of the texts of a part: no more than any file can hold
SECONDS_PATTERN = r"^(-?[0-9]{1,9}(\.[0-9]{1,9})?)?:(-?[0-9]{1,9}(\.[0-9]{1,9})?)?$"
_ALL = ((None, None), (0, None))
FLAGS = {"true": True, "1": True, "false": False, "0": False}
TARGETS = {f"target_{field.name}": int if field.name == "bytes" else float for field in fields(Target)}


@dataclass(frozen=True)
class EncodeOptions:
    """A codec's id or "auto", its settings as text, and the target, None without one."""

    codec: str
    settings: Mapping[str, str]
    target: Target | None


def encode_options(query: QueryParams, catalogue: Catalogue) -> EncodeOptions:
    """Return the options of /v1/encode; raises `InvalidSettings` that lists the valid names."""
    given = single_values(query)
    codec = given.pop("codec", compress.AUTO)
    if codec != compress.AUTO and codec not in catalogue.served:
        raise InvalidSettings(f"no codec {codec!r} is served; there are auto, {', '.join(catalogue.served)}")
    for name in frozenset().union(*(served.local for served in catalogue.served.values())) & given.keys():
        raise InvalidSettings(f"{name} is about the machine that encodes: not for a client to set")
    target = _target({name: given.pop(name) for name in TARGETS if name in given})
    if codec == compress.AUTO:
        codecs = [entry.codec for entry in catalogue.served.values()]
        always = {"lossless" for codec in codecs if codec.lossless}
        check_names(given, always | {name for codec in codecs for name in codec.Settings.model_fields})
        for name, text in given.items():
            _check_value([type(codec) for codec in codecs if name in codec.Settings.model_fields], name, text)
    else:
        make_settings(type(catalogue.served[codec].codec), given)
    return EncodeOptions(codec, given, target)


@dataclass(frozen=True)
class DecodeOptions:
    """The quality (0 to 100) of a lossy output file, None without one, and what of the file is wanted."""

    quality: int | None
    excerpt: Excerpt


def decode_options(query: QueryParams) -> DecodeOptions:
    """Return the options of /v1/decode; raises `InvalidSettings`."""
    given = single_values(query)
    check_names(given, {"quality", "frames", "seconds", "salvage"})
    return DecodeOptions(_quality(given.get("quality")), _excerpt(given))


def _quality(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and int(text) <= 100):
        raise InvalidSettings(f"quality is {text!r}, not a whole number of 0 to 100")
    return int(text)


def _excerpt(given: Mapping[str, str]) -> Excerpt:
    """Return the part that is asked for; the part from the beginning to the end is the whole."""
    frames, seconds, salvage = given.get("frames"), given.get("seconds"), given.get("salvage", "false")
    check_one_part(frames, seconds)
    for name, text, pattern in (("frames", frames, FRAMES_PATTERN), ("seconds", seconds, SECONDS_PATTERN)):
        if text is not None and re.fullmatch(pattern, text) is None:
            raise InvalidSettings(f"{name} is {text!r}, not START:STOP, of which the first comes and the last does not")
    if salvage not in FLAGS:
        raise InvalidSettings(f"salvage is {salvage!r}, not true or false")
    shown = None if frames is None else frame_range(frames)
    heard = None if seconds is None else seconds_range(seconds)
    return Excerpt(None if shown in _ALL else shown, None if heard in _ALL else heard, FLAGS[salvage])


def no_options(query: QueryParams) -> None:
    """Raise `InvalidSettings` if there is any parameter."""
    check_names(single_values(query), set())


def entity_tag(body: bytes, *options: object) -> str:
    """Return the strong ETag of what these bytes become under these options."""
    digest = hashlib.sha256(repr(options).encode())
    digest.update(b"\0")
    digest.update(body)
    return f'"{digest.hexdigest()}"'


def single_values(query: QueryParams) -> dict[str, str]:
    """Return the parameters; raises `InvalidSettings` when one is given twice."""
    names = [name for name, _ in query.multi_items()]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidSettings(f"{', '.join(map(repr, twice))} is given more than once")
    return dict(query.multi_items())


def check_names(given: Mapping[str, str], valid: set[str]) -> None:
    """Raise `InvalidSettings` that lists the valid names for the first that is not one of them."""
    unknown = [name for name in given if name not in valid]
    if unknown:
        there_are = f"there are {', '.join(sorted(valid))}" if valid else "there are none"
        raise InvalidSettings(f"no parameter is called {', '.join(map(repr, unknown))}; {there_are}")


def _check_value(codecs: Sequence[type[Codec]], name: str, text: str) -> None:
    """Raise `InvalidSettings` for a value that no codec takes which has the setting."""
    refusals = []
    for codec in codecs:
        try:
            make_settings(codec, {name: text})
        except InvalidSettings as error:
            refusals.append(error)
    if refusals and len(refusals) == len(codecs):
        raise refusals[0]


def _target(given: Mapping[str, str]) -> Target | None:
    if not given:
        return None
    if len(given) > 1:
        raise InvalidSettings(f"one target at a time, not {' and '.join(given)}")
    name, text = next(iter(given.items()))
    try:
        value: Any = TARGETS[name](text)
    except ValueError as error:
        raise InvalidSettings(f"{name} is {text!r}, not a number") from error
    try:
        return Target(**{name.removeprefix("target_"): value})
    except OverflowError as error:  # an integer beyond any float
        raise InvalidSettings(f"{name} is larger than any file") from error
