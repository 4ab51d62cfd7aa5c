"""The web server: Gradio's page behind the firewall, plain routes for programs, an orderly shutdown."""

import asyncio
import contextlib
import errno
import ipaddress
import json
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h11
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Router
from uvicorn.protocols.http.h11_impl import H11Protocol

from malaria import RESEARCH, __version__
from malaria.errors import UserError

from . import cells, firewall, page, plain, uploads
from .gradio_import import gr
from .logs import event
from .model import Model

# The page must load nothing from another host, whatever Gradio or an uploaded file asks for.
_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; form-action 'self'; base-uri 'self'; "
    "frame-ancestors "
)

# Open files of this process; half of them may be connections.
_MAX_FILES = 4096

# Running requests get this long to finish: an orchestrator kills ten seconds after SIGTERM, or sooner.
_DRAIN_SECONDS = 4


def make(models: Sequence[Model], source: cells.Source, folder: Path, limits: firewall.Limits) -> Starlette:
    """Make the application that serves `models`; uploads are kept in `folder`."""
    blocks = page.build(models, source, folder, limits)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        # Gradio's own clean-up leaves files of interrupted uploads.
        sweeper = asyncio.create_task(uploads.sweep(folder, limits.room * 2**20, limits.keep))
        yield
        sweeper.cancel()
        # Otherwise Gradio's queue continues to run, and keeps the application in memory.
        blocks.close(verbose=False)

    asgi = Starlette(
        routes=plain.routes(models, folder, limits),
        middleware=[
            Middleware(firewall.Firewall, limits=limits),
            Middleware(RequestBodyLimitMiddleware, max_body_size=firewall.MAX_UPLOAD),
        ],
        lifespan=lifespan,
    )
    gr.mount_gradio_app(
        asgi,
        blocks,
        path="/",
        theme=page.theme(),
        head=page.head(),
        footer_links=[],
        run_history=False,
        max_file_size=uploads.MAX_BYTES,
        show_error=False,
        root_path=limits.root_path,
    )
    # A mounted Gradio does not notice that it runs, and then checks no file that a request names.
    blocks.has_launched = True
    # Gradio would keep the path of every upload for as long as it runs.
    blocks.upload_file_set = SimpleNamespace(update=lambda _: None)
    functions = (*blocks.fns, *(str(function.api_name) for function in blocks.fns.values()))
    # Replace Gradio's own mount, which would answer at every path, by the filter.
    gradio = asgi.routes.pop().app  # type: ignore[attr-defined]
    for kind in (TypeError, ValueError):
        gradio.add_exception_handler(kind, _no_file)
    gradio.add_exception_handler(ClientDisconnect, lambda *_: PlainTextResponse("The client has gone.", 400))
    for application in (asgi, gradio):
        application.add_exception_handler(OSError, _no_room)
    asgi.mount("/", firewall.RouteFilter(gradio, folder, functions, limits))
    return asgi


def _no_room(_: Request, error: Exception) -> Response:
    """Say that the files of a request cannot be written; raise any other error again."""
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        raise error
    return PlainTextResponse(
        f"Files cannot be kept here ({error.strerror}): free the disk of the server's temporary folder, or "
        "start the server with another TMPDIR and a smaller --room.",
        503,
    )


def _no_file(request: Request, error: Exception) -> Response:
    """Refuse an upload that is not a form of files, at which Gradio fails; raise any other error again."""
    if not request.url.path.endswith("/upload"):
        raise error
    return PlainTextResponse("Send files, in a form, under the name `files`.", 400)


def address(host: str, port: int) -> str:
    """The URL to open in a browser, with an IPv6 address in brackets."""
    # These stand for all addresses of this machine, which a browser cannot open.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; UserError if the address is in use or not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # IPPROTO_TCP, or asyncio leaves Nagle's algorithm on, which delays an answer's body by 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"Cannot listen on {host}, port {port} ({reason}): name another --host or --port."
        ) from None
    return listener


def serve(asgi: Router, listener: socket.socket, limits: firewall.Limits) -> None:
    """Serve until SIGTERM or SIGINT."""
    host, port = listener.getsockname()[:2]
    event("ready", host=host, port=port)
    if not ipaddress.ip_address(host).is_loopback:
        reach = "who knows name and password" if limits.auth else "on the network: --auth asks for a password"
        print(f"note: this page is open to anyone {reach}.", file=sys.stderr)
    print(f"Open {address(host, port)} in a browser. {RESEARCH} Ctrl-C ends it.", flush=True)
    for number in (signal.SIGINT, signal.SIGTERM):
        # uvicorn installs its own handlers, and raises the signal again after it has ended: ignore that.
        signal.signal(number, lambda *_: None)
    uvicorn.Server(config(asgi, limits.allow_frame)).run([listener])
    event("ended", version=__version__)


def config(asgi: Router, frames: Sequence[str] = ()) -> Any:
    """uvicorn's configuration; `frames`: the origins of --allow-frame."""
    policy = ("content-security-policy", _POLICY + (" ".join(frames) or "'none'"))
    return uvicorn.Config(
        asgi,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=_DRAIN_SECONDS,
        server_header=False,
        headers=[policy, ("x-content-type-options", "nosniff"), ("referrer-policy", "no-referrer")],
        ws="none",
        http=Connection,
        limit_concurrency=_set_file_limit() // 2,
    )


class Connection(H11Protocol):
    """uvicorn's connection with a time limit for the head of a request, which uvicorn does not have."""

    head_seconds = 10.0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.loop.call_later(self.head_seconds, self._close_if_idle, None)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, and close; uvicorn fails where an answer has been sent already."""
        with contextlib.suppress(h11.LocalProtocolError):
            super().send_400_response(json.dumps({"error": msg}))
        self.transport.close()

    def _close_if_idle(self, before: object) -> None:
        """Close the connection if it was idle since the last check; otherwise check again later."""
        if self.transport.is_closing():
            return
        if self.cycle is before and (before is None or self.cycle.response_complete):
            self.transport.close()
        else:
            self.loop.call_later(self.head_seconds, self._close_if_idle, self.cycle)


def _set_file_limit() -> int:
    """Set this process's limit of open files to `_MAX_FILES`, or the most allowed, and return it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = _MAX_FILES if most == resource.RLIM_INFINITY else min(most, _MAX_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))
    return allowed
