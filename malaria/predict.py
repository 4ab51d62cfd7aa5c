"""Predictions for files, folders and zips of cells, one row an image."""

import csv
import functools
import io
import itertools
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import BinaryIO, TextIO

from malaria import images, labels
from malaria.bundle import Bundle
from malaria.errors import UserError

PREDICTED, UNREADABLE, REJECTED = "ok", "unreadable", "rejected"

# Images decoded before the network sees them: enough to keep all cores busy, little memory.
_CHUNK = 256

# Zips in zips, deeper than anyone packs them, are a bomb's mark.
_DEEPEST = 3

# A member larger than this is no cell crop.
_MOST_BYTES = 64 * 2**20

_LITTER = {"thumbs.db", "desktop.ini"}


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


def find(paths: Sequence[Path]) -> Iterator[Item]:
    """Every file of `paths`, folders and zips opened, nested as they come, in sorted order.

    An image inside a zip has the path `archive.zip/member`.

    Raises:
        UserError: a path does not exist.
    """
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist: name files, folders or zips of cells.")
        if path.is_dir():
            below = sorted(file for file in path.rglob("*") if file.is_file() and not is_litter(file.name))
            yield from itertools.chain.from_iterable(_file(file) for file in below)
        else:
            yield from _file(path)


def predict(bundle: Bundle, items: Iterable[Item]) -> Iterator[Row]:
    """A row for each item, in their order; one bad file never stops the rest."""

    def decode(item: Item) -> _Cell | str:
        try:
            pixels = images.read(item.read(), bundle.limits).pixels
        except images.Unreadable as error:
            return error.reason
        except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:
            return f"cannot be read: {error}"
        # A chunk of large pictures would take gigabytes at their own size.
        return _Cell(images.resize(pixels, bundle.record.input_size), pixels.shape[:2])

    stream = iter(items)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        decoding = pool.map(decode, chunk := list(itertools.islice(stream, _CHUNK)))
        while chunk:
            decoded = list(decoding)
            current = chunk
            # The next images are decoded while the network sees these.
            decoding = pool.map(decode, chunk := list(itertools.islice(stream, _CHUNK)))
            yield from _rows(bundle, current, decoded)


def write(rows: Iterable[Row], out: TextIO) -> None:
    """Write rows as CSV with a header; probabilities to six places."""
    writer = csv.writer(out, lineterminator="\n")
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


def _file(path: Path) -> Iterator[Item]:
    if zipfile.is_zipfile(path):
        yield from _members(path.as_posix(), path, 1)
    else:
        yield Item(path.as_posix(), path.read_bytes)


def _members(name: str, archive: Path | BinaryIO, depth: int) -> Iterator[Item]:
    try:
        with zipfile.ZipFile(archive) as pack:
            for info in sorted(pack.infolist(), key=lambda info: info.filename):
                path = f"{name}/{info.filename}"
                if info.is_dir() or is_litter(info.filename.rsplit("/", 1)[-1]):
                    continue
                # Read now: the archive is closed by the time a chunk is decoded.
                try:
                    content = pack.read(info) if info.file_size <= _MOST_BYTES else None
                except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, OSError):
                    content = b""
                if content is None:
                    yield Item(path, _fail(f"larger than {_MOST_BYTES:,} bytes"))
                elif depth < _DEEPEST and zipfile.is_zipfile(io.BytesIO(content)):
                    yield from _members(path, io.BytesIO(content), depth + 1)
                else:
                    yield Item(path, functools.partial(bytes, content))
    except zipfile.BadZipFile:
        yield Item(name, _fail("damaged zip"))


def _fail(reason: str) -> Callable[[], bytes]:
    def read() -> bytes:
        raise images.Unreadable(reason)

    return read


def is_litter(name: str) -> bool:
    """Whether a file of this name is one that systems leave beside pictures."""
    return name.startswith(".") or name.lower() in _LITTER
