"""The app as programs use it: `python -m app` on a free port, its HTTP routes, start and end."""

import asyncio
import base64
import csv
import io
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import fastapi
import numpy as np
import psutil
import pytest
import requests
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from app import batches, cells, git_origin, heatmap, inference, page, rendering, serving, uploads, verdict
from app.__main__ import parser
from app.gradio_import import gr
from app.inference import Answer
from app.model import open_model
from malaria import bundle, paths, predict
from malaria.cells import images
from malaria.cells.prepared import Prepared
from malaria.errors import UserError
from tests.support import app_server, bundles
from tests.support.permissions import bound_by_permissions
from tests.support.project import commit, git

LIMITS = images.Limits(16, 4_000_000)

# Columns of the downloaded CSV: those of `predict`, and the settings and model behind each row.
COLUMNS = [
    "path", "p_parasitized", "category", "status", "reason",
    "second_look", "threshold", "operating_point", "model", "network", "date",
]  # fmt: skip


def png(pixels) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def in_bounds(source) -> images.Crop:
    return images.read(source, LIMITS)


def upload(name: str, pixels: images.Pixels) -> uploads.Upload:
    left = [images.Crop(pixels)]
    return uploads.Upload(name, left.pop)


@pytest.fixture(scope="module")
def drawn():
    return bundles.drawn_cells()


@pytest.fixture(scope="module")
def model(model_bundle):
    return open_model(model_bundle)


@pytest.fixture(scope="module")
def client(live):
    opened = Client(live.url, verbose=False)
    yield opened
    opened.close()


def test_classify_takes_one_image_and_answers_as_the_bundle_does(client, drawn, model, tmp_path):
    for number, (pixels, _) in enumerate(drawn):
        file = tmp_path / f"{number}.png"
        file.write_bytes(png(pixels))
        said = client.predict(handle_file(str(file)), api_name="/classify")
        assert said["p_parasitized"] == pytest.approx(model.answer(pixels).p_parasitized, abs=1e-6)
        assert said["category"] == ("Parasitized" if said["p_parasitized"] >= 0.5 else "Uninfected")


def test_classify_takes_a_threshold_and_refuses_one_outside_0_to_1(client, drawn, tmp_path):
    file = tmp_path / "cell.png"
    file.write_bytes(png(drawn[0][0]))
    assert client.predict(handle_file(str(file)), 1.0, api_name="/classify")["category"] == "Uninfected"
    with pytest.raises(AppError, match="threshold must be a number from 0 to 1"):
        client.predict(handle_file(str(file)), 7, api_name="/classify")


def test_classify_batch_gives_the_rows_of_predict_and_totals(client, drawn, model, tmp_path):
    with zipfile.ZipFile(tmp_path / "cells.zip", "w") as pack:
        for number, (pixels, _) in enumerate(drawn):
            pack.writestr(f"deep/{number:02}.png", png(pixels))
        pack.writestr("deep/note.png", "no image")
    said = client.predict([handle_file(str(tmp_path / "cells.zip"))], api_name="/classify_batch")
    assert [row["file"] for row in said["rows"]][:2] == ["cells.zip/deep/00.png", "cells.zip/deep/01.png"]
    assert list(said["rows"][0]) == ["file", *COLUMNS[1:]]
    assert said["rows"][0]["network"] == model.record.hashes["network"]
    assert said["rows"][-1]["status"] == predict.UNREADABLE
    assert (said["totals"]["images"], said["totals"]["judged"]) == (13, 12)
    assert said["totals"]["low"] < said["totals"]["share"] < said["totals"]["high"]


def test_an_app_that_nobody_uses_seldom_wakes_up(live):
    app = psutil.Process(live.process.pid)
    before = app.num_ctx_switches().voluntary
    time.sleep(1)
    assert app.num_ctx_switches().voluntary - before < 350


