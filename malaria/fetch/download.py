"""Downloads that go on where they broke off, and bear their name only once they are whole and right."""

import email.utils
import json
import os
import random
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import platformdirs
import requests
from filelock import FileLock, Timeout
from tqdm import tqdm
from urllib3.exceptions import MaxRetryError, NameResolutionError

from malaria import files
from malaria.errors import UserError

CACHE_VARIABLE = "MALARIA_CACHE"

_CHUNK = 2**16
# Statuses that another attempt may change.
_PASSING = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Remote:
    """A file that a server has.

    origin: names the file to people, and keeps parts of different files apart; holds no secret.
    request: prepares the request for the whole file; called for each attempt, since signed addresses
        expire. What it raises of `requests` counts as a failed attempt, a UserError ends them.
    setting: the parameter that chooses the file, for advice.
    size, sha256: what it must have, in bytes and in hexadecimal; None where nobody published it.
    """

    origin: str
    request: Callable[[], requests.PreparedRequest]
    setting: str
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Retries:
    """How often to try, and how long to wait (s): twice as long each time, give or take a half.

    Only failures without progress count as `attempts`. `timeout` is how long a server may say nothing.
    """

    attempts: int = 6
    first_wait: float = 1.0
    longest_wait: float = 120.0
    timeout: float = 60.0
    pause: Callable[[float], None] = time.sleep


PATIENT = Retries()


@dataclass(frozen=True)
class _Record:
    """What is known of a file that is here whole or in part: kept beside it, as JSON.

    validator: the ETag or date by which a server tells that the rest belongs to the part; empty
        where it gave none. size: -1 where the server did not tell it.
    """

    origin: str
    validator: str
    size: int
    sha256: str = ""


class _BrokenOff(Exception):  # noqa: N818 - an answer to try again after, and never seen outside
    """The server's answer was of no use, in a few words."""


def url(address: str, setting: str, size: int | None = None, sha256: str | None = None) -> Remote:
    """A file at a plain address that needs no sign-in.

    Raises:
        UserError: `address` is no HTTP address.
    """
    try:
        request = requests.Request("GET", address).prepare()
    except (requests.RequestException, ValueError):
        request = None
    if request is None or not (request.url or "").startswith(("https://", "http://")):
        raise UserError(f"params.yaml: {setting} gives {address}, which is no http address: mend it.")
    return Remote(address, request.copy, setting, size, sha256)


def cache_folder(given: Path | None = None) -> Path:
    """Where downloads are kept: `given`, else $MALARIA_CACHE, else the user's cache folder."""
    named = os.environ.get(CACHE_VARIABLE)
    return given or (Path(named) if named else platformdirs.user_cache_path("malaria-cells"))


