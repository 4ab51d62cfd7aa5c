"""The game of the tab *Test it*: rounds of labelled cells, from a folder or synthetic, with a score."""

import itertools
import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from malaria import labels
from malaria.cells import images
from malaria.errors import UserError
from malaria.files import is_litter

from . import decoder, pictures, verdict
from .inference import Answer
from .model import Model

# Cells of one round.
_CELLS = 12

_RANDOM = random.SystemRandom()

# Pipelines draw their sample with smaller seeds, so that these synthetic cells are new to every model.
_LEAST_SEED = 2**40


# What rounds are drawn from: files with their labels; empty for synthetic cells.
Source = tuple[tuple[Path, str], ...]


@dataclass(frozen=True)
class Card:
    """One cell of a round: its picture (data URI), its label, and the model's answer.

    `known`: whether the model was made with this cell; None if its bundle does not say.
    `guess`: the label that the visitor gave. `open`: whether label and answer are shown.
    """

    picture: str
    label: str
    answer: Answer
    known: bool | None
    guess: str | None = None
    open: bool = False


@dataclass(frozen=True)
class Tally:
    """The score: of `cells` shown cells `model` are right, of the `guessed` ones `person` are right.

    `rejected` further cells, which the model rejects, do not count.
    """

    cells: int
    model: int
    guessed: int
    person: int
    rejected: int = 0


def find(folder: Path | None) -> Source:
    """List the cells of a folder with the sub-folders Parasitized and Uninfected; for None, no cells.

    Raises:
        UserError: there is no such folder, or no file in its sub-folders.
    """
    if folder is None:
        return ()
    files = tuple(
        (path, label)
        for label in labels.LABELS
        if (folder / label).is_dir()
        # Not glob, which passes over a folder that may not be listed.
        for path in sorted((folder / label).iterdir())
        if path.is_file() and not is_litter(path.name)
    )
    if not files:
        raise UserError(
            f"{folder} holds no labelled cells: --cells needs a folder with the sub-folders "
            f"{' and '.join(labels.LABELS)}."
        )
    return files


def draw(source: Source, model: Model) -> tuple[Card, ...]:
    """Draw up to twelve cells at random, with the model's answers; unreadable files are skipped."""
    sample = _from_files(source, model) if source else _synthetic()
    return tuple(
        Card(pictures.data_uri(pixels, pictures.SHOWN // 2), label, model.answer(pixels), model.knows(pixels))
        for pixels, label in itertools.islice(sample, _CELLS)
    )


def _synthetic() -> list[tuple[images.Pixels, str]]:
    cells = pictures.cells(_CELLS, _LEAST_SEED + _RANDOM.randrange(2**20))
    return [(pixels, labels.LABELS[parasitized]) for pixels, parasitized in _RANDOM.sample(cells, _CELLS)]


def _from_files(source: Source, model: Model) -> Iterator[tuple[images.Pixels, str]]:
    with decoder.start(model.bundle.limits) as decode:
        for path, label in _RANDOM.sample(source, min(4 * _CELLS, len(source))):
            with suppress(images.Unreadable):
                yield decode(path).pixels, label


def current(cards: tuple[Card, ...]) -> int | None:
    """Index of the first cell that is still hidden; None when all are open."""
    return next((index for index, card in enumerate(cards) if not card.open), None)


def guess(cards: tuple[Card, ...], label: str | None) -> tuple[Card, ...]:
    """Open the current cell, with the visitor's guess `label`; None opens it without one."""
    index = current(cards)
    if index is None:
        return cards
    return (*cards[:index], replace(cards[index], guess=label, open=True), *cards[index + 1 :])


def reveal(cards: tuple[Card, ...]) -> tuple[Card, ...]:
    """Open all cells that are left, without a guess."""
    return tuple(card if card.open else replace(card, open=True) for card in cards)


def tally(cards: tuple[Card, ...], point: verdict.Point) -> Tally:
    """Score the open cells, except those that the model was made with."""
    opened = [card for card in cards if card.open and not card.known]
    scored = [card for card in opened if card.answer.rejected is None]
    guessed = [card for card in scored if card.guess is not None]
    return Tally(
        cells=len(scored),
        model=sum(category(card, point) == card.label for card in scored),
        guessed=len(guessed),
        person=sum(card.guess == card.label for card in guessed),
        rejected=len(opened) - len(scored),
    )


def category(card: Card, point: verdict.Point) -> str | None:
    """The model's category for a cell; None if it rejects the cell."""
    return verdict.of(card.answer, point, synthetic=False).category
