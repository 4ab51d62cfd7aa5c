"""An HTTP server on this machine that can fail in the ways that servers do, and records its requests."""

import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Asked:
    """A request that was received; `headers` by lower-case name."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Server:
    """What a running server has and does.

    files: content by path. faults: called in place of the next answers to GET, one each. posts: the same for
    POST. asked: the requests so far. ranges, validators, lengths: whether it supports Range, and sends ETag
    and Content-Length. pace: called before each piece of a body, to slow it down. released: ends stalled
    answers.
    """

    base: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    faults: list[Callable[["Handler"], None]] = field(default_factory=list)
    posts: list[Callable[["Handler"], None]] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    ranges: bool = True
    validators: bool = True
    lengths: bool = True
    pace: Callable[[], None] = lambda: None
    released: threading.Event = field(default_factory=threading.Event)


class Handler(BaseHTTPRequestHandler):
    """Answers the requests to a `Server`."""

    protocol_version = "HTTP/1.0"
    has: Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Say nothing."""

    def do_GET(self) -> None:
        self.note()
        if self.has.faults:
            self.has.faults.pop(0)(self)
        else:
            self.give()

    def do_POST(self) -> None:
        self.note()
        if self.has.posts:
            self.has.posts.pop(0)(self)
        else:
            self.fail(404)

    def note(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", 0)))
        self.has.asked.append(Asked(self.command, self.path, headers, body))

    def give(self, *, upto: int | None = None, spoil: bool = False, stall: bool = False) -> None:
        """Send the file or range asked for: cut after `upto` bytes, stalled there, or with a bit changed."""
        content = self.has.files.get(self.path.partition("?")[0])
        if content is None:
            self.fail(404)
            return
        etag = '"' + hashlib.md5(content).hexdigest() + '"'
        start = 0
        requested = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if requested and self.has.ranges and self.headers.get("If-Range", etag) == etag:
            start = int(requested[1])
            if start >= len(content):
                self.fail(416)
                return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if self.has.validators:
            self.send_header("ETag", etag)
        if self.has.lengths:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = bytearray(content[start:])
        if spoil:
            body[len(body) // 2] ^= 1
        body = body[:upto]
        try:
            for position in range(0, len(body), 2**16):
                self.has.pace()
                self.wfile.write(body[position : position + 2**16])
            if stall:
                self.wfile.flush()
                self.has.released.wait()
        except OSError:
            pass  # the client has gone

    def fail(self, status: int, content: str = "", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content.encode())


def answer(status: int, **headers: str) -> Callable[[Handler], None]:
    """Answers with `status` and no content."""
    return lambda handler: handler.fail(status, **headers)


def redirect(to: str) -> Callable[[Handler], None]:
    return answer(302, Location=to)


def truncate(upto: int) -> Callable[[Handler], None]:
    """Announces the whole length, and ends after `upto` bytes."""
    return lambda handler: handler.give(upto=upto)


def stall(upto: int) -> Callable[[Handler], None]:
    """Sends nothing more after `upto` bytes, and keeps the connection open."""
    return lambda handler: handler.give(upto=upto, stall=True)


def corrupt(handler: Handler) -> None:
    """Gives the file with one bit changed."""
    handler.give(spoil=True)


def whole(handler: Handler) -> None:
    """Gives the file without any fault."""
    handler.give()


def change(content: bytes, then: Callable[[Handler], None] = whole) -> Callable[[Handler], None]:
    """Replaces the file by `content` from now on, and answers with `then`."""

    def fault(handler: Handler) -> None:
        handler.has.files[handler.path] = content
        then(handler)

    return fault


@contextmanager
def serving(port: int = 0, **files: bytes) -> Iterator[Server]:
    """A server on `port` of localhost (0: any free one) while the block runs."""
    has = Server(files={f"/{name}": content for name, content in files.items()})
    handler = type("Handler", (Handler,), {"has": has})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    has.base = f"http://localhost:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield has
    finally:
        has.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
