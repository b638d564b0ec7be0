"""Marked sections of Markdown documents, which benchmarks replace with what they measured."""

from __future__ import annotations

from pathlib import Path

from ..codecs.errors import InvalidSettings

__all__ = ["replace_section"]


def replace_section(docs: Path, begin: str, end: str, content: str) -> None:
    """Put `content` between the markers `begin` and `end` of a document; raises `InvalidSettings` where it lacks them."""
    before, found_begin, rest = docs.read_text(encoding="utf-8").partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise InvalidSettings(f"{docs} lacks the markers {begin} and {end}")
    docs.write_text(f"{before}{begin}\n\n{content}\n{end}{after}", encoding="utf-8")
