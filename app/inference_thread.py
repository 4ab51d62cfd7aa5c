"""Many ask, one network answers: whoever waits while it is busy is answered together."""

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from malaria.bundle import Bundle
from malaria.cells import images


@dataclass(frozen=True)
class Crop:
    """A crop as the network takes it, uint8 (size, size, 3), and the height and width that it had."""

    pixels: images.Pixels
    shape: tuple[int, int]


@dataclass(frozen=True)
class Answer:
    """What the bundle says of one crop: calibrated P(parasitised), and why it is no cell to judge, or
    None. P of what is no cell means nothing.
    """

    p_parasitized: float
    rejected: str | None = None


@dataclass(frozen=True)
class Asked:
    """Crops that somebody waits for, and where he waits for their answers."""

    crops: Sequence[Crop]
    answer: "Future[list[Answer]]"


class Judge:
    """Answers from several threads at once, at most `most` cells in a call of the bundle.

    That bounds how long a single cell waits while a large batch is judged: for no more than so many cells
    of each who asks. A bundle must not be used by two threads at a time; one thread of this class alone
    uses it.
    """

    def __init__(self, bundle: Bundle, most: int = 32) -> None:
        self.bundle = bundle
        self._most = most
        self._waiting: queue.SimpleQueue[Asked] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="network", daemon=True).start()

    def crop(self, pixels: images.Pixels) -> Crop:
        """A crop of any size, uint8 (h, w, 3), as `ask` takes it: what waits must be small."""
        height, width = pixels.shape[:2]
        return Crop(images.resize(pixels, self.bundle.record.input_size), (height, width))

    def ask(self, crops: Sequence[Crop]) -> list[Answer]:
        """An answer for each crop; waits for the network."""
        answers: list[Answer] = []
        for start in range(0, len(crops), self._most):
            asked = Asked(crops[start : start + self._most], Future())
            self._waiting.put(asked)
            answers += asked.answer.result()
        return answers

    def _work(self) -> None:
        first = None
        while True:
            asked, first = together(first or self._waiting.get(), self._waiting, self._most)
            self._answer(asked)

    def _answer(self, asked: Sequence[Asked]) -> None:
        crops = [crop for one in asked for crop in one.crops]
        try:
            said = self.bundle.run([crop.pixels for crop in crops], [crop.shape for crop in crops])
        except Exception as error:  # whoever asked must hear of it, and the next be answered
            for one in asked:
                one.answer.set_exception(error)
            return
        answers = [
            Answer(float(p), reason) for p, reason in zip(said.p_parasitized, said.rejected, strict=True)
        ]
        for one in asked:
            one.answer.set_result(answers[: len(one.crops)])
            answers = answers[len(one.crops) :]


def together(
    first: Asked, waiting: "queue.SimpleQueue[Asked]", most: int
) -> tuple[list[Asked], Asked | None]:
    """`first` and who waits behind it, while all their crops are at most `most`; and who is first then,
    where he was taken from those `waiting` and has no room.
    """
    asked, room = [first], most - len(first.crops)
    while True:
        try:
            one = waiting.get_nowait()
        except queue.Empty:
            return asked, None
        room -= len(one.crops)
        if room < 0:
            return asked, one
        asked.append(one)
