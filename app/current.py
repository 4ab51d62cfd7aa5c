"""Serve the newest bundle without a restart: watch the bundle's folder, and switch when it changes.

The new bundle is opened and checked while the old one still answers; from then on, requests go to the new
one. A page that is open stays with the model that it shows, and shows the new one after a reload.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio.to_thread
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.routing import Router
from starlette.types import Message, Receive, Scope, Send

from malaria.errors import UserError

from .logs import event, locate, log
from .model import Model

_COOKIE = "malaria_page"

# The newest application, and the one before it for pages that are still open.
_MAX_RUNNING = 2


@dataclass
class Current:
    """ASGI application (`asgi`) that serves models, and opens them again if the bundle's folder changes.

    open_models: opens the models.
    make: makes the application of these models.
    folder: the bundle's folder, checked every `seconds`; None for a bundle that never changes.
    _running: running applications and the exit stacks that end them, by the cookie of their pages.
    """

    open_models: Callable[[], list[Model]]
    make: Callable[[list[Model]], Starlette]
    folder: Path | None = None
    seconds: float = 5
    _running: dict[str, tuple[Starlette, contextlib.AsyncExitStack]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Before the bundle is opened: a change in the meantime must not be missed.
        self._tried_state = _state(self.folder)
        self._models = self.open_models()
        self._first = self.make(self._models)
        self.asgi = Router(default=self._answer, lifespan=self._lifespan, redirect_slashes=False)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: object) -> AsyncIterator[None]:
        await self._start(self._first)
        watcher = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watcher.cancel()
            for _, stack in self._running.values():
                await stack.aclose()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        newest = list(self._running)[-1]
        path = scope["path"]
        cookie = Request(scope).cookies.get(_COOKIE) if path.startswith("/gradio_api/") else None

        async def send_with_cookie(message: Message) -> None:
            if path == "/" and message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                headers.append("set-cookie", f"{_COOKIE}={newest}; HttpOnly; SameSite=Strict; Path=/")
            await send(message)

        application, _ = self._running.get(cookie or newest, self._running[newest])
        await application(scope, receive, send_with_cookie)

    async def _start(self, asgi: Starlette) -> None:
        """Start this application, and send it the requests that come from now on."""
        stack = contextlib.AsyncExitStack()
        await stack.enter_async_context(asgi.router.lifespan_context(asgi))
        self._running[secrets.token_hex(8)] = asgi, stack
        if len(self._running) > _MAX_RUNNING:
            _, oldest = self._running.pop(next(iter(self._running)))
            await oldest.aclose()

    async def _watch(self) -> None:
        before = self._tried_state
        while self.folder:
            await asyncio.sleep(self.seconds)
            now = await anyio.to_thread.run_sync(_state, self.folder)
            # A bundle that is being written changes from one look to the next, or is missing: wait.
            if now == before and now not in (self._tried_state, ()):
                self._tried_state = now
                await self._reload()
            before = now

    async def _reload(self) -> None:
        try:
            await self._serve(await anyio.to_thread.run_sync(self.open_models))
        except Exception as error:  # whatever is wrong with it, the old one is served
            reason = str(error) if isinstance(error, UserError) else locate(error)
            log.warning("a newer bundle is refused, the old one served", extra={"fields": {"error": reason}})
            served, *compared = self._models
            await self._serve([replace(served, newer_is_damaged=True), *compared])

    async def _serve(self, models: list[Model]) -> None:
        """Serve these models from now on, unless the first of them is served already."""
        new, served = models[0], self._models[0]
        same = new.bundle.manifest and new.bundle.manifest == served.bundle.manifest
        if not same or new.newer_is_damaged != served.newer_is_damaged:
            await self._start(await anyio.to_thread.run_sync(self.make, models))
            self._models = models
            event("model", version=new.title, manifest=new.bundle.manifest, since=new.since)


def _state(folder: Path | None) -> tuple[tuple[str, int, int], ...]:
    """Name, modification time (ns) and inode of a folder's files, to notice changes; empty without files."""
    try:
        states = [(file.name, file.stat()) for file in sorted(folder.iterdir())] if folder else []
    except OSError:
        return ()
    return tuple((name, state.st_mtime_ns, state.st_ino) for name, state in states)
