"""Download files: resume after an interruption, and name a file only when it is whole and checked."""

import errno
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from time import sleep
from urllib.parse import urlsplit

import platformdirs
import requests
from pydantic import TypeAdapter
from requests.exceptions import ChunkedEncodingError, ContentDecodingError, ProxyError, SSLError
from tqdm import tqdm
from urllib3.exceptions import InvalidHeader, LocationParseError, MaxRetryError, ReadTimeoutError
from urllib3.util import Retry

from malaria import files, running
from malaria.errors import UnavailableError, UserError

CACHE_VARIABLE = "MALARIA_CACHE"

# After these answers another attempt may succeed. Only failures without progress count; waits, in s, grow.
_TEMPORARY_STATUSES = (408, 425, 429, 500, 502, 503, 504)
RETRY = Retry(5, backoff_factor=1, backoff_jitter=1, backoff_max=120, status_forcelist=_TEMPORARY_STATUSES)
TIMEOUT = 60.0  # s without an answer or data from the server before an attempt fails

_CHUNK = 2**16


@dataclass(frozen=True)
class Remote:
    """A file on a server.

    origin: the file's name in messages, by which partial downloads of different files are also kept apart;
        holds no secret.
    request: prepares the request for the whole file; called for each attempt, because signed addresses
        expire. An exception of `requests` counts as a failed attempt; a UserError ends the download.
    setting: the parameter that chooses the file, for messages.
    size, sha256: expected, in bytes and in hexadecimal; None if no publisher gives them.
    """

    origin: str
    request: Callable[[], requests.PreparedRequest]
    setting: str
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class _Record:
    """The record of a whole or partial file, kept beside it as JSON.

    validator: the ETag or date by which the server checks that the rest belongs to the part; empty if it
        gave none. size: in bytes; -1 if the server did not give it.
    """

    origin: str
    validator: str = ""
    size: int = -1
    sha256: str = ""


def url(address: str, setting: str, size: int | None = None, sha256: str | None = None) -> Remote:
    """A file at a plain address that needs no sign-in."""
    return Remote(address, requests.Request("GET", address).prepare, setting, size, sha256)


def cache_folder(folder: Path | None = None) -> Path:
    """Where downloads are kept: `folder`, else $MALARIA_CACHE, else the user's cache folder."""
    return folder or Path(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_path("malaria-cells"))


def fetch(remote: Remote, target: Path) -> None:
    """Download `remote` to `target`; makes no request if the file is there already.

    Until it is whole and has the right size and SHA-256 it is called `<target>.part`, and a later call
    resumes it if the server still has the same file. Two processes never write one file: the second waits,
    and then finds it.

    Raises:
        UserError: it cannot be downloaded, or is not the expected file; the message says what to do.
    """
    advice = f"or choose another folder with {CACHE_VARIABLE} or --cache-dir"
    with files.disk_errors(target.parent, f"free some disk there, {advice}; what came is kept"):
        if _is_whole(remote, target):
            return
        with running.locked(_with_suffix(target, ".lock"), f"is downloading {target.name}"):
            # Another process may have downloaded it while this one waited.
            if not _is_whole(remote, target):
                target.unlink(missing_ok=True)
                _download(remote, target)


def _is_whole(remote: Remote, target: Path) -> bool:
    """Whether `target` is the requested file, by its content."""
    expected = remote.sha256 or _read_record(remote, target).sha256
    return bool(expected) and target.is_file() and files.sha256(target) == expected


def _download(remote: Remote, target: Path) -> None:
    """Download and check the file, and give it its name."""
    part = _with_suffix(target, ".part")
    for _ in range(2):  # a damaged download is repeated once
        _complete_part(remote, target, part)
        sha256 = files.sha256(part)
        if remote.sha256 in (None, sha256):
            _write_record(target, _Record(remote.origin, "", _size(part), sha256))
            os.replace(part, target)
            return
        part.unlink()
    raise UserError(
        f"{remote.origin} came twice with another content than expected (SHA-256 {sha256}, but "
        f"{remote.setting} expects {remote.sha256}): it has changed there, or is changed on its "
        "way; compare with what its publisher says before you change the parameter."
    )


def _complete_part(remote: Remote, target: Path, part: Path) -> None:
    """Make requests until `part` is as long as the server's file."""
    retry, progress = RETRY, 0
    while True:
        try:
            _attempt(remote, target, part)
            return
        # LocationParseError: a host name that no name server can look up.
        except (requests.RequestException, LocationParseError) as error:
            reason = _reason(error, remote)
            response = getattr(error, "response", None)
            retry_after = "0" if response is None else response.headers.get("Retry-After", "0")
        received = _size(part)
        note = f"; {received:,} bytes are kept, and the next run goes on from there" if received else ""
        retry, progress = (RETRY, received) if received > progress else (retry, progress)
        try:
            retry = retry.increment()
        except MaxRetryError:
            times = f"{len(retry.history) + 1} times in a row"
            raise UnavailableError(f"{reason}, {times}: run again later{note}.") from None
        wait = _wait(retry, retry_after)
        if wait > retry.backoff_max:
            raise UnavailableError(f"{reason} and asks to wait for {wait:.0f} s: run again after that{note}.")
        tqdm.write(f"{reason}; trying again in {wait:.0f} s", file=sys.stderr)
        sleep(wait)