def test_what_is_no_cell_gets_a_reason_and_no_category_anywhere(live, drawn):
    strip = np.tile(drawn[0][0], (1, 3, 1))
    why = "more than 2.5 times as long as wide: not one cell"
    said = requests.post(f"{live.url}/classify", data=png(strip)).json()
    assert (said["status"], said["category"], said["p_parasitized"]) == ("rejected", None, None)
    assert said["reason"] == why

    path, cell = live.upload(("strip.png", png(strip)), ("cell.png", png(drawn[0][0])))
    _, batch = live.answer("classify_batch", [{"path": path}, {"path": cell}], 0.5)
    row = batch[0]["rows"][0]
    assert [row[name] for name in ("file", *COLUMNS[1:5])] == ["strip.png", None, None, "rejected", why]
    assert [batch[0]["totals"][name] for name in ("images", "judged", "rejected")] == [2, 1, 1]
    # The rejected strip, one image of two, may be parasitised or not.
    assert batch[0]["totals"]["most"] - batch[0]["totals"]["least"] == 0.5

    strip, cell = ({"path": one, "meta": {"_type": "gradio.FileData"}} for one in (path, cell))
    _, shown = live.answer("show_cells", [strip], 0, False)
    assert "This does not look like a stained red cell." in shown[4]
    assert "More than 2.5 times as long as wide: not one cell." in shown[4]
    assert not {"mc-scale", "mc-map", "mc-nomap"} & set(re.findall(r"mc-\w+", shown[4]))

    _, table = live.answer("show_cells", [strip, cell], 0, False)
    assert "1 of 2 turned away" in table[0]
    encoded = re.search(r"base64,([^\"]+)\">Download", table[0])
    rows = list(csv.DictReader(io.StringIO(base64.b64decode(encoded[1]).decode())))
    assert [(row["path"], row["status"], row["reason"]) for row in rows] == [
        ("strip.png", "rejected", why),
        ("cell.png", "ok", ""),
    ]


def test_model_info_and_version_name_what_is_served(client, live, gated_bundle):
    record = bundle.read_record(gated_bundle)
    plain = (requests.get(f"{live.url}/{name}").json() for name in ("version", "model_info"))
    for said in (client.predict(api_name="/model_info"), *plain):
        assert said["hashes"] == record.hashes
    points = client.predict(api_name="/model_info")["operating_points"]
    assert [point["threshold"] for point in points] == [0.5, 0.6, 0.7, 0.8]


def test_every_function_of_the_page_has_a_name(live):
    config = requests.get(f"{live.url}/config").json()
    assert all(function["api_name"] for function in config["dependencies"] if function["backend_fn"])
    public = requests.get(f"{live.url}/gradio_api/info").json()["named_endpoints"]
    assert set(public) == {"/classify", "/classify_batch", "/model_info"}
    required = [
        p["parameter_name"] for p in public["/classify"]["parameters"] if not p["parameter_has_default"]
    ]
    assert required == ["image"]


def test_the_plain_route_takes_an_image_as_the_body(live, drawn, model):
    said = requests.post(f"{live.url}/classify", data=png(drawn[0][0]))
    assert said.status_code == 200
    assert said.json()["p_parasitized"] == pytest.approx(model.answer(drawn[0][0]).p_parasitized, abs=1e-6)
    refused = requests.post(f"{live.url}/classify", data=b"no image")
    assert refused.status_code == 422
    assert "no PNG, JPEG" in refused.json()["error"]
    assert requests.post(f"{live.url}/classify?threshold=2", data=b"").status_code == 422
    assert requests.post(f"{live.url}/classify?threshold=nan", data=b"").status_code == 422


def test_the_plain_route_for_many_takes_a_zip_as_the_body(live, drawn):
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as pack:
        pack.writestr("deep/a.png", png(drawn[0][0]))
        pack.writestr("b.png", "no image")
    said = requests.post(f"{live.url}/classify_batch", data=body.getvalue())
    assert [(row["file"], row["status"]) for row in said.json()["rows"]] == [
        ("upload/deep/a.png", "ok"),
        ("upload/b.png", "unreadable"),
    ]
    assert said.json()["totals"]["judged"] == 1
    unzipped = requests.post(f"{live.url}/classify_batch", data=b"no zip, no image").json()
    assert [row["status"] for row in unzipped["rows"]] == ["unreadable"]


