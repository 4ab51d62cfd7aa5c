"""Which cells a model was made with: a short fingerprint of each, in the bundle.

You can so tell the cells of a test set that the model was made with. A fingerprint is a perceptual hash: the
signs of a cell's low frequencies, so that a copy of another size, or compressed anew, is known too,
whatever the file's name, format or metadata. A cell that was cut out anew, or turned, is not.
"""

import io
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from malaria.cells.images import Pixels
from malaria.errors import UserError

# uint64 (n, 2), one row for each cell.
Fingerprints = npt.NDArray[np.uint64]

# Bits of 128 in which a copy's fingerprint may differ. Of 159 NIH cells at their original size all are so
# near to their public 50 px copies by `resize` (1 bit at most), and by JPEG of quality 85 before it; 157 by
# Pillow's bilinear filter. Of the 22,058 public ones, all different, one pair in 243 million is.
TOLERANCE = 10

# Of the cosine transform's coefficients (row, column) the 128 slowest that are odd in one of both: of these a
# round cell on black has as many above zero as below.
_SLOWEST = 20
_FREQUENCIES = sorted(
    ((row, column) for row in range(_SLOWEST) for column in range(_SLOWEST) if row % 2 or column % 2),
    key=lambda at: (at[0] ** 2 + at[1] ** 2, at),
)[:128]
# What is less is rounding.
_ZERO = 1e-6


def of(cells: Iterable[Pixels]) -> Fingerprints:
    """The fingerprint of each cell, in their order; a cell is uint8 (size, size, 3), resized."""
    return np.array([_of(cell) for cell in cells], dtype=np.uint64).reshape(-1, 2)


def known(fingerprints: Fingerprints, cells: Iterable[Pixels]) -> npt.NDArray[np.bool_]:
    """Whether each of `cells`, as `of` takes them, or a copy of it has its fingerprint here, bool (n,)."""
    differ = (np.bitwise_count(fingerprints ^ one).sum(axis=1) for one in of(cells))
    return np.array([(bits <= TOLERANCE).any() for bits in differ], dtype=np.bool_)


def to_bytes(fingerprints: Fingerprints) -> bytes:
    """A .npy file, sorted, so that the order of the cells tells nothing."""
    out = io.BytesIO()
    np.save(out, fingerprints[np.lexsort(fingerprints.T[::-1])], allow_pickle=False)
    return out.getvalue()


def from_bytes(content: bytes) -> Fingerprints | None:
    """Read what `to_bytes` wrote; None for a file of earlier bundles, which knew no copies.

    Raises:
        UserError: it is no such file.
    """
    found: Fingerprints | None
    try:
        # Not np.load, which opens zips too.
        found = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except (ValueError, OSError, EOFError):
        found = None
    if found is None or found.dtype != np.uint64 or found.shape[1:] not in ((), (2,)):
        raise UserError("The bundle's record of its training cells is damaged: fetch the bundle again.")
    return found if found.ndim == 2 else None


def _of(cell: Pixels) -> npt.NDArray[np.uint64]:
    """The fingerprint of one cell, uint64 (2,)."""
    places = np.arange(len(cell)) + 0.5
    waves = np.cos(np.pi * np.outer(np.arange(_SLOWEST), places) / len(cell))
    # Green alone: it has most of a stained cell's contrast, and JPEG changes the other colours more.
    coefficients = waves @ cell[..., 1].astype(np.float64) @ waves.T
    rows, columns = np.transpose(_FREQUENCIES)
    return np.packbits(coefficients[rows, columns] > _ZERO).view(np.uint64)
