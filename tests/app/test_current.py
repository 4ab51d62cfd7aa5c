"""A bundle that replaces the served one is loaded without a restart, or refused with a message."""

import contextlib
import json
import logging
import shutil

import anyio
import httpx
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from app import current, rendering
from app.model import info, open_model
from malaria import bundle, files


def application(models) -> Starlette:
    def version(_) -> JSONResponse:
        return JSONResponse(info(models[0]) | {"page": rendering.header(models)})

    return Starlette(routes=[Route(path, version) for path in ("/", "/version", "/gradio_api/config")])


@contextlib.asynccontextmanager
async def serving(folder, make=application):
    """A client of an app that serves the bundle in a folder and checks it for changes every 10 ms."""
    served = current.Current(lambda: [open_model(folder)], make, folder, seconds=0.01)
    transport = httpx.ASGITransport(served.asgi)
    async with (
        served.asgi.lifespan_context(served.asgi),
        httpx.AsyncClient(transport=transport, base_url="http://app") as client,
    ):
        yield client


async def until(client, name: str, value: object) -> dict:
    """Wait until the field `name` of /version has this value; return all of /version."""
    with anyio.fail_after(60):
        while (said := (await client.get("/version")).json())[name] != value:
            await anyio.sleep(0.01)
    return said


def put(source, folder, temperature: float = 1.0) -> str:
    """Replace a folder by a copy of a bundle with this temperature; return the SHA-256 of its manifest."""
    with files.atomic_folder(folder) as part:
        shutil.copytree(source, part, dirs_exist_ok=True)
        record = json.loads((part / bundle.RECORD).read_text())
        files.write_json(part / bundle.RECORD, record | {"temperature": temperature})
        (part / bundle.MANIFEST).unlink()
        bundle.write_manifest(part)
    return files.sha256(folder / bundle.MANIFEST)


def test_a_new_bundle_is_served_and_an_open_page_keeps_the_one_it_shows(gated_bundle, tmp_path):
    first = put(gated_bundle, tmp_path / "model")

    async def visit() -> None:
        async with serving(tmp_path / "model") as client:
            assert (await client.get("/")).json()["manifest"] == first
            # For a while there is no bundle, as when a stage runs again.
            shutil.rmtree(tmp_path / "model")
            assert (await client.get("/version")).json()["manifest"] == first
            second = put(gated_bundle, tmp_path / "model", 2.0)
            said = await until(client, "manifest", second)
            assert not said["newer_is_damaged"]
            assert (await client.get("/gradio_api/config")).json()["manifest"] == first
            assert (await client.get("/")).json()["manifest"] == second
            assert (await client.get("/gradio_api/config")).json()["manifest"] == second

    anyio.run(visit)


def test_a_damaged_bundle_is_refused_with_a_word_until_it_is_whole(gated_bundle, tmp_path, caplog):
    first = put(gated_bundle, tmp_path / "model")

    async def visit() -> None:
        async with serving(tmp_path / "model") as client:
            began = (await client.get("/version")).json()["since"]
            put(gated_bundle, tmp_path / "model", 2.0)
            card = tmp_path / "model" / bundle.CARD
            card.write_text("Approved for diagnosis")
            said = await until(client, "newer_is_damaged", True)
            assert (said["manifest"], said["since"]) == (first, began)
            assert "A newer model is damaged" in said["page"]
            shutil.copy(gated_bundle / bundle.CARD, card)
            said = await until(client, "newer_is_damaged", False)
            assert said["manifest"] == files.sha256(card.parent / bundle.MANIFEST) != first
            assert "damaged" not in said["page"]

    with caplog.at_level(logging.WARNING, "app"):
        anyio.run(visit)
    (refused,) = [record.fields["error"] for record in caplog.records]
    assert "MODEL_CARD.md is not the file that SHA256SUMS lists" in refused


def test_the_same_bundle_written_again_is_no_other(gated_bundle, tmp_path):
    put(gated_bundle, tmp_path / "model")
    served = current.Current(lambda: [open_model(tmp_path / "model")], application)

    async def visit() -> list[int]:
        async with served.asgi.lifespan_context(served.asgi):
            kept = []
            for temperature in (1.0, 2.0, 3.0):
                put(gated_bundle, tmp_path / "model", temperature)
                await served._reload()
                kept.append(len(served._running))
            return kept

    assert anyio.run(visit) == [1, 2, 2]


def test_a_bundle_that_no_page_can_show_is_refused_and_the_next_one_is_served(gated_bundle, tmp_path):
    put(gated_bundle, tmp_path / "model")

    def make(models) -> Starlette:
        # As figures do whose hash is right, but which lack a plot.
        return application(models) if models[0].record.temperature != 2 else {}["plots"]

    async def visit() -> None:
        async with serving(tmp_path / "model", make) as client:
            put(gated_bundle, tmp_path / "model", 2.0)
            await until(client, "newer_is_damaged", True)
            third = put(gated_bundle, tmp_path / "model", 3.0)
            assert not (await until(client, "manifest", third))["newer_is_damaged"]

    anyio.run(visit)
