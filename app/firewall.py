"""What stands before Gradio: only routes that the page needs, bounds on every request, no foreign paths.

Gradio's routes can fetch addresses, read files below its folders, and take bodies of any size. A visitor of
this page needs little of that; what is left over is no route here.
"""

import json
import math
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import anyio
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from malaria.cells import images

from . import uploads
from .logs import event

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

MOST_JSON = 2 * 2**20
MOST_UPLOAD = 256 * 2**20

_API = "/gradio_api"

# Of Gradio's routes those that the page and gradio_client read.
_READ = (
    "/",
    *(f"/{folder}/{{path:path}}" for folder in ("assets", "static", "svelte")),
    *("/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt", "/config", "/config/"),
    *(f"{_API}/{name}" for name in ("info", "info/", "openapi.json", "startup-events", "app_id", "app_id/")),
    *(f"{_API}/{name}" for name in ("user", "user/", "theme.css", "upload_progress", "heartbeat/{session}")),
    *(f"{_API}/{name}" for name in ("queue/data", "queue/status", "call/{name}/{event}")),
)

# The page must not ask any other host for anything, whatever Gradio or an uploaded file would have it do.
_HEADERS = {
    "content-security-policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


def routes(gradio: Application, folder: Path, functions: Mapping[int, str]) -> list[Route]:
    """Gradio's routes that answer here.

    Args:
        folder: where uploads lie.
        functions: the numbers and names that Gradio has for what can be asked.
    """
    checked = OwnFiles(gradio, folder, functions)
    asked = [f"{_API}/call/{name}" for name in functions.values()]
    taking = (f"{_API}/queue/join", f"{_API}/cancel", f"{_API}/reset", f"{_API}/reset/", *asked)
    return [
        *(Route(path, gradio, methods=["GET"]) for path in _READ),
        Route(f"{_API}/file={{path:path}}", checked, methods=["GET"]),
        Route(f"{_API}/upload", gradio, methods=["POST"]),
        *(Route(path, checked, methods=["POST"]) for path in taking),
    ]


@dataclass(frozen=True)
class OwnFiles:
    """ASGI application: `app`, asked only with files that were uploaded here, and for functions there are."""

    app: Application
    folder: Path
    functions: Mapping[int, str]

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            self._check([scope["path_params"]["path"]], 403)
            await self.app(scope, receive, send)
            return
        body = await Request(scope, bounded(receive, MOST_JSON)).body()
        try:
            content = json.loads(body)
        except (ValueError, RecursionError):
            raise HTTPException(400, "The body is no JSON.") from None
        if not isinstance(content, dict):
            raise HTTPException(400, "The body must be a JSON object.")
        if scope["path"].endswith("/join") and content.get("fn_index") not in list(self.functions):
            raise HTTPException(400, "There is no such function here.")
        self._check(paths_in(content), 400)
        left = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return left.pop() if left else await receive()

        await self.app(scope, again, send)

    def _check(self, paths: Sequence[object], status: int) -> None:
        try:
            for path in paths:
                uploads.own(path, self.folder)
        except images.Unreadable as error:
            raise HTTPException(status, f"A file of this request is {error.reason}.") from None


@dataclass(frozen=True)
class Firewall:
    """ASGI middleware: bounds on what is sent, headers on what is answered, refusals in one shape, a log."""

    app: Application
    seconds: float  # that a request's body may take to come

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, answer = time.perf_counter(), Answer(send)
        try:
            await self.app(scope, bounded(receive, MOST_UPLOAD, self.seconds), answer)
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            milliseconds = round(1000 * (time.perf_counter() - began), 1)
            event("request", route=route, method=scope["method"], status=answer.status, ms=milliseconds)


@dataclass
class Answer:
    """ASGI's `send`, with the page's headers, and with every refusal as `{"error": sentence}`."""

    send: Send
    status: int = 0
    said: bytes = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = MutableHeaders(raw=list(message.get("headers", ())))
            self.headers.update(_HEADERS)
            message["headers"] = self.headers.raw
            if self.status < 400:
                await self.send(message)
        elif self.status < 400:
            await self.send(message)
        else:
            self.said += message.get("body", b"")
            if not message.get("more_body"):
                refusal = JSONResponse({"error": self._sentence()}, self.status)
                self.headers.update(refusal.headers)
                await self.send(
                    {"type": "http.response.start", "status": self.status, "headers": self.headers.raw}
                )
                await self.send({"type": "http.response.body", "body": refusal.body})

    def _sentence(self) -> str:
        """What was said, by Starlette in plain text, by Gradio and FastAPI in JSON of their own."""
        try:
            content = json.loads(self.said)
        except ValueError:
            content = self.said.decode(errors="replace")
        if isinstance(content, dict):
            content = content.get("error") or content.get("detail")
        return content if isinstance(content, str) and content else HTTPStatus(self.status).phrase


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


def bounded(receive: Receive, most: int, seconds: float = math.inf) -> Receive:
    """ASGI's `receive`, for a body of `most` bytes that is here within so many seconds."""
    taken, deadline = 0, anyio.current_time() + seconds

    async def receive_bounded() -> Message:
        nonlocal taken, deadline
        try:
            with anyio.fail_after(deadline - anyio.current_time()):
                message = await receive()
        except TimeoutError:
            raise HTTPException(
                408, f"The body was not here within {seconds:g} seconds: send it faster."
            ) from None
        if not message.get("more_body"):
            # What comes after the body is that the client has gone, whenever it does.
            deadline = math.inf
        taken += len(message.get("body", b""))
        if taken > most:
            # Starlette turns this into an answer wherever the body is read.
            raise HTTPException(413, f"More than {most // 2**20} MB at once.")
        return message

    return receive_bounded
