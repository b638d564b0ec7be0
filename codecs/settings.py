"""Settings from plain values: checked by the codec's model, with errors that say what would have been right."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from .codec import Codec, CodecSettings, TargetCodec
from .errors import InvalidSettings
from .registry import codec_class, codec_ids

__all__ = ["codecs_at_once", "codecs_with", "is_lossless", "make_settings", "settings_used", "shortest_fit", "takes"]

SHORTEST = {"effort": 1, "steps": 100, "parameters": 1_500, "jobs": 1}


def make_settings(codec: type[Codec], values: Mapping[str, object]) -> CodecSettings:
    """Return the codec's settings; text is accepted for numbers and flags.

    Raises `InvalidSettings` that lists the valid names or ranges, and names other codecs where lossless coding is asked of a
    codec that has none.
    """
    fields = codec.Settings.model_fields
    given = dict(values)
    if "lossless" in given and "lossless" not in fields:
        if is_lossless(given) != codec.lossless:
            raise InvalidSettings(_wrong_losslessness(codec))
        del given["lossless"]
    unknown = [name for name in given if name not in fields]
    if unknown:
        valid = f"its settings are {', '.join(fields)}" if fields else "it has no settings"
        if "quality" in unknown and codec.lossless:
            raise InvalidSettings(f"{codec.id} is always lossless, so it has no quality; {valid}")
        raise InvalidSettings(f"{codec.id} has no setting called {', '.join(map(repr, unknown))}; {valid}")
    try:
        return codec.Settings.model_validate(given)
    except ValidationError as error:
        raise InvalidSettings(f"{codec.id}: {'; '.join(_reasons(error, codec))}") from None


def settings_used(settings: CodecSettings) -> dict[str, object]:
    """Return plain values that, given again, lead to the same coding: all, but no quality where another decides."""
    values: dict[str, object] = settings.model_dump(mode="json")
    if values.get("lossless") or values.get("kbps"):
        values.pop("quality", None)
    return values


def takes(codec: type[Codec], kind: str) -> bool:
    """Return whether a codec takes signals of a kind."""
    return kind in getattr(codec, "signals", (codec.signal,))


def codecs_with(kind: str, *names: str) -> list[str]:
    """Return the ids of the codecs for a kind of signal that have all these settings."""
    classes = [codec_class(name) for name in codec_ids()]
    return [codec.id for codec in classes if takes(codec, kind) and set(names) <= set(codec.Settings.model_fields)]


def codecs_at_once(kind: str, *names: str) -> list[str]:
    """Return the codecs of `codecs_with` but fits, whose encodings take minutes and which meet targets by themselves."""
    return [name for name in codecs_with(kind, *names) if not issubclass(codec_class(name), TargetCodec)]


def shortest_fit(name: str) -> dict[str, object]:
    """Return settings with which a codec that fits takes less than a second for something small; none for other codecs."""
    known = codec_class(name).Settings.model_fields
    return {setting: value for setting, value in SHORTEST.items() if setting in known} if "checkpoint" in known else {}


def is_lossless(values: Mapping[str, object]) -> bool:
    """Return whether settings, not yet checked, ask for lossless coding."""
    return str(values.get("lossless", False)).lower() in ("true", "1", "yes", "on")


def _wrong_losslessness(codec: type[Codec]) -> str:
    if codec.lossless:
        return f"{codec.id} is always lossless"
    return f"{codec.id} has no lossless coding; {', '.join(codecs_with(codec.signal, 'lossless'))} have"


def _reasons(error: ValidationError, codec: type[Codec]) -> list[str]:
    reasons = []
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        name = str(problem["loc"][0]) if problem["loc"] else ""
        meaning = codec.Settings.model_fields[name].description if name else None
        text = problem["msg"].removeprefix("Value error, ")
        reasons.append((f"{name}: " if name else "") + text + (f" ({meaning})" if meaning else ""))
    return reasons
