"""Objects of S3 and of the stores that speak its language, through s3fs; and files that are written whole.

Credentials, region and endpoint are where other S3 clients look for them too: the environment
(`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, ...), `~/.aws`, or the machine's role. s3fs is imported where it
is used: files of this machine need nothing of it.
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

# Objects read at once: each takes long to come and little to receive.
READERS = 32

# Read ahead of what is asked for, where an object is read in pieces.
_BLOCK = 4 * 2**20

# What is true of one object, and not of the store.
_OF_ONE = (FileNotFoundError, PermissionError)


def is_remote(path: str) -> bool:
    """Whether a path is an object's."""
    return path.startswith(SCHEME)


def destination(text: str) -> str:
    """The `type` of an option that names a file or an object to write."""
    # A shell may put the names of several images after an option, and the first would be lost.
    kind = mimetypes.guess_type(text)[0] or ""
    if text == "-" or kind.startswith(("image/", "application/zip")):
        raise ArgumentTypeError(f"{text} is no table: name a file as rows.csv (or /dev/stdout)")
    if not is_remote(text):
        return str(command.local_path(text))
    if "/" not in text.removeprefix(SCHEME).rstrip("/"):
        raise ArgumentTypeError(f"{text} names no object: write {SCHEME}BUCKET/NAME.csv")
    return text


def objects(url: str) -> list[dict[str, Any]]:
    """All objects below `url/`, or else the object that it names, in the store's order (S3's: by key).

    Each has `name` (without the scheme), `size` (bytes) and `ETag`, which changes with the content.

    Raises:
        UserError: there is none, the store says no, or it does not answer.
    """
    if not url.removeprefix(SCHEME).strip("/"):
        raise UserError(f"{url} names no bucket: write {SCHEME}BUCKET/PREFIX.")
    with in_words(url):
        found = system(url).find(url, detail=True).values()
    # Some clients mark a folder by an object of no bytes.
    named = [entry for entry in found if not entry["name"].endswith("/")]
    if not named:
        raise UserError(f"{url} holds no object: see `aws s3 ls {url}`.")
    return named


def read(path: str) -> bytes:
    """All bytes of a file or an object.

    Raises:
        FileNotFoundError, PermissionError: it cannot be had.
        UserError: the store does not answer, also after s3fs has asked again.
    """
    with in_words(path, passed=_OF_ONE):
        return cast(bytes, system(path).cat_file(path))


def open_object(url: str) -> BinaryIO:
    """An object to seek and read in; errors as `read`'s, at every call."""
    with in_words(url, passed=_OF_ONE):
        file = system(url).open(url, "rb", block_size=_BLOCK, fill_cache=False)
    # Whatever is not read ahead already is fetched through here.
    file.cache.fetcher = in_words(url, passed=_OF_ONE)(file.cache.fetcher)
    return cast(BinaryIO, file)


@contextmanager
def whole(out: str) -> Iterator[Path]:
    """A file to write that becomes `out`, a file here or an object, when the block ends without an error.

    Raises:
        UserError: the store does not take it; a bucket that is not there is told before the block runs.
    """
    if not is_remote(out):
        here = Path(out)
        # A link stays, and leads to the new file.
        with files.atomic_path(here.resolve() if here.is_file() else here) as part:
            yield part
        return
    with tempfile.TemporaryDirectory() as folder:
        # Who may write to a bucket need not be allowed to look at it.
        with in_words(out, passed=(PermissionError,)), suppress(PermissionError):
            system(out).info(out.removeprefix(SCHEME).partition("/")[0])
        part = Path(folder, "part")
        yield part
        with in_words(out):
            # A store shows an object when all of it is there.
            system(out).put_file(str(part), out)


@contextmanager
def in_words(path: str, passed: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turns what s3fs raises into a UserError, but for what is `passed`; errors of files stay as they are."""
    if not is_remote(path):
        yield
        return
    command.needs("s3fs", SCHEME, "engine")
    from botocore.exceptions import BotoCoreError

    try:
        yield
    except passed:
        raise
    except (OSError, BotoCoreError) as error:
        raise UserError(
            f"{path}: the store does not give or take it ({str(error).rstrip('.')}): check the name and your "
            "credentials, and run again."
        ) from None


def system(path: str) -> Any:
    """The fsspec file system of a path or an object; fsspec keeps them, one for each thread."""
    if not is_remote(path):
        from fsspec.implementations.local import LocalFileSystem

        return LocalFileSystem()
    import s3fs

    # With more at once for one object s3fs asks for its size first.
    return s3fs.S3FileSystem(
        use_listings_cache=False, max_concurrency=1, config_kwargs={"max_pool_connections": READERS}
    )
