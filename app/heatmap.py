"""Show what an answer comes from: lay the map of the bundle's network over the cell."""

import numpy as np
import numpy.typing as npt
from PIL import Image

from malaria.cells import images
from malaria.cells.prepared import part_of

from .inference import Answer

# A map is worth showing if its places for Parasitized add at least this to the log-odds: they add less than
# 0.2 in 95 of 100 healthy NIH cells, and more than 3 in 95 of 100 parasitised ones.
LEAST = 0.3

_TOWARDS_PARASITIZED = np.array([255.0, 120.0, 0.0])
_TOWARDS_UNINFECTED = np.array([40.0, 130.0, 255.0])


def decides(answer: Answer) -> bool:
    """Whether single places of a cell decide the answer, so that its map is worth showing.

    The strongest place must speak for Parasitized, and all such places together must add `LEAST`. A healthy
    cell speaks for Uninfected everywhere, and has no single place to look at.
    """
    towards = answer.map
    return towards is not None and bool(towards.max() > -towards.min() and towards.clip(0).sum() >= LEAST)


def overlay(pixels: images.Pixels, towards: npt.NDArray[np.float32]) -> images.Pixels:
    """The crop in grey, with places that speak for Parasitized in orange, for Uninfected in blue.

    Args:
        pixels: the crop, uint8 (h, w, 3); the result has the same shape.
        towards: a map of any size, not all zero: above 0 for Parasitized, below 0 for Uninfected.
    """
    height, width = pixels.shape[:2]
    strength = (towards / np.abs(towards).max()).astype(np.float32)
    smooth = Image.fromarray(strength).resize((width, height), Image.Resampling.BICUBIC)
    share = np.asarray(smooth, dtype=np.float64)[:, :, None]
    grey = np.repeat(pixels.mean(axis=2, keepdims=True), 3, axis=2)
    colour = np.where(share > 0, _TOWARDS_PARASITIZED, _TOWARDS_UNINFECTED)
    weight = 0.75 * np.abs(share).clip(0, 1) * part_of(pixels)[:, :, None]
    mixed: images.Pixels = (grey + weight * (colour - grey)).astype(np.uint8)
    return mixed
