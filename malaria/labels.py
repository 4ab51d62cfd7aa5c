"""The names of the two classes, which one is positive, and the number of each.

Class folders sorted by name would make `Parasitized` 0 and `Uninfected` 1, as Keras does by
default. Here the positive class is `Parasitized` and its value is 1, everywhere.
"""

import numpy as np
import numpy.typing as npt

UNINFECTED = "Uninfected"
PARASITIZED = "Parasitized"

# A label's value is its position here.
LABELS = (UNINFECTED, PARASITIZED)


def category(p_parasitized: float, threshold: float = 0.5) -> str:
    """The label of a cell whose probability is `p_parasitized`; the threshold itself is positive."""
    return PARASITIZED if p_parasitized >= threshold else UNINFECTED


def values(names: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """1 where a label is `Parasitized` and 0 where it is `Uninfected`, int64 (n,)."""
    return np.asarray(np.asarray(names) == PARASITIZED, dtype=np.int64)
