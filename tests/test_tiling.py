"""Tiles cover a grid once, and windows lie where they should."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.codecs.image.tiling import CELL, TILE, Tile, grid_of, tiles_of

SIDE = st.integers(1, 3 * TILE + 1)


@given(SIDE, SIDE)
@settings(max_examples=60, deadline=None)
def test_every_position_is_in_one_tile(rows: int, columns: int) -> None:
    count = np.zeros((rows, columns), np.int32)
    for tile in tiles_of((rows, columns)):
        count[tile.slices()] += 1
        assert max(tile.size) <= TILE
    assert (count == 1).all()


def test_tiles_come_in_raster_order() -> None:
    tiles = tiles_of((TILE + 5, 2 * TILE))
    assert tiles == [
        Tile(0, TILE, 0, TILE),
        Tile(0, TILE, TILE, 2 * TILE),
        Tile(TILE, TILE + 5, 0, TILE),
        Tile(TILE, TILE + 5, TILE, 2 * TILE),
    ]


@given(SIDE, SIDE, st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_windows_hold_their_tile_and_stay_in_the_grid(rows: int, columns: int, halo: int) -> None:
    grid = np.arange(rows * columns).reshape(rows, columns)
    for tile in tiles_of((rows, columns)):
        window = tile.grown(halo, (rows, columns))
        assert 0 <= window.top <= tile.top and tile.bottom <= window.bottom <= rows
        assert 0 <= window.left <= tile.left and tile.right <= window.right <= columns
        assert window.top == 0 or tile.top - window.top == halo
        assert window.bottom == rows or window.bottom - tile.bottom == halo
        assert window.left == 0 or tile.left - window.left == halo
        assert window.right == columns or window.right - tile.right == halo
        inner = grid[window.slices()][tile.within(window).slices()]
        assert np.array_equal(inner, grid[tile.slices()])


@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_grids_cover_the_picture_and_no_more(height: int, width: int) -> None:
    rows, columns = grid_of(height, width)
    assert 0 <= rows * CELL - height < CELL
    assert 0 <= columns * CELL - width < CELL


def test_slices_scale_to_pixels() -> None:
    assert Tile(1, 3, 2, 7).slices(CELL) == (slice(16, 48), slice(32, 112))
