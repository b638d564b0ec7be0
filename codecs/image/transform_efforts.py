"""What each effort of `image-transform` spends on a picture, and the way of a picture through the efforts that do more.

Tiles are coded first as every effort does. Then the last layer of the synthesis is corrected for the picture
(`transform_correction`), and tiles are refined one after the other (`transform_refine`), each beside what decodes around it at
that moment. A tile reaches no further than its window, so that every tile that gets better makes the picture better.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..codec import Progress
from ..device import one_thread
from .tiling import CELL, Tile, grid_of, tiles_of
from .transform_coding import EntropyMeter, StepQuantiser, encode_latents, hyper_latents_of
from .transform_correction import MOST_POSITIONS, Correction, NormalEquations, fit_correction
from .transform_model import ExactModel
from .transform_refine import Refinement, Window, nearest, slope_of

__all__ = ["EFFORTS", "Improved", "corrected_tiles", "encode_improved"]


WORTH_REFINING_FOR = 0.01  # of the file: symbols are refined under a correction that saves this, as they suit no other then
MOST_TILES = 4  # that a correction is fitted to, of those of a large picture
EFFORTS = {4: 0, 5: 2, 6: 4, 7: 8, 8: 16, 9: 32}  # steps that refine symbols, beside the correction; lower ones: neither


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
        self.correction: Correction | None = None

    def encode(self, tile: Tile) -> None:
        """Code a tile as the efforts that do not refine."""
        y, z = self._analysed(tile)
        self._keep(tile, *self._code(y, z, self.model.quantise))

    def refine(self, tile: Tile, steps: int, report: Callable[[str], None]) -> None:
        """Refine a tile beside those around it, and keep what has less bits + slope x squared error; reports every step.

        Where that fails under a correction, which was fitted to what is now to change, it is tried without.
        """
        window = self._window(tile)
        y, z = self._analysed(tile)
        if not self._refined(tile, window, y, z, steps, report) and window.corrections is not None:
            self._refined(tile, replace(window, corrections=None), y, z, steps, lambda stage: None)
        report("refining")

    def _refined(self, tile: Tile, window: Window, y: Tensor, z: Tensor, steps: int, report: Callable[[str], None]) -> bool:
        """Refine a tile in a window; returns whether that was better, and so was kept."""
        refinement = Refinement(self.model, y, z, self.quality, window)
        for _ in range(steps):
            refinement.step()
            report("refining")
        coded, refined = self._code(refinement.finish(), z, nearest)
        better = self._objective(coded, refined, window) < self._objective(self.coded[tile], window.tile, window)
        if better:
            self._keep(tile, coded, refined)
        return better

    def correct(self, report: Callable[[str], None], price: float = 0.0) -> None:
        """Fit the correction of the last layer to what decodes at present, where the weights have directions for it.

        The one before stays where it is better still. `price` is the part of the file that a correction must save beyond its
        bits.
        """
        directions = self.model.directions
        if directions is None:
            return
        sums, tiles = NormalEquations(self.model, self.quality), corrected_tiles(self.grid)
        for tile in tiles:
            window = self._window(tile)
            rows, columns = (
                slice(s.start * CELL, min(s.stop * CELL, limit))
                for s, limit in zip(window.inner, (window.rows, window.columns), strict=True)
            )
            sums.look(window.latents, window.pixels, (rows, columns), MOST_POSITIONS // len(tiles))
            report("correcting the last layer")
        share = max(1.0, self.shape[0] * self.shape[1] / (4 * sums.positions))
        bits = 8 * sum(len(coded.code[0]) for coded in self.coded.values())
        self.correction = fit_correction(sums, directions, slope_of(self.quality) * share, price * bits, self.correction)

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
        inner = tile.within(outer).slices()
        return Window(latents, pixels, rows, columns, inner, self._corrections(), grey=self.shape[2] < 3)

    def _corrections(self) -> list[Tensor] | None:
        directions = self.model.directions
        if self.correction is None or directions is None:
            return None
        return [self.correction.weights(directions)]

    def _code(self, y: Tensor, z: Tensor, quantise: StepQuantiser) -> tuple[_Coded, Tensor]:
        """Return a coded tile, and the latents that decode from it."""
        own = EntropyMeter(self.meter.counting)
        (code,), latents = encode_latents(self.model, y, z, self.quality, quantise, own)
        self.meter.seconds += own.seconds
        return _Coded(code, own.ideal_bits), latents

    def _objective(self, coded: _Coded, y: Tensor, window: Window) -> float:
        decoded = self.model.reconstruct(window.with_tile(y), self.quality, window.corrections)
        pixels = decoded.to(self.model.device).float()
        return 8 * len(coded.code[0]) + slope_of(self.quality) * float(window.error_of(pixels))

    def _keep(self, tile: Tile, coded: _Coded, latents: Tensor) -> None:
        self.coded[tile] = coded
        self.latents[(..., *tile.slices())] = latents.cpu()


def corrected_tiles(grid: tuple[int, int]) -> list[Tile]:
    """Return the tiles that a correction is fitted to: all, or `MOST_TILES` spread evenly."""
    tiles = tiles_of(grid)
    count = min(len(tiles), MOST_TILES)
    return [tiles[(2 * i + 1) * len(tiles) // (2 * count)] for i in range(count)]


class Improved(NamedTuple):
    """Payload and digest of every tile of a picture, and the payload of the correction where there is one."""

    tiles: dict[Tile, tuple[bytes, bytes]]
    correction: bytes | None = None


@torch.inference_mode(mode=False)
@torch.no_grad()
def encode_improved(
    model: ExactModel,
    planes: NDArray[np.uint8],
    shape: tuple[int, ...],
    quality: int,
    effort: int,
    meter: EntropyMeter,
    progress: Progress | None = None,
) -> Improved:
    """Code a picture at one of `EFFORTS`.

    `planes` (3, 16 h, 16 w) are the pixels of a picture of `shape` (H, W, channels). On a CPU one thread does all the work on
    real numbers, so that bytes are the same for any number of threads. `progress` hears of every step.
    """
    refining, tiles = EFFORTS[effort], tiles_of(grid_of(*shape[:2]))
    fits = 2 if refining else 1
    done, steps = 0, len(tiles) + fits * len(corrected_tiles(grid_of(*shape[:2])))
    steps += len(tiles) * (refining + 1) if refining else 0

    def report(stage: str) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done / steps, stage)

    picture = _Picture(model, planes, shape, quality, meter)
    for tile in tiles:
        picture.encode(tile)
        report("encoding")
    with one_thread(model.device.type):
        picture.correct(report, WORTH_REFINING_FOR if refining else 0.0)
        if refining:
            for tile in tiles:
                picture.refine(tile, refining, report)
            picture.correct(report)
    correction = None if picture.correction is None else picture.correction.encode()
    meter.ideal_bits += sum(coded.ideal_bits for coded in picture.coded.values()) + 8 * len(correction or b"")
    return Improved({tile: coded.code for tile, coded in picture.coded.items()}, correction)
