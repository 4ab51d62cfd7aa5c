"""Which cells a model was made with: short hashes of what the network saw of each, in the bundle.

Whoever tests the model on cells of his own can so tell the ones it has met. Equal pixels at the
network's input size are the same cell, whatever the file's name, format or metadata; a copy with
other pixels (compressed anew, say) is not recognised.
"""

import hashlib
import io
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from malaria.errors import UserError
from malaria.images import Pixels

# Eight bytes a cell: among a million cells, a chance of some 1 in 10^13 that a new one is taken for one.
Hashes = npt.NDArray[np.uint64]


def hashes(cells: Iterable[Pixels]) -> Hashes:
    """The hash of each cell, uint64 (n,), in their order; a cell is uint8 (size, size, 3), resized."""
    return np.array(
        [int.from_bytes(hashlib.sha256(cell.tobytes()).digest()[:8], "big") for cell in cells],
        dtype=np.uint64,
    )


def known(record: Hashes, cells: Iterable[Pixels]) -> npt.NDArray[np.bool_]:
    """Whether each of `cells`, as `hashes` takes them, is in `record`, bool (n,)."""
    return np.isin(hashes(cells), record)


def to_bytes(record: Hashes) -> bytes:
    """The record as a .npy file, sorted, so that the order of the cells tells nothing."""
    out = io.BytesIO()
    np.save(out, np.sort(record), allow_pickle=False)
    return out.getvalue()


def from_bytes(content: bytes) -> Hashes:
    """Read what `to_bytes` wrote; UserError where it is no such record."""
    record: Hashes | None
    try:
        record = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, OSError, EOFError):
        record = None
    if record is None or record.dtype != np.uint64 or record.ndim != 1:
        raise UserError("The bundle's record of its training cells is damaged: fetch the bundle again.")
    return record
