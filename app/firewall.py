"""ASGI layers in front of Gradio: only routes that the page needs, limits on requests, only uploaded files.

Gradio itself checks that a requested file is an upload. But it fetches any `http` address that a request
names, accepts JSON of any size, and has routes that the page does not need.
"""

import asyncio
import base64
import json
import math
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import uploads
from .logs import event

MAX_JSON = 2 * 2**20
MAX_UPLOAD = 256 * 2**20

_API = "/gradio_api"

# Gradio's routes that the page and gradio_client read from, and those that they send JSON to.
_READ_ROUTES = re.compile(
    # Gradio's files have no other or longer names. The system raises an error for a name of too many bytes.
    r"/((assets|static|svelte)/[!-~]{1,200}|theme\.css|favicon\.ico|manifest\.json|robots\.txt|config/?)?"
    rf"|{_API}/(info/?|openapi\.json|startup-events|app_id/?|user/?|theme\.css|upload_progress)"
    rf"|{_API}/(heartbeat/[\w-]{{1,200}}|queue/(data|status)|call/[^/]+/[^/]+)"
)
_JSON_ROUTES = re.compile(rf"{_API}/(queue/join|cancel|reset/?|call/[^/]+)")

# Hosts that a request may name, besides those of --allow-host: an address, or a name without a dot. A
# stranger's page can point its own name at this machine (DNS rebinding), but none of these.
_SAFE_HOST = re.compile(r"([0-9.]+|\[[0-9a-f:.]+\]|[^.:\[\]]+)(:\d+)?", re.IGNORECASE)

# For refusals of Gradio and Starlette that name only the status.
_REFUSALS = {
    **dict.fromkeys(
        (403, 404, 405), "There is no such route here, or not for this method: docs/app.md lists them."
    ),
    413: f"This is too large: a file may have {uploads.MAX_BYTES // 2**20} MB.",
    422: "The request does not have the form that this route needs: docs/app.md shows it.",
    500: "The server failed at this: its log says where.",
    503: "The server is ending: ask again later.",
}


@dataclass(frozen=True)
class Limits:
    """Limits on requests and uploads: the command line's options of these names, and three more.

    body_seconds: time for a request's whole body to arrive.
    bodies: most bytes of all bodies that the plain routes hold at the same time.
    probe_seconds: how long a probe of /healthz waits for its turn.
    """

    concurrency: int = 4
    queue: int = 100
    keep: int = 3600
    room: int = 1024
    allow_host: Sequence[str] = ()
    allow_frame: Sequence[str] = ()
    auth: str = ""
    root_path: str | None = None
    body_seconds: float = 60
    bodies: int = 256 * 2**20
    probe_seconds: float = 5


