"""The .lcn container: round trips, bytes that may never change, and hostile bytes."""

from __future__ import annotations

import dataclasses
import re
import time
import tracemalloc
from pathlib import Path

import cbor2
import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laconic.bench.fuzz import CBOR_BOMBS, attack, hostile_inputs, seal, valid_files
from laconic.codecs import container
from laconic.codecs.codec import Stream
from laconic.codecs.errors import CorruptStream, LaconicError, LimitExceeded, TruncatedStream
from laconic.codecs.header import CODEC_NUMBERS
from laconic.codecs.limits import Limits
from laconic.codecs.registry import CODECS

ROOT = Path(__file__).resolve().parent.parent

GREY_JPEG = Stream("jpeg", (2, 3, 1), (b"\xaa\xbb\xcc",), metadata={"icc": b"\x01\x02"})
GREY_JPEG_HEX = """
    8c4c430d0a1a0a01 0108 a200020283020301 e0364e29 81020102cd92747a 0203aabbcc84aa9fd6
"""

TILED = Stream(
    "image-transform",
    (512, 768, 3),
    (b"\x00\x01\x02\x03", b"", b"\xff"),
    version=2,
    bit_depth=16,
    params={16: 30, 17: b"\x07", 300: [1, -1]},
    weights=(bytes(range(8)),),
    digest=b"\xd1\xd2",
    metadata={"exif": b"II*\x00", "xmp": b"<x/>"},
)
TILED_HEX = """
    8c4c430d0a1a0a01 0127 a8 0102 0282190200190300 0310 044a0001020304050607d1d2 0503 10181e 114107 19012c820120 e409c98e
    820449492a00
"""

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
integers = st.integers(-(2**63), 2**63 - 1)
streams = st.builds(
    Stream,
    codec=st.sampled_from(sorted(CODEC_NUMBERS)) | st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True),
    shape=st.tuples(st.integers(1, 8000), st.integers(1, 8000), st.integers(1, 4)),
    chunks=st.lists(st.binary(max_size=300), min_size=1, max_size=6).map(tuple),
    version=st.integers(1, 65_535),
    bit_depth=st.sampled_from([8, 16]),
    params=st.dictionaries(
        st.integers(16, 2**32 - 1),
        integers | st.binary(max_size=40) | texts | st.booleans() | st.lists(integers, max_size=5),
        max_size=6,
    ),
    weights=st.lists(st.binary(min_size=8, max_size=8), max_size=4).map(tuple),
    digest=st.sampled_from([b"", b"\x00\x00", b"\x12\xfe"]),
    metadata=st.dictionaries(st.sampled_from(["icc", "exif", "xmp"]), st.binary(max_size=200)),
)


def with_header(items: object, *, encoded: bytes | None = None) -> bytes:
    """A file with this header and one empty payload chunk."""
    payload = cbor2.dumps(items, canonical=True) if encoded is None else encoded
    return container.SIGNATURE + seal(0x01, payload) + seal(0x02, b"")


@given(streams)
def test_streams_survive_the_round_trip(stream: Stream) -> None:
    data = container.write(stream)
    assert container.read(data) == stream
    assert container.read(memoryview(data)) == stream
    assert container.is_laconic(data)


def test_the_checksum_is_crc32c_in_compiled_code() -> None:
    assert google_crc32c.value(b"123456789") == 0xE3069283
    assert google_crc32c.implementation == "c"


def test_bytes_on_disk_never_change() -> None:
    data = bytes.fromhex(GREY_JPEG_HEX)
    assert container.write(GREY_JPEG) == data
    assert container.read(data) == GREY_JPEG


def test_header_bytes_never_change() -> None:
    start = bytes.fromhex(TILED_HEX)
    assert container.write(TILED).startswith(start)
    assert container.read(container.write(TILED)) == TILED


def test_the_specification_shows_the_same_example() -> None:
    section = (ROOT / "docs" / "format.md").read_text().split("## Example")[1].split("## Changes")[0]
    shown = re.findall(r"^    ((?:[0-9A-F]{2} )*[0-9A-F]{2})", section, flags=re.MULTILINE)
    assert bytes.fromhex("".join(shown)) == bytes.fromhex(GREY_JPEG_HEX)


