"""Efforts of `image-transform` that refine symbols: never a worse file, the same bytes however it is run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from laconic.codecs import compress, container
from laconic.codecs.codec import BatchCodec
from laconic.codecs.errors import Cancelled
from laconic.codecs.image.fixed_point import FixedPointConv2d
from laconic.codecs.image.transform import ImageTransform, TransformSettings, correction_in
from laconic.codecs.image.transform_efforts import EFFORTS
from laconic.codecs.image.transform_model import ExactConv2d
from laconic.codecs.image.transform_refine import PRICE, Costs, slope_of
from laconic.codecs.registry import open_codec
from laconic.codecs.signals import Image
from laconic.codecs.targets import Target

from .checks import check_batches, check_deterministic, check_rate, check_round_trip
from .pictures import noisy, photograph, smooth, two_tiles

CODEC = "image-transform"
FIRST = min(effort for effort, steps in EFFORTS.items() if steps)


@pytest.fixture(scope="module")
def codec() -> ImageTransform:
    opened = open_codec(CODEC)
    assert isinstance(opened, ImageTransform) and isinstance(opened, BatchCodec)
    return opened


def encoded(image: Image, quality: int, effort: int) -> bytes:
    return compress.encode(image, CODEC, {"quality": quality, "effort": effort}, device="cpu").data


def objective(image: Image, data: bytes, quality: int) -> float:
    """Bits of a file and, at the quality's slope, the squared error of what it decodes to."""
    error = (compress.decode(data, device="cpu").array.astype(np.float64) - image.array) ** 2
    return 8 * len(data) + slope_of(torch.tensor([quality])) * float(error.mean(2).sum()) * 3


def test_low_efforts_are_the_default() -> None:
    assert TransformSettings().effort < min(EFFORTS)
    default = compress.encode(photograph(), CODEC, {"quality": 50}, device="cpu").data
    assert all(encoded(photograph(), 50, effort) == default for effort in range(1, min(EFFORTS)))


@pytest.mark.parametrize("effort", EFFORTS)
def test_round_trip(effort: int) -> None:
    check_round_trip(CODEC, photograph(48, 64), {"quality": 60, "effort": effort}, least_psnr=30)


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("size", [(1, 1), (1, 17), (33, 7)], ids=str)
def test_odd_pictures_round_trip(size: tuple[int, int], channels: int) -> None:
    check_round_trip(CODEC, smooth(*size, channels), {"quality": 90, "effort": FIRST}, least_psnr=28)


@pytest.mark.parametrize("quality", [10, 50, 90])
def test_photographs_get_better(quality: int) -> None:
    image = photograph()
    plain = objective(image, encoded(image, quality, 1), quality)
    assert objective(image, encoded(image, quality, FIRST), quality) < 0.995 * plain
    assert objective(image, encoded(image, quality, 8), quality) < 0.99 * plain


@pytest.mark.parametrize("image", [noisy(33, 21), smooth(40, 64), two_tiles(), Image(np.full((20, 20, 3), 255, np.uint8))])
@pytest.mark.parametrize("quality", [0, 40, 100])
def test_no_file_gets_worse(image: Image, quality: int) -> None:
    least = 40 + slope_of(torch.tensor([quality])) * 9  # bits of lengths in the header, and pixels that round otherwise
    plain = objective(image, encoded(image, quality, 1), quality)
    for effort in (4, 6):
        assert objective(image, encoded(image, quality, effort), quality) <= plain + least


def test_grey_photographs_get_better() -> None:
    image = Image(photograph().array[..., 1:2])
    assert objective(image, encoded(image, 50, 6), 50) < 0.99 * objective(image, encoded(image, 50, 1), 50)


def test_tiles_get_better_too(codec: ImageTransform) -> None:
    image = two_tiles()
    data = encoded(image, 50, 6)
    stream = container.read(data)
    corrected = correction_in(stream, codec.model) is not None  # whether it pays may differ from machine to machine
    assert len(stream.chunks) - corrected == 2
    assert objective(image, data, 50) < 0.99 * objective(image, encoded(image, 50, 1), 50)