def _wait(retry: Retry, retry_after: str) -> float:
    """The wait before the next attempt, in s: the server's Retry-After, or else longer each time."""
    with suppress(InvalidHeader):
        return retry.parse_retry_after(retry_after) or retry.get_backoff_time()
    return retry.get_backoff_time()


def _attempt(remote: Remote, target: Path, part: Path) -> None:
    """Make one request for the bytes that `part` lacks."""
    record, received = _read_record(remote, target), _size(part)
    if received == record.size:
        return
    request = remote.request()
    # In a compressed transfer, ranges and sizes would be those of the compressed bytes.
    headers = {**request.headers, "Accept-Encoding": "identity"}
    if record.validator and 0 < received < record.size:
        headers |= {"Range": f"bytes={received}-", "If-Range": record.validator}
    with requests.get(request.url or "", headers=headers, timeout=TIMEOUT, stream=True) as response:
        response.raise_for_status()
        start = received if response.status_code == 206 else 0
        length = response.raw.length_remaining
        size = -1 if length is None else start + length
        if remote.size is not None and size not in (-1, remote.size):
            raise UserError(
                f"{remote.origin} has {size:,} bytes, but {remote.setting} expects {remote.size:,}: it "
                "has changed there, or something else answers in its place; look at it in a browser."
            )
        if start == 0:
            # The part is emptied before the new record is written: a kill in between leaves an empty part.
            part.write_bytes(b"")
            _write_record(target, _Record(remote.origin, _validator(response), size))
        if size - start > (free := shutil.disk_usage(target.parent).free):
            raise OSError(errno.ENOSPC, f"{free:,} bytes are free, and {size - start:,} more are to come")
        total = max(size, 0) or None
        with (
            part.open("ab", buffering=0) as raw,
            tqdm.wrapattr(raw, "write", total, initial=start, desc=target.name, disable=None) as out,
        ):
            for chunk in response.iter_content(_CHUNK):
                out.write(chunk)


def _validator(response: requests.Response) -> str:
    """The value for If-Range: the ETag, else the date. A weak ETag does not promise the same bytes."""
    etag = response.headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")


def _write_record(target: Path, record: _Record) -> None:
    files.write_json(_with_suffix(target, ".json"), asdict(record))


def _read_record(remote: Remote, target: Path) -> _Record:
    """The record of `remote` at `target`; an empty record if there is none."""
    with suppress(OSError, ValueError):
        record = TypeAdapter(_Record).validate_json(_with_suffix(target, ".json").read_bytes())
        if record.origin == remote.origin:
            return record
    return _Record(remote.origin)


def _reason(error: requests.RequestException | LocationParseError, remote: Remote) -> str:
    """Why an attempt failed, as the start of a message.

    Raises:
        UserError: another attempt would not help. It hides `error`, whose text may quote a signed address.
    """
    if isinstance(error, ValueError):
        raise UserError(
            f"params.yaml: {remote.setting} gives {remote.origin}, no http address: correct it, or "
            "HTTPS_PROXY if that names no http proxy."
        ) from None
    response = error.response
    server = urlsplit(getattr(error.request, "url", "")).hostname or f"The server of {remote.origin}"
    if isinstance(error, requests.HTTPError) and response is not None:
        answer = f"{server} answers {response.status_code} ({response.reason})"
        if response.status_code in RETRY.status_forcelist:
            return answer
        raise UserError(
            f"{answer} for {remote.origin}: check {remote.setting} in params.yaml, and whether a browser "
            "gets it."
        ) from None
    if isinstance(error, SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        raise UserError(
            f"{server} shows a certificate that cannot be trusted: check this computer's clock and, behind a "
            "proxy that inspects traffic, set REQUESTS_CA_BUNDLE to its certificate."
        ) from None
    if isinstance(error, ProxyError):
        return f"The proxy on the way to {server} does not let the request through (HTTPS_PROXY)"
    if isinstance(error, requests.Timeout) or isinstance(next(iter(error.args), None), ReadTimeoutError):
        return f"{server} does not answer"
    if isinstance(error, (ChunkedEncodingError, ContentDecodingError)):
        return f"{server} broke off the transfer"
    return f"{server} cannot be reached (is this computer online?)"


def _with_suffix(target: Path, suffix: str) -> Path:
    return target.with_name(target.name + suffix)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
