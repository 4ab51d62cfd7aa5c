"""Write files and folders whole or not at all, list folders, and hash files."""

import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from malaria.errors import UserError

# Names of files and folders that file browsers, archivers and network drives leave behind, in lower case.
_LITTER = ("thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path that takes the name of `path` when the block ends without an error.

    For a device or a pipe it is `path` itself: to replace it would remove it from the system.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    with _hidden_folder(path) as folder:
        # The name is kept: libraries choose a format by its suffix.
        yield folder / path.name
        os.replace(folder / path.name, path)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """An empty folder that replaces `folder` when the block ends without an error.

    A run that is killed at any moment leaves `folder` as it was, whole and new, or missing, but never with
    only some of its files.
    """
    with _hidden_folder(folder) as hidden:
        new = hidden / folder.name
        new.mkdir()
        yield new
        # Renamed first: removing takes time, and a kill would leave half of the folder.
        if folder.exists():
            os.replace(folder, hidden / "old")
        os.replace(new, folder)


@contextmanager
def _hidden_folder(path: Path) -> Iterator[Path]:
    """A hidden folder beside `path` that is removed with its content when the block ends.

    A killed run leaves it there, and the next run removes it, because it may be large.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix, suffix = f".{path.name}.", ".part"
    for leftover in path.parent.glob(f"{glob.escape(prefix)}*{suffix}"):
        if not _is_running(leftover.stem.rpartition(".")[2]):
            shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(
        f".{os.getpid()}{suffix}", prefix, path.parent, ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


@contextmanager
def disk_errors(target: object, advice: str) -> Iterator[None]:
    """Turn an error of the disk into a UserError: `target` cannot be written, why, and what to do."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error.strerror or error}): {advice}.") from None


def walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Walk a folder like `os.walk`, but raise an error for folders that `os.walk` would silently skip.

    Raises:
        UserError: a folder cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}): check its permissions.")

    return os.walk(folder, onerror=refuse)


def is_litter(path: str) -> bool:
    """Whether a part of a relative path is a hidden name, or one that file browsers or drives leave behind.

    The hidden `.a.png.icloud` is not: it stands for a file that is in iCloud alone.
    """
    parts = [part for part in path.split("/") if part not in (".", "..") and not part.endswith(".icloud")]
    return any(part.startswith(".") or part.lower() in _LITTER for part in parts)


def _is_running(pid: str) -> bool:
    """Whether a process with this number runs here; also True for other users' processes and non-numbers."""
    try:
        os.kill(int(pid), 0)
    except (OSError, ValueError, OverflowError) as error:
        return not isinstance(error, ProcessLookupError)
    return True


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, whole or not at all."""
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON with a newline at its end, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
