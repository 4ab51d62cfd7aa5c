"""Plain HTTP routes for programs and probes: the body is a picture or a zip, the answer is JSON."""

import asyncio
import io
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from . import api, decoder, page, pictures, uploads, verdict
from .firewall import Limits
from .model import Model, info

Judge = Callable[[bytes, verdict.Point, decoder.Gone], dict[str, Any]]


@dataclass
class RequestQueue:
    """Limit how many plain requests are judged at the same time; Gradio's queue limits the page's own."""

    limits: Limits
    places: anyio.CapacityLimiter
    held_bytes: int = 0  # of request bodies, whole or still arriving

    async def serve(self, request: Request, judge: Judge) -> JSONResponse:
        """Receive a request's body, wait for a place, and answer.

        Only a whole body takes a place: a client that sends slowly, or nothing, must not block others.
        """
        point = _point(request)
        body = io.BytesIO()
        try:
            async for chunk in request.stream():
                body.write(chunk)
                self.held_bytes += len(chunk)
                if self.held_bytes > self.limits.bodies:
                    raise HTTPException(503, "Too much is being sent at once: ask again later.")
            if self.places.statistics().tasks_waiting >= self.limits.queue:
                raise HTTPException(503, "Too many requests are waiting: ask again later.")
            return JSONResponse(await self._call(request, partial(judge, body.getvalue(), point)))
        except ClientDisconnect:
            raise HTTPException(400, "The client has gone.") from None
        finally:
            self.held_bytes -= body.tell()

    async def _call(self, request: Request, judge: Callable[[decoder.Gone], Any]) -> Any:
        """Call `judge` when there is a place; ClientDisconnect if the client leaves before the answer."""
        with anyio.CancelScope() as scope:

            async def watch_client() -> None:
                while (await request.receive())["type"] != "http.disconnect":
                    pass
                # A request that waits is dropped at once; one that is being judged, after its next cells.
                scope.cancel()

            watcher = asyncio.create_task(watch_client())
            try:
                return await anyio.to_thread.run_sync(judge, lambda: scope.cancel_called, limiter=self.places)
            finally:
                watcher.cancel()
        raise ClientDisconnect


def _point(request: Request) -> verdict.Point:
    """The operating point that a request names; HTTPException for a form or an unknown parameter."""
    if request.headers.get("content-type", "").lower().startswith("multipart/"):
        raise HTTPException(
            415, "Send the file itself as the body, not a form: curl --data-binary @cell.png, without -F."
        )
    names = [name for name, _ in request.query_params.multi_items()]
    if unknown := sorted(set(names) - {"threshold"}):
        raise HTTPException(422, f"{unknown[0]} is no parameter here: the only one is `threshold`.")
    if len(names) > 1:
        raise HTTPException(422, "threshold is given twice: give it once.")
    return api.point_at(request.query_params.get("threshold", 0.5))


def routes(models: Sequence[Model], folder: Path, limits: Limits) -> list[Route]:
    """The routes; bodies of /classify_batch are files in `folder` while they are judged."""
    queue = RequestQueue(limits, anyio.CapacityLimiter(limits.concurrency))
    probe = pictures.png(page.EXAMPLES["Healthy"])

    one_cell = partial(api.one_cell, models)

    def many_cells(body: bytes, point: verdict.Point, gone: decoder.Gone) -> dict[str, Any]:
        # `uploads.make_room` may have deleted the file already, if others send much.
        with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as temporary:
            file = Path(temporary, "upload")
            file.write_bytes(body)
            return api.many_cells(models, [("upload", file)], point, gone)

    async def healthz(_: Request) -> JSONResponse:
        # If a probe gets no turn in time, other requests get none either.
        with anyio.move_on_after(limits.probe_seconds):
            await anyio.to_thread.run_sync(one_cell, probe, verdict.HALF, limiter=queue.places)
            return JSONResponse({"status": "ok"})
        raise HTTPException(503, f"Nothing was answered within {limits.probe_seconds:g} seconds.")

    def version(_: Request) -> JSONResponse:
        facts = info(models[0])
        names = "app name version revision date hashes manifest since newer_is_damaged"
        return JSONResponse({name: facts[name] for name in names.split()})

    def model_info(_: Request) -> JSONResponse:
        return JSONResponse(api.model_info(models))

    post = partial(Route, methods=["POST"], max_body_size=uploads.MAX_BYTES)
    return [
        post("/classify", partial(queue.serve, judge=one_cell)),
        post("/classify_batch", partial(queue.serve, judge=many_cells)),
        *(Route(f"/{endpoint.__name__}", endpoint) for endpoint in (healthz, version, model_info)),
    ]
