"""Symbols of a batch of equally sized tiles to payloads and back: where the networks meet the range coder."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ...entropy.digest import SymbolDigest
from ...entropy.range_coder import IndexedDecoder, IndexedEncoder
from .transform_model import ExactModel

StepQuantiser = Callable[[Tensor, Tensor], Tensor]  # latents minus means, in steps, and table indices to symbols
FIRST_CODED_TABLE = 1  # table 0 is silent: its symbols are zero and take no bits


@dataclass
class EntropyMeter:
    """What coding cost: seconds in the range coder and, where `counting`, -log2 of the probabilities that tables gave."""

    counting: bool = False
    seconds: float = 0.0
    ideal_bits: float = 0.0


def _arrays(batch: Tensor, dtype: type[np.generic]) -> NDArray[np.generic]:
    """Return a tensor (B, ...) as an array (B, n)."""
    return batch.flatten(1).cpu().numpy().astype(dtype)


def hyper_shape(model: ExactModel, size: tuple[int, int]) -> tuple[int, int, int]:
    """Return the hyper-latents' (channels, rows, columns) of a tile of `size` latents."""
    return model.spec.hyper, -(-size[0] // 4), -(-size[1] // 4)


def hyper_indices(model: ExactModel, quality: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the table index of every hyper-latent, (B, channels, rows, columns)."""
    channels, rows, columns = hyper_shape(model, size)
    return model.hyper_index[quality][:, :, None, None].expand(-1, channels, rows, columns)


def encode_tiles(model: ExactModel, y: Tensor, quality: Tensor, meter: EntropyMeter) -> list[tuple[bytes, bytes]]:
    """Code latents in steps (B, C, h, w) at qualities (B,); returns payload and digest of each, the same in any batch."""
    return encode_latents(model, y, hyper_latents_of(model, y, quality), quality, model.quantise, meter)[0]


def hyper_latents_of(model: ExactModel, y: Tensor, quality: Tensor) -> Tensor:
    """Return the hyper-latents of latents of any size (B, C, h, w)."""
    return model.hyper_latents(F.pad(y, (0, -y.shape[3] % 4, 0, -y.shape[2] % 4), mode="replicate"), quality)


def encode_latents(
    model: ExactModel, y: Tensor, z: Tensor, quality: Tensor, quantise: StepQuantiser, meter: EntropyMeter
) -> tuple[list[tuple[bytes, bytes]], Tensor]:
    """Code latents in steps (B, C, h, w) with hyper-latents `z`; returns payload and digest of each, and what decodes."""
    size = (y.shape[2], y.shape[3])
    coders, digests = [IndexedEncoder() for _ in y], [SymbolDigest() for _ in y]

    def put(symbols: Tensor, indices: Tensor) -> None:
        began = time.perf_counter()
        items = zip(coders, digests, _arrays(symbols, np.int32), _arrays(indices, np.uint8), strict=True)
        for coder, digest, s, k in items:
            coder.encode(s, k, model.tables, FIRST_CODED_TABLE)
            digest.update(s)
            if meter.counting:
                meter.ideal_bits += float(model.tables.bits(s, k)[k >= FIRST_CODED_TABLE].sum())
        meter.seconds += time.perf_counter() - began

    def step(start: int, phase: tuple[int, int], mean: Tensor, index: Tensor) -> Tensor:
        offset = y[:, start : start + mean.shape[1], phase[0] :: 2, phase[1] :: 2] - mean
        symbols = quantise(offset, index)
        put(symbols, index)
        return symbols

    put(z, hyper_indices(model, quality, size))
    decoded = model.walk(z, quality, size, step)
    return [(coder.finish(), digest.value()) for coder, digest in zip(coders, digests, strict=True)], decoded


def decode_tiles(
    model: ExactModel, payloads: Sequence[bytes], quality: Tensor, size: tuple[int, int], meter: EntropyMeter
) -> tuple[Tensor, list[bytes]]:
    """Restore latents in steps (B, C, h, w) of tiles of `size` = (h, w), and the digest of each tile's symbols."""
    coders, digests = [IndexedDecoder(payload) for payload in payloads], [SymbolDigest() for _ in payloads]

    def get(indices: Tensor) -> Tensor:
        began = time.perf_counter()
        found = []
        for coder, digest, k in zip(coders, digests, _arrays(indices, np.uint8), strict=True):
            found.append(coder.decode(k, model.tables, FIRST_CODED_TABLE))
            digest.update(found[-1])
        meter.seconds += time.perf_counter() - began
        return torch.from_numpy(np.stack(found)).to(model.device).float().view(indices.shape)

    def step(start: int, phase: tuple[int, int], mean: Tensor, index: Tensor) -> Tensor:
        return get(index)

    z = get(hyper_indices(model, quality, size))
    return model.walk(z, quality, size, step), [digest.value() for digest in digests]
