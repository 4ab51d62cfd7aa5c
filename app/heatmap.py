"""What decided an answer: cover the cell bit by bit, and see how the answer moves.

Occlusion as in Zeiler and Fergus 2014, arXiv:1311.2901.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from malaria.cells import images
from malaria.evaluate import calibration

Floats = npt.NDArray[np.float64]

PATCH = 9  # px of the network's input that are covered at a time: a ring form, or half a trophozoite
STEP = 4  # px from one covered place to the next

# Outside the cell crops are black; covering black with black tells nothing.
_DARKEST_OF_CELL = 16

_TOWARDS_PARASITIZED = np.array([255.0, 120.0, 0.0])
_TOWARDS_UNINFECTED = np.array([40.0, 130.0, 255.0])


def occluded(cell: images.Pixels) -> images.Pixels:
    """The cell with each place covered in turn, uint8 (n, size, size, 3), row by row.

    A place is covered with the cell's own median colour, and only where there is cell: no edge
    appears that the network could take for something.
    """
    inside = cell.max(axis=2) > _DARKEST_OF_CELL
    colour = np.median(cell[inside], axis=0) if inside.any() else np.zeros(3)
    copies = []
    for top, left in _places(len(cell)):
        copy = cell.copy()
        window = copy[top : top + PATCH, left : left + PATCH]
        window[inside[top : top + PATCH, left : left + PATCH]] = colour
        copies.append(copy)
    return np.stack(copies)


def importance(cell: images.Pixels, ask: Callable[[images.Pixels], Floats]) -> Floats:
    """How much each pixel speaks for Parasitized (above 0) or Uninfected (below), float64 (size, size).

    Args:
        cell: uint8 (size, size, 3), as the network takes it.
        ask: gives P(parasitised), float64 (n,), of cells.

    Returns:
        By how much the log-odds fall when the pixel is covered, mean over the places that cover it.
    """
    p = calibration.logit(ask(np.concatenate([cell[None], occluded(cell)])))
    fall, covered = np.zeros(cell.shape[:2]), np.zeros(cell.shape[:2])
    for (top, left), value in zip(_places(len(cell)), p[0] - p[1:], strict=True):
        fall[top : top + PATCH, left : left + PATCH] += value
        covered[top : top + PATCH, left : left + PATCH] += 1
    return fall / covered


def overlay(pixels: images.Pixels, importance: Floats) -> images.Pixels:
    """The crop, uint8 (h, w, 3), in grey, with what speaks for Parasitized in orange, against it in blue."""
    from PIL import Image

    height, width = pixels.shape[:2]
    # Under one unit of log-odds nothing worth showing moves; noise is not blown up into a finding.
    strength = importance / max(float(np.abs(importance).max()), 1.0)
    smooth = Image.fromarray(strength.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    share = np.asarray(smooth, dtype=np.float64)[:, :, None]
    grey = np.repeat(pixels.mean(axis=2, keepdims=True), 3, axis=2)
    colour = np.where(share > 0, _TOWARDS_PARASITIZED, _TOWARDS_UNINFECTED)
    weight = 0.75 * np.abs(share).clip(0, 1) * (pixels.max(axis=2, keepdims=True) > _DARKEST_OF_CELL)
    mixed: images.Pixels = (grey + weight * (colour - grey)).astype(np.uint8)
    return mixed


def _places(size: int) -> list[tuple[int, int]]:
    """Top left corners of the covered places, so that every pixel is covered by one at least."""
    starts = [*range(0, size - PATCH, STEP), size - PATCH]
    return [(top, left) for top in starts for left in starts]
