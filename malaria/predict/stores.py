"""Objects of S3 and of the stores that speak its language, through s3fs.

Credentials, region and endpoint are where other S3 clients look for them too: the environment
(`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, ...), `~/.aws`, or the machine's role. s3fs is imported where it
is used: files of this machine need nothing of it.
"""

import functools
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar, cast

from malaria.errors import UserError
from malaria.predict import engine

SCHEME = "s3://"

# Objects read at once: each takes long to come and little to receive.
READERS = 32

# Read ahead of what is asked for, where an object is read in pieces.
_BLOCK = 4 * 2**20

Result = TypeVar("Result")


@dataclass(frozen=True)
class Object:
    """An object as the store lists it: `url`; `size` in bytes; `tag` changes with its content."""

    url: str
    size: int
    tag: str


def objects(url: str) -> Iterator[Object]:
    """The object that `url` names and all those below `url/`, in the store's order (S3's: by key).

    They are listed page by page, so that there may be any number.

    Raises:
        UserError: there is none, the store says no, or it does not answer.
    """
    bucket, _, key = url.removeprefix(SCHEME).partition("/")
    if not bucket:
        raise UserError(f"{url} names no bucket: write {SCHEME}BUCKET/PREFIX.")
    below = key if not key or key.endswith("/") else f"{key}/"
    found = False
    if key and (itself := _head(url, bucket, key)) is not None:
        found = True
        yield itself
    for page in _pages(url, bucket, below):
        for entry in page.get("Contents", ()):
            # Some clients mark a folder by an object of no bytes.
            if not entry["Key"].endswith("/"):
                found = True
                yield Object(f"{SCHEME}{bucket}/{entry['Key']}", entry["Size"], entry["ETag"].strip('"'))
    if not found:
        raise UserError(f"{url} holds no object: see `aws s3 ls {url}`.")


def read(url: str) -> bytes:
    """All bytes of an object.

    Raises:
        FileNotFoundError, PermissionError: as of a file.
        UserError: the store does not answer, also after s3fs has asked again.
    """
    # With more at once s3fs would ask for the size first.
    return cast(bytes, _asked(url, lambda: _system().cat_file(url, max_concurrency=1)))


def open_object(url: str) -> BinaryIO:
    """An object to seek and read in; errors as `read`'s, at every call."""
    file = _asked(url, lambda: _system().open(url, "rb", block_size=_BLOCK, fill_cache=False))
    return cast(BinaryIO, io.BufferedReader(_Pieces(url, file)))


class _Pieces(io.RawIOBase):
    """An s3fs file whose errors are ours."""

    def __init__(self, url: str, file: Any) -> None:
        self.url = url
        self.file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self.file.seek(offset, whence))

    def tell(self) -> int:
        return int(self.file.tell())

    def readinto(self, buffer: Any) -> int:
        content = _asked(self.url, lambda: self.file.read(len(buffer)))
        buffer[: len(content)] = content
        return len(content)


def _head(url: str, bucket: str, key: str) -> Object | None:
    try:
        head = _asked(url, lambda: _system().call_s3("head_object", Bucket=bucket, Key=key))
    except (FileNotFoundError, PermissionError):
        # A store that forbids to look may allow to list.
        return None
    if key.endswith("/"):
        return None
    return Object(url, head["ContentLength"], head["ETag"].strip('"'))


def _pages(url: str, bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
    token: dict[str, str] = {}
    while True:
        ask = functools.partial(_system().call_s3, "list_objects_v2", Bucket=bucket, Prefix=prefix, **token)
        try:
            page: dict[str, Any] = _asked(url, ask)
        except (FileNotFoundError, PermissionError) as error:
            raise UserError(
                f"{url} cannot be listed ({error}): check its name and your credentials."
            ) from None
        yield page
        if not page.get("IsTruncated"):
            return
        token = {"ContinuationToken": page["NextContinuationToken"]}


def _asked(url: str, ask: Callable[[], Result]) -> Result:
    engine.needs("s3fs", SCHEME)
    from botocore.exceptions import BotoCoreError, HTTPClientError

    try:
        return ask()
    except (FileNotFoundError, PermissionError):
        raise
    except (OSError, BotoCoreError, HTTPClientError) as error:
        said = str(error).rstrip(".")
        raise UserError(f"{url}: the store does not give it ({said}): see to that and run again.") from None


def _system() -> Any:
    engine.needs("s3fs", SCHEME)
    import s3fs

    # Its instances are kept by fsspec, one for each thread of its own.
    return s3fs.S3FileSystem(use_listings_cache=False, config_kwargs={"max_pool_connections": READERS})
