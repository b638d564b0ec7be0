"""Tokens of `audio-rvq` as .npz files: what `numpy.load` opens, without objects that would have to be unpickled.

| array | |
|---|---|
| `format` | text: "laconic-tokens-1" |
| `codes` | int16 (C, levels, T), each 0 .. 255 |
| `loudness` | uint8 (C, packets) |
| `rate` | float64: frames per second |
| `shape` | int64 (2): channels and samples of the sound |
| `sampling_rate`, `bit_depth` | int64: of the sound |
| `layout` | text: of the channels |
| `weights` | text: the digest of the networks, in hexadecimal |
| `tags` | uint8: JSON; missing where the sound has none |
"""

from __future__ import annotations

import io
import math
import zipfile
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..codec import AudioFacts
from ..errors import CorruptMedia
from ..image.readers import damage_is_corrupt_media, npy_facts
from ..limits import Limits
from .rvq import Tokens

__all__ = ["holds_tokens", "token_file", "tokens_in"]

FORMAT = "laconic-tokens-1"
SIGNATURE, ENTRY = b"PK\x03\x04", b"PK\x01\x02"  # of a zip archive, and of each entry of its directory
MOST_ENTRIES = 64  # people may add arrays of their own; those are not read
HEAD_BYTES = 10_240  # in which the header of an .npy file is
TEXT = 64  # characters
FACTS_BYTES = 4096  # of what is neither codes, loudness nor tags


class _Form(NamedTuple):
    """What an array must be: one of numpy's kinds of types and a size in bytes (of text, any), and its dimensions."""

    kind: str
    size: int
    dimensions: int


FORMS = {
    "format": _Form("U", 0, 0),
    "codes": _Form("i", 2, 3),
    "loudness": _Form("u", 1, 2),
    "rate": _Form("f", 8, 0),
    "shape": _Form("i", 8, 1),
    "sampling_rate": _Form("i", 8, 0),
    "bit_depth": _Form("i", 8, 0),
    "layout": _Form("U", 0, 0),
    "weights": _Form("U", 0, 0),
    "tags": _Form("u", 1, 1),
}


def holds_tokens(data: bytes) -> bool:
    """Say whether a file is a zip archive, as .npz files are; no media that are read are."""
    return data[: len(SIGNATURE)] == SIGNATURE


def token_file(tokens: Tokens) -> bytes:
    """Return the .npz file of tokens, the same bytes each time; of metadata it holds the tags, as sound has no other."""
    arrays: dict[str, Any] = {
        "format": np.array(FORMAT),
        "codes": tokens.codes.astype(np.int16),
        "loudness": tokens.loudness,
        "rate": np.float64(tokens.rate),
        "shape": np.array(tokens.shape, np.int64),
        "sampling_rate": np.int64(tokens.audio.rate),
        "bit_depth": np.int64(tokens.bit_depth),
        "layout": np.array(tokens.audio.layout),
        "weights": np.array(tokens.weights.hex()),
    }
    if "tags" in tokens.metadata:
        arrays["tags"] = np.frombuffer(tokens.metadata["tags"], np.uint8)
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def tokens_in(data: bytes, limits: Limits | None = None) -> Tokens:
    """Return the tokens in an .npz file as `token_file` writes it.

    Raises `CorruptMedia` for one that is none, `LimitExceeded` for one that would take more memory than `max_samples` and
    `max_metadata_bytes` allow. Whether the codes fit the sound and the networks is for `stream_of_tokens` to check.
    """
    limits = limits or Limits()
    limits.check("max_input_bytes", len(data), "the file's length in bytes")
    if data.count(ENTRY) > MOST_ENTRIES:  # before zipfile makes an object of each
        raise CorruptMedia(f"the file of tokens has more than {MOST_ENTRIES} entries")
    with damage_is_corrupt_media("npz"), zipfile.ZipFile(io.BytesIO(data)) as archive:
        found = {name: _array(archive, name, limits) for name in FORMS if name != "tags" or "tags.npy" in archive.namelist()}
        if found["format"].item() != FORMAT:
            raise CorruptMedia(f"the file's format is {found['format'].item()!r}, where {FORMAT!r} is read")
        if found["shape"].shape != (2,):
            raise CorruptMedia("the shape of a sound is two numbers, channels and samples")
        channels, samples = map(int, found["shape"])
        return Tokens(
            found["codes"],
            found["loudness"],
            found["rate"].item(),
            (channels, samples),
            found["bit_depth"].item(),
            AudioFacts(found["sampling_rate"].item(), found["layout"].item()),
            bytes.fromhex(found["weights"].item()),
            {"tags": found["tags"].tobytes()} if "tags" in found else {},
        )


def _array(archive: zipfile.ZipFile, name: str, limits: Limits) -> NDArray[Any]:
    """Return an array of the archive; its header is checked before its samples are read, and its length as they are."""
    try:
        entry = archive.getinfo(f"{name}.npy")
    except KeyError as error:
        raise CorruptMedia(f"the file of tokens has no array called {name!r}") from error
    if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise CorruptMedia(f"{name} is encrypted, or compressed as numpy does not")
    with archive.open(entry) as member:
        head = member.read(min(entry.file_size, HEAD_BYTES))
        file = io.BytesIO(head)
        shape, _, dtype = npy_facts(file)
        _check_form(name, shape, dtype)
        count = math.prod(shape)
        if name == "tags":
            limits.check("max_metadata_bytes", count, "the metadata's length in bytes")
        elif name in ("codes", "loudness"):
            limits.check("max_samples", count, f"the number of {name}")
        elif count * dtype.itemsize > FACTS_BYTES:
            raise CorruptMedia(f"{name} is longer than such a thing is")
        if file.tell() + count * dtype.itemsize != entry.file_size:
            raise CorruptMedia(f"{name} is longer or shorter than its header says")
        content = head + member.read(entry.file_size - len(head))
        member.read(1)  # past the end, where the checksum is compared
    found: NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
    return found


def _check_form(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    form = FORMS[name]
    if dtype.kind == form.kind == "U" and len(shape) == 0 and dtype.itemsize <= 4 * TEXT:
        return
    if dtype.kind != form.kind or dtype.itemsize != form.size or len(shape) != form.dimensions:
        wanted = "text" if form.kind == "U" else f"{np.dtype(f'{form.kind}{form.size}')} of {form.dimensions} dimensions"
        raise CorruptMedia(f"{name} is {wanted}, not {dtype} of shape {shape}")
