"""Read the array of accepted cells that `pack` wrote."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from malaria import tables
from malaria.cells.prepared import Prepared
from malaria.errors import UserError

ARRAY = "cells.npy"
INDEX = "index.csv"
# Columns of the index: the colour that each cell had before it was prepared.
COLOURS = ("red", "green", "blue")


@dataclass(frozen=True)
class Packed:
    """Packed cells and their index.

    images: uint8 (n, size, size, 3) RGB, memory-mapped and read-only. index: as tables.INDEX; row i describes
    images[i].
    """

    images: npt.NDArray[np.uint8]
    index: pd.DataFrame

    def prepared(self, rows: npt.NDArray[np.int64] | None = None) -> list[Prepared]:
        """The cells in `rows`, int64 (n,), or all cells, in the form that a bundle takes."""
        rows = np.arange(len(self.images)) if rows is None else rows
        colours = self.index[list(COLOURS)].to_numpy()[rows].tolist()
        return [Prepared(self.images[row], (r, g, b)) for row, (r, g, b) in zip(rows, colours, strict=True)]

    @property
    def size(self) -> int:
        return int(self.images.shape[1])


def load(folder: Path) -> Packed:
    """Open what `pack.write` wrote; pixels are read from disk as they are used.

    Raises:
        UserError: the folder is missing, or its array and index do not belong together.
    """
    index = tables.read(folder / INDEX, tables.INDEX)
    try:
        pixels = np.load(folder / ARRAY, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        raise UserError(f"{folder / ARRAY} is missing or damaged: run `dvc repro -f pack`.") from None
    if pixels.dtype != np.uint8 or pixels.shape != (len(index), *pixels.shape[1:2] * 2, 3):
        raise UserError(
            f"{folder / ARRAY} does not fit the {len(index)} rows of {INDEX}: run `dvc repro -f pack`."
        )
    return Packed(pixels, index)


def rows_of(packed: Packed, paths: "pd.Series[str]") -> npt.NDArray[np.int64]:
    """The rows of `packed.images` that hold `paths`, int64 (n,); UserError if one is not packed."""
    rows: npt.NDArray[np.int64] = pd.Index(packed.index.path).get_indexer(paths).astype(np.int64)
    missing = paths[rows < 0]
    if len(missing):
        raise UserError(
            f"data/packed lacks {len(missing)} cells, such as {missing.iloc[0]}: run `dvc repro`."
        )
    return rows
