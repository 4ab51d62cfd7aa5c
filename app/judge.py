"""Many ask, one network answers: whoever waits while it is busy is answered together."""

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from malaria import images
from malaria.bundle import Bundle

Cells = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Answer:
    """What the network says of one cell: calibrated P(parasitised), or why it is no cell to judge."""

    p_parasitized: float | None
    rejected: str | None = None


class Judge:
    """Answers from several threads at once, in calls of at most `most` cells where more wait.

    A bundle must not be used by two threads at a time; one thread of this class alone uses it.
    """

    def __init__(self, bundle: Bundle, most: int = 32) -> None:
        self.bundle = bundle
        self._most = most
        self._waiting: queue.SimpleQueue[tuple[Cells, Future[list[Answer]]]] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="network", daemon=True).start()

    def resize(self, cell: images.Pixels) -> Cells:
        """A crop of any size, uint8 (h, w, 3), as the network takes it."""
        return images.resize(cell, self.bundle.record.input_size)

    def ask(self, cells: Sequence[Cells] | Cells) -> list[Answer]:
        """An answer for each of `cells`, uint8 (n, size, size, 3), resized; waits for the network."""
        answers: list[Answer] = []
        for start in range(0, len(cells), self._most):
            answer: Future[list[Answer]] = Future()
            self._waiting.put((np.asarray(cells[start : start + self._most]), answer))
            answers += answer.result()
        return answers

    def _work(self) -> None:
        while True:
            asked = [self._waiting.get()]
            while sum(len(cells) for cells, _ in asked) < self._most:
                try:
                    asked.append(self._waiting.get_nowait())
                except queue.Empty:
                    break
            self._answer(asked)

    def _answer(self, asked: list[tuple[Cells, "Future[list[Answer]]"]]) -> None:
        try:
            answers = answers_of(self.bundle, np.concatenate([cells for cells, _ in asked]))
        except Exception as error:  # whoever asked must hear of it, and the next be answered
            for _, answer in asked:
                answer.set_exception(error)
            return
        for cells, answer in asked:
            answer.set_result(answers[: len(cells)])
            answers = answers[len(cells) :]


def answers_of(bundle: Bundle, cells: Cells) -> list[Answer]:
    """One call of the bundle, in this thread."""
    return [Answer(float(p)) for p in bundle.run(cells).p_parasitized]