def test_plain_requests_beyond_what_may_wait_are_refused(model_bundle, tmp_path, drawn):
    arguments = ("--model", str(model_bundle), "--concurrency", "1", "--queue", "1")
    cells = io.BytesIO()
    with zipfile.ZipFile(cells, "w") as pack:
        for number in range(400):
            pack.writestr(f"{number}.png", png(drawn[0][0]))

    def ask(_: int) -> int:
        return requests.post(f"{server.url}/classify_batch", data=cells.getvalue()).status_code

    with app_server.start(*arguments, log=tmp_path / "log") as server, ThreadPoolExecutor(8) as pool:
        # On a busy machine the eight requests may not overlap: repeat them until one is refused.
        said: set[int] = set()
        for _ in range(10):
            said |= set(pool.map(ask, range(8)))
            if 503 in said:
                break
        assert said == {200, 503}
        assert requests.get(f"{server.url}/healthz").status_code == 200


def test_a_probe_is_answered_and_the_log_names_no_file(live, drawn):
    assert requests.get(f"{live.url}/healthz").json() == {"status": "ok"}
    path = live.upload(("secret-name-of-a-patient.png", png(drawn[0][0])))[0]
    live.answer("classify", {"path": path, "orig_name": "secret-name-of-a-patient.png"})
    assert "secret-name" not in live.log.read_text()
    api = "/gradio_api"
    wanted = {"/healthz", f"{api}/upload", f"{api}/call/{{api_name}}"}
    poll(lambda: wanted <= {line.get("route") for line in live.logged()}, seconds=10)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends_though_a_page_is_open(model_bundle, tmp_path, number):
    with app_server.start("--model", str(model_bundle), log=tmp_path / "log") as server:
        # An open page keeps one connection open.
        page = requests.get(f"{server.url}/gradio_api/heartbeat/abc", stream=True)
        assert next(page.iter_lines()) == b"data: ALIVE"
        server.process.send_signal(number)
        assert server.process.wait(timeout=60) == 0
        assert [line["event"] for line in server.logged()][-1] == "ended"


def test_what_runs_has_four_of_the_five_seconds_to_finish():
    # The fifth second is for the shutdown itself.
    assert serving.config(fastapi.FastAPI()).timeout_graceful_shutdown == 4


def test_uploads_do_not_outlive_their_time_nor_the_app(model_bundle, tmp_path, drawn):
    import os

    with app_server.start("--model", str(model_bundle), "--keep", "1", log=tmp_path / "log") as server:
        path = server.upload(("cell.png", png(drawn[0][0])))[0]
        folder = os.path.dirname(os.path.dirname(path))
        assert os.path.isdir(folder)
        # An incomplete upload is removed too, even if no further request arrives.
        address = urlsplit(server.url)
        with socket.create_connection((address.hostname, address.port)) as half:
            head = b"POST /gradio_api/upload HTTP/1.1\r\nHost: app\r\nContent-Length: 2000000\r\n"
            form = b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
            part = b'Content-Disposition: form-data; name="files"; filename="cell.png"\r\n\r\n'
            half.sendall(head + form + part + bytes(10**6))
            poll(lambda: any(file.is_file() for file in Path(folder).glob("*")), seconds=20)
        poll(lambda: not any(file.is_file() for file in Path(folder).rglob("*")), seconds=20)
        assert not os.path.exists(path)
        server.process.terminate()
        server.process.wait(timeout=60)
        assert not os.path.exists(folder)


