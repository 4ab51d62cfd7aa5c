"""The server: Gradio's page behind the firewall, plain routes for programs, and an orderly end."""

import contextlib
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware

from malaria import __version__
from malaria.errors import UserError

from . import cells, firewall, page, plain, uploads, verdict
from .gradio_import import gr
from .logs import event
from .model import Model

# An orchestrator kills ten seconds after SIGTERM or sooner; what runs has this long to finish.
_DRAIN_SECONDS = 4


def make(models: Sequence[Model], source: cells.Source, folder: Path, limits: page.Limits) -> Starlette:
    """The application; uploads are kept in `folder`."""
    asgi = Starlette(
        routes=plain.routes(models, folder, limits),
        middleware=[Middleware(firewall.Firewall, seconds=limits.body_seconds)],
    )
    asgi.router.redirect_slashes = False
    blocks = page.build(models, source, folder, limits)
    gr.mount_gradio_app(
        asgi,
        blocks,
        path="/",
        theme=page.theme(),
        head=page.head(),
        footer_links=["api"],
        run_history=False,
        max_file_size=uploads.MOST_BYTES,
        show_error=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        pwa=False,
    )
    # Mounted, Gradio believes that it has not started, and then skips its checks of the files that a
    # request names.
    blocks.has_launched = True
    functions = {number: str(function.api_name) for number, function in blocks.fns.items()}
    # In place of the mount, which would answer at every path.
    gradio = asgi.routes.pop().app  # type: ignore[attr-defined]
    asgi.routes.extend(firewall.routes(gradio, folder, functions))
    return asgi


def address(host: str, port: int) -> str:
    """What to open in a browser; colons of an IPv6 address stand in brackets."""
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; UserError where the address is taken or not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns off Nagle's algorithm, which holds an answer's body back for 40 ms, where TCP is named.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen()
    except (OSError, OverflowError) as error:
        listening.close()
        why = getattr(error, "strerror", None) or error
        raise UserError(
            f"Cannot listen on {host}, port {port} ({why}): name another --host or --port."
        ) from None
    return listening


def serve(asgi: Starlette, listening: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT."""
    host, port = listening.getsockname()[:2]
    event("ready", host=host, port=port)
    print(f"Open {address(host, port)} in a browser. {verdict.RESEARCH} Ctrl-C ends it.", flush=True)
    for number in (signal.SIGINT, signal.SIGTERM):
        # uvicorn puts its own handlers in place, and raises the signal again once it has ended.
        signal.signal(number, lambda *_: None)
    uvicorn.Server(config(asgi)).run([listening])
    event("ended", version=__version__)


def config(asgi: Starlette) -> Any:
    """How uvicorn serves, and how it ends."""
    return uvicorn.Config(
        asgi,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=_DRAIN_SECONDS,
        server_header=False,
        ws="none",
    )


@contextlib.contextmanager
def upload_folder() -> Iterator[Path]:
    """A folder of this process's own for uploads, gone when it ends."""
    folder = Path(tempfile.mkdtemp(prefix="malaria-app-"))
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
