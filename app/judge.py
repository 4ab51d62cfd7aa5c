"""Many ask, one network answers: whoever waits while it is busy is answered together."""

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from malaria import images
from malaria.bundle import Bundle


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


class Judge:
    """Answers from several threads at once, in calls of at most `most` cells where more wait.

    A bundle must not be used by two threads at a time; one thread of this class alone uses it.
    """

    def __init__(self, bundle: Bundle, most: int = 32) -> None:
        self.bundle = bundle
        self._most = most
        self._waiting: queue.SimpleQueue[tuple[Sequence[Crop], Future[list[Answer]]]] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="network", daemon=True).start()

    def crop(self, pixels: images.Pixels) -> Crop:
        """A crop of any size, uint8 (h, w, 3), as `ask` takes it: what waits must be small."""
        height, width = pixels.shape[:2]
        return Crop(images.resize(pixels, self.bundle.record.input_size), (height, width))

    def ask(self, crops: Sequence[Crop]) -> list[Answer]:
        """An answer for each crop; waits for the network."""
        answers: list[Answer] = []
        for start in range(0, len(crops), self._most):
            answer: Future[list[Answer]] = Future()
            self._waiting.put((crops[start : start + self._most], answer))
            answers += answer.result()
        return answers

    def _work(self) -> None:
        while True:
            asked = [self._waiting.get()]
            while sum(len(crops) for crops, _ in asked) < self._most:
                try:
                    asked.append(self._waiting.get_nowait())
                except queue.Empty:
                    break
            self._answer(asked)

    def _answer(self, asked: list[tuple[Sequence[Crop], "Future[list[Answer]]"]]) -> None:
        together = [crop for crops, _ in asked for crop in crops]
        try:
            said = self.bundle.run([crop.pixels for crop in together], [crop.shape for crop in together])
        except Exception as error:  # whoever asked must hear of it, and the next be answered
            for _, answer in asked:
                answer.set_exception(error)
            return
        answers = [
            Answer(float(p), reason) for p, reason in zip(said.p_parasitized, said.rejected, strict=True)
        ]
        for crops, answer in asked:
            answer.set_result(answers[: len(crops)])
            answers = answers[len(crops) :]
