"""Answer concurrent requests with one network: cells that arrive while it is busy are judged in one batch."""

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

    A single cell waits for at most `most` cells of each other thread, even while large batches are judged.
    Two threads must not use a bundle at the same time: the one that holds the lock answers all waiting cells,
    in their order, until its own are done.
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
            requests = [(crop, Future[Answer]()) for crop in crops[start : start + self._most]]
            self._waiting.extend(requests)
            with self._lock:
                while not requests[-1][1].done():
                    self._answer_batch()
            answers += [future.result() for _, future in requests]
        return answers

    def _answer_batch(self) -> None:
        batch = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
        try:
            outputs = self.bundle.run_prepared([crop for crop, _ in batch])
        except Exception as error:  # all that wait for these cells must get the error
            for _, future in batch:
                future.set_exception(error)
            return
        maps = itertools.repeat(None) if outputs.maps is None else outputs.maps
        answers = map(Answer, outputs.p_parasitized.tolist(), outputs.rejected, maps, outputs.look)
        for (_, future), answer in zip(batch, answers, strict=True):
            future.set_result(answer)