def test_every_built_in_codec_has_a_number() -> None:
    assert set(CODECS) == set(CODEC_NUMBERS)
    assert len(set(CODEC_NUMBERS.values())) == len(CODEC_NUMBERS)
    specification = (ROOT / "docs" / "format.md").read_text()
    for name, number in CODEC_NUMBERS.items():
        assert f"| {number} | `{name}` |" in specification


@pytest.mark.parametrize(("payload", "overhead"), [(100, 44), (10_000, 45), (100_000, 46), (3_000_000, 47)])
def test_overhead_of_a_plain_picture_is_at_most_48_bytes(payload: int, overhead: int) -> None:
    plain = Stream("image-transform", (512, 768, 3), (bytes(payload),), params={16: 60}, weights=(bytes(8),), digest=b"ab")
    assert len(container.write(plain)) - payload == overhead <= 48


def test_defaults_take_no_bytes() -> None:
    assert cbor2.loads(container.write(Stream("image-transform", (1, 1, 3), (b"",)))[10:16]) == {2: [1, 1]}


def test_describe_gives_the_layout() -> None:
    data = container.write(TILED)
    seen = container.describe(data)
    assert (seen.codec, seen.version, seen.shape, seen.bit_depth) == ("image-transform", 2, (512, 768, 3), 16)
    assert seen.weights == ("0001020304050607",) and seen.digest == "d1d2"
    assert seen.metadata == {"exif": 4, "xmp": 4}
    assert (seen.file_bytes, seen.payload_bytes) == (len(data), 5)
    assert [chunk.type for chunk in seen.chunks] == ["header", "exif", "xmp", "payload", "payload", "payload"]
    first = seen.chunks[3]
    assert data[first.offset : first.offset + first.length] == TILED.chunks[0]
    assert all(chunk.intact for chunk in seen.chunks)


# --- damage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", valid_files())
def test_every_truncation_is_noticed(data: bytes) -> None:
    for length in range(len(data)):
        with pytest.raises(TruncatedStream):
            container.read(data[:length])


@pytest.mark.parametrize("data", [*valid_files(), bytes.fromhex(GREY_JPEG_HEX)])
def test_every_single_byte_change_is_noticed_or_costs_only_metadata(data: bytes) -> None:
    whole = container.read(data)
    for at in range(len(data)):
        for change in (0x01, 0x80, 0xFF, 0x20):
            damaged = bytearray(data)
            damaged[at] ^= change
            try:
                left = container.read(bytes(damaged))
            except CorruptStream:
                continue
            assert dataclasses.replace(left, metadata=whole.metadata) == whole
            spare = whole.video or whole.audio  # have a copy of the header and an index
            assert left.metadata.items() < whole.metadata.items() or (spare and left == whole)


def test_a_damaged_tile_is_named_and_described() -> None:
    data = bytearray(container.write(TILED))
    place = container.describe(bytes(data)).chunks[3]
    data[place.offset] ^= 4
    with pytest.raises(CorruptStream, match="tile 0 of 3 is damaged"):
        container.read(bytes(data))
    assert [chunk.intact for chunk in container.describe(bytes(data)).chunks] == [True, True, True, False, True, True]


def test_damaged_metadata_is_dropped() -> None:
    data = bytearray(container.write(GREY_JPEG))
    data[container.describe(bytes(data)).chunks[1].offset] ^= 1
    assert container.read(bytes(data)) == dataclasses.replace(GREY_JPEG, metadata={})


# --- order and extensions -------------------------------------------------------------------------------------------

HEADER = seal(0x01, cbor2.dumps({2: [1, 1]}))
TILE = seal(0x02, b"x")
ICC = seal(0x81, b"profile")


@pytest.mark.parametrize("extra", [seal(0x84, b"index"), seal(0xC5, b"private"), seal(0xFF, b""), ICC])
def test_ancillary_chunks_may_stand_before_the_payload(extra: bytes) -> None:
    assert container.read(container.SIGNATURE + HEADER + extra + TILE).chunks == (b"x",)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (TILE + HEADER, "header is damaged or missing"),
        (HEADER + HEADER + TILE, "out of place"),
        (HEADER + seal(0x03, b"") + TILE, "type 0x03 is unknown"),
        (HEADER + seal(0x00, b"") + TILE, "type 0x00 is unknown"),
        (HEADER + TILE + ICC, "bytes follow"),
        (HEADER + TILE + TILE, "bytes follow"),
        (HEADER + ICC + ICC + TILE, "second icc"),
        (seal(0x01, cbor2.dumps({2: [1, 1], 5: 2})) + TILE + ICC + TILE, "between payload chunks"),
    ],
)
def test_order_is_checked(body: bytes, message: str) -> None:
    with pytest.raises(CorruptStream, match=message):
        container.read(container.SIGNATURE + body)


