"""Cells that a network learns to tell apart within a few steps."""

from typing import Any

import numpy as np
import numpy.typing as npt

from malaria.cells import prepare
from malaria.cells.prepared import Prepared


def toy_cells(doubtful: npt.NDArray[np.bool_] | None = None) -> Any:
    """`training.Cells`: 48 cells of 32 px, of which every second is parasitised, with a dark square."""
    # TensorFlow takes seconds to import.
    from malaria.train import training

    images = np.random.default_rng(0).integers(120, 200, (48, 32, 32, 3)).astype(np.uint8)
    images[1::2, 12:20, 12:20] //= 3
    labels = (np.arange(48) % 2).astype(np.float32)
    return training.Cells(images, np.arange(48), labels, doubtful)


def prepared(cells: npt.NDArray[np.uint8]) -> list[Prepared]:
    """Cells of one size, uint8 (n, size, size, 3), prepared for a bundle."""
    return [prepare.prepare(cell, len(cell), prepare.AS_IS) for cell in cells]
