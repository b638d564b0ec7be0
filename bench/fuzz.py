"""Hostile bytes against `container.read`: `python -m laconic.bench.fuzz` makes a million inputs and reports.

Each input is a valid file with damage (bits flipped, cut, spliced with another, lengths replaced), often with its checksums
made right again so that the damage reaches the code behind them, or random bytes. Only `LaconicError` may come out.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from random import Random

import cbor2
from google_crc32c import value as crc32c

from ..codecs import container
from ..codecs.codec import AudioFacts, Stream, VideoFacts
from ..codecs.errors import LaconicError
from ..codecs.signals import Colour

__all__ = ["CBOR_BOMBS", "MUTATIONS", "Mutation", "Report", "attack", "hostile_inputs", "main", "seal", "valid_files"]

Mutation = Callable[[Random, bytes, list[bytes]], bytes]

# Heads of CBOR items that announce more than there is, nest, tag, or are not deterministic.
CBOR_BOMBS = tuple(
    bytes.fromhex(text)
    for text in (
        "5b7fffffffffffffff", "7b00000000ffffffff", "9b00ffffffffffffff", "bb00000000ffffffff", "5bffffffffffffffff",
        "9fffff", "bf0000ff", "5f41004100ff", "c249010000000000000000", "c482391fffff01", "d81c80", "d81d00", "d82362285b",
        "d8246161", "d90102820101", "f97e00", "fb7ff0000000000000", "f7", "f8ff", "1800", "190001", "1bffffffffffffffff",
        "3bffffffffffffffff", "62c328", "818181818100", "a10000", "a2000100",
    )
)  # fmt: skip


_ODD_VALUES: tuple[object, ...] = (
    0, 1, 3, -1, 255, 2**16, 2**31, 2**32, 2**63, 2**64 - 1, True, None, b"", bytes(9), "", "jpeg", 0.5, [], [1, 1, 1],
)  # fmt: skip


def seal(number: int, payload: bytes) -> bytes:
    """Return a chunk of type `number` with the right checksum; `payload` is shorter than 16 KiB."""
    size = len(payload)
    framed = bytes([number, size] if size < 128 else [number, size & 0x7F | 0x80, size >> 7]) + payload
    checksum: int = crc32c(framed)
    return framed + checksum.to_bytes(4, "little")


def valid_files() -> list[bytes]:
    """Return small valid files that use every part of the format."""
    digests = (bytes(range(8)), bytes(range(8, 16)))
    streams = (
        Stream("image-transform", (512, 768, 3), (bytes(range(200)),), params={16: 60}, weights=digests[:1], digest=b"\1\2"),
        Stream("jpeg", (1, 1, 1), (b"",)),
        Stream("image-transform", (3000, 2000, 4), tuple(bytes([n]) * n for n in range(40)), digest=b"\3\4", weights=digests),
        Stream(
            "third.party-1",
            (7, 5, 2),
            (b"a", b"bc"),
            version=3,
            bit_depth=16,
            params={16: -5, 24: b"\0\xff", 300: "text", 70_000: True, 70_001: [1, -2, 2**40]},
            metadata={"icc": bytes(130), "exif": b"II*\0", "xmp": b"<x/>"},
        ),
        Stream(
            "video-inr",
            (100, 144, 176, 3),
            (bytes(300), b"ab", bytes(90)),
            metadata={"times": bytes([1]) * 99, "audio": b"\x1a\x45\xdf\xa3"},
            video=VideoFacts(Fraction(30_000, 1001), Colour(1, 1, 1, True)),
        ),
        Stream(
            "third.party-2",
            (
                2,
                48_000,
            ),
            (b"packet", b""),
            bit_depth=24,
            metadata={"tags": b"{}"},
            audio=AudioFacts(48_000, "stereo"),
        ),
    )
    return [container.write(stream) for stream in streams]


def _noise(rng: Random, data: bytes, files: list[bytes]) -> bytes:
    return rng.randbytes(rng.randrange(64))


def _noise_after_signature(rng: Random, data: bytes, files: list[bytes]) -> bytes:
    return container.SIGNATURE + rng.randbytes(rng.randrange(96))


def _flip_bits(rng: Random, data: bytes, files: list[bytes]) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def _cut(rng: Random, data: bytes, files: list[bytes]) -> bytes:
    return data[: rng.randrange(len(data))]


def _splice(rng: Random, data: bytes, files: list[bytes]) -> bytes:
    other = rng.choice(files)
    return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]


def _repeat_span(rng: Random, data: bytes, files: list[bytes]) -> bytes:
    start = rng.randrange(len(data))
    end = rng.randrange(start, len(data))
    return data[:end] + data[start:end] * rng.randrange(4) + data[end:]


def _long_lengths(rng: Random, data: bytes, files: list[bytes]) -> bytes:
    at = rng.randrange(len(container.SIGNATURE), len(data))
    length = rng.choice((b"\xff" * 4 + b"\x0f", b"\xff" * 5, b"\x80\x00", b"\xff" * 9 + b"\x01", b"\xff\x7f", b"\x00"))
    return data[:at] + length + data[at + rng.randrange(3) :]


def _bad_header(rng: Random, data: bytes, files: list[bytes]) -> bytes:
    """Damage the header's CBOR and make its checksum right again."""
    size = data[9] & 0x7F if data[9] < 0x80 else (data[9] & 0x7F) | data[10] << 7
    start = 10 if data[9] < 0x80 else 11
    header = bytearray(data[start : start + size])
    kind = rng.randrange(3)
    at = rng.randrange(len(header))
    if kind == 0:
        header[at] = rng.randrange(256)
    elif kind == 1:
        header[at : at + rng.randrange(4)] = rng.choice(CBOR_BOMBS)
    else:
        header[at:] = rng.randbytes(rng.randrange(24))
    return container.SIGNATURE + seal(1, bytes(header)) + data[start + size + 4 :]