def test_bytes_after_the_end_are_refused() -> None:
    for extra in (b"\0", b"\n", b"\x81", TILE):
        with pytest.raises(CorruptStream):
            container.read(bytes.fromhex(GREY_JPEG_HEX) + extra)


def test_a_file_cut_at_a_chunk_boundary_is_truncated() -> None:
    data = container.write(TILED)
    last = container.describe(data).chunks[-1]
    with pytest.raises(TruncatedStream, match="after 2 of 3"):
        container.read(data[: last.offset - 2])


def test_unknown_header_keys_are_ignored() -> None:
    assert container.read(with_header({2: [4, 5], 9: "later", 15: [1, [2]]})).shape == (4, 5, 3)


def test_values_at_their_defaults_are_read() -> None:
    assert container.read(with_header({0: 1, 1: 1, 2: [4, 5], 3: 8, 4: b"", 5: 1})).codec == "image-transform"


@pytest.mark.parametrize(
    "items",
    [
        {},
        [],
        "text",
        {"2": [1, 1]},
        {2: [1, 1], -1: 0},
        {2: [1, 1], 2**32: 0},
        {2: [1]},
        {2: [1, 1, 3]},
        {2: [1, 1, 1, 1]},
        {2: [0, 1]},
        {2: [1, 2**32]},
        {2: [1, 1, 5]},
        {2: [True, 1]},
        {2: [1.0, 1]},
        {2: [1, 1], 0: 0},
        {2: [1, 1], 0: 99},
        {2: [1, 1], 0: "jpeg"},
        {2: [1, 1], 0: "../x"},
        {2: [1, 1], 0: "x" * 65},
        {2: [1, 1], 0: True},
        {2: [1, 1], 1: 0},
        {2: [1, 1], 3: 10},
        {2: [1, 1], 3: "8"},
        {2: [1, 1], 4: bytes(7)},
        {2: [1, 1], 4: "12345678"},
        {2: [1, 1], 4: bytes(8 * 65)},
        {2: [1, 1], 5: 0},
        {2: [1, 1], 16: None},
        {2: [1, 1], 16: [b""]},
        {2: [1, 1], 16: 1.5},
        {2: [1, 1], 16: {1: 2}},
        {2: [1, 1], 16: 2**63},
        {2: [1, 1], 9: [[[1]]]},
    ],
)
def test_bad_header_values_are_corrupt(items: object) -> None:
    with pytest.raises(CorruptStream):
        container.read(with_header(items))


@pytest.mark.parametrize(
    "encoded",
    [
        "a202820101 02820101",  # a key twice
        "a2 03 10 02820101",  # keys out of order
        "a1 1802 820101",  # a head longer than it need be
        "a1 02 82 1801 01",
        "bf 02820101 ff",  # indefinite lengths
        "a1 02 9f0101ff",
        "a1 02820101 00",  # something after the map
        "a1 02 82 c24101 01",  # a bignum's tag
    ],
)
def test_headers_have_one_encoding_only(encoded: str) -> None:
    with pytest.raises(CorruptStream):
        container.read(with_header(None, encoded=bytes.fromhex(encoded)))


@pytest.mark.parametrize("length", ["8000", "ff00", "8080808000", "ffffffff1f", "ffffffffff01"])
def test_lengths_have_one_encoding_only(length: str) -> None:
    with pytest.raises(CorruptStream, match="length"):
        container.read(container.SIGNATURE + HEADER + b"\x02" + bytes.fromhex(length) + bytes(300))


def test_other_signatures_are_refused() -> None:
    for start in (b"\x89PNG\r\n\x1a\n", container.SIGNATURE.replace(b"\r\n", b"\n") + b"\0"):
        assert not container.is_laconic(start)
        with pytest.raises(CorruptStream, match=r"not an \.lcn file"):
            container.read(start + bytes(50))
    later = container.SIGNATURE[:-1] + b"\x02"
    assert container.is_laconic(later)
    with pytest.raises(CorruptStream, match="version 2; this reader knows version 1"):
        container.read(later + bytes(50))


