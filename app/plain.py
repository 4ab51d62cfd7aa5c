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

Judging = Callable[[bytes, verdict.Point, decoder.Gone], dict[str, Any]]


@dataclass
class Door:
    """Limit how many plain requests are judged at the same time; Gradio's queue limits the page's own."""

    limits: Limits
    places: anyio.CapacityLimiter
    held: int = 0  # bytes of request bodies, whole or still arriving

    async def judged(self, request: Request, judge: Judging) -> JSONResponse:
        """Receive a request's body, wait for a place, and answer.

        Only a whole body takes a place: a client that sends slowly, or nothing, must not block others.
        """
        point = _asked(request)
        body = io.BytesIO()
        try:
            async for chunk in request.stream():
                body.write(chunk)
                self.held += len(chunk)
                if self.held > self.limits.bodies:
                    raise HTTPException(503, "Too much is being sent at once: ask again later.")
            if self.places.statistics().tasks_waiting >= self.limits.queue:
                raise HTTPException(503, "Too many requests are waiting: ask again later.")
            return JSONResponse(await self._turn(request, partial(judge, body.getvalue(), point)))
        except ClientDisconnect:
            raise HTTPException(400, "The client has gone.") from None
        finally:
            self.held -= body.tell()

    async def _turn(self, request: Request, judge: Callable[[decoder.Gone], Any]) -> Any:
        """Call `judge` when there is a place; ClientDisconnect if the client leaves before the answer."""
        with anyio.CancelScope() as turn:

            async def left() -> None:
                while (await request.receive())["type"] != "http.disconnect":
                    pass
                # A request that waits is dropped at once; one that is being judged, after its next cells.
                turn.cancel()

            watching = asyncio.create_task(left())
            try:
                return await anyio.to_thread.run_sync(judge, lambda: turn.cancel_called, limiter=self.places)
            finally:
                watching.cancel()
        raise ClientDisconnect


def _asked(request: Request) -> verdict.Point:
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
    return api.chosen(request.query_params.get("threshold", 0.5))


def routes(models: Sequence[Model], folder: Path, limits: Limits) -> list[Route]:
    """The routes; bodies of /classify_batch are files in `folder` while they are judged."""
    door = Door(limits, anyio.CapacityLimiter(limits.concurrency))
    probe = pictures.encoded(page.EXAMPLES["Healthy"])

    one_cell = partial(api.one_cell, models)

    def many_cells(body: bytes, point: verdict.Point, gone: decoder.Gone) -> dict[str, Any]:
        # `uploads.make_room` may have deleted the file already, if others send much.
        with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as own:
            file = Path(own, "upload")
            file.write_bytes(body)
            return api.many_cells(models, [("upload", file)], point, gone)

    async def healthz(_: Request) -> JSONResponse:
        # If a probe gets no turn in time, other requests get none either.
        with anyio.move_on_after(limits.probe_seconds):
            await anyio.to_thread.run_sync(one_cell, probe, verdict.HALF, limiter=door.places)
            return JSONResponse({"status": "ok"})
        raise HTTPException(503, f"Nothing was answered within {limits.probe_seconds:g} seconds.")

    def version(_: Request) -> JSONResponse:
        known = info(models[0])
        names = "app name version revision date hashes manifest since newer_is_damaged"
        return JSONResponse({name: known[name] for name in names.split()})

    def model_info(_: Request) -> JSONResponse:
        return JSONResponse(api.model_info(models))

    return [
        *(
            Route(path, partial(door.judged, judge=judge), methods=["POST"], max_body_size=uploads.MOST_BYTES)
            for path, judge in (("/classify", one_cell), ("/classify_batch", many_cells))
        ),
        *(Route(f"/{known.__name__}", known) for known in (healthz, version, model_info)),
    ]