def fetch(remote: Remote, target: Path, retries: Retries = PATIENT) -> None:
    """Bring `remote` to `target`, or find it there already; then nothing is asked of the network.

    Until it is whole and has the right size and SHA-256 it is called `<target>.part`, and a later
    call goes on from there if the server still has the same file. Two processes never write one file:
    the second waits, and then finds it.

    Raises:
        UserError: it cannot be had, or is another file than expected; the sentence says what to do.
    """
    with _disk_in_words(target):
        if _is_here(remote, target):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(target):
            # Another process may have brought it while this one waited.
            if not _is_here(remote, target):
                target.unlink(missing_ok=True)
                _bring(remote, target, retries)


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Holds the lock on `target`; the system lets go of it when a process dies, however it dies."""
    lock = FileLock(_beside(target, ".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _say(f"Another process is downloading {target.name}: waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _is_here(remote: Remote, target: Path) -> bool:
    record = _read_record(target)
    expected = remote.sha256 or (record.sha256 if record and record.origin == remote.origin else "")
    if not expected or not target.is_file() or remote.size not in (None, target.stat().st_size):
        return False
    return files.sha256(target) == expected


def _bring(remote: Remote, target: Path, retries: Retries) -> None:
    part = _beside(target, ".part")
    failures = furthest = 0
    spoilt = ""
    while True:
        wait = 0.0
        try:
            _attempt(remote, target, part, retries.timeout)
            found = files.sha256(part)
            if remote.sha256 in (None, found):
                _settle(remote, target, part, found)
                return
            part.unlink()
            if spoilt:
                raise UserError(
                    f"{remote.origin} came twice with another content than expected (SHA-256 {found}, but "
                    f"{remote.setting} expects {remote.sha256}): it has changed there, or is changed on its "
                    "way; compare with what its publisher says before you change the parameter."
                )
            spoilt = found
            reason = f"{remote.origin} came damaged"
        except requests.RequestException as error:
            reason = _in_words(error, remote, retries.timeout)
            wait = _asked_wait(error)
        except _BrokenOff as broken:
            reason = f"{remote.origin} {broken}"
        have = _size(part)
        failures = 1 if have > furthest else failures + 1
        furthest = max(have, furthest)
        kept = f"; {have:,} bytes are kept, and the next run goes on from there" if have else ""
        if wait > retries.longest_wait:
            raise UserError(f"{reason} and asks to wait for {wait:.0f} s: run again after that{kept}.")
        if failures >= retries.attempts:
            raise UserError(f"{reason}, {failures} times in a row: run again later{kept}.")
        backoff = min(retries.first_wait * 2 ** (failures - 1), retries.longest_wait)
        wait = max(wait, backoff * random.uniform(0.5, 1.5))
        _say(f"{reason}; trying again in {wait:.0f} s")
        retries.pause(wait)


def _attempt(remote: Remote, target: Path, part: Path, timeout: float) -> None:
    """One request; returns once `part` is as long as the server's file."""
    record = _read_record(target)
    have = _size(part)
    if record is None or record.origin != remote.origin or have > record.size >= 0:
        record, have = None, 0
    if record and have == record.size:
        return
    request = remote.request()
    # A compressed transfer would make ranges and sizes those of another file.
    request.headers["Accept-Encoding"] = "identity"
    if record and record.validator and have:
        request.headers["Range"] = f"bytes={have}-"
        request.headers["If-Range"] = record.validator
    with requests.Session() as session:
        settings = session.merge_environment_settings(request.url or "", {}, True, None, None)
        with session.send(request, timeout=timeout, allow_redirects=True, **settings) as response:
            if response.status_code == 416:
                part.unlink(missing_ok=True)
                raise _BrokenOff("no longer has the part that is missing here")
            response.raise_for_status()
            start, size = _extent(response)
            if remote.size is not None and size not in (-1, remote.size):
                raise UserError(
                    f"{remote.origin} has {size:,} bytes, but {remote.setting} expects {remote.size:,}: it "
                    "has changed there, or something else answers in its place; look at it in a browser."
                )
            if start == 0:
                # The old part goes before the new record comes: a kill between leaves an empty part.
                part.write_bytes(b"")
                record = _Record(remote.origin, _validator(response), size)
                files.write_json(_beside(target, ".json"), asdict(record))
            elif record is None or start != have or record.size not in (-1, size):
                part.unlink(missing_ok=True)
                raise _BrokenOff("was answered with a range that nobody asked for")
            _check_space(target.parent, size - start)
            _append(response, part, start, size, target.name)
    if size >= 0 and _size(part) != size:
        raise _BrokenOff(f"ended after {_size(part):,} of {size:,} bytes")


def _extent(response: requests.Response) -> tuple[int, int]:
    """Where in the file the body starts, and the whole file's size; -1 where that is not told."""
    if response.status_code == 206:
        told = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        # No server should leave it out; -1 fits no part.
        return (int(told[1]), int(told[2])) if told else (-1, -1)
    return 0, int(response.headers.get("Content-Length", -1))


def _validator(response: requests.Response) -> str:
    """What If-Range takes; a weak ETag does not promise the same bytes."""
    etag = response.headers.get("ETag", "")
    if etag and not etag.startswith("W/"):
        return etag
    return response.headers.get("Last-Modified", "")


def _append(response: requests.Response, part: Path, start: int, size: int, name: str) -> None:
    total = size if size >= 0 else None
    with (
        part.open("ab", buffering=0) as out,
        tqdm(
            total=total, initial=start, desc=name, unit="B", unit_scale=True, unit_divisor=1000, disable=None
        ) as bar,
    ):
        for chunk in response.iter_content(_CHUNK):
            out.write(chunk)
            bar.update(len(chunk))


