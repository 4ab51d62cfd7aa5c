"""Plain HTTP for programs and probes: a picture or a zip as the request's body, an answer in JSON."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from . import api, page, uploads, verdict
from .model import Model, info

Judging = Callable[[bytes, verdict.Point], dict[str, Any]]


@dataclass
class Door:
    """Lets so many judge side by side, beside Gradio's queue, which counts what comes through the page."""

    limits: page.Limits
    places: anyio.CapacityLimiter
    held: int = 0  # bytes of bodies that are here, or on their way

    async def judged(self, request: Request, judge: Judging) -> JSONResponse:
        """The answer on a request's body. Only one that is here takes a place: those who send slowly, or
        nothing, must not keep the places from others.
        """
        point = api.chosen(request.query_params.get("threshold", 0.5))
        body, size = bytearray(), 0
        try:
            async for chunk in request.stream():
                body += chunk
                size += len(chunk)
                self.held += len(chunk)
                if size > uploads.MOST_BYTES:
                    raise HTTPException(413, f"More than {uploads.MOST_BYTES // 2**20} MB at once.")
                if self.held > self.limits.bodies:
                    raise HTTPException(503, "Too much is being sent at once: ask again later.")
            if self.places.statistics().tasks_waiting >= self.limits.waiting:
                raise HTTPException(503, "Too many requests are waiting: ask again later.")
            whole = bytes(body)
            # What waits for its turn is held once.
            body.clear()
            return JSONResponse(await anyio.to_thread.run_sync(judge, whole, point, limiter=self.places))
        except ClientDisconnect:
            raise HTTPException(400, "The body was cut short.") from None
        finally:
            self.held -= size


def routes(models: Sequence[Model], folder: Path, limits: page.Limits) -> list[Route]:
    """The routes; bodies that are zips lie in `folder` while they are judged."""
    door = Door(limits, anyio.CapacityLimiter(limits.at_once))

    def one_cell(body: bytes, point: verdict.Point) -> dict[str, Any]:
        return api.one_cell(models, body, point)

    def many_cells(body: bytes, point: verdict.Point) -> dict[str, Any]:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(body)
            file.flush()
            return api.many_cells(models, [("upload", Path(file.name))], point)

    async def classify(request: Request) -> JSONResponse:
        return await door.judged(request, one_cell)

    async def classify_batch(request: Request) -> JSONResponse:
        return await door.judged(request, many_cells)

    def healthz(_: Request) -> JSONResponse:
        models[0].answer(page.EXAMPLES[0][0])
        return JSONResponse({"status": "ok"})

    def version(_: Request) -> JSONResponse:
        known = info(models[0])
        return JSONResponse(
            {name: known[name] for name in ("app", "name", "version", "revision", "date", "hashes")}
        )

    def model_info(_: Request) -> JSONResponse:
        return JSONResponse(api.model_info(models))

    return [
        Route("/classify", classify, methods=["POST"]),
        Route("/classify_batch", classify_batch, methods=["POST"]),
        *(Route(f"/{known.__name__}", known) for known in (healthz, version, model_info)),
    ]