def poll(done, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "not done in time"
        time.sleep(0.1)


def test_the_app_imports_no_tensorflow(model_bundle):
    code = (
        "import sys; from pathlib import Path\n"
        "from app import cells, firewall, serving, uploads; from app.model import open_model\n"
        f"model = open_model(Path({str(model_bundle)!r}))\n"
        "with uploads.upload_folder() as folder:\n"
        "    serving.make([model], cells.find(None), folder, firewall.Limits())\n"
        "print(sorted({'tensorflow', 'keras', 'scipy', 'sklearn', 'dvc'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=app_server.ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_help_and_docs_name_every_option_and_help_imports_no_gradio():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "app", "--help"],
        cwd=app_server.ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    explained = re.findall(r"^\| `(--[a-z]+)", (app_server.ROOT / "docs/app.md").read_text(), re.MULTILINE)
    assert set(explained) == set(re.findall(r"^ +(?:-h, )?(--[a-z]+)", done.stdout, re.MULTILINE))
    assert "gradio" not in done.stderr


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda folder: shutil.rmtree(folder), "is no model bundle"),
        (lambda folder: (folder / "network.tflite").unlink(), "is incomplete, without network.tflite"),
        (lambda folder: (folder / "network.tflite").write_bytes(b"x"), "its hash differs"),
        (lambda folder: (folder / "trained_on.npy").write_bytes(b"x"), "its hash differs"),
        (lambda folder: (folder / "figures.json").unlink(), "is incomplete, without figures.json"),
        (lambda folder: (folder / "bundle.json").write_text('{"schema_version": 99}'), "unknown schema"),
    ],
)
def test_a_bundle_that_cannot_be_trusted_stops_the_start_with_a_sentence(
    model_bundle, tmp_path, spoil, sentence
):
    folder = tmp_path / "bundle"
    shutil.copytree(model_bundle, folder)
    spoil(folder)
    with pytest.raises(UserError, match=sentence):
        open_model(folder)


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("--rev", ["", "main\n"]),
        ("--compare", [""]),
        ("--auth", ["password"]),
        ("--allow-host", ["https://cells.example.org", "cells.example.org:443", ""]),
        ("--allow-frame", ["https://example.org; script-src *", ""]),
        ("--root-path", ["cells", "/a b"]),
    ],
)
def test_an_option_that_could_only_fail_in_silence_is_refused(option, values, capsys):
    for value in values:
        with pytest.raises(SystemExit):
            parser().parse_args([option, value])
        assert f"argument {option}: it must be" in capsys.readouterr().err


def test_wrong_options_end_with_one_sentence(model_bundle, tmp_path):
    for arguments, sentence in (
        (("--model", str(tmp_path / "none")), "is no model bundle"),
        (("--model", str(model_bundle), "--cells", str(tmp_path)), "holds no labelled cells"),
        (("--model", str(model_bundle), "--port", "99999"), "Cannot listen on"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "app", *arguments],
            cwd=app_server.ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        said = [line for line in done.stderr.splitlines() if not line.startswith("INFO")]
        assert len(said) == 1
        assert said[0].startswith("error: ")
        assert sentence in said[0]


def test_a_folder_of_cells_that_may_not_be_listed_stops_the_start(tmp_path, monkeypatch, pngs):
    # The user nobody may not enter the folder above it.
    monkeypatch.chdir(tmp_path)
    for label in ("Parasitized", "Uninfected"):
        Path(label).mkdir()
        Path(label, "cell.png").write_bytes(pngs[0])
    Path("Parasitized").chmod(0)
    tmp_path.chmod(0o755)
    with bound_by_permissions(), pytest.raises(PermissionError, match="Parasitized"):
        cells.find(Path())
    Path("Parasitized").chmod(0o755)


def test_the_threshold_itself_counts_as_parasitized_and_is_said():
    exact = verdict.of(Answer(0.5), verdict.HALF, synthetic=False)
    assert exact.category == "Parasitized"
    assert "exactly on the threshold, 0.500" in " ".join(exact.sentences)
    just_below = verdict.of(Answer(0.4999999), verdict.HALF, synthetic=False)
    assert just_below.category == "Uninfected"
    assert "below the threshold" in " ".join(just_below.sentences)


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [
        ("no stain to be seen: a picture without colour?", "No stain to be seen: a picture without colour?"),
        ("this does not look like a stained red cell: too odd", "Too odd."),
        ("this does not look like a stained red cell", "The model gives no category."),
    ],
)
def test_a_reason_is_told_once_and_as_a_sentence(reason, sentence):
    said = verdict.of(Answer(0.7, reason), verdict.HALF, synthetic=False)
    assert said.sentences[0].startswith(sentence)
    assert said.reason == reason


@pytest.mark.parametrize("threshold", [0.05, 0.5, 0.95, 1.0])
def test_the_second_look_always_holds_the_threshold(threshold):
    low, high = verdict.Point("", threshold).band
    assert low <= threshold <= high
    assert verdict.of(Answer(threshold), verdict.Point("", threshold), False).second_look