def _settle(remote: Remote, target: Path, part: Path, sha256: str) -> None:
    """Give the checked part its name, with its record."""
    with part.open("rb+") as stream:
        os.fsync(stream.fileno())
    record = _read_record(target)
    validator = record.validator if record else ""
    whole = _Record(remote.origin, validator, _size(part), sha256)
    files.write_json(_beside(target, ".json"), asdict(whole))
    os.replace(part, target)


def _read_record(target: Path) -> _Record | None:
    try:
        content = json.loads(_beside(target, ".json").read_text(encoding="utf-8"))
        return _Record(
            str(content["origin"]), str(content["validator"]), int(content["size"]), str(content["sha256"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _in_words(error: requests.RequestException, remote: Remote, timeout: float) -> str:
    """What went wrong, to be followed by how often.

    Raises:
        UserError: another attempt would not mend it. It hides `error`, whose text may quote a signed address.
    """
    asked = error.response if error.response is not None else error.request
    host = urlsplit(asked.url or "").hostname if asked is not None else None
    server = host or f"The server of {remote.origin}"
    if isinstance(error, requests.HTTPError) and error.response is not None:
        status = error.response.status_code
        if status in _PASSING:
            return f"{server} answers {status} ({_MEANINGS.get(status, 'its own fault')})"
        raise UserError(
            f"{server} answers {status} ({_MEANINGS.get(status, 'refused')}) for {remote.origin}: check "
            f"{remote.setting} in params.yaml, and whether a browser gets it."
        ) from None
    if isinstance(error, requests.exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        raise UserError(
            f"{server} shows a certificate that cannot be trusted: check this computer's clock and, behind a "
            "proxy that inspects traffic, set REQUESTS_CA_BUNDLE to its certificate."
        ) from None
    if isinstance(error, (requests.exceptions.InvalidURL, requests.exceptions.MissingSchema)):
        raise UserError(f"{remote.origin} is no address that can be asked: check {remote.setting}.") from None
    if isinstance(error, requests.exceptions.ProxyError):
        return f"The proxy on the way to {server} does not let through (HTTPS_PROXY)"
    if isinstance(error, requests.Timeout):
        return f"{server} says nothing for {timeout:g} s"
    cause = error.args[0] if error.args else None
    if isinstance(cause, MaxRetryError) and isinstance(cause.reason, NameResolutionError):
        return f"{server} cannot be found (is this computer online?)"
    if isinstance(
        error, (requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError)
    ):
        return f"{server} broke off"
    return f"{server} cannot be reached"


_MEANINGS = {
    401: "sign-in needed",
    403: "forbidden",
    404: "no such file",
    410: "no longer there",
    429: "too many requests",
    500: "a fault of its own",
    502: "a gateway's fault",
    503: "not available now",
    504: "a gateway's timeout",
}


def _asked_wait(error: requests.RequestException) -> float:
    """How long the server asks to wait (Retry-After), in s; 0 where it does not."""
    told = error.response.headers.get("Retry-After", "") if error.response is not None else ""
    if told.isdigit():
        return float(told)
    try:
        until = email.utils.parsedate_to_datetime(told)
    except ValueError:
        return 0.0
    return max((until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds(), 0.0)


@contextmanager
def _disk_in_words(target: Path) -> Iterator[None]:
    """Turns what the disk refuses into a UserError; what the network does is an OSError to `requests`."""
    try:
        yield
    except requests.RequestException:
        raise
    except OSError as error:
        raise UserError(
            f"{target.parent} cannot take the download ({error.strerror or type(error).__name__}): free some "
            f"disk there, or choose another folder with {CACHE_VARIABLE} or --cache-dir; what came is kept."
        ) from None


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder} has {free:,} bytes free, but the download takes {needed:,} more: free some, or choose "
            f"another folder with {CACHE_VARIABLE} or --cache-dir."
        )


def _say(text: str) -> None:
    tqdm.write(text, file=sys.stderr)


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(target.name + suffix)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
