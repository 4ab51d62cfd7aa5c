"""Keep uploads, unpack zips, and read the pictures in them, with limits on everything."""

import contextlib
import fcntl
import itertools
import os
import shutil
import stat
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import anyio
import anyio.to_thread
from starlette.exceptions import HTTPException

from malaria.cells import images
from malaria.errors import UserError
from malaria.fetch import archives
from malaria.files import is_litter

from . import decoder

MAX_BYTES = 20 * 2**20  # of one file, also of a zip
# In one batch, zips unpacked: they are judged in ten seconds, and the page keeps them in 5 MB.
MAX_CELLS = 2500
# In one request: to list a zip's members may take half a second, and a request may repeat the same zip.
MAX_ZIPS = 250
# The number of members keeps its default limit: `_MAX_DIRECTORY` refuses long lists before they are read.
_ZIP = archives.Limits(size=256 * 2**20, ratio=100)

TOO_MANY = f"more than the {MAX_CELLS:,} cells that are judged at once"
TOO_MANY_ZIPS = f"more than the {MAX_ZIPS} zips that are opened at once"
GONE = "it is no longer kept here, so choose it again"
DAMAGED_ZIP = "a zip that is damaged, encrypted, or packed by another method than deflate"
LONG_LIST = "a zip of far more cells than are judged at once"
ZIP64 = "a zip64, a format for larger files than are accepted here: send a plain zip"

# Bytes that even an empty upload takes on a disk: a block for the file, and one for its folder.
_LEAST_ROOM = 2**13

# Most bytes of a zip's list of members that are read: a file of 20 MB could list half a million.
_MAX_DIRECTORY = 2**20
_END, _END64 = b"PK\5\6", b"PK\6\7"

_BROKEN = (*archives.DAMAGED_ZIP, OSError)


# The names that a visitor gave to files, and their paths here.
Files = Sequence[tuple[str, Path]]


@dataclass(frozen=True)
class Upload:
    """One image of a batch; `read` decodes it, or raises images.Unreadable."""

    name: str
    read: Callable[[], images.Crop]


@contextlib.contextmanager
def upload_folder() -> Iterator[Path]:
    """A folder for this process's uploads, deleted at the end; also delete those of killed processes.

    Enter this before Gradio is imported, because Gradio makes its own folders in it from then on.
    """
    try:
        for previous in Path(tempfile.gettempdir()).glob("malaria-app-*"):
            with contextlib.suppress(OSError), locked(previous):
                shutil.rmtree(previous, ignore_errors=True)
        temporary = tempfile.TemporaryDirectory(prefix="malaria-app-", ignore_cleanup_errors=True)
    except OSError as error:
        raise UserError(
            f"No folder for uploads can be made ({error.strerror}): name a folder that can be written with "
            "TMPDIR."
        ) from None
    with temporary as name:
        folder = Path(name).resolve()
        os.environ["GRADIO_TEMP_DIR"] = str(folder)
        with locked(folder):
            yield folder


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder in the block, or until this process is killed; OSError if another process holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def make_room(folder: Path, most: int, seconds: float) -> None:
    """Delete uploads older than `seconds`, and then the oldest until at most `most` bytes are left."""
    files = []
    # Not rglob, which fails at a folder that is deleted meanwhile.
    for file in (Path(parent, name) for parent, _, names in os.walk(folder) for name in names):
        with contextlib.suppress(FileNotFoundError):
            state = file.stat()
            if stat.S_ISREG(state.st_mode):
                files.append((state.st_mtime, max(state.st_size, _LEAST_ROOM), file))
    total = 0
    for changed, size, file in sorted(files, reverse=True):
        total += size
        if total > most or changed < time.time() - seconds:
            file.unlink(missing_ok=True)
            if file.parent != folder:
                with contextlib.suppress(OSError):
                    file.parent.rmdir()


async def sweep(folder: Path, most: int, seconds: float) -> NoReturn:
    """Call `make_room` every five minutes, or every `seconds` if that is less: old uploads must go."""
    while True:
        await anyio.sleep(min(300, seconds))
        await anyio.to_thread.run_sync(make_room, folder, most, seconds)


def resolve(path: Any, folder: Path) -> Path:
    """Resolve `path`, with its links, to a file below the upload `folder`.

    Raises:
        HTTPException: it names no such file.
    """
    with contextlib.suppress(OSError, RuntimeError, TypeError, ValueError):
        file = Path(path).resolve()
        if file.is_relative_to(folder.resolve()) and file.is_file():
            return file
    raise HTTPException(400, "A file of this request is not a file that was uploaded here.")


