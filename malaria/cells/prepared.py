"""A cell as networks see it: what `malaria.cells.prepare` gives, and the packed arrays hold."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Prepared:
    """A cell as networks see it.

    pixels: uint8 (size, size, 3); own: the red, green and blue that the cell had, in grey levels; shape: the
    crop's height and width, or None where they are not to be judged.
    """

    pixels: npt.NDArray[np.uint8]
    own: tuple[int, int, int]
    shape: tuple[int, int] | None = None