def test_runs_and_threads_agree() -> None:
    check_deterministic(CODEC, photograph(), {"quality": 50, "effort": 6})
    check_deterministic(CODEC, photograph(48, 64), {"quality": 50, "effort": 8})  # 16 steps


def test_batches_agree_with_one_by_one(codec: ImageTransform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "tiles_at_once", 4)
    check_batches(CODEC, [photograph(), smooth(20, 30, 4), photograph()], {"quality": 40, "effort": 6})
    settings = [TransformSettings(quality=40, effort=effort) for effort in (1, 6, 3)]
    together = codec.encode_batch([photograph()] * 3, settings)
    assert together == [codec.encode(photograph(), chosen) for chosen in settings]


@torch.inference_mode()
def test_callers_without_gradients_change_nothing() -> None:
    data = encoded(photograph(), 50, 6)
    with torch.inference_mode(False):
        assert encoded(photograph(), 50, 6) == data


@pytest.mark.parametrize("image", [photograph(), two_tiles()], ids=["a tile", "two tiles"])
def test_files_are_as_small_as_their_probabilities(codec: ImageTransform, image: Image) -> None:
    bits = codec.ideal_bits(image, TransformSettings(quality=50, effort=6))
    data = encoded(image, 50, 6)
    check_rate(data, bits)
    assert 8 * len(data) > bits


def test_progress_rises_step_by_step_and_may_cancel(codec: ImageTransform) -> None:
    seen: list[float] = []
    settings = TransformSettings(quality=50, effort=8)
    codec.encode(two_tiles(), settings, lambda part, stage: seen.append(part))
    assert seen == sorted(seen) and seen[-1] == 1
    assert len(seen) > 2 * EFFORTS[8]

    def cancel(part: float, stage: str) -> None:
        seen.append(part)
        if part > 0.3:
            raise Cancelled("enough")

    for encode in (
        lambda: codec.encode(two_tiles(), settings, cancel),
        lambda: compress.encode(two_tiles(), CODEC, {"effort": 8}, Target(psnr=30), "cpu", cancel),
    ):
        seen.clear()
        threads = torch.get_num_threads()
        with pytest.raises(Cancelled):
            encode()
        assert seen[-1] < 0.4
        assert torch.get_num_threads() == threads


def test_targets_are_met_at_any_effort() -> None:
    plain, refined = (
        compress.encode(photograph(), CODEC, {"effort": effort}, Target(psnr=38), "cpu").data for effort in (1, 6)
    )
    assert len(refined) < len(plain)


def test_the_gradient_of_an_exact_layer_is_that_of_the_real_one() -> None:
    torch.manual_seed(0)
    real = FixedPointConv2d(6, 8, 3, stride=2)
    tensors = {"layer.weight": real.integer_weight(), "layer.shift": real.weight_shift(), "layer.bias": real.integer_bias()}
    integers = {name: value.detach().to(torch.int32) for name, value in tensors.items()}
    exact = ExactConv2d("layer", real, integers, torch.device("cpu"))
    real.quantised = True
    start = torch.round(torch.randn(1, 6, 9, 11) * 64) / 64
    gradients = []
    for layer in (real, exact):
        x = start.clone().requires_grad_()
        y = layer(x)
        (y * torch.arange(y.numel()).view(y.shape)).sum().backward()
        gradients.append(x.grad)
        assert torch.equal(y, exact(start))
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-3)  # type: ignore[arg-type]


def test_symbols_are_the_cheapest(codec: ImageTransform) -> None:
    costs = Costs(codec.model)
    offsets = torch.linspace(-4, 4, 321).expand(64, -1)
    tables = torch.arange(64)[:, None].expand_as(offsets)
    found = costs.cheapest(offsets, tables, torch.tensor(9.0))
    cost = 9 * (found - offsets) ** 2 + PRICE * costs.of(found, tables)
    others = [9 * (s - offsets) ** 2 + PRICE * costs.of(torch.full_like(offsets, s), tables) for s in range(-5, 6)]
    lost = cost - torch.stack(others).amin(0)
    assert (found[0] == 0).all()  # silent
    # those between the next towards zero and zero are not looked at; bits of fitted tables do not rise evenly
    assert lost[1:].max() < 2 and (lost[1:] > 0.1).float().mean() < 0.01
