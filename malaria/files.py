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
    """A temporary path beside `path` that takes its name when the block ends without an error.

    A killed run leaves at most a hidden temporary file, never half of `path`; the next one removes it.
    A device or a pipe is `path` itself: to take its name would remove it from the system.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left_over(path.parent, f".{path.stem}.", ".part*")
    # The suffix is kept: libraries choose a format by it.
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder` that replaces it when the block ends without an error.

    Killed at whatever moment, a run leaves `folder` as it was, whole and new, or not there, never with
    some of its files. What killed runs left of theirs is removed first: it may be large.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    prefix, suffix = f".{folder.name}.", f".{os.getpid()}.part"
    _remove_left_over(folder.parent, prefix, ".part")
    part, old = (Path(tempfile.mkdtemp(suffix, prefix, dir=folder.parent)) for _ in range(2))
    part.chmod(0o755)
    try:
        yield part
        # Removing takes its time, and a kill would leave half; a new name is given at once.
        if folder.exists():
            os.replace(folder, old)
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """`os.walk`, which passes over a folder that it cannot list in silence, as pathlib's `rglob` does.

    Raises:
        UserError: a folder cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}): check its permissions.")

    return os.walk(folder, onerror=refuse)


def _remove_left_over(folder: Path, prefix: str, suffix: str) -> None:
    """Remove the temporary files and folders of killed runs: `prefix`, some letters, process, `suffix`."""
    for left in folder.glob(f"{glob.escape(prefix)}*{suffix}"):
        process = left.name.removeprefix(prefix).partition(".part")[0].rpartition(".")[2]
        if _is_running(process):
            continue
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _is_running(process: str) -> bool:
    """Whether a process of this number runs here; another's, or no number at all, counts as one."""
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError, OverflowError):
        return True
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
