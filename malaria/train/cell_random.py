"""Random numbers that depend on (seed, epoch, cell) alone.

Shuffling and augmentation take their numbers from here, so a cell sees the same ones whatever ran
before: after a resume, beside other cells, in another order.
"""

import numpy as np
import numpy.typing as npt

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def uniform(seed: int, epoch: int, cells: npt.NDArray[np.uint64], count: int) -> npt.NDArray[np.float64]:
    """`count` numbers in [0, 1) for each cell.

    Args:
        cells: uint64 (n,), what identifies each cell.

    Returns:
        float64 (n, count): SplitMix64 (Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195) of
        seed, epoch, cell and the number's place.
    """
    run = _mix(np.uint64(seed) + _GOLDEN * np.arange(epoch + 1, epoch + 2, dtype=np.uint64))
    keys = _mix(cells ^ run)[:, None]
    bits = _mix(keys + _GOLDEN * np.arange(1, count + 1, dtype=np.uint64))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's finaliser, element by element; uint64 arithmetic wraps as it must."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
