"""Reading the accepted cells as one array, as `pack` wrote them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from malaria import labels, tables
from malaria.cells.prepared import Prepared
from malaria.errors import UserError

ARRAY = "cells.npy"
INDEX = "index.csv"
# The columns of the index with the colour that each cell had.
OWN = ("red", "green", "blue")


@dataclass(frozen=True)
class Packed:
    """`images`: uint8 (n, size, size, 3) RGB, memory-mapped and read-only; row i is of the cell that
    row i of `index` (tables.INDEX) describes.
    """

    images: npt.NDArray[np.uint8]
    index: pd.DataFrame

    def prepared(self, rows: npt.NDArray[np.int64] | None = None) -> list[Prepared]:
        """The cells in `rows`, int64 (n,), or all, as a bundle is asked about them."""
        rows = np.arange(len(self.images)) if rows is None else rows
        own = self.index[list(OWN)].to_numpy()[rows].tolist()
        return [Prepared(self.images[row], (r, g, b)) for row, (r, g, b) in zip(rows, own, strict=True)]

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


def rows(
    packed: Packed, splits: pd.DataFrame, name: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Where the cells of one side of the split lie.

    Args:
        splits: rows as tables.SPLITS.
        name: train, val or test.

    Returns:
        Rows of `packed.images`, int64 (n,), in the order of `splits`, and whether each is
        Parasitized, float32 (n,) of 1 and 0.

    Raises:
        UserError: the split has cells that were not packed.
    """
    side = splits[splits.split == name]
    return rows_of(packed, side.path), np.asarray(side.label == labels.POSITIVE, dtype=np.float32)


def rows_of(packed: Packed, paths: "pd.Series[str]") -> npt.NDArray[np.int64]:
    """The rows of `packed.images` that hold `paths`, int64 (n,); UserError if one is not packed."""
    found: npt.NDArray[np.int64] = pd.Index(packed.index.path).get_indexer(paths).astype(np.int64)
    lacking = paths[found < 0]
    if len(lacking):
        raise UserError(
            f"data/packed lacks {len(lacking)} cells, such as {lacking.iloc[0]}: run `dvc repro`."
        )
    return found
