"""What the answer comes from: the map that the bundle's network gives beside it, laid over the cell."""

import numpy as np
import numpy.typing as npt
from PIL import Image

from malaria.cells import images

from .inference import Answer

# What the places that speak for Parasitized must add to the log-odds to be worth showing: in 95 of 100
# healthy NIH cells they add less than 0.2, in 95 of 100 parasitised ones more than 3.
LEAST = 0.3

# Outside the cell crops are black.
_DARKEST_OF_CELL = 16

_TOWARDS_PARASITIZED = np.array([255.0, 120.0, 0.0])
_TOWARDS_UNINFECTED = np.array([40.0, 130.0, 255.0])


def decides(answer: Answer) -> bool:
    """Whether single places of a cell make the difference: one speaks for Parasitized, and more strongly than
    any does for Uninfected. What a healthy cell has everywhere is no place to look at.
    """
    towards = answer.map
    return towards is not None and bool(towards.max() > -towards.min() and towards.clip(0).sum() >= LEAST)


def overlay(pixels: images.Pixels, towards: npt.NDArray[np.float32]) -> images.Pixels:
    """The crop, uint8 (h, w, 3), in grey, with what speaks for Parasitized (above 0) in orange, what speaks
    against it in blue; `towards` is a map of any size.
    """
    height, width = pixels.shape[:2]
    strength = (towards / np.abs(towards).max()).astype(np.float32)
    smooth = Image.fromarray(strength).resize((width, height), Image.Resampling.BICUBIC)
    share = np.asarray(smooth, dtype=np.float64)[:, :, None]
    grey = np.repeat(pixels.mean(axis=2, keepdims=True), 3, axis=2)
    colour = np.where(share > 0, _TOWARDS_PARASITIZED, _TOWARDS_UNINFECTED)
    weight = 0.75 * np.abs(share).clip(0, 1) * (pixels.max(axis=2, keepdims=True) > _DARKEST_OF_CELL)
    mixed: images.Pixels = (grey + weight * (colour - grey)).astype(np.uint8)
    return mixed
