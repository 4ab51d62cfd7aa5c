"""Predictions for images, one row each; `malaria.predict.inputs` finds them."""

import csv
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import TextIO

from malaria import labels
from malaria.bundle import Bundle
from malaria.cells import images

PREDICTED, UNREADABLE, REJECTED = "ok", "unreadable", "rejected"

# Images decoded before the network sees them: enough to keep all cores busy, little memory.
_CHUNK = 256


@dataclass(frozen=True)
class Row:
    """One image's verdict; `p_parasitized` and `category` are None unless `status` is ok."""

    path: str
    p_parasitized: float | None
    category: str | None
    status: str
    reason: str


@dataclass(frozen=True)
class _Cell:
    """A decoded image: uint8 (size, size, 3), resized, and the height and width that it had."""

    pixels: images.Pixels
    shape: tuple[int, int]


@dataclass(frozen=True)
class Item:
    """An image yet to be read: `path` is what the row will say, `read` gives its bytes."""

    path: str
    read: Callable[[], bytes]


def predict(bundle: Bundle, items: Iterable[Item], readers: int | None = None) -> Iterator[Row]:
    """A row for each item, in their order; one bad file never stops the rest.

    Args:
        readers: items read and decoded at once; None takes as many as there are cores.
    """

    def decode(item: Item) -> _Cell | str:
        try:
            pixels = images.read(item.read(), bundle.limits).pixels
        except images.Unreadable as error:
            return error.reason
        except OSError as error:
            return f"cannot be read: {error.strerror or error}"
        # A chunk of large pictures would take gigabytes at their own size.
        return _Cell(images.resize(pixels, bundle.record.input_size), pixels.shape[:2])

    stream = iter(items)
    with ThreadPoolExecutor(readers or os.cpu_count()) as pool:
        decoding = pool.map(decode, chunk := list(itertools.islice(stream, _CHUNK)))
        while chunk:
            decoded = list(decoding)
            current = chunk
            # The next images are decoded while the network sees these.
            decoding = pool.map(decode, chunk := list(itertools.islice(stream, _CHUNK)))
            yield from _rows(bundle, current, decoded)


def write(rows: Iterable[Row], out: TextIO, *, header: bool = True) -> None:
    """Write rows as CSV; probabilities to six places."""
    writer = csv.writer(out, lineterminator="\n")
    if header:
        writer.writerow([field.name for field in fields(Row)])
    for row in rows:
        p = "" if row.p_parasitized is None else f"{row.p_parasitized:.6f}"
        writer.writerow([row.path, p, row.category or "", row.status, row.reason])


def _rows(bundle: Bundle, items: list[Item], decoded: list[_Cell | str]) -> Iterator[Row]:
    cells = [cell for cell in decoded if isinstance(cell, _Cell)]
    said = bundle.run([cell.pixels for cell in cells], [cell.shape for cell in cells])
    answers = zip(said.p_parasitized, said.rejected, strict=True)
    for item, cell in zip(items, decoded, strict=True):
        if isinstance(cell, str):
            yield Row(item.path, None, None, UNREADABLE, cell)
            continue
        p, reason = next(answers)
        if reason is not None:
            yield Row(item.path, None, None, REJECTED, reason)
        else:
            yield Row(item.path, float(p), labels.category(p), PREDICTED, "")
