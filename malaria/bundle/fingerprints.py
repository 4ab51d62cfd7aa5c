"""Fingerprints of the cells that a model was made with, by which you find these cells in a test set.

A fingerprint is a perceptual hash: the signs of a cell's low frequencies. It also recognises a copy that was
resized or compressed again, whatever the file's name, format or metadata, but not a cell that was cut out
again or rotated.
"""

import io
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from malaria.cells.images import Pixels
from malaria.errors import UserError

# uint64 (n, 2), one row for each cell.
Fingerprints = npt.NDArray[np.uint64]

# Bits of 128 in which a copy's fingerprint may differ. Of 159 NIH cells at their original size, all are this
# close to their public 50 px copies after `resize` (1 bit at most), and after JPEG of quality 85 and
# `resize`; 157 after Pillow's bilinear filter. Of the 22,058 public cells, all different, one of 243 million
# pairs is this close.
TOLERANCE = 10

# Coefficients (row, column) of the cosine transform: the 128 of lowest frequency that are odd in row or
# column. For a round cell on black, as many of these are above zero as below.
_WAVES = 20
_FREQUENCIES = sorted(
    ((row, column) for row in range(_WAVES) for column in range(_WAVES) if row % 2 or column % 2),
    key=lambda frequency: (frequency[0] ** 2 + frequency[1] ** 2, frequency),
)[:128]
# Coefficients up to this size are rounding errors.
_ROUNDING = 1e-6


def of(cells: Iterable[Pixels]) -> Fingerprints:
    """The fingerprints of cells, in their order; a cell is uint8 (size, size, 3), resized."""
    return np.array([_of(cell) for cell in cells], dtype=np.uint64).reshape(-1, 2)


def known(fingerprints: Fingerprints, cells: Iterable[Pixels]) -> npt.NDArray[np.bool_]:
    """Whether `fingerprints` has each of `cells` (as `of` takes them) or a copy of it, bool (n,)."""
    distances = (np.bitwise_count(fingerprints ^ fingerprint).sum(axis=1) for fingerprint in of(cells))
    return np.array([(bits <= TOLERANCE).any() for bits in distances], dtype=np.bool_)


def to_bytes(fingerprints: Fingerprints) -> bytes:
    """The fingerprints as a .npy file, sorted so that the order of the cells reveals nothing."""
    out = io.BytesIO()
    np.save(out, fingerprints[np.lexsort(fingerprints.T[::-1])], allow_pickle=False)
    return out.getvalue()


def from_bytes(content: bytes) -> Fingerprints | None:
    """Read what `to_bytes` wrote; None for a file of an earlier bundle, which cannot recognise copies.

    Raises:
        UserError: `content` is no such file.
    """
    array: Fingerprints | None
    try:
        # Not np.load, which also opens zips.
        array = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except (ValueError, OSError, EOFError):
        array = None
    if array is None or array.dtype != np.uint64 or array.shape[1:] not in ((), (2,)):
        raise UserError("The bundle's record of its training cells is damaged: fetch the bundle again.")
    return array if array.ndim == 2 else None


def _of(cell: Pixels) -> npt.NDArray[np.uint64]:
    """The fingerprint of one cell, uint64 (2,)."""
    positions = np.arange(len(cell)) + 0.5
    waves = np.cos(np.pi * np.outer(np.arange(_WAVES), positions) / len(cell))
    # Green only: it has most of a stained cell's contrast, and JPEG changes the other colours more.
    coefficients = waves @ cell[..., 1].astype(np.float64) @ waves.T
    rows, columns = np.transpose(_FREQUENCIES)
    return np.packbits(coefficients[rows, columns] > _ROUNDING).view(np.uint64)
