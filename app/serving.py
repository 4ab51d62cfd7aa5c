"""The server: Gradio's page behind the gate, routes for probes and plain programs, and an orderly end."""

import contextlib
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import anyio
import anyio.to_thread
import fastapi
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from malaria import __version__
from malaria.cells import images
from malaria.errors import UserError

from . import api, cells, firewall, page, uploads, verdict
from .gradio_import import gr
from .logs import event
from .model import Model, info

_Judging = Callable[[bytes, verdict.Point], JSONResponse]

# An orchestrator kills ten seconds after SIGTERM or sooner; what runs has this long to finish.
_DRAIN_SECONDS = 4


@dataclass
class State:
    """Whether the server takes work, as `/healthz` tells it."""

    draining: bool = False


@dataclass(frozen=True)
class App:
    """The application, and the state that it tells probes."""

    asgi: fastapi.FastAPI
    state: State


def make(models: Sequence[Model], source: cells.Source, folder: Path, limits: page.Limits) -> App:
    """The application; uploads are kept in `folder`."""
    state = State()
    asgi = fastapi.FastAPI(openapi_url=None)
    _add_routes(asgi, models, folder, limits, state)
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
    asgi.add_middleware(firewall.Gate, folder=folder, functions=functions)
    return App(asgi, state)


def _add_routes(
    asgi: fastapi.FastAPI, models: Sequence[Model], folder: Path, limits: page.Limits, state: State
) -> None:
    # Beside Gradio's queue, which counts what comes through the page.
    side_by_side, taken, held = anyio.CapacityLimiter(limits.at_once), 0, 0

    def refused(why: str, status: int) -> JSONResponse:
        return JSONResponse({"error": why}, status)

    async def judged(request: Request, threshold: float, judge: _Judging) -> JSONResponse:
        nonlocal held
        if not 0 <= threshold <= 1:
            return refused("threshold must be a number from 0 to 1.", 422)
        body, size = bytearray(), 0
        try:
            with anyio.fail_after(limits.body_seconds):
                async for chunk in request.stream():
                    body += chunk
                    size += len(chunk)
                    held += len(chunk)
                    if held > limits.bodies:
                        return refused("Too much is being sent at once: ask again later.", 503)
        except TimeoutError:
            return refused(
                f"The body was not here within {limits.body_seconds:g} seconds: send it faster.", 408
            )
        except ClientDisconnect:
            return refused("The body was cut short.", 400)
        else:
            whole = bytes(body)
            # What waits for its turn is held once.
            body.clear()
            return await in_turn(judge, whole, api.chosen(threshold))
        finally:
            held -= size

    async def in_turn(judge: _Judging, body: bytes, point: verdict.Point) -> JSONResponse:
        """Only a body that is here takes one of the places: those who send slowly, or nothing, must not
        keep them from others. What all bodies may take of the memory has its own bound, `limits.bodies`.
        """
        nonlocal taken
        if taken >= limits.at_once + limits.waiting:
            return refused("Too many requests are waiting: ask again later.", 503)
        taken += 1
        try:
            return await anyio.to_thread.run_sync(judge, body, point, limiter=side_by_side)
        finally:
            taken -= 1

    def one_cell(body: bytes, point: verdict.Point) -> JSONResponse:
        try:
            pixels = images.read(body, models[0].limits).pixels
        except images.Unreadable as error:
            return JSONResponse({"error": verdict.unreadable(error.reason).headline}, 422)
        return JSONResponse(api.one_cell(models, pixels, point))

    def many_cells(body: bytes, point: verdict.Point) -> JSONResponse:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(body)
            file.flush()
            return JSONResponse(api.many_cells(models, [("upload", Path(file.name))], point))

    @asgi.get("/healthz")
    def healthz() -> JSONResponse:
        """200 while the network answers, 503 once the server is to end."""
        if state.draining:
            return JSONResponse({"status": "draining"}, 503)
        models[0].answer(page.EXAMPLES[0][0])
        return JSONResponse({"status": "ok"})

    @asgi.get("/version")
    def version() -> JSONResponse:
        """Which model is served."""
        known = info(models[0])
        return JSONResponse(
            {name: known[name] for name in ("app", "name", "version", "revision", "date", "hashes")}
        )

    @asgi.get("/model_info")
    def model_info() -> JSONResponse:
        """All there is to know of it."""
        return JSONResponse(api.model_info(models))

    @asgi.post("/classify")
    async def classify(request: Request, threshold: float = 0.5) -> JSONResponse:
        """One image as the request's body."""
        return await judged(request, threshold, one_cell)

    @asgi.post("/classify_batch")
    async def classify_batch(request: Request, threshold: float = 0.5) -> JSONResponse:
        """A zip of images as the request's body."""
        return await judged(request, threshold, many_cells)


class _Server(uvicorn.Server):
    """Ends on the first signal within `_DRAIN_SECONDS`, without being killed by it in the end."""

    def __init__(self, config: uvicorn.Config, state: State) -> None:
        super().__init__(config)
        self._state = state

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {
            number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        event("draining", signal=signal.Signals(sig).name)
        self._state.draining = True
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            event("ready", host=host, port=port)
            print(f"Open {address(host, port)} in a browser. {verdict.RESEARCH} Ctrl-C ends it.", flush=True)


def address(host: str, port: int) -> str:
    """What to open in a browser; colons of an IPv6 address stand in brackets."""
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def listen(host: str, port: int) -> socket.socket:
    """A socket to listen on; UserError where the address is taken or not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns off Nagle's algorithm, which holds an answer's body back for 40 ms, where TCP is named.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except (OSError, OverflowError) as error:
        listening.close()
        why = getattr(error, "strerror", None) or error
        raise UserError(
            f"Cannot listen on {host}, port {port} ({why}): name another --host or --port."
        ) from None
    return listening


def serve(app: App, listening: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT."""
    _Server(config(app.asgi), app.state).run([listening])
    event("ended", version=__version__)


def config(asgi: fastapi.FastAPI) -> Any:
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
