"""Find the images that `predict` judges: in files, folders and zips, here or in an S3 store."""

import contextlib
import functools
import io
import itertools
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from malaria import files
from malaria.cells import images
from malaria.errors import UserError
from malaria.fetch import archives
from malaria.predict import Item, stores

# Zips nested deeper than anyone packs them suggest a zip bomb.
_DEEPEST = 3

# A file larger than this is not a cell crop.
_MAX_BYTES = 64 * 2**20
_TOO_LARGE = f"larger than {_MAX_BYTES:,} bytes"
_NO_ZIP = "an archive that is no zip, or damaged: unpack it, or pack its files as zip"


@dataclass(frozen=True)
class Source:
    """A file or an object as it was listed, or a part of a zip.

    path: as rows name it. size: in bytes. mark: time of the last change, or the object's tag; it changes with
    the content. zipped: whether it is a zip. images: which entries of the zip's sorted directory; one for any
    other file.
    """

    path: str
    size: int
    mark: str
    zipped: bool = False
    images: range = range(1)


def find(paths: Sequence[str], out: Path | None = None) -> Iterator[Item]:
    """Every image of `paths`, in sorted order; folders and zips are opened, nested ones too.

    An image inside a zip has the path `archive.zip/member`. The file `out`, with the rows, is left out.

    Raises:
        UserError: as `listed`.
    """
    sources = (source for source in listed(paths) if not (out and _is_output(Path(source.path), out)))
    return itertools.chain.from_iterable(map(items, sources))


def _is_output(file: Path, out: Path) -> bool:
    """Whether a file is `out`, or its unfinished copy in a hidden folder beside it."""
    if file.name != out.name:
        return False
    folder, out_folder = file.parent.resolve(), out.parent.resolve()
    return folder == out_folder or (folder.parent == out_folder and folder.name.startswith(f".{out.name}."))


def listed(paths: Sequence[str]) -> Iterator[Source]:
    """Every file and object of `paths`, in the order of their rows.

    A folder inside one of `paths` that cannot be listed takes the place of its files: reading it fails with
    the reason.

    Raises:
        UserError: a path does not exist, or is a folder that cannot be listed; as `stores.objects`.
    """
    are_folders = [not stores.is_remote(path) and _is_folder(path) for path in paths]
    for path, is_folder in zip(paths, are_folders, strict=True):
        if stores.is_remote(path):
            prefix = path.removeprefix(stores.SCHEME)
            for entry in stores.objects(path):
                if not files.is_litter(entry["name"].removeprefix(prefix)):
                    yield _object(entry)
        elif is_folder:
            yield from map(_file, _walk(Path(path)))
        else:
            yield _file(Path(path))


def items(source: Source, base: Path = Path()) -> Iterator[Item]:
    """The images of a source, in the order of their rows; a relative path starts from `base`."""
    path = source.path
    if not source.zipped:
        read: Callable[[], bytes] = functools.partial(_read_file, base / path)
        if stores.is_remote(path):
            read = functools.partial(stores.read, path)
        # Without a size it could not be examined, and reading it gives the reason.
        if source.size and path.lower().endswith(archives.SUFFIXES):
            read = _failing_read(images.Unreadable(_NO_ZIP))
        elif source.size > _MAX_BYTES:
            read = _failing_read(images.Unreadable(_TOO_LARGE))
        yield Item(path, read)
        return
    first, last = source.images.start, source.images.stop
    try:
        with _open(path, base) as archive:
            yield from _members(path, archive, 1, slice(first, last))
    except OSError as error:
        # Listing the zip worked. Entries before these may have been read, so the row says which failed.
        span = f", entries {first + 1} to {last}" if first else ""
        yield Item(path, _failing_read(OSError(error.errno, f"{error.strerror or error}{span}")))


