"""Tiles of a picture's latent grid: coded independently, transformed with a halo so that no seam shows."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

CELL = 16  # pixels per latent position
TILE = 64  # latent positions per tile side: 1024 pixels


@dataclass(frozen=True)
class Tile:
    """Rows `top` to `bottom` and columns `left` to `right` (exclusive) of a grid of latent positions."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.bottom - self.top, self.right - self.left

    def grown(self, halo: int, grid: tuple[int, int]) -> Tile:
        """Return the tile with `halo` positions more on every side, within the grid."""
        return Tile(
            max(0, self.top - halo),
            min(grid[0], self.bottom + halo),
            max(0, self.left - halo),
            min(grid[1], self.right + halo),
        )

    def within(self, outer: Tile) -> Tile:
        """Return this tile in the coordinates of an `outer` one."""
        return Tile(self.top - outer.top, self.bottom - outer.top, self.left - outer.left, self.right - outer.left)

    def slices(self, scale: int = 1) -> tuple[slice, slice]:
        """Return row and column slices, `scale` samples per position."""
        return slice(self.top * scale, self.bottom * scale), slice(self.left * scale, self.right * scale)


def grid_of(height: int, width: int) -> tuple[int, int]:
    """Return the latent grid's rows and columns for a picture's height and width in pixels."""
    return ceil(height / CELL), ceil(width / CELL)


def tiles_of(grid: tuple[int, int]) -> list[Tile]:
    """Return the tiles of a grid in raster order."""
    return [
        Tile(top, min(top + TILE, grid[0]), left, min(left + TILE, grid[1]))
        for top in range(0, grid[0], TILE)
        for left in range(0, grid[1], TILE)
    ]