def spotted(*spots: tuple[int, int], violet: tuple[int, int, int] = (120, 60, 140)) -> images.Pixels:
    """A cell of 50 x 50 px: a grey disc on black, with a violet square of 4 px at each (row, column)."""
    y, x = np.mgrid[:50, :50] - 24.5
    cell = np.where(np.hypot(x, y)[:, :, None] < 24, 200, 0).repeat(3, axis=2).astype(np.uint8)
    for row, column in spots:
        cell[row : row + 4, column : column + 4] = violet
    return cell


@pytest.mark.parametrize("spots", [[(20, 30)], [(10, 20), (35, 28)]], ids=["one parasite", "two parasites"])
def test_the_map_is_orange_at_every_parasite(mapped_bundle, spots):
    cell = spotted(*spots)
    answer = open_model(mapped_bundle).answer(cell)
    assert answer.p_parasitized > 0.9
    assert heatmap.decides(answer.map)
    picture = heatmap.overlay(cell, answer.map).astype(int)
    for row, column in spots:
        red, _, blue = picture[row + 2, column + 2]
        assert red > blue + 40, "what speaks for Parasitized is orange"
    red, _, blue = picture[25, 5]
    assert abs(red - blue) < 10


def test_a_cell_in_which_no_place_decides_gets_no_map_and_is_told_so(mapped_bundle, model_bundle):
    for folder, sentence in ((mapped_bundle, "no single place decides"), (model_bundle, "does not tell")):
        model = open_model(folder)
        judged = next(iter(batches.judge([model], [upload("a.png", spotted())])))
        shown = rendering.cell([model], spotted(), judged, verdict.HALF, "")
        assert "mc-map" not in shown
        assert sentence in shown


@pytest.mark.parametrize(
    ("places", "decides"),
    [([1.0, -0.2], True), ([0.5, -1.0], False), ([0.1, -0.05], False), ([-0.2, -0.2], False)],
    ids=["a parasite", "more speaks against it", "too little", "nothing"],
)
def test_a_map_is_shown_where_its_strongest_place_speaks_for_a_parasite(places, decides):
    assert heatmap.decides(np.array([places], np.float32)) is decides


def test_of_a_zip_with_too_many_cells_the_rest_is_counted_and_said(model, tmp_path, drawn):
    with zipfile.ZipFile(tmp_path / "cells.zip", "w") as pack:
        for number in range(uploads.MAX_CELLS + 7):
            pack.writestr(f"{number}.png", b"")
        pack.writestr("__MACOSX/._1.png", b"")
    found = list(uploads.unpack([("cells.zip", tmp_path / "cells.zip")], in_bounds))
    assert len(found) == uploads.MAX_CELLS + 1
    judged = list(batches.judge([model], [upload("a.png", drawn[0][0]), found[-1]]))
    assert judged[-1].reason == "7 more than the 2,500 cells that are judged at once"
    totals, _ = rendering.batch(batches.outcomes([model], judged, verdict.HALF), judged, False)
    assert totals.index(judged[-1].reason) < totals.index("are called Parasitized")


def test_a_zip_that_is_named_again_and_again_is_not_listed_every_time(model, tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "folders.zip", "w") as pack:
        pack.writestr("a/", b"")
    files = [("folders.zip", tmp_path / "folders.zip")] * (uploads.MAX_ZIPS + 10)
    listed = []
    opened = zipfile.ZipFile.__init__

    def opened_again(*given, **named):
        listed.append(1)
        opened(*given, **named)

    monkeypatch.setattr(zipfile.ZipFile, "__init__", opened_again)
    said = [one.reason for one in batches.judge([model], uploads.unpack(files, images.read))]
    assert said[-11:] == ["zip without a file", *[uploads.TOO_MANY_ZIPS] * 10]
    assert len(said) == len(files)
    assert uploads.count([file for _, file in files]) == 10
    assert len(listed) <= 3 * uploads.MAX_ZIPS


