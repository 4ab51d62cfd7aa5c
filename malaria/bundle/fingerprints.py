"""Which cells a model was made with: short marks of what the network saw of each, in the bundle.

Whoever tests the model on cells of his own can so tell the ones it has met. A mark is a perceptual hash:
the signs of a cell's low frequencies, so that a copy of another size, or compressed anew, is known too,
whatever the file's name, format or metadata. A cell that was cut out anew, or turned, is not.
"""

import io
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from malaria.cells.images import Pixels
from malaria.errors import UserError

# uint64 (n, 2), a row a cell.
Marks = npt.NDArray[np.uint64]

# Bits of 128 in which a copy's mark may differ. Of 159 NIH cells at their original size all are so near to
# their public 50 px copies by `resize` (1 bit at most), and by JPEG of quality 85 before it; 157 by Pillow's
# bilinear filter. Of the 22,058 public ones, all different, one pair in 243 million is.
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


def marks(cells: Iterable[Pixels]) -> Marks:
    """The mark of each cell, in their order; a cell is uint8 (size, size, 3), resized."""
    found = [_mark(cell) for cell in cells]
    return np.array(found, dtype=np.uint64).reshape(len(found), 2)


def known(record: Marks, cells: Iterable[Pixels]) -> npt.NDArray[np.bool_]:
    """Whether each of `cells`, as `marks` takes them, or a copy of it is in `record`, bool (n,)."""
    return np.array(
        [bool((np.bitwise_count(record ^ mark).sum(axis=1) <= TOLERANCE).any()) for mark in marks(cells)],
        dtype=np.bool_,
    )


def to_bytes(record: Marks) -> bytes:
    """The record as a .npy file, sorted, so that the order of the cells tells nothing."""
    out = io.BytesIO()
    np.save(out, record[np.lexsort(record.T[::-1])], allow_pickle=False)
    return out.getvalue()


def from_bytes(content: bytes) -> Marks | None:
    """Read what `to_bytes` wrote; None for a record of bundles before this one, which knew no copies.

    Raises:
        UserError: it is no such record.
    """
    record: Marks | None
    try:
        record = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, OSError, EOFError):
        record = None
    if record is None or record.dtype != np.uint64 or record.shape[1:] not in ((), (2,)):
        raise UserError("The bundle's record of its training cells is damaged: fetch the bundle again.")
    return record if record.ndim == 2 else None


def _mark(cell: Pixels) -> npt.NDArray[np.uint64]:
    places = np.arange(len(cell)) + 0.5
    waves = np.cos(np.pi * np.outer(np.arange(_SLOWEST), places) / len(cell))
    # Green alone: it has most of a stained cell's contrast, and JPEG changes the other colours more.
    coefficients = waves @ cell[..., 1].astype(np.float64) @ waves.T
    rows, columns = np.transpose(_FREQUENCIES)
    return np.packbits(coefficients[rows, columns] > _ZERO).view(np.uint64)
