"""Read and write objects in S3 and compatible stores through s3fs, and write files atomically.

Credentials, region and endpoint are taken from where other S3 clients find them: the environment
(`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, ...), `~/.aws`, or the machine's role. s3fs is imported where it is
used, so that local files do not need it.
"""

import mimetypes
import tempfile
from argparse import ArgumentTypeError
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from malaria import command, files
from malaria.errors import UserError

SCHEME = "s3://"

# Objects read at once: each takes long to arrive and little time to receive.
READERS = 32

# Bytes read ahead when an object is read in pieces.
_BLOCK = 4 * 2**20

# Errors that concern one object, not the store.
_OBJECT_ERRORS = (FileNotFoundError, PermissionError)


def is_remote(path: str) -> bool:
    """Whether a path names an object in a store."""
    return path.startswith(SCHEME)


def destination(text: str) -> str:
    """The argparse `type` of an option that names a file or an object to write."""
    # A shell pattern may put several images after an option, and the first would be overwritten.
    kind = mimetypes.guess_type(text)[0] or ""
    if text == "-" or kind.startswith(("image/", "application/zip")):
        raise ArgumentTypeError(f"{text} is no table: name a file as rows.csv (or /dev/stdout)")
    if not is_remote(text):
        return str(command.local_path(text))
    if "/" not in text.removeprefix(SCHEME).rstrip("/"):
        raise ArgumentTypeError(f"{text} names no object: write {SCHEME}BUCKET/NAME.csv")
    return text


def objects(url: str) -> list[dict[str, Any]]:
    """All objects below `url/`, or else the object `url` itself, in the store's order (S3's: by key).

    Each has `name` (without the scheme), `size` (bytes) and `ETag`, which changes with the content.

    Raises:
        UserError: there is no object, or the store refuses or does not answer.
    """
    if not url.removeprefix(SCHEME).strip("/"):
        raise UserError(f"{url} names no bucket: write {SCHEME}BUCKET/PREFIX.")
    with as_user_error(url):
        listing = filesystem(url).find(url, detail=True).values()
    # Some clients represent a folder by an empty object.
    entries = [entry for entry in listing if not entry["name"].endswith("/")]
    if not entries:
        raise UserError(f"{url} holds no object: see `aws s3 ls {url}`.")
    return entries


def read(path: str) -> bytes:
    """All bytes of a file or an object.

    Raises:
        FileNotFoundError, PermissionError: it is not there, or may not be read.
        UserError: the store does not answer, even after s3fs has tried again.
    """
    with as_user_error(path, unchanged=_OBJECT_ERRORS):
        return cast(bytes, filesystem(path).cat_file(path))


def open_object(url: str) -> BinaryIO:
    """Open an object to seek and read in; every call may raise the errors of `read`."""
    with as_user_error(url, unchanged=_OBJECT_ERRORS):
        file = filesystem(url).open(url, "rb", block_size=_BLOCK, fill_cache=False)
    # All that is not read ahead yet is fetched through this function.
    file.cache.fetcher = as_user_error(url, unchanged=_OBJECT_ERRORS)(file.cache.fetcher)
    return cast(BinaryIO, file)


@contextmanager
def atomic_output(out: str) -> Iterator[Path]:
    """A file to write, which becomes `out`, a local file or an object, when the block ends without an error.

    Raises:
        UserError: the store does not accept it; a missing bucket is reported before the block runs.
    """
    if not is_remote(out):
        path = Path(out)
        # A symbolic link stays, and points to the new file.
        with files.atomic_path(path.resolve() if path.is_file() else path) as part:
            yield part
        return
    with tempfile.TemporaryDirectory() as folder:
        # The permission to write to a bucket does not include the one to look at it.
        with as_user_error(out, unchanged=(PermissionError,)), suppress(PermissionError):
            filesystem(out).info(out.removeprefix(SCHEME).partition("/")[0])
        part = Path(folder, "part")
        yield part
        with as_user_error(out):
            # A store shows an object only when it is complete.
            filesystem(out).put_file(str(part), out)


@contextmanager
def as_user_error(path: str, unchanged: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn errors of s3fs into a UserError, but not those in `unchanged`, nor any error of a local file."""
    if not is_remote(path):
        yield
        return
    command.require("s3fs", SCHEME, "engine")
    from botocore.exceptions import BotoCoreError

    try:
        yield
    except unchanged:
        raise
    except (OSError, BotoCoreError) as error:
        raise UserError(
            f"{path}: the store refuses it or does not answer ({str(error).rstrip('.')}): check the name and "
            "your credentials, and run again."
        ) from None


def filesystem(path: str) -> Any:
    """The fsspec file system of a path or an object; fsspec keeps one for each thread."""
    if not is_remote(path):
        from fsspec.implementations.local import LocalFileSystem

        return LocalFileSystem()
    import s3fs

    # With more requests at once for one object, s3fs asks for its size first.
    pool = {"max_pool_connections": READERS}
    return s3fs.S3FileSystem(use_listings_cache=False, max_concurrency=1, config_kwargs=pool)
