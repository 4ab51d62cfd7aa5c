"""Unpack untrusted archives: no file outside the target folder, no links, no decompression bombs."""

import errno
import os
import shutil
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from tqdm import tqdm

from malaria.errors import UserError


class DiskRefusal(UserError):  # noqa: N818 - a UserError, as its base says
    """The disk is full or refuses to write. Any other UserError here is a fault of the archive itself."""


@dataclass(frozen=True)
class Limits:
    """Limits on an archive: its number of files, their unpacked bytes, and unpacked over packed bytes."""

    members: int = 200_000
    size: int = 8 * 2**30
    ratio: int = 200


@dataclass(frozen=True)
class Member:
    """A regular file of an archive; `stream` is its content."""

    path: PurePosixPath
    size: int
    stream: IO[bytes]


# A file with such a name is meant to be an archive, even if it is none that can be read.
SUFFIXES = (".7z", ".bz2", ".gz", ".rar", ".tar", ".tgz", ".txz", ".xz", ".zip", ".zst")

# What zipfile raises, besides OSError, on a zip that is damaged, encrypted or malicious.
DAMAGED_ZIP = (
    zipfile.BadZipFile, zlib.error, struct.error,
    EOFError, IndexError, OverflowError, RuntimeError, ValueError,
)  # fmt: skip

# Errors of the system that the archive causes: false offsets in its directory, or impossible file names.
_ARCHIVE_ERRNOS = (errno.EINVAL, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOTDIR)

# With these zipfile unpacks only as much as is read; with other methods a few bytes may fill the memory.
_SAFE_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def is_archive(path: Path) -> bool:
    """Whether `path` is a zip or tar file, by its content."""
    return path.is_file() and (is_zip(path) or tarfile.is_tarfile(path))


def is_zip(file: Path | IO[bytes]) -> bool:
    """Whether the content of a file begins or ends as a zip does; a zip that is cut short has no end.

    Raises:
        OSError: it cannot be read.
    """
    with suppress(*DAMAGED_ZIP), file.open("rb") if isinstance(file, Path) else nullcontext(file) as stream:
        return stream.read(4) == b"PK\3\4" or zipfile.is_zipfile(stream)
    # zipfile cannot read the end: a damaged zip.
    return True


def open_zip(file: Path | IO[bytes]) -> zipfile.ZipFile:
    """Open a zip, and read its names as they were meant.

    Names that do not say how they are encoded are UTF-8 if all can be, as a Mac packs them, else of code page
    437, as the format says. Some Windows tools write backslashes between folders.

    Raises:
        OSError, DAMAGED_ZIP: it cannot be opened.
    """
    try:
        zip_file = zipfile.ZipFile(file, metadata_encoding="utf-8")
    except UnicodeDecodeError:
        zip_file = zipfile.ZipFile(file)
    for info in zip_file.infolist():
        info.filename = info.filename.replace("\\", "/")
    return zip_file


def check_method(member: zipfile.ZipInfo) -> None:
    """Raise BadZipFile if a member is encrypted, or packed by a method without a bound on memory."""
    if member.flag_bits & 1:
        raise zipfile.BadZipFile(f"{member.filename} is encrypted")
    if member.compress_type not in _SAFE_METHODS:
        raise zipfile.BadZipFile(f"{member.filename} is neither stored nor deflated")


@contextmanager
def as_folder(source: Path, parent: Path) -> Iterator[tuple[Path, Callable[[Path, Path], object]]]:
    """A folder with the files of a folder or archive, and a function that puts one of them elsewhere.

    An archive is unpacked inside `parent` for as long as the block runs, and its files are moved; the files
    of a folder are copied.

    Raises:
        UserError: as `unpack`.
    """
    if source.is_dir():
        yield source, shutil.copyfile
        return
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        unpack(source, Path(folder))
        yield Path(folder), os.replace


def unpack(archive: Path, folder: Path, limits: Limits = Limits()) -> None:
    """Unpack the regular files of `archive` below `folder`, one by one, straight into place.

    Raises:
        DiskRefusal: the disk is full, or refuses otherwise.
        UserError: the archive is damaged, holds a link or a path outside `folder`, or exceeds `limits`.
    """
    try:
        for member in tqdm(members(archive, limits), desc="unpacking", unit=" files", disable=None):
            target = folder.joinpath(*member.path.parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            # Some disks take names for the same that differ in case or in the composition of accents.
            if target.exists():
                raise UserError(f"{archive} holds {member.path} twice: pack it again.")
            with target.open("wb") as out:
                shutil.copyfileobj(member.stream, out, 2**18)
    except (tarfile.TarError, *DAMAGED_ZIP) as error:
        raise UserError(f"{archive} is damaged or encrypted ({error}): bring it again.") from None
    except OSError as error:
        kind = UserError if error.errno in _ARCHIVE_ERRNOS else DiskRefusal
        reason = error.strerror or error
        raise kind(f"{archive} cannot be unpacked ({reason}): free some disk, or bring it again.") from None


def members(archive: Path, limits: Limits = Limits()) -> Iterator[Member]:
    """The regular files of a zip or tar; read each one before you ask for the next.

    Raises:
        UserError: as `unpack`.
    """
    packed_size = max(archive.stat().st_size, 1)
    unpacked_size = 0
    for count, member in enumerate(_zip(archive) if is_zip(archive) else _tar(archive), 1):
        unpacked_size += member.size
        # A Windows path has drives and backslashes, too.
        path = PureWindowsPath(str(member.path))
        if path.anchor or ".." in path.parts or not path.parts:
            raise UserError(f"{archive} holds {str(member.path)!r}, outside its own folder: do not use it.")
        if count > limits.members:
            raise UserError(f"{archive} holds more than {limits.members:,} files: split it.")
        if unpacked_size > limits.size or unpacked_size > packed_size * limits.ratio + 2**20:
            raise UserError(
                f"{archive} unpacks to more than {min(limits.size, packed_size * limits.ratio):,} bytes, as "
                "decompression bombs do: unpack it yourself and give the folder."
            )
        yield member


def _zip(archive: Path) -> Iterator[Member]:
    """The regular files of a zip; UserError for a link."""
    with open_zip(archive) as zip_file:
        for info in zip_file.infolist():
            if info.is_dir():
                continue
            if (info.external_attr >> 16) & 0o170000 == 0o120000:
                raise UserError(f"{archive} holds the link {info.filename}: pack the files themselves.")
            check_method(info)
            with zip_file.open(info) as stream:
                yield Member(PurePosixPath(info.filename), info.file_size, stream)


def _tar(archive: Path) -> Iterator[Member]:
    """The regular files of a tar, compressed or not; UserError for anything else."""
    with tarfile.open(archive, "r|*") as tar:
        for info in tar:
            if info.isdir():
                continue
            stream = tar.extractfile(info) if info.isreg() else None
            if stream is None:
                raise UserError(f"{archive} holds {info.name}, no regular file: pack the files themselves.")
            yield Member(PurePosixPath(info.name), info.size, stream)