def test_a_cell_of_a_batch_is_read_again_by_its_number(tmp_path, drawn):
    with zipfile.ZipFile(tmp_path / "cells.zip", "w") as pack:
        for number, (pixels, _) in enumerate(drawn[1:3]):
            pack.writestr(f"{number}.png", png(pixels))
    (tmp_path / "cell.png").write_bytes(png(drawn[0][0]))
    files = [(name, tmp_path / name) for name in ("cell.png", "cells.zip")]
    for number in range(3):
        assert (uploads.read_again(files, in_bounds, number) == drawn[number][0]).all()
    (tmp_path / "cells.zip").unlink()
    with pytest.raises(images.Unreadable):
        uploads.read_again(files, in_bounds, 2)


def test_a_cell_whose_files_are_kept_no_longer_is_not_shown_as_another(model, tmp_path, drawn):
    files = []
    for name, cells_ in (("a.zip", drawn[:2]), ("b.zip", drawn[2:5])):
        with zipfile.ZipFile(tmp_path / name, "w") as pack:
            for number, (pixels, _) in enumerate(cells_):
                pack.writestr(f"{number}.png", png(pixels))
        files.append((name, tmp_path / name))
    judged = tuple(batches.judge([model], uploads.unpack(files, in_bounds)))
    handlers, view = page.Handlers([model], (), tmp_path), page.View(judged, tuple(files))
    assert "1.png" in handlers.enlarge(view, 3, 0)[0]
    (tmp_path / "a.zip").unlink()
    gone = "This file cannot be judged: it is no longer kept here, so choose it again."
    assert gone in handlers.enlarge(view, 3, 0)[0]
    # The session is gone, too.
    assert gone in handlers.row(page.View(), 0, gr.EventData(None, {"row_value": [4]}))[0]
    assert gone in handlers.next(page.View(), 0)[0]


def test_the_next_to_look_at_are_those_worth_it_and_the_nearest_to_the_threshold_first(model):
    judged = [batches.JudgedImage("", "", (Answer(p),)) for p in (0.95, 0.2, 0.55, 0.01)]
    assert batches.to_look_at(batches.outcomes([model], judged, verdict.HALF), judged) == [2, 1]


def test_an_operating_point_says_what_it_costs(model):
    costs = [verdict.cost(point, model.points) for point in model.points]
    assert costs[0].startswith("0.500, fewest misses: of 100 parasitised cells 10.0 missed, ")
    assert costs[0].endswith("of 100 healthy ones 10.0 called Parasitized")
    assert costs[-1].startswith("0.800, fewest false alarms: ")


def test_what_is_said_of_two_versions_names_the_one_that_it_is_said_of(model, gated_bundle, drawn):
    gated = open_model(gated_bundle)
    points = tuple(replace(point, alarms=50.0) for point in model.points)
    other = replace(model, points=points, origin=git_origin.Origin(named="v1.2.0"))
    pictures = [drawn[0][0], np.tile(drawn[0][0], (1, 3, 1))]
    judged = list(batches.judge([gated, other], [upload("a.png", pixels) for pixels in pictures]))
    totals, _ = rendering.batch(batches.outcomes([gated, other], judged, gated.points[0]), judged, False)
    words = " ".join(re.sub("<.*?>", "", totals).split())
    assert (
        f"expect about 0 such among 1 healthy cells with {gated.title}, "
        "and about 1 such among 2 healthy cells with v1.2.0." in words
    )
    assert "with the 1 turned away, whatever it is," in words
    assert "Download all 4 rows as CSV" in words
    costs = rendering.render("operating_point.html.j2", models=[gated, other])
    assert f"those of {gated.title}; v1.2.0 uses its own threshold" in costs
    for header, (_, width) in rendering.columns([gated, other]).items():
        assert int(width.removesuffix("px")) >= 8 * len(header) + 30


def test_a_round_of_cells_that_the_model_was_made_with_explains_that_there_is_no_score():
    cards = cells.reveal((cells.Card("", "Parasitized", Answer(0.9), known=True),))
    assert "made with every one of these cells" in rendering.round_of((), cards, verdict.HALF)


def test_many_threads_get_their_own_answers(model_bundle, drawn):
    asked = inference.Judge(bundle.load(model_bundle), most=5)
    crops = [asked.bundle.prepare(pixels) for pixels, _ in drawn]
    alone = [asked.ask([crop])[0].p_parasitized for crop in crops]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda number: asked.ask(crops[: number % 12 + 1]), range(48)))
    for number, answers in enumerate(together):
        assert [answer.p_parasitized for answer in answers] == pytest.approx(
            alone[: number % 12 + 1], abs=1e-6
        )


