"""Writes that are whole or absent, and hashes of what was written."""

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

# Names of what file browsers leave behind, in small letters.
LITTER = frozenset({"thumbs.db", "desktop.ini", ".ds_store"})


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path that takes the name of `path` when the block ends without an error.

    A device or a pipe is `path` itself: to take its name would remove it from the system.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    with _beside(path) as folder:
        # The name is kept: libraries choose a format by its suffix.
        yield folder / path.name
        os.replace(folder / path.name, path)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """An empty folder that replaces `folder` when the block ends without an error.

    Killed at whatever moment, a run leaves `folder` as it was, whole and new, or not there, never with
    some of its files.
    """
    with _beside(folder) as beside:
        new = beside / folder.name
        new.mkdir()
        yield new
        # Removing takes its time, and a kill would leave half; a new name is given at once.
        if folder.exists():
            os.replace(folder, beside / "old")
        os.replace(new, folder)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A hidden folder beside `path`, which goes with all that is in it when the block ends.

    A killed run leaves it there, and the next one removes it: it may be large.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix, suffix = f".{path.name}.", ".part"
    for left in path.parent.glob(f"{glob.escape(prefix)}*{suffix}"):
        if not _is_running(left.stem.rpartition(".")[2]):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(
        f".{os.getpid()}{suffix}", prefix, path.parent, ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


def walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """`os.walk`, which passes over a folder that it cannot list in silence, as pathlib's `rglob` does.

    Raises:
        UserError: a folder cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}): check its permissions.")

    return os.walk(folder, onerror=refuse)


def _is_running(process: str) -> bool:
    """Whether a process of this number runs here; another's, or no number at all, counts as one."""
    try:
        os.kill(int(process), 0)
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
