"""What stands before Gradio: only routes that the page needs, bounds on every body, no foreign paths.

Gradio's routes can fetch addresses, read files below its folders, and take bodies of any size. A
visitor of this page needs little of that; the rest answers 404, 403, 413 or 400 here.
"""

import json
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from malaria.cells import images

from . import uploads
from .logs import event

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MOST_JSON = 2 * 2**20
MOST_UPLOAD = 256 * 2**20

_API = "/gradio_api"

# Route by route what the page and gradio_client need, under the name that the log has for it.
_ROUTES = {
    name: re.compile(pattern)
    for name, pattern in {
        "page": r"/",
        "assets": r"/(assets|static|svelte)/.+",
        "icons": r"/(theme\.css|favicon\.ico|manifest\.json|robots\.txt)",
        "config": r"/config/?",
        "healthz": r"/healthz",
        "version": r"/version",
        "model_info": r"/model_info",
        "classify": r"/classify(_batch)?",
        "info": rf"{_API}/(info/?|openapi\.json|startup-events|app_id/?|user/?|theme\.css|upload_progress)",
        "heartbeat": rf"{_API}/heartbeat/[^/]+",
        "upload": rf"{_API}/upload",
        "file": rf"{_API}/file=.*",
        "join": rf"{_API}/queue/join",
        "call": rf"{_API}/call/[^/]+/?",
        "answer": rf"{_API}/(queue/(data|status)|call/[^/]+/[^/]+)",
        "cancel": rf"{_API}/(cancel|reset/?)",
    }.items()
}

# The page must not ask any other host for anything, whatever Gradio or an uploaded file would have it do.
_HEADERS = (
    (b"content-security-policy", b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)

# Only these take something; all others are read, with GET or HEAD.
_TAKING = {"classify", "upload", "join", "call", "cancel"}


class Gate:
    """ASGI middleware; `folder` is where uploads lie, `functions` the numbers and names that Gradio has
    for what can be asked.
    """

    def __init__(
        self, app: Callable[[Scope, Receive, Send], Awaitable[None]], folder: Path, functions: dict[int, str]
    ) -> None:
        self.app, self.folder, self.functions = app, folder, functions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            # No route of the page is a websocket.
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

        async def noting(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        route = route_of(scope["path"])
        try:
            try:
                receive = await self._checked(route, scope, receive)
            except HTTPException as refusal:
                answer = JSONResponse({"error": refusal.detail}, refusal.status_code)
                await answer(scope, receive, noting)
            else:
                await self.app(scope, receive, noting)
        finally:
            milliseconds = round(1000 * (time.perf_counter() - began), 1)
            event("request", route=route or "unknown", method=scope["method"], status=status, ms=milliseconds)

    async def _checked(self, route: str | None, scope: Scope, receive: Receive) -> Receive:
        """What the application may receive; HTTPException where it may not be asked at all."""
        if route is None:
            raise HTTPException(404, "There is no such page here.")
        if (scope["method"] in ("GET", "HEAD")) == (route in _TAKING):
            raise HTTPException(405, "This page takes no such request.")
        if route == "file":
            try:
                uploads.own(scope["path"].partition("file=")[2], self.folder)
            except images.Unreadable:
                raise HTTPException(403, "This file is not yours to read.") from None
        if scope["method"] in ("GET", "HEAD"):
            return receive
        if route == "call" and scope["path"].strip("/").split("/")[-1] not in self.functions.values():
            raise HTTPException(404, "There is no such function here.")
        if route in ("join", "call", "cancel"):
            return await self._json(receive, joins=route == "join")
        return _bounded(receive, MOST_UPLOAD if route == "upload" else uploads.MOST_BYTES)

    async def _json(self, receive: Receive, joins: bool) -> Receive:
        """The body, read whole, once every file it names is one that was uploaded here; a body that
        joins the queue must name a function by its number.
        """
        body = b""
        bounded = _bounded(receive, MOST_JSON)
        more = True
        while more:
            message = await bounded()
            if message["type"] == "http.disconnect":
                return receive
            body += message.get("body", b"")
            more = message.get("more_body", False)
        try:
            content = json.loads(body)
        except (ValueError, RecursionError):
            raise HTTPException(400, "The body is no JSON.") from None
        if not isinstance(content, dict):
            raise HTTPException(400, "The body must be a JSON object.")
        if joins and content.get("fn_index") not in list(self.functions):
            raise HTTPException(400, "There is no such function here.")
        try:
            for path in paths_in(content):
                uploads.own(path, self.folder)
        except images.Unreadable as error:
            raise HTTPException(400, f"A file of this request is {error.reason}.") from None
        sent = False

        async def replay() -> MutableMapping[str, Any]:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        return replay


def route_of(path: str) -> str | None:
    """The name of the route that a path asks for; None where there is none."""
    return next((name for name, pattern in _ROUTES.items() if pattern.fullmatch(path)), None)


def paths_in(content: object) -> list[object]:
    """Every `path` in a JSON value, which Gradio might take for a file's."""
    found: list[object] = []
    left = [content]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            if value.get("path") is not None:
                found.append(value["path"])
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)
    return found


def _bounded(receive: Receive, most: int) -> Receive:
    taken = 0

    async def bounded() -> MutableMapping[str, Any]:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > most:
            # Starlette turns this into an answer wherever the body is read.
            raise HTTPException(413, f"More than {most // 2**20} MB at once.")
        return message

    return bounded