def test_no_more_cells_are_judged_in_one_go_than_was_said_and_each_in_its_turn():
    asked, go, calls = threading.Event(), threading.Event(), []

    class Slow:
        def run_prepared(self, crops):
            calls.append([crop.pixels[0, 0, 0] for crop in crops])
            asked.set()
            go.wait()
            none = (None,) * len(crops)
            return bundle.Predictions(np.zeros(len(crops)), None, None, none, none)

    def crops(number: int, of: int) -> list[Prepared]:
        return [Prepared(np.full((50, 50, 3), number, np.uint8), (1, 1, 1))] * of

    judge = inference.Judge(Slow(), most=32)
    with ThreadPoolExecutor(4) as pool:
        # The network is busy with the first request, so the others wait in this order.
        answers = [pool.submit(judge.ask, crops(0, 1))]
        asked.wait()
        for number, of in ((1, 20), (2, 40), (3, 1)):
            before = len(judge._waiting)
            answers.append(pool.submit(judge.ask, crops(number, of)))
            while len(judge._waiting) == before:
                time.sleep(0.001)
        go.set()
        assert [len(answer.result()) for answer in answers] == [1, 20, 40, 1]
    assert max(map(len, calls)) == 32
    # A request queues at most 32 of its cells: request 3 is judged before the last 8 cells of request 2.
    assert [number for call in calls for number in call] == [0] + [1] * 20 + [2] * 32 + [3] + [2] * 8


def test_an_error_of_the_network_reaches_who_asked_and_the_next_is_answered(model_bundle):
    asked = inference.Judge(bundle.load(model_bundle))
    with pytest.raises(ValueError, match="Dimension mismatch"):
        asked.ask([Prepared(np.zeros(7, np.uint8), (1, 1, 1))])
    assert 0 <= asked.ask([asked.bundle.prepare(np.zeros((50, 50, 3), np.uint8))])[0].p_parasitized <= 1


def test_the_examples_are_cells_to_the_committed_bundle():
    committed = open_model(app_server.ROOT / paths.PRETRAINED)
    assert [committed.answer(pixels).rejected for pixels in page.EXAMPLES.values()] == [None] * 6


def test_cells_that_the_model_was_made_with_are_known_and_never_scored(model, drawn, tmp_path):
    for number, (pixels, parasitized) in enumerate(drawn):
        folder = tmp_path / ("Parasitized" if parasitized else "Uninfected")
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.png").write_bytes(png(pixels))
    cards = cells.reveal(cells.draw(cells.find(tmp_path), model))
    assert sum(card.known is True for card in cards) == 4
    assert cells.tally(cards, verdict.HALF).cells == 8


def test_a_round_keeps_the_score_of_both():
    cards = (
        cells.Card("", "Parasitized", Answer(0.9), known=False),
        cells.Card("", "Uninfected", Answer(0.9), known=False),
        cells.Card("", "Uninfected", Answer(0.1), known=False),
    )
    cards = cells.guess(cells.guess(cards, "Uninfected"), "Uninfected")
    assert cells.tally(cards, verdict.HALF) == cells.Tally(cells=2, model=1, guessed=2, person=1)
    cards = cells.guess(cards, None)
    assert cells.tally(cards, verdict.HALF) == cells.Tally(cells=3, model=2, guessed=2, person=1)
    assert cells.current(cards) is None
    stranger = cells.Card("", "Uninfected", Answer(0.1, "no cell"), known=False, open=True)
    assert cells.tally((*cards, stranger), verdict.HALF) == cells.Tally(3, 2, 2, 1, rejected=1)
    assert cells.category(stranger, verdict.HALF) is None


