"""Command-line options to settings and targets: what contradicts itself is refused, with the message a user needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .codecs.compress import Target
from .codecs.errors import InvalidSettings

__all__ = ["EncodeOptions", "settings_and_target"]


@dataclass(frozen=True)
class EncodeOptions:
    """What `laconic encode` was asked for; None and False stand for an option that was not given."""

    codec: str = "auto"
    quality: float | None = None
    effort: int | None = None
    lossless: bool = False
    target_bpp: float | None = None
    target_psnr: float | None = None
    target_bytes: int | None = None
    target_kbps: float | None = None
    pairs: Sequence[str] = ()


def settings_and_target(options: EncodeOptions) -> tuple[dict[str, object], Target | None]:
    """Return the codec's settings and the target; raises `InvalidSettings` for options that contradict each other.

    >>> settings_and_target(EncodeOptions("webp", quality=50, pairs=["effort=3"]))
    ({'effort': '3', 'quality': 50}, None)
    """
    target = _target(options)
    settings = _pairs(options.pairs)
    named: dict[str, object] = {}
    if options.quality is not None:
        named["quality"] = int(options.quality) if options.quality == int(options.quality) else options.quality
    if options.effort is not None:
        named["effort"] = options.effort
    if options.lossless:
        named["lossless"] = True
    twice = sorted(settings.keys() & named.keys())
    if twice:
        raise InvalidSettings(f"{twice[0]} is given twice, by --set and by its own option")
    return settings | named, target


def _target(options: EncodeOptions) -> Target | None:
    given = {
        "--target-bpp": options.target_bpp,
        "--target-psnr": options.target_psnr,
        "--target-bytes": options.target_bytes,
        "--target-kbps": options.target_kbps,
    }
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise InvalidSettings(f"{' and '.join(names)} contradict each other: give one target")
    if not names:
        return None
    return Target(psnr=options.target_psnr, bpp=options.target_bpp, bytes=options.target_bytes, kbps=options.target_kbps)


def _pairs(pairs: Sequence[str]) -> dict[str, object]:
    """Split `key=value`; the codec's settings turn text into the number or flag that they want."""
    settings: dict[str, object] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise InvalidSettings(f"--set takes key=value, not {pair!r}")
        if name in settings:
            raise InvalidSettings(f"--set gives {name} twice")
        settings[name] = text
    return settings
