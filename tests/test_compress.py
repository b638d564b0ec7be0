"""The whole way: settings, the choice of a codec, devices, files, and several signals at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest

from laconic.codecs import compress, container, device, registry
from laconic.codecs.batches import Request, decode_many, encode_many
from laconic.codecs.codec import BatchCodec, CodecSettings, Progress, Stream
from laconic.codecs.compress import Target
from laconic.codecs.errors import (
    Cancelled,
    CorruptStream,
    DeviceUnavailable,
    InvalidSettings,
    LaconicError,
    LimitExceeded,
    UnsupportedMedia,
    WeightsMissing,
)
from laconic.codecs.limits import Limits
from laconic.codecs.settings import make_settings, settings_used
from laconic.codecs.signals import Image

from .checks import check_rate
from .pictures import photograph, smooth


class RawSettings(CodecSettings):
    """A third party's settings."""

    offset: int = 0


class Raw:
    """A third party's lossless codec with batches: samples plus an offset. Refuses grey."""

    id = "raw"
    signal = "image"
    lossless = True
    Settings = RawSettings
    batches: ClassVar[list[int]] = []

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def encode(self, signal: Image, settings: RawSettings, progress: Progress | None = None) -> Stream:
        if signal.shape[2] == 1:
            raise UnsupportedMedia("raw takes no grey")
        samples = signal.array + np.uint8(settings.offset)
        return Stream(self.id, signal.shape, (samples.tobytes(),), params={16: settings.offset})

    def decode(self, stream: Stream, progress: Progress | None = None) -> Image:
        offset = stream.params[16]
        if offset == 99 or not isinstance(offset, int):
            return Image(np.zeros((1, 1, 1), np.uint8))
        samples = np.frombuffer(stream.chunks[0], np.uint8)
        if samples.size != np.prod(stream.shape):
            raise CorruptStream("the payload has another length")
        return Image(np.subtract(samples.reshape(stream.shape), offset, dtype=np.uint8))

    def encode_batch(self, signals: Sequence[Image], settings: Sequence[RawSettings]) -> list[Stream]:
        self.batches.append(len(signals))
        return [self.encode(signal, chosen) for signal, chosen in zip(signals, settings, strict=True)]

    def decode_batch(self, streams: Sequence[Stream]) -> list[Image]:
        self.batches.append(len(streams))
        return [self.decode(stream) for stream in streams]


class Weightless:
    """Stands for a learned codec whose weights are not installed."""

    id = "image-transform"
    signal = "image"
    lossless = False

    class Settings(CodecSettings):
        """Settings of nothing."""

        quality: int = 50

    def __init__(self, device: str = "cpu") -> None:
        raise WeightsMissing("the weights of image-transform are not installed")


original = registry.codec_class


def find(name: str) -> Any:
    """The registry's `codec_class` with two more classes."""
    return {"raw": Raw, "image-transform": Weightless}.get(name) or original(name)


@pytest.fixture(autouse=True)
def codecs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The registry with one third party's codec, and without the weights of image-transform."""

    def open_(name: str, device: str = "cpu") -> Any:
        return find(name)(device=device)

    monkeypatch.setattr(registry, "_third_party", lambda: {"raw": "elsewhere:Raw"})
    for module in ("compress", "batches", "settings", "targets"):
        for name, value in (("codec_class", find), ("open_codec", open_)):
            monkeypatch.setattr(f"laconic.codecs.{module}.{name}", value, raising=False)
    Raw.batches.clear()
    yield


def test_what_encode_reports() -> None:
    image = smooth(12, 10)
    encoded = compress.encode(image, "webp", {"quality": "40"})
    assert container.is_laconic(encoded.data)
    assert (encoded.codec, encoded.device, encoded.pixels) == ("webp", "cpu", 120)
    assert encoded.settings == {"quality": 40, "lossless": False, "effort": 9}
    assert encoded.bpp == 8 * len(encoded.data) / 120
    assert encoded.seconds > 0
    assert compress.encode(image, "webp", {"lossless": "true"}).settings == {"lossless": True, "effort": 9}
    check_rate(encoded.data, 8 * len(container.read(encoded.data).chunks[0]))


def test_third_party_codecs_are_codecs() -> None:
    image = smooth(3, 4)
    assert isinstance(Raw(), BatchCodec)
    encoded = compress.encode(image, "raw", {"offset": 7}, device="cpu")
    assert np.array_equal(compress.decode(encoded.data).array, image.array)


def test_unknown_codecs_list_the_known() -> None:
    with pytest.raises(InvalidSettings, match="jpeg, webp"):
        compress.encode(smooth(3, 4), "gzip")
    data = compress.encode(smooth(3, 4), "raw").data
    assert b"raw" in data
    stream = replace(container.read(data), codec="gone")
    with pytest.raises(UnsupportedMedia, match=r"'gone', which is not installed"):
        compress.decode(container.write(stream))


