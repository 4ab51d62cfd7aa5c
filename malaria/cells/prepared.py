"""Cells on black: which pixels belong to the cell, and the cell as networks see it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# A pixel that is brighter than this in any channel belongs to the cell. Lossy copies are not quite black
# outside it.
BLACK = 16
# The grey level of an empty background, from which optical densities are counted.
LIGHT = 235.0


@dataclass(frozen=True)
class Prepared:
    """A cell as networks see it: the result of `malaria.cells.prepare`, which the packed arrays hold.

    pixels: uint8 (size, size, 3). own: the cell's red, green and blue before it was prepared, in grey levels.
    shape: the crop's height and width in px; None if the out-of-distribution check is to ignore them.
    """

    pixels: npt.NDArray[np.uint8]
    own: tuple[int, int, int]
    shape: tuple[int, int] | None = None


def cell_mask(crop: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Which pixels of a crop on black, uint8 (..., 3), belong to the cell, bool (...)."""
    # NumPy's maximum over a last axis of three is slower.
    return np.maximum(np.maximum(crop[..., 0], crop[..., 1]), crop[..., 2]) > BLACK
