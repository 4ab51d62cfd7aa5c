"""Answer concurrent requests with one network, in turn."""

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from malaria.bundle import Bundle
from malaria.cells.prepared import Prepared


@dataclass(frozen=True)
class Answer:
    """A bundle's answer for one crop.

    p_parasitized: calibrated, in [0, 1]; without meaning if the crop is rejected.
    rejected: why the crop is not a cell to judge, or None.
    map: as in `Bundle.explain`; None if the bundle gives none.
    look: quantities of the out-of-distribution check, float32 (q,).
    """

    p_parasitized: float
    rejected: str | None = None
    map: npt.NDArray[np.float32] | None = field(default=None, compare=False)
    look: npt.NDArray[np.float32] | None = field(default=None, compare=False)


class Judge:
    """Share one bundle between threads, with at most `most` cells in one call of the bundle.

    Calls have their turn in the order in which they were asked for, and a request asks for its next cells
    after it has the answers for these. So a single cell waits for at most `most` cells of each other thread,
    even while large batches are judged.
    """

    def __init__(self, bundle: Bundle, most: int = 32) -> None:
        self.bundle, self._most = bundle, most
        # One thread, because two must not use a bundle at the same time.
        self._turns = ThreadPoolExecutor(1)

    def ask(self, crops: Sequence[Prepared]) -> list[Answer]:
        """An answer for each crop; waits for the network."""
        answers: list[Answer] = []
        for start in range(0, len(crops), self._most):
            answers += self._turns.submit(self._judge, crops[start : start + self._most]).result()
        return answers

    def _judge(self, crops: Sequence[Prepared]) -> list[Answer]:
        said = self.bundle.run_prepared(crops)
        maps = itertools.repeat(None) if said.maps is None else said.maps
        return list(map(Answer, said.p_parasitized.tolist(), said.rejected, maps, said.look))
