"""How near a decoded signal is to the original."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .signals import Audio, Samples, Signal, Video

__all__ = ["ms_ssim", "psnr", "snr"]

EQUAL_FRAME = 100.0  # dB
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the finest scale to the coarsest
WINDOW, DEVIATION = 11, 1.5  # pixels of the Gaussian window
SAMPLES = 2**20  # of each channel of sounds, compared at a time
ROWS = 256  # compared at a time, so that large pictures take little memory


def psnr(reference: Signal, decoded: Signal) -> float:
    """Return the peak signal-to-noise ratio in dB over all samples, alpha included; infinity for equal pictures.

    Of videos it is the mean of the frames' ratios, as the papers on video give it; a frame that is equal counts 100 dB, and
    equal videos have infinity. The peak is 255 or 65535 after the bit depth, which both share, as they do the shape.
    """
    if reference.shape != decoded.shape or reference.bit_depth != decoded.bit_depth:
        raise ValueError(f"signals of {reference.shape} and {decoded.shape} do not compare")
    if isinstance(reference, Audio) or isinstance(decoded, Audio):
        raise ValueError("sound has no peak signal-to-noise ratio here")
    if not (isinstance(reference, Video) and isinstance(decoded, Video)):
        return _psnr(reference.array, decoded.array)
    frames = reference.shape[0]
    pairs = zip(reference.source.read(0, frames), decoded.source.read(0, frames), strict=True)
    ratios = [_psnr(one, other) for one, other in pairs]
    return math.inf if min(ratios) == math.inf else sum(min(ratio, EQUAL_FRAME) for ratio in ratios) / frames


def snr(reference: Audio, decoded: Audio) -> float:
    """Return the ratio of signal to noise in dB over all samples of all channels; infinity for equal sounds.

    Silence that came back as something else has -infinity. Raises ValueError for sounds of different shapes, and of different
    bits, whose samples do not compare.
    """
    if reference.shape != decoded.shape or reference.bits != decoded.bits:
        raise ValueError(f"sounds of {reference.shape} and {decoded.shape} do not compare")
    signal = noise = 0.0
    for start in range(0, reference.shape[1], SAMPLES):
        stop = min(reference.shape[1], start + SAMPLES)
        one, other = (sound.part(start, stop).array.astype(np.float64) for sound in (reference, decoded))
        signal, noise = signal + float((one**2).sum()), noise + float(((one - other) ** 2).sum())
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def ms_ssim(reference: Signal, decoded: Signal) -> float:
    """Return the multi-scale structural similarity, up to 1 for equal pictures (Wang, Simoncelli and Bovik, 2003).

    It is taken of every channel and then averaged, and of videos averaged over frames. There are five scales; where the
    shorter side has fewer than 176 pixels as many as leave it 11, their weights scaled to the same sum. Raises ValueError for
    sides below 11 and for signals that do not compare.
    """
    if isinstance(reference, Audio) or isinstance(decoded, Audio):
        raise ValueError("sound has no structural similarity here")
    if reference.shape != decoded.shape or reference.bit_depth != decoded.bit_depth:
        raise ValueError(f"signals of {reference.shape} and {decoded.shape} do not compare")
    if not (isinstance(reference, Video) and isinstance(decoded, Video)):
        return _ms_ssim(reference.array, decoded.array)
    frames = reference.shape[0]
    pairs = zip(reference.source.read(0, frames), decoded.source.read(0, frames), strict=True)
    return sum(_ms_ssim(one, other) for one, other in pairs) / frames


def _ms_ssim(reference: Samples, decoded: Samples) -> float:
    if min(reference.shape[:2]) < WINDOW:
        raise ValueError(f"structural similarity is of {WINDOW} x {WINDOW} pixels and more, not of {reference.shape[:2]}")
    peak = 2 ** (8 * reference.dtype.itemsize) - 1
    one, other = (array.astype(np.float64) / peak for array in (reference, decoded))
    scales = min(len(SCALE_WEIGHTS), int(math.log2(min(reference.shape[:2]) / WINDOW)) + 1)
    weights = np.array(SCALE_WEIGHTS[:scales]) * sum(SCALE_WEIGHTS) / sum(SCALE_WEIGHTS[:scales])
    product = np.ones(reference.shape[2])
    for scale, weight in enumerate(weights):
        luminance, contrast = _similarity(one, other)
        term = contrast if scale < scales - 1 else luminance * contrast
        product *= np.maximum(term.mean(axis=(0, 1)), 0.0) ** weight
        one, other = _halved(one), _halved(other)
    return float(product.mean())


def _similarity(one: NDArray[np.float64], other: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the luminance term and the product of contrast and structure around every pixel, for samples 0..1."""
    low, high = 0.01**2, 0.03**2  # which steady the quotients
    mean, mean_other = _blurred(one), _blurred(other)
    squares = _blurred(one * one) - mean * mean + _blurred(other * other) - mean_other * mean_other
    cross = _blurred(one * other) - mean * mean_other
    luminance = (2 * mean * mean_other + low) / (mean * mean + mean_other * mean_other + low)
    return luminance, (2 * cross + high) / (squares + high)


def _blurred(array: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the averages in a Gaussian window, where the whole of it lies inside."""
    half = WINDOW // 2
    taps = np.exp(-((np.arange(WINDOW) - half) ** 2) / (2 * DEVIATION**2))
    taps /= taps.sum()
    for axis in (0, 1):
        inside = array.shape[axis] - WINDOW + 1
        shifted = [array[at : at + inside] if axis == 0 else array[:, at : at + inside] for at in range(WINDOW)]
        total = taps[half] * shifted[half]
        pair = np.empty_like(total)
        for at in range(half):  # both sides have the same tap
            np.add(shifted[at], shifted[-1 - at], out=pair)
            pair *= taps[at]
            total += pair
        array = total
    return array


def _halved(array: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the averages of 2 x 2 pixels, the last of an odd side repeated."""
    even = np.pad(array, ((0, array.shape[0] % 2), (0, array.shape[1] % 2), (0, 0)), "edge")
    return (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / 4


def _psnr(reference: Samples, decoded: Samples) -> float:
    total = 0
    for top in range(0, reference.shape[0], ROWS):
        rows = slice(top, top + ROWS)
        difference = reference[rows].astype(np.int64) - decoded[rows]
        total += int(np.sum(difference * difference))
    if total == 0:
        return math.inf
    peak = 2 ** (8 * reference.dtype.itemsize) - 1
    return 10 * math.log10(peak * peak * reference.size / total)
