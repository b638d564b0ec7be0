"""What `laconic codecs` lists: every codec with its settings, and whether it can run here."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .codecs.codec import Codec
from .codecs.errors import LaconicError
from .codecs.registry import codec_class, codec_ids, open_codec

__all__ = ["CodecListing", "list_codecs"]


@dataclass(frozen=True)
class CodecListing:
    """A codec: its id, the kind of signal it takes, what it is, the JSON schema of its settings, what it lacks here or ""."""

    id: str
    signal: str
    about: str
    lossless: bool
    settings: Mapping[str, Any]
    missing: str

    @property
    def settings_text(self) -> str:
        """The settings' names with their ranges or values: "quality 0..100, lossless"."""
        return ", ".join(_setting_text(name, schema) for name, schema in self.settings.get("properties", {}).items())


def list_codecs() -> list[CodecListing]:
    """Return every registered codec; one that does not import says so in `missing`."""
    return [_listing(name) for name in codec_ids()]


def _listing(name: str) -> CodecListing:
    try:
        kind = codec_class(name)
    except (LaconicError, ImportError) as error:
        return CodecListing(name, "", "", False, {}, str(error))
    try:
        open_codec(name)
        missing = ""
    except LaconicError as error:
        missing = str(error)
    return CodecListing(name, kind.signal, _about(kind), kind.lossless, kind.Settings.model_json_schema(), missing)


def _about(kind: type[Codec]) -> str:
    """Return the first line of the codec's module, or else of its class, without the codec's name."""
    text = sys.modules[kind.__module__].__doc__ or kind.__doc__ or ""
    return text.strip().partition("\n")[0].removeprefix(f"`{kind.id}`: ").rstrip(".")


def _setting_text(name: str, schema: Mapping[str, Any]) -> str:
    parts = [schema, *schema.get("anyOf", [])]
    low = next((part["minimum"] for part in parts if "minimum" in part), None)
    high = next((part["maximum"] for part in parts if "maximum" in part), None)
    if low is not None and high is not None:
        return f"{name} {low:g}..{high:g}"
    values = next((part["enum"] for part in parts if "enum" in part), None)
    return f"{name} {'|'.join(map(str, values))}" if values else name
