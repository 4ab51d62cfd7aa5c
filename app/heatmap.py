"""Show what an answer comes from: lay the map of the bundle's network over the cell."""

import numpy as np
import numpy.typing as npt
from PIL import Image

from malaria.cells import images
from malaria.cells.prepared import cell_mask

# A map is worth showing if its places for Parasitized add at least this to the log-odds: they add less than
# 0.2 in 95 of 100 healthy NIH cells, and more than 3 in 95 of 100 parasitised ones.
LEAST = 0.3

_TOWARDS_PARASITIZED = np.array([255.0, 120.0, 0.0])
_TOWARDS_UNINFECTED = np.array([40.0, 130.0, 255.0])


def decides(effects: npt.NDArray[np.float32]) -> bool:
    """Whether single places of a cell decide the answer, so that its map `effects` is worth showing.

    The strongest place must speak for Parasitized, and all such places together must add `LEAST`. A healthy
    cell speaks for Uninfected everywhere, and has no single place to look at.
    """
    return bool(effects.max() > -effects.min() and effects.clip(0).sum() >= LEAST)


def overlay(pixels: images.Pixels, effects: npt.NDArray[np.float32]) -> images.Pixels:
    """The crop in grey, with places that speak for Parasitized in orange, for Uninfected in blue.

    Args:
        pixels: the crop, uint8 (h, w, 3); the result has the same shape.
        effects: a map of any size, not all zero: above 0 for Parasitized, below 0 for Uninfected.
    """
    height, width = pixels.shape[:2]
    relative = (effects / np.abs(effects).max()).astype(np.float32)
    smooth = Image.fromarray(relative).resize((width, height), Image.Resampling.BICUBIC)
    strength = np.asarray(smooth, dtype=np.float64)[:, :, None]
    grey = pixels.mean(axis=2, keepdims=True)
    colour = np.where(strength > 0, _TOWARDS_PARASITIZED, _TOWARDS_UNINFECTED)
    weight = 0.75 * np.abs(strength).clip(0, 1) * cell_mask(pixels)[:, :, None]
    blended: images.Pixels = (grey + weight * (colour - grey)).astype(np.uint8)
    return blended
