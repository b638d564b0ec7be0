"""What each effort of `image-transform` spends on a picture, and the way of a picture through the efforts that refine.

Tiles are coded first as every effort does, then refined one after the other, each beside what decodes around it at that moment.
A tile reaches no further than its window, so that every tile that gets better makes the picture better.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..codec import Progress
from ..device import one_thread
from .tiling import CELL, Tile, grid_of, tiles_of
from .transform_coding import EntropyMeter, StepQuantiser, encode_latents, hyper_latents_of
from .transform_model import ExactModel
from .transform_refine import Heat, Refinement, Window, nearest, slope_of

__all__ = ["EFFORTS", "Search", "encode_refined"]


@dataclass(frozen=True)
class Search:
    """How an effort refines: how many steps, what part of the way to its new target a latent goes in each, and the heat.

    `temperature`, in bits, is where annealing starts; it falls evenly and ends when `COLD` of the steps are left.
    """

    steps: int
    damping: float = 0.8
    temperature: float = 0.0

    def heat(self, number: int) -> Heat | None:
        """Return the noise of a step; the first, which starts from the symbols as trained, has none."""
        temperature = self.temperature * (1 - number / ((1 - COLD) * self.steps))
        return Heat(temperature, number) if number and temperature > 0 else None


COLD = 0.15
EFFORTS = {5: Search(1), 6: Search(2), 7: Search(4), 8: Search(8, 0.6, 0.7), 9: Search(24, 0.4, 1.0)}  # lower ones: none


class _Coded(NamedTuple):
    """A tile's payload and digest, and its ideal bits where they are counted."""

    code: tuple[bytes, bytes]
    ideal_bits: float


class _Picture:
    """A picture on its way: `latents` (1, C, H, W), in steps, are what decodes at present, `coded` the tiles that hold them.

    `planes` (3, 16 H, 16 W) are its pixels, padded to whole cells; `shape` is the picture's, (rows, columns, channels).
    """

    def __init__(
        self, model: ExactModel, planes: NDArray[np.uint8], shape: tuple[int, ...], quality: int, meter: EntropyMeter
    ) -> None:
        self.model, self.planes, self.shape, self.meter = model, planes, shape, meter
        self.quality, self.grid = torch.tensor([quality]), grid_of(*shape[:2])
        self.latents = torch.empty(1, model.spec.latent, *self.grid)
        self.coded: dict[Tile, _Coded] = {}

    def encode(self, tile: Tile) -> None:
        """Code a tile as the efforts that do not refine."""
        y, z = self._analysed(tile)
        self._keep(tile, *self._code(y, z, self.model.quantise))

    def refine(self, tile: Tile, search: Search, report: Callable[[], None]) -> None:
        """Refine a tile beside those around it, and keep what has less bits + slope x squared error; reports every step."""
        window = self._window(tile)
        y, z = self._analysed(tile)
        refinement = Refinement(self.model, y, z, self.quality, window)
        for number in range(search.steps):
            refinement.step(search.damping, first=number == 0, heat=search.heat(number))
            report()
        coded, refined = self._code(refinement.finish(), z, nearest)
        if self._objective(coded, refined, window) < self._objective(self.coded[tile], window.tile, window):
            self._keep(tile, coded, refined)
        report()

    def _analysed(self, tile: Tile) -> tuple[Tensor, Tensor]:
        """Return a tile's latents and hyper-latents."""
        outer = tile.grown(self.model.spec.halo, self.grid)
        pixels = torch.from_numpy(self.planes[(slice(None), *outer.slices(CELL))])[None]
        y = self.model.latents(pixels, self.quality)[(..., *tile.within(outer).slices())]
        return y, hyper_latents_of(self.model, y, self.quality)

    def _window(self, tile: Tile) -> Window:
        outer = tile.grown(self.model.spec.halo, self.grid)
        latents = self.latents[(..., *outer.slices())].to(self.model.device)
        pixels = torch.from_numpy(self.planes[(slice(None), *outer.slices(CELL))])[None].to(self.model.device).float()
        rows, columns = self.shape[0] - outer.top * CELL, self.shape[1] - outer.left * CELL
        return Window(latents, pixels, rows, columns, tile.within(outer).slices(), grey=self.shape[2] < 3)

    def _code(self, y: Tensor, z: Tensor, quantise: StepQuantiser) -> tuple[_Coded, Tensor]:
        """Return a coded tile, and the latents that decode from it."""
        own = EntropyMeter(self.meter.counting)
        (code,), latents = encode_latents(self.model, y, z, self.quality, quantise, own)
        self.meter.seconds += own.seconds
        return _Coded(code, own.ideal_bits), latents

    def _objective(self, coded: _Coded, y: Tensor, window: Window) -> float:
        pixels = self.model.reconstruct(window.with_tile(y), self.quality).to(self.model.device).float()
        return 8 * len(coded.code[0]) + slope_of(self.quality) * float(window.error_of(pixels))

    def _keep(self, tile: Tile, coded: _Coded, latents: Tensor) -> None:
        self.coded[tile] = coded
        self.latents[(..., *tile.slices())] = latents.cpu()


@torch.inference_mode(mode=False)
@torch.no_grad()
def encode_refined(
    model: ExactModel,
    planes: NDArray[np.uint8],
    shape: tuple[int, ...],
    quality: int,
    effort: int,
    meter: EntropyMeter,
    progress: Progress | None = None,
) -> dict[Tile, tuple[bytes, bytes]]:
    """Return payload and digest of every tile of a picture at one of `EFFORTS`.

    `planes` (3, 16 h, 16 w) are the pixels of a picture of `shape` (H, W, channels). On a CPU one thread does all the work, so
    that bytes are the same for any number of threads. `progress` hears of every step.
    """
    search, tiles = EFFORTS[effort], tiles_of(grid_of(*shape[:2]))
    done, steps = 0, len(tiles) * (search.steps + 2)

    def report() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done / steps, "refining" if done > len(tiles) else "encoding")

    with one_thread(model.device.type):
        picture = _Picture(model, planes, shape, quality, meter)
        for tile in tiles:
            picture.encode(tile)
            report()
        for tile in tiles:
            picture.refine(tile, search, report)
    meter.ideal_bits += sum(coded.ideal_bits for coded in picture.coded.values())
    return {tile: coded.code for tile, coded in picture.coded.items()}