@dataclass
class RouteFilter:
    """ASGI application that passes requests on to Gradio: only to allowed routes, only with uploaded files.

    folder: the upload folder.
    functions: the names of the functions that may be called, and Gradio's numbers for them.
    announced, received: bytes of the uploads that are still arriving: of their whole length, and so far.
    """

    gradio: ASGIApp
    folder: Path
    functions: tuple[object, ...]
    limits: Limits
    announced: int = 0
    received: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, posted = scope["path"], scope["method"] == "POST"
        if posted and path == f"{_API}/upload":
            await self._upload(scope, receive, send)
        elif posted and _JSON_ROUTES.fullmatch(path):
            await RequestBodyLimitMiddleware(self._pass_json, MAX_JSON)(scope, receive, send)
        elif posted or not _READ_ROUTES.fullmatch(path):
            raise HTTPException(404)
        else:
            await self.gradio(scope, receive, send)

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        announced = min(int(Headers(scope=scope).get("content-length", MAX_UPLOAD)), MAX_UPLOAD)
        half, received = self.limits.room * 2**19, 0

        async def count_bytes() -> Message:
            nonlocal received
            message = await receive()
            size = len(message.get("body", b""))
            received, self.received = received + size, self.received + size
            # The other half is for uploads that have arrived. Bytes that are only announced block nobody.
            if self.received > half:
                raise HTTPException(503, "Too much is being sent at once: ask again later.")
            return message

        async def make_room() -> None:
            most = 2 * half - min(self.announced, half)
            await anyio.to_thread.run_sync(uploads.make_room, self.folder, most, self.limits.keep)

        self.announced += announced
        try:
            await make_room()
            await self.gradio(scope, count_bytes, send)
        finally:
            self.announced -= announced
            self.received -= received
            # Also after an interrupted upload: Gradio leaves the part that arrived.
            with anyio.CancelScope(shield=True):
                await make_room()

    async def _pass_json(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await Request(scope, receive).body()
        try:
            content = json.loads(body, object_hook=self._check_path)
        except (ValueError, RecursionError):
            raise HTTPException(400, "The body is not JSON.") from None
        if not isinstance(content, dict):
            raise HTTPException(400, "The body must be a JSON object.")
        *_, route, name = scope["path"].split("/")
        function = content.get("fn_index") if route == "queue" else name
        if function not in self.functions and route in ("queue", "call"):
            raise HTTPException(400, "There is no such function here.")
        # Gradio gets exactly what was checked. A lone surrogate, which UTF-8 cannot encode, becomes `?`.
        body = json.dumps(content, ensure_ascii=False).encode(errors="replace")
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        await self.gradio(scope, replay, send)

    def _check_path(self, content: dict[str, Any]) -> dict[str, Any]:
        """Check one JSON object of a request: Gradio may open its `path`, so it must be an upload."""
        if content.get("path") is not None:
            uploads.resolve(content["path"], self.folder)
        return content


@dataclass(frozen=True)
class Firewall:
    """ASGI middleware: checks host, origin and password, limits sending time, unifies refusals, logs."""

    app: ASGIApp
    limits: Limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, reply = time.perf_counter(), Reply(send)
        try:
            self._check(scope["method"], Headers(scope=scope))
            await self._in_time(scope, receive, reply)
        except HTTPException as error:
            refusal = JSONResponse({"error": error.detail}, error.status_code, error.headers)
            await refusal(scope, receive, reply)
        except asyncio.CancelledError:
            # The server ends, and no longer waits for requests.
            if reply.status:
                raise
            await JSONResponse({}, 503)(scope, receive, reply)
        except Exception as error:
            # Gradio's stream for an ended session fails like this after the start of a refusal: finish that.
            if isinstance(error.__cause__, HTTPException):
                await reply({"type": "http.response.body"})
                return
            if not reply.status:
                await JSONResponse({}, 500)(scope, receive, reply)
            # The server logs it.
            raise
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            milliseconds = round(1000 * (time.perf_counter() - started), 1)
            event("request", route=route, method=scope["method"], status=reply.status, ms=milliseconds)

    def _check(self, method: str, headers: Headers) -> None:
        host = headers.get("host", "")
        names = map(str.lower, self.limits.allow_host)
        if not _SAFE_HOST.fullmatch(host) and host.partition(":")[0].lower() not in names:
            raise HTTPException(403, "This server goes by another name: start it with --allow-host NAME.")
        origin = headers.get("origin")
        if method not in ("GET", "HEAD") and origin is not None and origin.partition("://")[2] != host:
            raise HTTPException(403, "Pages of other sites may send nothing here.")
        if account := self.limits.auth:
            scheme, _, credentials = headers.get("authorization", "").partition(" ")
            expected = base64.b64encode(account.encode())
            if scheme.lower() != "basic" or not secrets.compare_digest(credentials.encode(), expected):
                challenge = {"www-authenticate": 'Basic realm="Malaria cells", charset="UTF-8"'}
                raise HTTPException(401, "Name and password are needed here.", challenge)

    async def _in_time(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application; HTTPException 408 if the body does not arrive within the limit."""
        seconds = self.limits.body_seconds if scope["method"] == "POST" else math.inf
        with anyio.move_on_after(seconds) as time_limit:

            async def receive_in_time() -> Message:
                message = await receive()
                if not message.get("more_body"):
                    # The body is complete; the client's disconnect, the next message, has no limit.
                    time_limit.deadline = math.inf
                return message

            await self.app(scope, receive_in_time, send)
        if time_limit.cancelled_caught:
            raise HTTPException(408, f"The body did not arrive within {seconds:g} seconds: send it faster.")


@dataclass
class Reply:
    """ASGI's `send`, which turns every refusal (status 400 and above) into `{"error": sentence}`."""

    send: Send
    status: int = 0
    body: bytes = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.start = message["status"], message
        if self.status < 400:
            await self.send(message)
            return
        self.body += message.get("body", b"")
        if message["type"] == "http.response.body" and not message.get("more_body"):
            refusal = JSONResponse({"error": self._sentence()})
            MutableHeaders(scope=self.start).update(refusal.headers)
            await self.send(self.start)
            await self.send({**message, "body": refusal.body})

    def _sentence(self) -> str:
        """The refusal's sentence: Starlette sends plain text, Gradio and FastAPI JSON of their own."""
        try:
            content = json.loads(self.body)
        except ValueError:
            content = self.body.decode(errors="replace")
        if isinstance(content, dict):
            content = content.get("error") or content.get("detail")
        phrase = HTTPStatus(self.status).phrase
        # Starlette's name for 413 is that of Python 3.13.
        is_sentence = isinstance(content, str) and content not in ("", phrase, "Content Too Large")
        return str(content) if is_sentence else _REFUSALS.get(self.status, f"{phrase}.")