def _odd_values(rng: Random, data: bytes, files: list[bytes]) -> bytes:
    """Build a well-formed header of implausible values."""
    items = {rng.choice((*range(7), 16, 17, 2**32, 2**64 - 1)): rng.choice(_ODD_VALUES) for _ in range(rng.randrange(7))}
    if rng.random() < 0.7:
        items[2] = [rng.choice(_ODD_VALUES) for _ in range(rng.choice((2, 2, 3, 4)))]
    types = [rng.choice((2, 2, 3, 0x81, 0x84, 0x85, 0xC5)) for _ in range(rng.randrange(4))]
    chunks = b"".join(seal(number, rng.randbytes(rng.randrange(8))) for number in types)
    return container.SIGNATURE + seal(1, cbor2.dumps(items, canonical=True)) + chunks


MUTATIONS: tuple[Mutation, ...] = (
    _noise, _noise_after_signature, _flip_bits, _flip_bits, _cut, _splice, _repeat_span, _long_lengths, _bad_header,
    _bad_header, _odd_values,
)  # fmt: skip


def hostile_inputs(count: int, seed: int) -> Iterator[bytes]:
    """Yield `count` inputs; the same ones for the same seed."""
    rng = Random(seed)
    files = valid_files()
    for _ in range(count):
        data = rng.choice(MUTATIONS)(rng, rng.choice(files), files)
        yield data


@dataclass(frozen=True)
class Report:
    """Inputs tried, seconds taken, how each ended (class name of the error, or "read"), growth of the resident set in bytes."""

    inputs: int
    seconds: float
    outcomes: Counter[str]
    growth: int


def attack(inputs: Iterable[bytes]) -> Report:
    """Read every input and describe it; any exception but `LaconicError` passes through, with the input in its notes."""
    outcomes: Counter[str] = Counter()
    start, before = time.perf_counter(), _peak_bytes()
    for data in inputs:
        try:
            container.describe(data)
            _read_salvaging(data)
            container.read(data)
            outcomes["read"] += 1
        except LaconicError as error:
            outcomes[type(error).__name__] += 1
        except BaseException as error:
            error.add_note(f"input: {data.hex()}")
            raise
    return Report(outcomes.total(), time.perf_counter() - start, outcomes, _peak_bytes() - before)


def _read_salvaging(data: bytes) -> None:
    with contextlib.suppress(LaconicError):
        container.read(data, salvage=True)


def _peak_bytes() -> int:
    """Return the highest resident set so far; Linux counts it in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> None:
    """Attack and print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    attack(hostile_inputs(1_000, chosen.seed + 1))  # what is loaded once does not count as growth
    report = attack(hostile_inputs(chosen.inputs, chosen.seed))
    print(f"{report.inputs:,} inputs in {report.seconds:.1f} s: {report.inputs / report.seconds:,.0f} inputs/s")
    for outcome, count in report.outcomes.most_common():
        print(f"{outcome:>18} {count:>10,}")
    print(f"peak memory grew by {report.growth / 2**20:.1f} MiB; nothing but LaconicError escaped")


if __name__ == "__main__":
    main()
