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

from .logs import event, log, where
from .model import Model

_COOKIE = "malaria_page"

# The newest application, and the one before it for pages that are still open.
_KEPT = 2


@dataclass
class Current:
    """ASGI application (`asgi`) that serves the models of `opened`, which it calls again if `folder` changes.

    opened: opens the models.
    make: makes the application of these models.
    folder: the bundle's folder, checked every `seconds`; None for a bundle that never changes.
    _kept: running applications and the exit stacks that end them, by the cookie of their pages.
    """

    opened: Callable[[], list[Model]]
    make: Callable[[list[Model]], Starlette]
    folder: Path | None = None
    seconds: float = 5
    _kept: dict[str, tuple[Starlette, contextlib.AsyncExitStack]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Before the bundle is opened: a change in the meantime must not be missed.
        self._tried = _state(self.folder)
        self._models = self.opened()
        self._first = self.make(self._models)
        self.asgi = Router(default=self._answer, lifespan=self._live, redirect_slashes=False)

    @contextlib.asynccontextmanager
    async def _live(self, _: object) -> AsyncIterator[None]:
        await self._take(self._first)
        watching = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watching.cancel()
            for _, running in self._kept.values():
                await running.aclose()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        newest = list(self._kept)[-1]
        path = scope["path"]
        asked = Request(scope).cookies.get(_COOKIE) if path.startswith("/gradio_api/") else None

        async def marked(message: Message) -> None:
            if path == "/" and message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                headers.append("set-cookie", f"{_COOKIE}={newest}; HttpOnly; SameSite=Strict; Path=/")
            await send(message)

        application, _ = self._kept.get(asked or newest, self._kept[newest])
        await application(scope, receive, marked)

    async def _take(self, asgi: Starlette) -> None:
        """Start this application, and send it the requests that come from now on."""
        running = contextlib.AsyncExitStack()
        await running.enter_async_context(asgi.router.lifespan_context(asgi))
        self._kept[secrets.token_hex(8)] = asgi, running
        if len(self._kept) > _KEPT:
            _, ended = self._kept.pop(next(iter(self._kept)))
            await ended.aclose()

    async def _watch(self) -> None:
        before = self._tried
        while self.folder:
            await asyncio.sleep(self.seconds)
            now = await anyio.to_thread.run_sync(_state, self.folder)
            # Wait until it is written: until then it changes from one look to the next, or is missing.
            if now == before and now not in (self._tried, ()):
                self._tried = now
                await self._renew()
            before = now

    async def _renew(self) -> None:
        try:
            await self._serve(await anyio.to_thread.run_sync(self.opened))
        except Exception as error:  # whatever is wrong with it, the old one is served
            said = str(error) if isinstance(error, UserError) else where(error)
            log.warning("a newer bundle is refused, the old one served", extra={"fields": {"error": said}})
            served, *others = self._models
            await self._serve([replace(served, newer_is_damaged=True), *others])

    async def _serve(self, models: list[Model]) -> None:
        """Serve these models from now on, unless the first of them is served already."""
        new, served = models[0], self._models[0]
        same = new.bundle.manifest and new.bundle.manifest == served.bundle.manifest
        if not same or new.newer_is_damaged != served.newer_is_damaged:
            await self._take(await anyio.to_thread.run_sync(self.make, models))
            self._models = models
            event("model", version=new.title, manifest=new.bundle.manifest, since=new.since)


def _state(folder: Path | None) -> tuple[tuple[str, int, int], ...]:
    """Name, modification time (ns) and inode of a folder's files, to notice changes; empty without files."""
    try:
        states = [(file.name, file.stat()) for file in sorted(folder.iterdir())] if folder else []
    except OSError:
        return ()
    return tuple((name, state.st_mtime_ns, state.st_ino) for name, state in states)