@pytest.mark.parametrize(
    "change",
    [
        {"shape": (1, 1)},
        {"shape": (0, 1, 3)},
        {"chunks": ()},
        {"codec": "Upper Case"},
        {"bit_depth": 12},
        {"version": 0},
        {"params": {3: 1}},
        {"params": {16: 2**70}},
        {"params": {16: 0.5}},
        {"params": {16: bytes(70_000)}},
        {"weights": (b"short",)},
        {"weights": (bytes(16),)},
        {"digest": b"\0"},
        {"digest": bytes(8)},
        {"metadata": {"iptc": b""}},
    ],
)
def test_streams_that_do_not_fit_are_not_written(change: dict[str, object]) -> None:
    with pytest.raises(CorruptStream):
        container.write(dataclasses.replace(TILED, **change))  # type: ignore[arg-type]


# --- limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "bound", "stream"),
    [
        ("max_input_bytes", 50, TILED),
        ("max_pixels", 512 * 768 - 1, TILED),
        ("max_header_bytes", 20, TILED),
        ("max_chunks", 2, TILED),
        ("max_chunks", 4, TILED),
        ("max_metadata_bytes", 7, TILED),
    ],
)
def test_limits_name_the_setting_that_raises_them(setting: str, bound: int, stream: Stream) -> None:
    data = container.write(stream)
    with pytest.raises(LimitExceeded) as caught:
        container.read(data, dataclasses.replace(Limits(), **{setting: bound}))
    assert caught.value.setting == setting
    assert caught.value.allowed == bound < caught.value.actual


def test_the_default_pixel_limit_holds() -> None:
    assert container.read(with_header({2: [8000, 8000]})).shape == (8000, 8000, 3)
    with pytest.raises(LimitExceeded, match=r"4,294,836,225, more than the 64,000,000 allowed; max_pixels"):
        container.read(with_header({2: [65_535, 65_535]}))


# --- hostile bytes --------------------------------------------------------------------------------------------------


def bombs() -> list[bytes]:
    """Headers that announce or nest more than there is, as the whole header, as a value and as a key."""
    deep = [b"\x81" * n + b"\x00" for n in (3, 400, 5_000, 60_000)]
    deep += [b"\xa1\x00" * n + b"\x00" for n in (3, 400, 30_000)]
    tagged = [b"\xd8\x1c" * 20_000 + b"\x00", b"\xc2\x59\xff\x00" + bytes(65_280), b"\xd8\x23\x59\xff\x00" + b"(" * 65_280]
    return [
        head + bomb for bomb in (*CBOR_BOMBS, *deep, *tagged) for head in (b"", b"\xa1\x10", b"\xa1", b"\xa2\x02\x82\x01\x01")
    ]


def test_cbor_bombs_are_refused_at_once() -> None:
    tracemalloc.start()
    try:
        for bomb in bombs():
            length = len(bomb)
            head = b"\x01" + bytes([length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14])
            framed = head + bomb
            file = container.SIGNATURE + framed + google_crc32c.value(framed).to_bytes(4, "little") + TILE
            begun = time.perf_counter()
            with pytest.raises(LaconicError):
                container.read(file)
            assert time.perf_counter() - begun < 1
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()


def test_announced_sizes_take_no_memory() -> None:
    huge = b"\xff\xff\xff\xff\x0f"
    tracemalloc.start()
    try:
        for file in (
            container.SIGNATURE + b"\x01" + huge,
            container.SIGNATURE + HEADER + b"\x02" + huge + bytes(100),
            container.SIGNATURE + HEADER + b"\x81" + huge,
            with_header({2: [2**32 - 1, 2**32 - 1]}),
            with_header({2: [1, 1], 5: 2**32 - 1}),
        ):
            with pytest.raises((TruncatedStream, LimitExceeded)):
                container.read(file)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_only_laconic_errors_escape_from_20_000_hostile_inputs() -> None:
    report = attack(hostile_inputs(20_000, seed=20_000))
    assert report.inputs == 20_000
    assert report.growth < 64 * 2**20
    assert set(report.outcomes) == {"CorruptStream", "TruncatedStream", "LimitExceeded", "read"}
    assert report.outcomes["read"] < 4_000