def _read_file(file: Path) -> bytes:
    """All bytes of a file; Unreadable if they are too many. A device has the size 0, whatever it gives."""
    with file.open("rb") as stream:
        content = stream.read(os.fstat(stream.fileno()).st_size or _MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise images.Unreadable(_TOO_LARGE)
    return content


def can_be_read(path: str) -> bool:
    """Whether the first byte of a file or an object can be read."""
    with contextlib.suppress(OSError), _open(path, Path()) as file:
        file.read(1)
        return True
    return False


def _open(path: str, base: Path) -> BinaryIO:
    return stores.open_object(path) if stores.is_remote(path) else (base / path).open("rb")


def _is_folder(path: str) -> bool:
    """Whether a path is a folder; UserError if it does not exist, or is one that cannot be listed."""
    if "://" in path:
        raise UserError(f"{path} is in an unsupported store: name local files, or s3://BUCKET/PREFIX.")
    try:
        os.stat(path)
        if folder := os.path.isdir(path):
            os.scandir(path).close()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): name files that you may read.") from None
    return folder


def _walk(folder: Path) -> Iterator[Path]:
    """All files below a folder but litter, in the order of their paths, without holding all names at once.

    A folder that cannot be listed takes the place of its files.
    """
    try:
        with os.scandir(folder) as listing:
            visible = (entry for entry in listing if not files.is_litter(entry.name))
            entries = sorted(visible, key=lambda entry: entry.name)
    except OSError:
        yield folder
        return
    for entry in entries:
        path = Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(path)
        # A link to a folder is not followed, because it may lead back here. Its row gives the reason, as that
        # of a link to nothing does. A pipe or a device has no row.
        elif os.path.isfile(path) or os.path.isdir(path) or not os.path.exists(path):
            yield path


def _file(path: Path) -> Source:
    """A local file as it is now; one that cannot be examined counts as an image."""
    name = path.as_posix()
    with contextlib.suppress(OSError):
        stat = path.stat()
        source = Source(name, stat.st_size, str(stat.st_mtime_ns))
        # Not a pipe, which can be read only once.
        return _zip(source, path) if path.is_file() and archives.is_zip(path) else source
    # Its row gives the reason.
    return Source(name, 0, "")


def _object(entry: dict[str, Any]) -> Source:
    """An object of a store, from its entry in the listing."""
    source = Source(stores.SCHEME + entry["name"], entry["size"], entry["ETag"])
    # By name: opening each object to look for a zip's signature would take as long as reading it.
    if source.path.lower().endswith(".zip"):
        with contextlib.suppress(OSError), stores.open_object(source.path) as archive:
            return _zip(source, archive) if archives.is_zip(archive) else source
    return source


def _zip(source: Source, archive: Path | BinaryIO) -> Source:
    """`source` marked as a zip, with the number of entries of `archive`, its content."""
    with contextlib.suppress(*archives.DAMAGED_ZIP), archives.open_zip(archive) as pack:
        return replace(source, zipped=True, images=range(len(pack.infolist())))
    return replace(source, zipped=True)


def _members(name: str, archive: BinaryIO, depth: int, part: slice = slice(None)) -> Iterator[Item]:
    """The images of a zip, and of the zips inside it; `depth` is 1 for a zip that lies in no other."""
    try:
        with archives.open_zip(archive) as pack:
            for info in sorted(pack.infolist(), key=lambda info: info.filename)[part]:
                path = f"{name}/{info.filename}"
                if info.filename.endswith("/") or files.is_litter(info.filename):
                    continue
                # Read now: the archive is closed by the time a chunk is decoded.
                try:
                    content = _content(pack, info)
                except images.Unreadable as error:
                    yield Item(path, _failing_read(error))
                    continue
                if depth < _DEEPEST and archives.is_zip(io.BytesIO(content)):
                    yield from _members(path, io.BytesIO(content), depth + 1)
                else:
                    yield Item(path, functools.partial(bytes, content), len(content))
    except archives.DAMAGED_ZIP:
        yield Item(name, _failing_read(images.Unreadable("damaged zip")))


def _content(pack: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """The bytes of a zip's member; Unreadable if it is too large or damaged."""
    if info.file_size > _MAX_BYTES:
        raise images.Unreadable(_TOO_LARGE)
    try:
        archives.check_method(info)
        with pack.open(info) as stream:
            # At most the size that the directory gives: otherwise zipfile unpacks all that a zip bomb holds.
            return stream.read(info.file_size)
    except (*archives.DAMAGED_ZIP, OSError) as error:
        raise images.Unreadable(f"cannot be unpacked: {error}") from None


def _failing_read(error: Exception) -> Callable[[], bytes]:
    """A `read` that raises `error`."""

    def read() -> bytes:
        raise error

    return read