@pytest.mark.parametrize(
    ("codec", "settings", "words"),
    [
        ("jpeg", {"lossless": True}, "jpeg has no lossless coding; webp, avif, jxl have"),
        ("jpeg", {"colour": 1}, r"no setting called 'colour'; its settings are quality, chroma"),
        ("jpeg", {"chroma": "422"}, "chroma: .*'420' or '444'"),
        ("webp", {"lossless": True, "quality": 50}, "lossless coding has no quality"),
        ("webp", {"quality": -1}, r"quality: .*0 \(0 \(smallest"),
        ("raw", {"lossless": False}, "raw is always lossless"),
        ("raw", {"offset": "x"}, "offset: "),
        ("image-lossless", {"quality": 50}, "image-lossless is always lossless, so it has no quality; its settings are effort"),
        ("image-lossless", {"effort": 10}, "effort: .*less than or equal to 9"),
        ("image-lossless", {"lossless": "no"}, "image-lossless is always lossless"),
        ("auto", {"lossless": True, "quality": 50}, "lossless coding has no quality"),
        ("auto", {"lossless": True, "wings": 2}, "no codec has all the settings lossless, wings"),
    ],
)
def test_wrong_settings(codec: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidSettings, match=words):
        compress.encode(smooth(3, 4), codec, settings)


def test_losslessness_that_is_the_codec_s_own() -> None:
    assert settings_used(make_settings(find("raw"), {"lossless": True})) == {"offset": 0}
    data = compress.encode(smooth(3, 4), "jpeg", {"lossless": "false"}).data
    assert compress.decode(data).shape == (3, 4, 3)


@pytest.mark.parametrize(
    ("codec", "settings", "words"),
    [
        ("jpeg", {"quality": 3}, "quality contradicts a target of 30 dB"),
        ("auto", {"lossless": True}, "lossless contradicts a target"),
        ("auto", {"wings": 2}, "no codec has all the settings wings"),
        ("raw", {}, "raw has no quality to search for a target of 30 dB: raw is always lossless"),
        ("image-lossless", {"lossless": True}, "lossless contradicts a target"),
        ("gzip", {}, "no codec is called 'gzip'"),
    ],
)
def test_settings_that_contradict_a_target(codec: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidSettings, match=words):
        compress.encode(smooth(3, 4), codec, settings, Target(psnr=30))


def test_auto_takes_the_first_that_is_installed_and_takes_the_picture() -> None:
    assert compress.encode(smooth(9, 9), "auto", {"quality": 30}).codec == "jxl"
    with pytest.raises(UnsupportedMedia, match="16-bit"):
        compress.encode(smooth(9, 9, 3, 16), "auto")


@pytest.mark.parametrize("name", ["photograph", "drawing"])
def test_auto_without_loss_is_the_smallest(name: str) -> None:
    image = (
        photograph(48, 48) if name == "photograph" else Image(np.kron(np.eye(24), np.ones((2, 2)))[..., None].astype(np.uint8))
    )
    encoded = compress.encode(image, "auto", {"lossless": True, "effort": "2"})
    each = {
        name: len(compress.encode(image, name, {"lossless": True, "effort": 2}).data)
        for name in ("image-lossless", "jxl", "webp")
    }
    assert len(encoded.data) == each[encoded.codec] == min(each.values())
    assert encoded.settings["effort"] == 2
    assert np.array_equal(compress.decode(encoded.data).array, image.array)


def test_auto_without_loss_leaves_out_who_refuses() -> None:
    image = smooth(20, 20, 3, 16)
    encoded = compress.encode(image, "auto", {"lossless": True})
    each = {name: len(compress.encode(image, name, {"lossless": True}).data) for name in ("image-lossless", "jxl")}
    assert len(encoded.data) == each[encoded.codec] == min(each.values())
    with pytest.raises(UnsupportedMedia, match="16-bit"):
        compress.encode(image, "auto", {"lossless": True}, among=("jpeg", "webp"))


def test_auto_chooses_among_those_that_it_is_given() -> None:
    image = photograph(32, 32)
    assert compress.encode(image, "auto", {"lossless": True}, among=("webp", "avif")).codec == "webp"
    assert compress.encode(image, "auto", target=Target(psnr=30), among=("jpeg",)).codec == "jpeg"
    with pytest.raises(InvalidSettings, match="no codec has all the settings lossless"):
        compress.encode(image, "auto", {"lossless": True}, among=("jpeg",))