def test_the_csv_has_the_columns_of_predict_and_the_settings_behind_each_row(model, drawn, tmp_path):
    (tmp_path / "b.png").touch()
    batch = [upload("a.png", drawn[0][0]), *uploads.unpack([("b.png", tmp_path / "b.png")], in_bounds)]
    judged = list(batches.judge([model], batch))
    (outcome,) = batches.outcomes([model], judged, model.points[-1])
    rows = list(csv.DictReader(io.StringIO(batches.as_csv(outcome.rows))))
    assert list(rows[0]) == COLUMNS
    assert (rows[1]["status"], rows[1]["p_parasitized"]) == ("unreadable", "")
    assert (rows[0]["threshold"], rows[0]["operating_point"]) == ("0.800000", "99 % specificity")
    assert (rows[0]["second_look"], rows[0]["model"]) == (str(outcome.rows[0].second_look), model.title)


def test_a_batch_holds_no_more_than_two_pictures_at_their_full_size(model):
    held = []

    def batch():
        for number in range(40):
            pixels = np.full((300, 200, 3), number, np.uint8)
            held.append(weakref.ref(pixels))
            # This picture, and the one before it, which has just been resized.
            assert sum(one() is not None for one in held) <= 2
            yield upload(f"{number}.png", pixels)
            del pixels

    assert len(list(batches.judge([model], batch()))) == 40


def test_a_batch_is_judged_as_each_of_its_cells_alone(gated_bundle, model, drawn):
    gated = open_model(gated_bundle)
    pictured = [*(pixels for pixels, _ in drawn), np.tile(drawn[0][0], (1, 3, 1))]
    together = batches.judge([gated, model], [upload("a.png", pixels) for pixels in pictured])
    alone = [(gated.answer(pixels), model.answer(pixels)) for pixels in pictured]
    assert [one.answers for one in together] == alone
    assert alone[-1][0].rejected == "more than 2.5 times as long as wide: not one cell"


@pytest.mark.parametrize(
    ("hits", "cells_", "low", "high"), [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (0, 0, 0, 1)]
)
def test_the_interval_of_a_share_is_wilsons(hits, cells_, low, high):
    assert batches.wilson(hits, cells_) == pytest.approx((low, high), abs=1e-4)


def test_a_committed_bundle_is_told_by_its_commit_and_tag(model_bundle, tmp_path):
    repository = tmp_path / "repository"
    shutil.copytree(model_bundle, repository / "models/pretrained")
    git("init", "-q", ".", cwd=repository)
    commit(repository, "all")
    git("tag", "v1.2.0", cwd=repository)
    found = git_origin.of(repository / "models/pretrained")
    assert (len(found.revision), found.tags) == (40, ("v1.2.0",))
    assert found.date.startswith("20")
    (repository / "models/pretrained/bundle.json").write_text("{}")
    assert git_origin.of(repository / "models/pretrained") == git_origin.Origin()


def test_an_output_of_dvc_is_told_by_the_commit_of_its_lock(model_bundle, tmp_path):
    bundle_folder = tmp_path / "models/malaria-cells"
    shutil.copytree(model_bundle, bundle_folder)
    (tmp_path / ".gitignore").write_text("/models\n")
    lock = tmp_path / "dvc.lock"
    git("init", "-q", ".", cwd=tmp_path)
    lock.write_text("another")
    first = commit(tmp_path, "another run's lock")
    lock.write_text(f"md5: {git_origin.dvc_hash(bundle_folder)}")
    assert git_origin.of(bundle_folder) == git_origin.Origin(), "its lock is not committed yet"
    second = commit(tmp_path, "this run's lock")
    assert git_origin.of(bundle_folder).revision == second != first


def test_an_answer_leaves_at_once_and_does_not_wait_for_more():
    async def served(listening: socket.socket) -> int:
        found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def met(_: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
            there = answer.get_extra_info("socket")
            found.set_result(there.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            answer.close()

        async with await asyncio.start_server(met, sock=listening):
            _, asking = await asyncio.open_connection(*listening.getsockname())
            asking.close()
            return await found

    assert asyncio.run(served(serving.listen("127.0.0.1", 0))) != 0


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:7860/"),
        ("::1", "http://[::1]:7860/"),
        ("0.0.0.0", "http://127.0.0.1:7860/"),
        ("::", "http://[::1]:7860/"),
    ],
)
def test_the_address_to_open_is_one_that_browsers_take(host, address):
    assert serving.address(host, 7860) == address
