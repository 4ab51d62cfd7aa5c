"""The server: which hosts and sites it answers, its limits on uploads, queue and connections, its log."""

import asyncio
import base64
import csv
import errno
import io
import logging
import os
import re
import subprocess
import sys
import tempfile
import threading
import zipfile
from dataclasses import replace
from http import HTTPStatus

import anyio
import anyio.to_thread
import httpx
import pytest
import requests
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.testclient import TestClient

from app import api, batches, firewall, logs, page, plain, serving, uploads, verdict
from app.gradio_import import gr
from app.inference import Answer, Judge
from app.model import open_model
from malaria.cells import sandbox
from malaria.errors import UserError
from tests.support import app_server


@pytest.fixture(scope="module")
def model(model_bundle):
    return open_model(model_bundle)


def test_uploads_have_so_much_room_and_the_oldest_go_first(tmp_path):
    for number in range(4):
        file = tmp_path / str(number) / "cell.png"
        file.parent.mkdir()
        file.write_bytes(bytes(10_000))
        os.utime(file, (10**9 + number, 10**9 + number))
    uploads.make_room(tmp_path, most=25_000, seconds=10**12)
    assert sorted(file.parent.name for file in tmp_path.glob("*/*")) == ["2", "3"]
    uploads.make_room(tmp_path, most=25_000, seconds=60)
    assert not list(tmp_path.glob("*/*"))


def test_many_tiny_uploads_take_no_more_than_their_room_and_leave_no_folders(tmp_path):
    for number in range(100):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "cell.png").write_bytes(b"x")
    uploads.make_room(tmp_path, most=100_000, seconds=60)
    # The disk gives a file and its folder a block each.
    assert 0 < len(list(tmp_path.glob("*"))) <= 100_000 // 8192
    uploads.make_room(tmp_path, most=0, seconds=60)
    assert not list(tmp_path.iterdir())
    assert tmp_path.is_dir()


