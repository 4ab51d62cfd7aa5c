"""Predictions for images, one row each; `malaria.predict.inputs` finds the images."""

import csv
import itertools
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import TextIO

from malaria import files, labels, running
from malaria.bundle import Bundle
from malaria.bundle.ood import Looks
from malaria.cells import images
from malaria.cells.prepared import Prepared
from malaria.errors import UserError
from malaria.predict import stores

PREDICTED, UNREADABLE, REJECTED = "ok", "unreadable", "rejected"

# The start of the reason if the system or the store gives no bytes at all.
NOT_READ = "cannot be read: "

# Images decoded before the network sees them: enough to keep all cores busy, and little memory. Fewer if the
# images that are already in memory, as those of a zip, take more than _CHUNK_BYTES.
_CHUNK_IMAGES, _CHUNK_BYTES = 256, 2**28

# The start of a text that a spreadsheet takes for a formula, or loses; apostrophes may come before it. Some
# take the wide signs of East Asian keyboards for one, too.
_FORMULA = re.compile(r"'*[=+\-@\t\r\uff1d\uff0b\uff0d\uff20]")


@dataclass(frozen=True)
class Row:
    """The result for one image; `p_parasitized` and `category` are None unless `status` is ok.

    `reason` says why the status is not ok, followed by notes on how the image was read. If the status is ok,
    it has the notes alone.
    """

    path: str
    p_parasitized: float | None
    category: str | None
    status: str
    reason: str


@dataclass(frozen=True)
class Item:
    """An image that is not read yet.

    `path`: as in its row. `read`: returns its bytes. `held`: how many of these are in memory already.
    """

    path: str
    read: Callable[[], bytes]
    held: int = 0


def predict(
    bundle: Bundle,
    items: Iterable[Item],
    readers: int | None = None,
    threshold: float = 0.5,
    looks: Looks | None = None,
) -> Iterator[Row]:
    """A row for each item, in order; a bad file never stops the rest.

    Args:
        readers: items read and decoded at once; None for one per core.
        threshold: P(parasitised) from which a cell is called parasitised, in [0, 1].
        looks: adds up how the judged cells look, for `Bundle.foreign`.

    Raises:
        UserError: decoding an image takes more than the limits of `malaria.cells.sandbox` allow.
    """

    def decode(item: Item) -> tuple[Prepared, tuple[str, ...]] | str:
        try:
            crop = images.read(item.read(), bundle.limits, item.path)
        except images.Unreadable as error:
            return error.reason
        except OSError as error:
            return f"{NOT_READ}{error.strerror or error}"
        # Prepared here, because a chunk of large pictures would take gigabytes at full size.
        return bundle.prepare(crop.pixels), crop.notes

    stream = iter(items)
    with ThreadPoolExecutor(readers or running.cores()) as pool:
        decoding = pool.map(decode, chunk := _chunk(stream))
        while chunk:
            paths, decoded = [item.path for item in chunk], list(decoding)
            # The next images are decoded while the network sees these.
            decoding = pool.map(decode, chunk := _chunk(stream))
            yield from predict_decoded(bundle, paths, decoded, threshold, looks)


def _chunk(items: Iterator[Item]) -> list[Item]:
    """The next items: `_CHUNK_IMAGES`, or fewer that hold `_CHUNK_BYTES` in memory."""
    chunk, held = list[Item](), 0
    for item in itertools.islice(items, _CHUNK_IMAGES):
        chunk.append(item)
        held += item.held
        if held >= _CHUNK_BYTES:
            break
    return chunk


def write(rows: Iterable[Row], out: TextIO, kind: type[Row] = Row) -> Counter[str]:
    """Write rows of a `kind` as CSV, numbers to six places, and count them by status and by category.

    A path or reason that a spreadsheet would take for a formula gets an apostrophe before it. So does one
    that has apostrophes before such a formula, so that removing one apostrophe always restores the text.
    """
    # csv quotes a carriage return only if the line terminator has one; unquoted it would end the row.
    output = SimpleNamespace(write=lambda line: out.write(line.removesuffix("\r\n") + "\n"))
    writer = csv.writer(output, lineterminator="\r\n")
    names = [field.name for field in fields(kind)]
    writer.writerow(names)
    counts = Counter[str]()
    for row in rows:
        counts.update([row.status, *filter(None, [row.category])])
        writer.writerow([_text(getattr(row, name)) for name in names])
    return counts


def _text(value: object) -> str:
    return f"{value:.6f}" if isinstance(value, float) else "" if value is None else escaped(str(value))


def save(rows: Iterable[Row], out: str, kind: type[Row] = Row) -> Counter[str]:
    """`write` to a local file or an object in a store, completely or not at all.

    Raises:
        UserError: the store does not accept it.
    """
    with (
        stores.atomic_output(out) as part,
        part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        return write(rows, file, kind)


@contextmanager
def disk_errors(out: str) -> Iterator[None]:
    """Turn an error of the disk on writing `out` into a UserError; a folder is refused at once."""
    check_out(out)
    with files.disk_errors(out, "free some disk, or name another --out"):
        yield


def check_out(out: str) -> None:
    """Raise UserError if `out` is a folder."""
    if not stores.is_remote(out) and os.path.isdir(out):
        raise UserError(f"--out is {out}, a folder: name a file in it.")


def escaped(text: str) -> str:
    """`text` as a cell of a table for spreadsheets, escaped as in `write`."""
    return f"'{text}" if _FORMULA.match(text) else text


def predict_decoded(
    bundle: Bundle,
    paths: Sequence[str],
    decoded: Sequence[tuple[Prepared, tuple[str, ...]] | str],
    threshold: float = 0.5,
    looks: Looks | None = None,
) -> Iterator[Row]:
    """A row for each of `paths`.

    Args:
        decoded: for each path the prepared cell and notes on it, or the reason why it was not read.
    """
    predictions = bundle.run_prepared([item[0] for item in decoded if not isinstance(item, str)])
    if looks is not None:
        looks.add(predictions.look[[reason is None for reason in predictions.rejected]])
    results = zip(predictions.p_parasitized, predictions.rejected, strict=True)
    for path, item in zip(paths, decoded, strict=True):
        if isinstance(item, str):
            yield Row(path, None, None, UNREADABLE, item)
            continue
        (p, reason), notes = next(results), item[1]
        if reason is not None:
            yield Row(path, None, None, REJECTED, "; ".join([reason, *notes]))
        else:
            yield Row(path, float(p), labels.category(p, threshold), PREDICTED, "; ".join(notes))