def name_and_file(file: object, folder: Path) -> tuple[str, Path]:
    """The name that a visitor gave to a file, without folders, and the file's path here.

    Args:
        file: what Gradio passes for an uploaded file: FileData, or a dictionary with its keys.

    Raises:
        HTTPException: as `resolve`.
    """
    content = file if isinstance(file, dict) else vars(file) if hasattr(file, "path") else {}
    path = resolve(content.get("path"), folder)
    return Path(str(content.get("orig_name") or path)).name, path


def unpack(files: Files, decode: decoder.Decode) -> Iterator[Upload]:
    """Every image of named files and of the zips among them. Read each before you ask for the next.

    An unreadable image does not stop the rest. If there are more than `MAX_CELLS`, the last one says how
    many are left out. A zip in a zip is not an image. A zip that is unsafe as a whole (links, paths outside
    it, a bomb) or empty gives one image that says so.
    """

    def images_of_files() -> Iterator[Upload]:
        zips = 0
        for name, file in files:
            if not is_zip(file):
                yield Upload(name, partial(decode, file))
            elif (zips := zips + 1) > MAX_ZIPS:
                yield _refused(name, TOO_MANY_ZIPS)
            else:
                yield from _unpack_zip(name, file, decode)

    yield from itertools.islice(images_of_files(), MAX_CELLS)
    if (excess := count([file for _, file in files]) - MAX_CELLS) > 0:
        yield _refused("", f"{excess:,} {TOO_MANY}")


def read_again(files: Files, decode: decoder.Decode, index: int) -> images.Pixels:
    """The pixels of image `index` of `unpack`; images.Unreadable if one of the files is no longer there."""
    # Without one of the files, the others' images would have other numbers.
    if not all(file.is_file() for _, file in files):
        raise images.Unreadable(GONE)
    rest = itertools.islice(unpack(files, decode), index, None)
    return next(rest, _refused("", GONE)).read().pixels


def is_zip(file: Path) -> bool:
    """Whether a file begins like a zip; an image with a zip appended is an image."""
    with contextlib.suppress(OSError), file.open("rb") as stream:
        # PK is followed by the type of the first record, 1 to 8.
        return b"PK\0" < stream.read(3) < b"PK\x09"
    return False


def _refused(name: str, reason: str) -> Upload:
    def read() -> images.Crop:
        raise images.Unreadable(reason)

    return Upload(name, read)


def _unpack_zip(name: str, file: Path, decode: decoder.Decode) -> Iterator[Upload]:
    if reason := _why_not_listed(file):
        yield _refused(name, reason)
        return
    empty = True
    try:
        for member in archives.members(file, _ZIP):
            if is_litter(str(member.path)):
                continue
            empty = False
            yield Upload(f"{name}/{member.path}", partial(decode, member.stream))  # type: ignore[arg-type]
    except UserError as error:
        # The sentence contains the file's path on this server, which visitors must not see.
        yield _refused(name, str(error).replace(str(file), "the zip"))
    except _BROKEN:
        yield _refused(name, DAMAGED_ZIP)
    else:
        if empty:
            yield _refused(name, "zip without a file")


def count(files: Sequence[Path]) -> int:
    """The number of images in files and in the zips among them, by the zips' lists of members."""
    total = zips = 0
    for file in files:
        if is_zip(file) and (zips := zips + 1) <= MAX_ZIPS and not _why_not_listed(file):
            with contextlib.suppress(*_BROKEN), zipfile.ZipFile(file) as archive:
                names = (info.filename for info in archive.infolist() if not info.is_dir())
                total += sum(not is_litter(name) for name in names)
        else:
            total += 1
    return total


def _why_not_listed(file: Path) -> str:
    """Why a zip's list of members is not read; empty if it is read."""
    with file.open("rb") as stream:
        stream.seek(-min(file.stat().st_size, 2**16 + 22 + 20), os.SEEK_END)
        tail = stream.read()
    # Without a comment the end record is the last 22 bytes; else it is searched for, as in zipfile.
    no_comment = tail[-22:].startswith(_END) and tail.endswith(b"\0\0")
    end = len(tail) - 22 if no_comment else tail.rfind(_END)
    # `archives` reads a file as a tar if it does not take it for a zip.
    if end < 0 or not archives.is_zip(file):
        return DAMAGED_ZIP
    # A zip64 has a locator before the end record; the record that it points to may name a longer list.
    if tail[max(end - 20, 0) : end].startswith(_END64):
        return ZIP64
    return LONG_LIST if int.from_bytes(tail[end + 12 : end + 16], "little") > _MAX_DIRECTORY else ""
