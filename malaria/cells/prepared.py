"""A cell as networks see it: the result of `malaria.cells.prepare`, which the packed arrays hold."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Prepared:
    """A cell as networks see it.

    pixels: uint8 (size, size, 3). own: the cell's red, green and blue before it was prepared, in grey levels.
    shape: the crop's height and width in px; None if the out-of-distribution check is to ignore them.
    """

    pixels: npt.NDArray[np.uint8]
    own: tuple[int, int, int]
    shape: tuple[int, int] | None = None
