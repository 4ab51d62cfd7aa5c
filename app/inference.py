"""Many ask, one network answers: those who wait while it is busy are answered together."""

import itertools
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from malaria.bundle import Bundle
from malaria.cells.prepared import Prepared


@dataclass(frozen=True)
class Answer:
    """What the bundle says of one crop: calibrated P(parasitised), why it is no cell to judge, or None, and
    the map of `Bundle.explain`, where it has one. P of what is no cell means nothing. `look`: the check's
    quantities, float32 (q,).
    """

    p_parasitized: float
    rejected: str | None = None
    map: npt.NDArray[np.float32] | None = field(default=None, compare=False)
    look: npt.NDArray[np.float32] | None = field(default=None, compare=False)


class Judge:
    """Answers several threads at once, at most `most` cells in a call of the bundle.

    That bounds how long a single cell waits while a large batch is judged: for no more than so many cells
    of each who asks. Two threads must not use a bundle at a time: the one that holds the lock answers all
    that wait, in their order, until its own turn has come.
    """

    def __init__(self, bundle: Bundle, most: int = 32) -> None:
        self.bundle = bundle
        self._most = most
        self._waiting: deque[tuple[Prepared, Future[Answer]]] = deque()
        self._lock = threading.Lock()

    def ask(self, crops: Sequence[Prepared]) -> list[Answer]:
        """An answer for each crop; waits for the network."""
        answers: list[Answer] = []
        for start in range(0, len(crops), self._most):
            asked = [(crop, Future[Answer]()) for crop in crops[start : start + self._most]]
            self._waiting.extend(asked)
            with self._lock:
                while not asked[-1][1].done():
                    self._answer()
            answers += [answer.result() for _, answer in asked]
        return answers

    def _answer(self) -> None:
        asked = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
        try:
            said = self.bundle.run_prepared([crop for crop, _ in asked])
        except Exception as error:  # each that asked must hear of it, and the next be answered
            for _, answer in asked:
                answer.set_exception(error)
            return
        maps = itertools.repeat(None) if said.maps is None else said.maps
        found = map(Answer, said.p_parasitized.tolist(), said.rejected, maps, said.look)
        for (_, answer), one in zip(asked, found, strict=True):
            answer.set_result(one)