def test_progress_of_several_codecs_only_grows() -> None:
    seen: list[tuple[float, str]] = []
    compress.encode(photograph(32, 32), "auto", {"lossless": True}, progress=lambda *step: seen.append(step))
    assert [part for part, _ in seen] == sorted(part for part, _ in seen)
    assert seen[0][0] < 0.4 and seen[-1][0] == 1
    assert {stage.partition(",")[0] for _, stage in seen} == {"image-lossless", "jxl", "webp"}


def test_auto_with_a_target_is_the_smallest_that_meets_it() -> None:
    image = photograph(64, 64)
    target = Target(psnr=33)
    encoded = compress.encode(image, "auto", target=target)
    each = {name: len(compress.encode(image, name, target=target).data) for name in ("jpeg", "webp", "avif", "jxl")}
    assert each[encoded.codec] == len(encoded.data) == min(each.values())


def test_progress_can_cancel() -> None:
    def cancel(part: float, stage: str) -> None:
        raise Cancelled("enough")

    for target in (None, Target(psnr=30)):
        with pytest.raises(Cancelled):
            compress.encode(smooth(9, 9), "webp", target=target, progress=cancel)
    with pytest.raises(Cancelled):
        compress.decode(compress.encode(smooth(9, 9), "webp").data, progress=cancel)


def test_codecs_that_contradict_the_header_are_caught() -> None:
    data = compress.encode(smooth(3, 4), "raw").data
    bad = container.write(replace(container.read(data), params={16: 99}))
    for act in (compress.decode, compress.test):
        with pytest.raises(CorruptStream, match="header says"):
            act(bad)


def test_limits_hold() -> None:
    data = compress.encode(smooth(30, 40), "jxl").data
    assert compress.decode(data, Limits(max_pixels=1200)).shape == (30, 40, 3)
    with pytest.raises(LimitExceeded, match="max_pixels"):
        compress.decode(data, Limits(max_pixels=1199))


def test_several_at_once_come_back_in_order() -> None:
    requests = [
        Request(smooth(3, 4), "raw", {"offset": 1}),
        Request(smooth(5, 4), "jpeg"),
        Request(smooth(3, 4, 4), "raw"),
        Request(smooth(3, 4), "raw", {"offset": "x"}),
        Request(smooth(3, 4), "jpeg", {"quality": 5}),
        Request(smooth(3, 4, 3, 16), "auto"),
        Request(smooth(8, 4), "jpeg", target=Target(psnr=25)),
    ]
    results = encode_many(requests)
    alone: list[bytes | str] = []
    for request in requests:
        try:
            alone.append(compress.encode(request.signal, request.codec, request.settings, request.target).data)
        except LaconicError as error:
            alone.append(repr(error))
    assert [repr(result) if isinstance(result, LaconicError) else result.data for result in results] == alone
    assert Raw.batches == []  # one of the three had wrong settings, so each went alone


def test_batches_are_used() -> None:
    results = encode_many([Request(smooth(3, width), "raw") for width in (1, 2, 3)])
    files = [result.data for result in results if not isinstance(result, LaconicError)]
    assert Raw.batches == [3]
    decoded = decode_many(files)
    assert Raw.batches == [3, 3]
    assert [signal.shape for signal in decoded if not isinstance(signal, LaconicError)] == [(3, 1, 3), (3, 2, 3), (3, 3, 3)]
    assert encode_many([]) == decode_many([]) == []


def test_one_bad_file_spoils_no_other() -> None:
    good = [compress.encode(smooth(3, width), "raw").data for width in (1, 2)]
    bad = container.write(replace(container.read(good[0]), chunks=(b"",)))
    results = decode_many([good[0], b"nonsense", bad, good[1]])
    assert [isinstance(result, LaconicError) for result in results] == [False, True, True, False]


def test_a_refused_member_of_a_batch_spoils_no_other() -> None:
    results = encode_many([Request(smooth(3, 4), "raw"), Request(smooth(3, 4, 1), "raw")])
    assert [isinstance(result, UnsupportedMedia) for result in results] == [False, True]


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    assert device.resolve("cpu") == "cpu"
    with pytest.raises(InvalidSettings, match="auto, cpu, cuda"):
        device.resolve("tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.resolve("auto") == "cpu"
    with pytest.raises(DeviceUnavailable):
        device.resolve("cuda")
    with pytest.raises(DeviceUnavailable):
        compress.encode(smooth(3, 4), "raw", device="cuda")
    assert compress.encode(smooth(3, 4), "jpeg", device="cuda").device == "cpu"  # has no use for one
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device.resolve("auto") == device.resolve("cuda") == "cuda"
    assert compress.encode(smooth(3, 4), "raw").device == "cuda"
