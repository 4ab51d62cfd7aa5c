"""From what a visitor sent to pixels, with bounds on everything."""

import contextlib
import os
import stat
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from malaria.cells import images
from malaria.errors import UserError
from malaria.fetch import archives
from malaria.predict import inputs

MOST_BYTES = 20 * 2**20  # a file; zips too
MOST_CELLS = 1000  # a batch, zips unpacked
_ZIP = archives.Limits(members=MOST_CELLS, size=256 * 2**20, ratio=100)

TOO_MANY = f"more than {MOST_CELLS:,} cells at once"
NOT_UPLOADED = "not a file that was uploaded here"
DAMAGED_ZIP = "a zip that is damaged, encrypted, or packed by another method than deflate"
ZIP64 = "a zip64, which is for more than is taken here: send a plain zip"

# Bytes of a zip's list of members that are read at all: a file of 20 MB might list half a million.
_MOST_DIRECTORY = 2**20
_END, _END64 = b"PK\5\6", b"PK\6\7"

# Of a place where no file reaches the stream itself says so, by a ValueError.
_BROKEN = (*archives.DAMAGED_ZIP, OSError, ValueError)


@dataclass(frozen=True)
class Upload:
    """One image of a batch: its pixels, or why there are none."""

    name: str
    pixels: images.Pixels | None
    reason: str = ""


def make_room(folder: Path, most: int, seconds: float) -> None:
    """Delete what was uploaded more than so many seconds ago, and the oldest of what is over `most` bytes."""
    found = []
    for file in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            state = file.stat()
            if stat.S_ISREG(state.st_mode):
                found.append((state.st_mtime, state.st_size, file))
    total = 0
    for changed, size, file in sorted(found, reverse=True):
        total += size
        if total > most or changed < time.time() - seconds:
            file.unlink(missing_ok=True)


def own(path: object, folder: Path) -> Path:
    """`path` as a file that lies below the upload `folder`, links resolved.

    Raises:
        images.Unreadable: it is none, whatever else it may name.
    """
    if not isinstance(path, str) or "\0" in path:
        raise images.Unreadable(NOT_UPLOADED)
    try:
        file = Path(path).resolve()
        inside = file.is_relative_to(folder.resolve()) and file.is_file()
    except (OSError, ValueError):
        inside = False
    if not inside:
        raise images.Unreadable(NOT_UPLOADED)
    return file


def sent(file: object, folder: Path) -> tuple[str, Path]:
    """The name that a visitor gave to a file, without folders, and where it lies.

    Args:
        file: what Gradio hands on for an uploaded file: FileData, or a dictionary of that shape.

    Raises:
        images.Unreadable: as `own`.
    """
    content = file if isinstance(file, dict) else vars(file) if hasattr(file, "path") else {}
    path = own(content.get("path"), folder)
    return Path(str(content.get("orig_name") or path)).name, path


def many(files: Sequence[tuple[str, Path]], limits: images.Limits) -> Iterator[Upload]:
    """Every image of named files, zips opened, one after the other; bad ones never stop the rest.

    Only one image is held at a time. A zip in a zip is no image. A zip that is unsafe as a whole
    (links, paths outside it, a bomb) or empty gives one row that says so.
    """
    given = 0
    for name, file in files:
        for upload in _zipped(name, file, limits) if is_zip(file) else [_plain(name, file, limits)]:
            if given == MOST_CELLS:
                yield Upload(name, None, TOO_MANY)
                return
            given += 1
            yield upload


def is_zip(file: Path) -> bool:
    """Whether a file is a zip from its first byte on; an image with a zip behind it is an image."""
    try:
        with file.open("rb") as stream:
            return stream.read(2) == b"PK" and archives.is_zip(stream)
    except OSError:
        return False


def _plain(name: str, file: Path, limits: images.Limits) -> Upload:
    try:
        return Upload(name, images.read(file, limits).pixels)
    except images.Unreadable as error:
        return Upload(name, None, error.reason)


def _zipped(name: str, file: Path, limits: images.Limits) -> Iterator[Upload]:
    if refused := _unlisted(file):
        yield Upload(name, None, refused)
        return
    given = False
    try:
        for member in archives.members(file, _ZIP):
            if inputs.is_litter(member.path.name):
                continue
            given = True
            yield _member(f"{name}/{member.path}", member, limits)
    except UserError as error:
        # The sentence names the file where it lies here, which is nobody's business.
        yield Upload(name, None, str(error).replace(str(file), "the zip"))
    except _BROKEN:
        yield Upload(name, None, DAMAGED_ZIP)
    else:
        if not given:
            yield Upload(name, None, "zip without a file")


def _member(path: str, member: archives.Member, limits: images.Limits) -> Upload:
    try:
        return Upload(path, images.read(member.stream, limits).pixels)  # type: ignore[arg-type]
    except images.Unreadable as error:
        return Upload(path, None, error.reason)
    except _BROKEN:
        return Upload(path, None, images.DAMAGED)


def count(files: Sequence[Path]) -> int:
    """About how many images `many` will give: for a progress bar."""
    total = 0
    for file in files:
        if is_zip(file) and not _unlisted(file):
            with contextlib.suppress(*_BROKEN), zipfile.ZipFile(file) as pack:
                total += sum(not info.is_dir() for info in pack.infolist())
        else:
            total += 1
    return min(total, MOST_CELLS)


def _unlisted(file: Path) -> str:
    """Why not even the list of a zip's members is read; empty where it is."""
    with file.open("rb") as stream:
        stream.seek(-min(file.stat().st_size, 2**16 + 22 + 20), os.SEEK_END)
        tail = stream.read()
    # Without a comment the record is the last 22 bytes; else it is searched for, as zipfile does.
    whole = tail[-22:].startswith(_END) and tail.endswith(b"\0\0")
    at = len(tail) - 22 if whole else tail.rfind(_END)
    # A zip64's own record, which this one in front of the end points to, may tell of a longer list.
    if tail[max(at - 20, 0) : at].startswith(_END64):
        return ZIP64
    return TOO_MANY if int.from_bytes(tail[at + 12 : at + 16], "little") > _MOST_DIRECTORY else ""