def test_a_folder_that_is_deleted_while_room_is_made_is_no_fault(tmp_path, monkeypatch):
    (tmp_path / "deleted").mkdir()
    (tmp_path / "cell.png").write_bytes(bytes(100))
    scandir = os.scandir

    def scan(path):
        if os.path.basename(path) == "deleted":
            os.rmdir(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    uploads.make_room(tmp_path, most=50, seconds=60)
    assert not list(tmp_path.iterdir())


def test_the_running_app_keeps_no_more_uploads_than_it_has_room_for(model_bundle, tmp_path, pngs):
    arguments = ("--model", str(model_bundle), "--room", "1")
    with app_server.start(*arguments, log=tmp_path / "log") as server:
        paths = [server.upload((f"{number}.png", os.urandom(400_000)))[0] for number in range(3)]
        assert [os.path.exists(path) for path in paths] == [False, True, True]
        over = {"files": ("large.png", bytes(600_000))}
        assert requests.post(f"{server.url}/gradio_api/upload", files=over).status_code == 503
        assert requests.post(f"{server.url}/classify", data=pngs[0]).status_code == 200


NAMES_OF_UPLOADS = """
import gc, sys
from pathlib import Path
from starlette.testclient import TestClient
from app import uploads

with uploads.upload_folder() as folder:
    from app import firewall, serving
    from app.model import open_model

    app = serving.make([open_model(Path(sys.argv[1]))], (), folder, firewall.Limits())
    with TestClient(app, base_url="http://app") as client:
        (path,) = client.post("/gradio_api/upload", files={"files": ("cell.png", b"x")}).json()
        kept = [one for one in gc.get_objects() if isinstance(one, set) and path in one]
        print(Path(path).is_file(), kept)
"""


def test_the_names_of_uploads_do_not_pile_up_in_memory(model_bundle):
    done = subprocess.run(
        [sys.executable, "-c", NAMES_OF_UPLOADS, str(model_bundle)],
        cwd=app_server.ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "True []\n"


def test_what_a_killed_server_left_is_swept_and_what_a_running_one_has_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = tmp_path / "malaria-app-left"
    left.mkdir()
    (left / "patient.png").write_bytes(b"x")
    with uploads.upload_folder() as running, uploads.upload_folder() as other:
        assert not left.exists()
        assert running.is_dir()
        assert other.is_dir()
    assert not list(tmp_path.iterdir())


def test_the_app_neither_leaves_nor_needs_anything_in_the_temporary_folder(
    model_bundle, tmp_path, monkeypatch, pngs
):
    # Gradio makes folders in $TMPDIR/gradio as soon as it is imported. That fails if another user owns it;
    # here a file has that name.
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (tmp_path / "gradio").touch()
    with app_server.start("--model", str(model_bundle), log=tmp_path / "log") as server:
        assert requests.post(f"{server.url}/classify", data=pngs[0]).status_code == 200
        server.process.terminate()
        server.process.wait(timeout=60)
    assert {left.name for left in tmp_path.iterdir()} == {"gradio", "log"}


class Hasty(serving.Connection):
    head_seconds = 0.2


def test_half_a_head_of_a_request_is_waited_for_no_longer_than_a_while():
    async def hello(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def visit() -> list[bytes]:
        config = serving.config(hello)
        config.http, config.lifespan = Hasty, "off"
        server = uvicorn.Server(config)
        listening = serving.listen("127.0.0.1", 0)
        said = []
        async with anyio.create_task_group() as group:
            group.start_soon(server.serve, [listening])
            # The second connection gets an answer, and then sends half of another request.
            for sent in (
                b"GET / HTTP/1.1\r\nHost: a",
                b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHo",
            ):
                async with await anyio.connect_tcp(*listening.getsockname()) as connection:
                    await connection.send(sent)
                    received = b""
                    with anyio.fail_after(30):
                        while part := await received_part(connection):
                            received += part
                    said.append(received)
            server.should_exit = True
        return said

    first, second = anyio.run(visit)
    assert first == b""
    assert second.startswith(b"HTTP/1.1 200")
    assert second.endswith(b"ok")


async def received_part(connection) -> bytes:
    try:
        return await connection.receive()
    except anyio.EndOfStream:
        return b""


def record(created: float, **fields: object) -> logging.LogRecord:
    content = {"name": "app", "levelno": logging.INFO, "msg": "request", "created": created, "fields": fields}
    return logging.makeLogRecord(content)


def test_a_kind_of_refusal_is_logged_once_a_minute_with_how_many_there_were():
    sparing = logs.OncePerMinute()
    refused = [record(1000.0 + second, route="/classify", status=422) for second in (0, 1, 59, 61)]
    assert [sparing.filter(one) for one in refused] == [True, False, False, True]
    assert refused[-1].fields["held_back"] == 2
    # The system's clock was set back.
    assert sparing.filter(record(500.0, route="/classify", status=422))
    assert sparing.filter(record(1000.0, route="/classify", status=413))
    assert all(sparing.filter(record(1000.0, route="/classify", status=200)) for _ in range(5))


def test_two_faults_of_the_server_are_both_logged():
    once = logs.OncePerMinute()

    def failed(error: Exception) -> logging.LogRecord:
        try:
            raise error
        except Exception as raised:
            content = {"name": "uvicorn.error", "levelno": logging.ERROR, "msg": "Exception", "created": 0.0}
            return logging.makeLogRecord(content | {"exc_info": (type(raised), raised, raised.__traceback__)})

    assert [once.filter(failed(error)) for error in (OSError(), KeyError(), OSError())] == [True, True, False]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:7860", "", "[::1", "evil.local"])
def test_a_name_that_is_not_this_servers_is_refused(live, host):
    assert requests.get(f"{live.url}/version", headers={"Host": host}).status_code == 403


@pytest.mark.parametrize("host", ["localhost:7860", "192.168.1.7", "[fd00::7]:7860", "app:7860"])
def test_addresses_and_names_without_a_dot_are_answered(live, host):
    assert requests.get(f"{live.url}/version", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://["])
def test_a_page_of_another_site_can_send_nothing(live, origin, pngs):
    for route in ("/classify", "/gradio_api/upload", "/gradio_api/call/classify"):
        answer = requests.post(f"{live.url}{route}", data=pngs[0], headers={"Origin": origin})
        assert answer.status_code == 403
        assert set(answer.json()) == {"error"}
    own = requests.post(f"{live.url}/classify", data=pngs[0], headers={"Origin": live.url})
    assert own.status_code == 200


def test_no_other_page_may_show_this_one_in_a_frame(live):
    assert "frame-ancestors 'none'" in requests.get(live.url).headers["content-security-policy"]


def test_a_password_is_asked_for_on_every_route_and_an_open_address_is_said(model_bundle, tmp_path, pngs):
    options = ("--host", "0.0.0.0", "--allow-host", "Cells.Example.org", "--root-path", "/cells")
    arguments = ("--model", str(model_bundle), "--auth", "lab:violet:é", *options)
    with app_server.start(*arguments, log=tmp_path / "log") as server:
        routes = ("/", "/classify", "/healthz", "/version", "/config", "/gradio_api/info", "/nothing")
        for route in (*routes, f"/gradio_api/file={tmp_path}", "/assets/x", "/gradio_api/queue/data"):
            for method in ("GET", "POST"):
                answer = requests.request(method, server.url + route)
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"].startswith("Basic")
        wrong = requests.get(f"{server.url}/version", auth=("lab", "red"))
        assert wrong.status_code == 401
        encoded = base64.b64encode("lab:violet:é".encode()).decode()
        for scheme, status in (("basic", 200), ("Bearer", 401)):
            asked = requests.get(f"{server.url}/version", headers={"Authorization": f"{scheme} {encoded}"})
            assert asked.status_code == status
        known = {"auth": ("lab", "violet:é".encode()), "headers": {"Host": "cells.example.org"}}
        assert requests.post(f"{server.url}/classify", data=pngs[0], **known).status_code == 200
        # As behind a proxy that strips the path under which it shows the page.
        assert requests.get(f"{server.url}/config", **known).json()["root"].endswith("/cells")
        said = server.log.read_text()
        assert "open to anyone who knows name and password" in said
        assert "violet" not in said


def test_a_csv_holds_no_formula(model):
    names = ("=cmd()", "+1", "-1", "@x", "\tx", "a=b.png")
    judged = [batches.JudgedImage(name, "", (Answer(0.4),)) for name in names]
    (outcome,) = batches.outcomes([model], judged, verdict.HALF)
    text = batches.as_csv(outcome.rows)
    paths = [row["path"] for row in csv.DictReader(io.StringIO(text))]
    assert paths == [*(f"'{name}" for name in names[:-1]), "a=b.png"]


def test_a_parameter_that_does_not_exist_is_refused(live, pngs):
    for route in ("classify", "classify_batch"):
        answer = requests.post(f"{live.url}/{route}?thresold=0.9", data=pngs[0])
        assert answer.status_code == 422
        assert "thresold is no parameter" in answer.json()["error"]
        answer = requests.post(f"{live.url}/{route}?threshold=0.9&threshold=0.1", data=pngs[0])
        assert answer.status_code == 422
        assert answer.json()["error"] == "threshold is given twice: give it once."


def test_a_form_is_told_to_send_the_file_itself(live, pngs):
    answer = requests.post(f"{live.url}/classify", files={"file": ("cell.png", pngs[0])})
    assert answer.status_code == 415
    assert "curl --data-binary @cell.png" in answer.json()["error"]
    other_case = {"Content-Type": "Multipart/Form-Data; boundary=x"}
    assert requests.post(f"{live.url}/classify", data=pngs[0], headers=other_case).status_code == 415


@pytest.mark.parametrize(
    ("method", "route"),
    [
        ("POST", "/classify"),
        ("GET", "/classify"),
        ("GET", "/nothing"),
        ("POST", "/gradio_api/call/classify"),
        ("POST", "/gradio_api/upload"),
        ("POST", "/gradio_api/queue/join"),
        ("GET", "/gradio_api/queue/data"),
        ("GET", "/gradio_api/file=/etc/passwd"),
        ("OPTIONS", "/"),
        ("GET", "/assets/%2e%2e/version"),
    ],
)
def test_every_refusal_is_a_sentence_under_error(live, method, route):
    answer = requests.request(method, f"{live.url}{route}", json={"data": 5, "fn_index": 0})
    assert 400 <= answer.status_code < 500
    assert list(answer.json()) == ["error"]
    assert re.fullmatch(r"[A-Z].* .*[a-z`]\.", answer.json()["error"])
    assert answer.json()["error"] != f"{HTTPStatus(answer.status_code).phrase}."


@pytest.mark.parametrize("kind", ["socks5://127.0.0.1:1", "http://127.0.0.1:1"])
def test_a_proxy_of_the_environment_is_no_matter(model_bundle, tmp_path, monkeypatch, kind, pngs):
    monkeypatch.setenv("ALL_PROXY", kind)
    started = app_server.start("--model", str(model_bundle), log=tmp_path / "log")
    with started as server, requests.Session() as session:
        session.trust_env = False
        assert session.post(f"{server.url}/classify", data=pngs[0]).status_code == 200


def test_where_no_decoding_process_can_be_started_the_answer_is_503_and_a_sentence(
    model, tmp_path, pngs, monkeypatch
):
    def refuse(*_):
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(sandbox._fork_server, "fork", refuse)
    limits, sentence = firewall.Limits(), "No process that decodes pictures can be started"
    routes = plain.routes([model], tmp_path, limits)
    app = Starlette(routes=routes, middleware=[Middleware(firewall.Firewall, limits=limits)])
    client = TestClient(app, base_url="http://app")
    asked = [client.post(route, content=pngs[0]) for route in ("/classify", "/classify_batch")]
    for answer in (*asked, client.get("/healthz")):
        assert answer.status_code == 503
        assert answer.json()["error"].startswith(sentence)
    (tmp_path / "cell.png").write_bytes(pngs[0])
    file = {"path": str(tmp_path / "cell.png")}
    classify, show = api.endpoints([model], tmp_path)["classify"], page.Handlers([model], (), tmp_path).show
    for function, given in ((classify, (gr.FileData(**file),)), (show, ([file], 0, False))):
        with pytest.raises(gr.Error, match=sentence):
            api.in_gradio()(function)(*given)


def test_a_fault_of_the_server_is_answered_as_json_and_logged(model, tmp_path, pngs, monkeypatch, caplog):
    monkeypatch.setattr(api, "one_cell", lambda *_: 1 / 0)
    limits = firewall.Limits()
    routes = plain.routes([model], tmp_path, limits)
    app = Starlette(routes=routes, middleware=[Middleware(firewall.Firewall, limits=limits)])
    client = TestClient(app, base_url="http://app", raise_server_exceptions=False)
    with caplog.at_level(logging.INFO, logger="app"):
        answer = client.post("/classify", content=pngs[0])
    assert answer.status_code == 500
    assert answer.json() == {"error": "The server failed at this: its log says where."}
    assert [line.fields["status"] for line in caplog.records] == [500]
    # The web server logs where it failed.
    with pytest.raises(ZeroDivisionError):
        TestClient(app, base_url="http://app").post("/classify", content=pngs[0])


def test_a_request_that_the_end_of_the_server_interrupts_gets_503_and_a_sentence():
    sent = []

    async def send(message) -> None:
        sent.append(message)

    async def visit() -> None:
        async def judges(*_) -> None:
            begun.set()
            await asyncio.sleep(60)

        begun = asyncio.Event()
        scope = {"type": "http", "method": "POST", "headers": [(b"host", b"app")]}
        request = asyncio.create_task(firewall.Firewall(judges, firewall.Limits())(scope, judges, send))
        await begun.wait()
        request.cancel()
        await request

    asyncio.run(visit())
    assert sent[0]["status"] == 503
    assert b"The server is ending" in sent[1]["body"]


FULL = """
import errno, sys, tempfile
from pathlib import Path
from starlette.testclient import TestClient
from app import uploads

def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")

with uploads.upload_folder() as folder:
    from app import firewall, serving
    from app.model import open_model

    app = serving.make([open_model(Path(sys.argv[1]))], (), folder, firewall.Limits())
    with TestClient(app, base_url="http://app") as client:
        tempfile._get_candidate_names = full
        sent = {"classify_batch": {"content": b"PK"}, "gradio_api/upload": {"files": {"files": b"a"}}}
        for route, body in sent.items():
            answer = client.post(route, **body)
            print(answer.status_code, answer.json()["error"])
"""


def test_a_full_disk_is_said_and_is_no_fault_of_the_server(model_bundle):
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(model_bundle)],
        cwd=app_server.ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    answers = done.stdout.splitlines()
    assert len(answers) == 2
    for answer in answers:
        assert answer.startswith("503 Files cannot be kept here (No space left on device): free the disk")


def test_without_a_folder_for_uploads_the_app_ends_with_a_sentence(monkeypatch):
    def nowhere():
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "_get_default_tempdir", nowhere)
    monkeypatch.setattr(tempfile, "tempdir", None)
    with pytest.raises(UserError, match="TMPDIR"), uploads.upload_folder():
        pass


def test_cells_that_nobody_waits_for_any_more_are_not_judged(model, tmp_path, pngs):
    with zipfile.ZipFile(tmp_path / "cells.zip", "w") as pack:
        for number in range(100):
            pack.writestr(f"{number}.png", pngs[0])
    asked = iter([False] * 10 + [True])
    said = api.many_cells([model], [("a", tmp_path / "cells.zip")], verdict.HALF, lambda: next(asked))
    assert said["totals"]["images"] == 10


def test_a_client_that_leaves_while_it_waits_loses_its_place_in_the_queue():
    messages = iter([{"type": "http.request", "body": b"a cell"}, {"type": "http.disconnect"}])

    async def left() -> dict[str, object]:
        return next(messages)

    async def visit() -> None:
        queue = plain.RequestQueue(firewall.Limits(), anyio.CapacityLimiter(1))
        request = Request({"type": "http", "headers": [], "query_string": b""}, left)
        async with queue.places:
            with pytest.raises(HTTPException, match=r"The client has gone\."):
                await queue.serve(request, lambda *_: pytest.fail("it was judged"))

    anyio.run(visit)


class Stuck:
    """A LiteRT interpreter whose `invoke` sets `asked` and waits until `go` is set."""

    def __init__(self, network):
        self.network, self.asked, self.go = network, threading.Event(), threading.Event()

    def __getattr__(self, name):
        return getattr(self.network, name)

    def invoke(self):
        self.asked.set()
        self.go.wait()
        self.network.invoke()


def test_a_zip_whose_room_others_take_while_it_is_judged_is_no_fault(model, tmp_path, monkeypatch):
    def judged(_models, files, *_):
        uploads.make_room(tmp_path, most=0, seconds=60)
        assert not files[0][1].exists()
        return {"rows": []}

    monkeypatch.setattr(api, "many_cells", judged)
    app = Starlette(routes=plain.routes([model], tmp_path, firewall.Limits()))
    assert TestClient(app).post("/classify_batch", content=b"PK").json() == {"rows": []}
    assert not list(tmp_path.iterdir())


def test_a_probe_is_told_no_while_nobody_could_be_served(model, tmp_path, pngs):
    network = Stuck(model.bundle.network)
    model = replace(model, judge=Judge(replace(model.bundle, network=network)))
    limits = firewall.Limits(concurrency=1, probe_seconds=0.05)

    async def visit() -> list[int]:
        app = Starlette(routes=plain.routes([model], tmp_path, limits))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: client.post("/classify", content=pngs[0]))
                await anyio.to_thread.run_sync(network.asked.wait)
                stuck = await client.get("/healthz")
                network.go.set()
            return [stuck.status_code, (await client.get("/healthz")).status_code]

    assert anyio.run(visit) == [503, 200]
