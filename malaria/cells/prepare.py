"""Prepare a crop of any size, background and colour for a network.

The margin around the cell is removed, the rest is resized, and the cell's own colour is brought to one
reference. This removes a laboratory's stain, light and white balance, and keeps the contrasts within the
cell. The result depends on the cell alone, never on other cells of the same call.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from malaria.cells import images
from malaria.cells.images import Pixels
from malaria.cells.prepared import BLACK, LIGHT, Prepared, cell_mask
from malaria.errors import UserError
from malaria.params import Colour

# The value of `pack.colour` and of a bundle's record for crops that are not adjusted by their own colour.
AS_IS: Colour = "as-is"

# The reference colour (RGB): about that of a median NIH/NLM cell.
_REFERENCE = (200.0, 150.0, 165.0)
_LEVELS = np.arange(256)
# A cell's colour is this percentile of its pixels; the few, darker pixels of parasites hardly change it.
_PERCENTILE = 60
# Bounds of the factor on optical densities: a channel without stain would become pure noise.
_MIN_STRETCH, _MAX_STRETCH = 0.4, 2.5

# A background is even if its corners differ by no more than this, in grey levels, from their median colour;
# its other pixels may differ as much.
_TOLERANCE = 14
# Side in px of the square in each corner whose median is the corner's colour.
_CORNER = 3
# Shares of a side: a thinner margin stays; a row or column with a smaller share of cell is margin.
_MARGIN, _SPECK = 0.04, 0.03


def prepare(crop: Pixels, size: int, colour: Colour) -> Prepared:
    """Prepare a crop, uint8 (h, w, 3), for a network of `size` px."""
    cell = images.resize(crop if colour == AS_IS else without_margin(crop), size)
    mask = cell_mask(cell)
    own_colour = _colour_of(cell, mask)
    pixels = cell if colour == AS_IS else _to_reference(cell, mask, own_colour)
    return Prepared(pixels, own_colour, crop.shape[:2])


def read(
    raw: Path, limits: images.Limits, size: int, colour: Colour, path: str
) -> tuple[Prepared, tuple[str, ...]]:
    """Read and prepare the audited crop `path` below `raw`; also returns notes on how it was read.

    Raises:
        UserError: it can no longer be read.
    """
    try:
        crop = images.read(raw / path, limits)
    except images.Unreadable as refusal:
        raise UserError(
            f"{raw / path} is {refusal.reason} since the audit: run `dvc repro -f audit`."
        ) from None
    return prepare(crop.pixels, size, colour), crop.notes


def without_margin(cell: Pixels) -> Pixels:
    """Cut off the margin of `cell`, uint8 (h, w, 3), on black, unless it is thin or the cell is not found."""
    cell = _on_black(cell)
    mask = cell_mask(cell)
    height, width = mask.shape
    rows = np.flatnonzero(mask.sum(axis=1) > _SPECK * width)
    columns = np.flatnonzero(mask.sum(axis=0) > _SPECK * height)
    if not len(rows) or not len(columns):
        return cell
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    if max(top, height - bottom) <= _MARGIN * height and max(left, width - right) <= _MARGIN * width:
        return cell
    return cell[top:bottom, left:right]


def _colour_of(cell: Pixels, mask: npt.NDArray[np.bool_]) -> tuple[int, int, int]:
    """The colour of the pixels of `cell` in `mask`: a percentile of each channel, from 1 to 255."""

    def level(channel: int) -> int:
        counts = np.bincount(cell[..., channel][mask], minlength=256).cumsum()
        return max(1, int(np.searchsorted(counts, counts[-1] * _PERCENTILE / 100)))

    return level(0), level(1), level(2)


def _to_reference(cell: Pixels, mask: npt.NDArray[np.bool_], colour: tuple[int, int, int]) -> Pixels:
    """Bring `cell`, whose colour in `mask` is `colour`, to the reference colour; black stays black.

    Each channel's optical density (minus the logarithm of the transmitted light, by Beer and Lambert) is
    multiplied so that the cell's colour becomes the reference. If the factor would exceed its bounds, as in a
    channel that is as bright as the background, the density is also shifted.
    """
    pixels = np.empty_like(cell)
    for channel, (reference, level) in enumerate(zip(_REFERENCE, colour, strict=True)):
        density = -np.log(min(level, LIGHT - 1) / LIGHT)
        stretch = min(_MAX_STRETCH, max(_MIN_STRETCH, -np.log(reference / LIGHT) / density))
        table = reference * (_LEVELS / level) ** stretch + 0.5
        pixels[..., channel] = table.clip(0, 255).astype(np.uint8)[cell[..., channel]] * mask
    return pixels


def _on_black(cell: Pixels) -> Pixels:
    """Make an even background of another colour black, as far as it reaches straight in from the border."""
    if min(cell.shape[:2]) < _CORNER:
        return cell
    edges = np.r_[:_CORNER, -_CORNER:0]
    patches = cell[edges][:, edges].reshape(2, _CORNER, 2, _CORNER, 3).astype(np.int16)
    corners = np.median(patches, axis=(1, 3)).reshape(4, 3)
    colour = np.median(corners, axis=0).astype(np.int16)
    if colour.max() <= BLACK or (np.abs(corners - colour) > _TOLERANCE).any():
        return cell
    similar = (np.abs(cell - colour) <= _TOLERANCE).all(axis=2) | ~cell_mask(cell)
    background = np.zeros_like(similar)
    for quarter_turns in range(4):
        rotated = np.rot90(similar, quarter_turns)
        background |= np.rot90(np.logical_and.accumulate(rotated, axis=0), -quarter_turns)
    return np.where(background[..., None], np.uint8(0), cell)
