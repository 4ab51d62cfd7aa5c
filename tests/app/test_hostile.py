"""Malicious and malformed requests: each gets an error in words, and the app reads uploaded files alone."""

import asyncio
import contextlib
import io
import json
import socket
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest
import requests
from PIL import Image

from app import decoder, firewall, rendering, uploads, verdict
from malaria.cells import images
from tests.support import app_server, bundles

pytestmark = pytest.mark.long

LIMITS = images.Limits(16, 4_000_000)


def encoded(pixels, kind: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(out, kind, **options)
    return out.getvalue()


def cell() -> Image.Image:
    return Image.fromarray(bundles.drawn_cells()[0][0])


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def short_strip() -> bytes:
    """A TIFF of 64 x 64 pixels whose one JPEG strip has 16 x 16: the rest would be whatever memory held."""
    strip = encoded(Image.new("RGB", (16, 16), "red"), "JPEG")
    tags = {256: 64, 257: 64, 258: 8, 259: 7, 262: 2, 273: 8, 277: 3, 278: 64, 279: len(strip)}
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    padded = strip + bytes(len(strip) % 2)
    return struct.pack("<2sHI", b"II", 42, 8 + len(padded)) + padded + struct.pack("<H", 9) + table + bytes(4)


def shared_block() -> bytes:
    """A valid TIFF of 0.5 MB with 8,000 more tags, which all point to the same block of 0.5 MB."""
    tiff = encoded(cell(), "TIFF") + bytes(2**19)
    (start,) = struct.unpack_from("<I", tiff, 4)
    (count,) = struct.unpack_from("<H", tiff, start)
    own = tiff[start + 2 : start + 2 + 12 * count]
    more = b"".join(
        struct.pack("<HHII", 40_000 + number, 7, 2**19, len(tiff) - 2**19) for number in range(8000)
    )
    table = struct.pack("<H", count + 8000) + own + more + bytes(4)
    return tiff[:4] + struct.pack("<I", len(tiff)) + tiff[8:] + table


def repeated_header() -> bytes:
    """A valid PNG with an eXIf chunk of 2 MB that only repeats the header `Exif`, which readers strip."""
    png = encoded(cell())
    return png[:33] + chunk(b"eXIf", b"Exif\0\0" * 350_000) + png[33:]


def endless_comments() -> bytes:
    """A GIF with 2 MB of comment blocks, each of one byte."""
    gif = encoded(cell(), "GIF")
    end = 13 + 3 * 2 ** ((gif[10] & 7) + 1)
    return gif[:end] + b"\x21\xfe" + b"\x01x" * 2**20 + b"\0" + gif[end:]


def bomb() -> bytes:
    """A decompression bomb: a PNG of 60,000 x 60,000 pixels in fewer than 100 bytes."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(999)))
        + chunk(b"IEND", b"")
    )


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="50" height="50"><script>alert(1)</script></svg>'

REFUSED = {
    "empty": (b"", "empty file"),
    "text": (b"no image at all", "no PNG, JPEG"),
    "svg": (SVG, "no PNG, JPEG"),
    "html": (b"<html><body><img src=x onerror=alert(1)></body></html>", "no PNG, JPEG"),
    "cut short": (encoded(cell())[:900], "damaged or cut short"),
    "cut in the header": (encoded(cell())[:20], "damaged or cut short"),
    "decompression bomb": (bomb(), "larger than 4,000,000 pixels"),
    "too many pixels": (encoded(np.zeros((2100, 2100, 3), np.uint8)), "larger than 4,000,000 pixels"),
    "too small": (encoded(np.zeros((8, 8, 3), np.uint8)), "a side under 16 px"),
    "32-bit": (encoded(Image.fromarray(np.zeros((20, 20), np.float32)), "TIFF"), "floating-point"),
    "GIF": (encoded(cell(), "GIF"), "no PNG, JPEG"),
    "WebP": (encoded(cell(), "WEBP"), "no PNG, JPEG"),
    "GHSA-q45j-58j2-45rg: a short JPEG strip": (short_strip(), "damaged or cut short"),
    "GIF comments without end": (endless_comments(), "no PNG, JPEG"),
    "a zip": (b"PK\x05\x06" + bytes(18), "no PNG, JPEG"),
}


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(cell(), "JPEG", quality=100, exif=exif)


TAKEN = {
    "16-bit grey": encoded(Image.fromarray(np.full((60, 60), 40_000, np.uint16))),
    "pages": encoded(cell(), "TIFF", save_all=True, append_images=[cell().rotate(90)]),
    "GHSA-wqgw-9xfh-qf2g: tags that share a block": shared_block(),
    "CVE-2026-96643: an eXIf chunk that repeats its header": repeated_header(),
    "CMYK": encoded(cell().convert("CMYK"), "JPEG"),
    "EXIF rotation": rotated(),
    "palette": encoded(cell().quantize(256)),
    "transparent": encoded(cell().convert("RGBA")),
    "a JPEG called PNG": encoded(cell(), "JPEG", quality=95),
    "polyglot: a PNG, then a zip": encoded(cell()) + b"PK\x05\x06" + bytes(18),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_cell_image_is_refused_with_a_sentence(live, name):
    content, reason = REFUSED[name]
    path = live.upload(("cell.png", content))[0]
    kind, said = live.answer("classify", {"path": path}, 0.5)
    assert kind == "error"
    assert reason in said["error"]
    plain = requests.post(f"{live.url}/classify", data=content)
    assert plain.status_code == 422
    assert reason in plain.json()["error"]


@pytest.mark.parametrize("name", TAKEN)
def test_unusual_images_are_read_as_a_person_sees_them(live, name):
    path = live.upload(("cell.png", TAKEN[name]))[0]
    kind, said = live.answer("classify", {"path": path}, 0.5)
    assert kind == "complete"
    # The 16-bit image is a single grey, so it is rejected; the others show a cell.
    assert said[0]["status"] == ("rejected" if name == "16-bit grey" else "ok")


@pytest.mark.parametrize(
    "painted", [cell().quantize(256), cell().quantize(8), cell().convert("P")], ids=["own", "few", "dithered"]
)
def test_a_palette_stands_for_its_colours(live, painted):
    asked = [encoded(painted), encoded(painted.convert("RGB"))]
    of_palette, of_colours = (requests.post(f"{live.url}/classify", data=one).json() for one in asked)
    assert of_palette["status"] in ("ok", "rejected")
    assert of_palette == of_colours


@pytest.mark.parametrize("made", [shared_block, repeated_header, endless_comments, short_strip])
def test_what_costs_a_decoder_much_costs_the_server_little(live, made):
    server = psutil.Process(live.process.pid)
    before = server.memory_info().rss
    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(lambda _: requests.post(f"{live.url}/classify", data=made()), range(4)))
    assert {answer.status_code for answer in said} <= {200, 422}
    assert server.memory_info().rss - before < 200 * 2**20
    assert requests.get(f"{live.url}/healthz").status_code == 200


@pytest.mark.parametrize("version", ["12.3.0", "11.3.0"])
def test_a_pillow_that_reads_tiff_unsafely_reads_none(version):
    assert not decoder.reads_tiff(version)
    assert decoder.reads_tiff()


def leave_plain(live, slow: bytes) -> None:
    with pytest.raises(requests.exceptions.ReadTimeout):
        requests.post(f"{live.url}/classify", data=slow, timeout=(30, 2))


def leave_gradio(live, slow: bytes) -> None:
    asked = live.call("classify", {"path": live.upload(("cell.png", slow))[0]}, 0.5)
    address = f"{live.url}/gradio_api/call/classify/{asked.json()['event_id']}"
    with contextlib.suppress(requests.exceptions.RequestException):
        requests.get(address, timeout=(30, 2))


@pytest.mark.parametrize("leave", [leave_plain, leave_gradio])
def test_a_client_that_leaves_takes_its_decoder_along(live, leave):
    # The first request starts the process that all decoders are forked from.
    assert requests.get(f"{live.url}/healthz").status_code == 200
    server = next(
        one for one in psutil.Process(live.process.pid).children() if "fork_server" in " ".join(one.cmdline())
    )

    def decoding() -> set[psutil.Process]:
        return {one for one in server.children() if one.cpu_times().user > 0.05}

    slow = encoded(cell())[:-12] + chunk(b"aaAa", b"") * (uploads.MAX_BYTES // 13)
    with ThreadPoolExecutor(1) as pool:
        left = pool.submit(leave, live, slow)
        while not (busy := decoding()):
            assert not left.done()
        # Suspended, so that no decoder ends by itself, however fast the machine is.
        for one in busy:
            one.suspend()
        left.result()
    alive = psutil.wait_procs(busy, timeout=3)[1]
    for one in alive:
        one.resume()
    assert not alive


def packed(*members: tuple[str, bytes], link: bool = False, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as pack:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            if link:
                info.external_attr = 0o120777 << 16
            pack.writestr(info, content)
    return out.getvalue()


def tarred(name: str, content: bytes) -> bytes:
    """A tar of one file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as pack:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        pack.addfile(info, io.BytesIO(content))
    return out.getvalue()


def listing(members: int) -> bytes:
    """A zip whose directory lists so many members, without their content."""
    fields = (b"PK\1\2", 20, 20, 0, 0, 0, 33, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0)
    entries = (struct.pack("<4s6H3L5H2L", *fields) + b"a") * members
    told = members & 0xFFFF
    return entries + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, told, told, len(entries), 0, 0)


def lying(method: int) -> bytes:
    """A small zip whose one member claims to unpack to 10 bytes, but unpacks to a million."""
    content = bytes(10**6)
    return packed(("cell.png", content), method=method).replace(
        struct.pack("<L", len(content)), struct.pack("<L", 10)
    )


def with_zip64(disks: int, members: bytes = b"") -> bytes:
    """A zip whose zip64 records, on so many disks, contradict the record at its end about the members."""
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, len(members), 0)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(members), disks)
    return members + end64 + locator + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, 46, 0, 0)


def far_away() -> bytes:
    """A zip whose one member begins at byte 2**64 - 1."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as pack:
        info = zipfile.ZipInfo("cell.png")
        pack.writestr(info, b"x")
        info.extra, info.header_offset = b"", 2**64 - 1
    return out.getvalue()


ZIPS = {
    "slip": (packed(("../../outside.png", b"x")), "outside its own folder"),
    "absolute": (packed(("/etc/cron.d/x", b"x")), "outside its own folder"),
    "link": (packed(("link.png", b"/etc/passwd"), link=True), "holds the link"),
    "bomb": (packed(("zeros.png", bytes(300 * 2**20))), "decompression bombs"),
    "too many members": (
        packed(*((f"{n}.png", b"x") for n in range(uploads.MAX_CELLS + 1))),
        "more than the 2,500",
    ),
    "a list without end": (listing(100_000), "far more cells"),
    "empty": (packed(), "zip without a file"),
    "half of a download": (packed(("a.png", encoded(cell())))[:300], "damaged"),
    "zip in a zip": (packed(("inner.zip", packed(("a.png", b"x")))), "no PNG, JPEG"),
    "no more than its end": (packed(("a.png", encoded(cell())))[-22:], "damaged"),
    "nameless": (packed((".", b"x")), "outside its own folder"),
    "a name of nothing": (packed(("!.png", b"x")).replace(b"!", b"\0"), "damaged"),
    "a name in no alphabet": (packed(("\u00e9.png", b"x")).replace(b"\xc3\xa9", b"\xff\xff"), "damaged"),
    "on two disks": (with_zip64(disks=2), "zip64"),
    "a list without end, told by zip64": (with_zip64(1, listing(100_000)[:-22]), "zip64"),
    "bzip2 that unpacks to more than it says": (lying(zipfile.ZIP_BZIP2), "another method than deflate"),
    "LZMA that unpacks to more than it says": (lying(zipfile.ZIP_LZMA), "another method than deflate"),
    "the start of its end alone": (b"PK\5\6", "damaged"),
    "a tar with a zip's first and last bytes": (
        tarred("PK\1\2", encoded(cell())) + b"PK\5\6",
        "damaged",
    ),
    "a list far away": (packed(("a.png", b"x"))[:-6] + b"\xff" * 4 + bytes(2), "damaged"),
    "a member far away": (far_away(), "damaged"),
    "cut short": (packed(("a.png", encoded(cell())))[:-300] + b"PK\x05\x06" + bytes(18), "zip without"),
}


@pytest.mark.parametrize("name", ZIPS)
def test_an_unsafe_zip_gives_a_row_that_says_so(live, name):
    content, reason = ZIPS[name]
    good, bad = live.upload(("good.png", encoded(cell())), ("bad.zip", content))
    kind, said = live.answer("classify_batch", [{"path": good}, {"path": bad}], 0.5)
    assert kind == "complete"
    rows = said[0]["rows"]
    assert len(rows) > 1
    assert rows[0]["status"] == "ok"
    assert all(row["status"] == "unreadable" for row in rows[1:])
    assert not reason or reason in rows[-1]["reason"]
    assert str(Path(bad).parent) not in json.dumps(said)
    plain = requests.post(f"{live.url}/classify_batch", data=content)
    assert reason in plain.json()["rows"][-1]["reason"]


def damaged_inside() -> bytes:
    """A zip of four cells: the second has a wrong checksum, and the third is no deflate stream."""
    content = encoded(cell())
    broken = bytearray(packed(*((f"{name}.png", content) for name in "abcd")))
    checksum = struct.pack("<L", zlib.crc32(content))
    with zipfile.ZipFile(io.BytesIO(broken)) as pack:
        listed = pack.infolist()[1].header_offset, pack.infolist()[2].header_offset, pack.start_dir
    wrong = broken.index(checksum, broken.index(b"b.png", listed[2]) - 46)
    broken[wrong : wrong + 4] = bytes(4)
    start = listed[1] + 30 + len("c.png")
    broken[start : start + 100] = b"\xff" * 100
    return bytes(broken)


def test_a_damaged_member_gets_a_row_and_the_rest_of_its_zip_goes_on(live):
    path = live.upload(("cells.zip", damaged_inside()))[0]
    _, said = live.answer("classify_batch", [{"path": path}], 0.5)
    bad = ("unreadable", images.DAMAGED)
    assert [(row["file"], row["status"], row["reason"]) for row in said[0]["rows"]] == [
        ("cells.zip/a.png", "ok", ""),
        ("cells.zip/b.png", *bad),
        ("cells.zip/c.png", *bad),
        ("cells.zip/d.png", "ok", ""),
    ]


def test_an_image_with_a_zip_behind_it_is_an_image(live):
    polyglot = encoded(cell()) + packed(("evil.png", b"x"))
    path = live.upload(("cell.png", polyglot))[0]
    _, said = live.answer("classify_batch", [{"path": path}], 0.5)
    assert [(row["file"], row["status"]) for row in said[0]["rows"]] == [("cell.png", "ok")]


OUTSIDE = [
    "/etc/passwd",
    "/etc/../etc/passwd",
    str(Path(__file__).resolve()),
    "pyproject.toml",
    "../../../../etc/passwd",
    "http://example.org/cell.png",
    "https://example.org/cell.png",
    "file:///etc/passwd",
    "//example.org/share/cell.png",
    "\\\\example.org\\share\\cell.png",
    "/proc/self/environ",
    "/dev/zero",
    "a\0b",
    "",
    "x" * 5000,
]


def test_no_route_gives_an_uploaded_file_back(live):
    path = live.upload(("a.html", b"<script>alert(1)</script>"))[0]
    for headers in ({}, {"Range": "bytes=0-3"}, {"Range": "bytes=5-1,9-2"}):
        answer = requests.get(f"{live.url}/gradio_api/file={path}", headers=headers)
        assert answer.status_code == 404
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'self'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("path", OUTSIDE)
def test_no_endpoint_reads_a_file_that_was_not_uploaded(live, path):
    for file in ({"path": path}, {"path": path, "meta": {"_type": "gradio.FileData"}}):
        assert live.call("classify", file).status_code == 400
        assert live.call("classify_batch", [file]).status_code == 400
        assert live.call("show_cells", [file], 0, False).status_code == 400
        body = {"data": [file, 0], "fn_index": 0, "session_hash": "abc"}
        assert requests.post(f"{live.url}/gradio_api/queue/join", json=body).status_code == 400


@pytest.mark.parametrize("path", [path for path in OUTSIDE if "\0" not in path])
def test_the_file_route_gives_nothing_that_was_not_uploaded_and_sends_nobody_elsewhere(live, path):
    for known in (path, path.replace("/", "%2f"), path.replace("..", "%2e%2e")):
        answer = requests.get(f"{live.url}/gradio_api/file={known}", allow_redirects=False)
        assert answer.status_code in (403, 404)
        assert "location" not in answer.headers


def test_a_path_that_climbs_out_of_the_uploads_is_refused(live):
    path = live.upload(("cell.png", encoded(cell())))[0]
    climbing = f"{Path(path).parent}/../../../../../../../etc/passwd"
    prepared = requests.Request("GET", live.url).prepare()
    prepared.url = f"{live.url}/gradio_api/file={climbing}"
    assert requests.Session().send(prepared).status_code == 404
    assert live.call("classify", {"path": climbing}).status_code == 400


UNGATED = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from fastapi.testclient import TestClient
from app import cells, firewall, serving, uploads
from app.model import open_model
with uploads.upload_folder() as folder:
    app = serving.make([open_model(Path(sys.argv[1]))], cells.find(None), folder, firewall.Limits())
    app.mount("/", app.routes[-1].app.gradio)
    app.routes[:] = app.routes[-1:]
    with TestClient(app) as ungated:
        file = {"path": "/etc/hostname", "meta": {"_type": "gradio.FileData"}}
        asked = ungated.post("/gradio_api/call/show_cells", json={"data": [[file], 0, False]})
        print(ungated.get(f"/gradio_api/call/show_cells/{asked.json()['event_id']}").text)
        print(list(folder.rglob("hostname")))
"""


def test_gradio_itself_still_checks_the_files_that_a_request_names(model_bundle):
    # Without the app's own checks. A mounted Gradio skips its check unless the app tells it that it runs.
    done = subprocess.run(
        [sys.executable, "-c", UNGATED, str(model_bundle)],
        cwd=app_server.ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "event: error" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_advisory_ghsa_j36p_7w88_g82j_no_component_takes_paths_of_the_server(live):
    # Gradio's FileExplorer joined any path that a visitor sent to the folder that it shows.
    config = requests.get(f"{live.url}/config").json()
    kinds = {component["type"] for component in config["components"]}
    assert not kinds & {"fileexplorer", "downloadbutton", "video", "audio", "model3d"}
    climbing = [[["..", "..", "..", "etc", "passwd"]], ["/etc/passwd"]]
    for selected in climbing:
        kind, _ = live.answer("classify_batch", selected, 0.5)
        assert kind == "error"


@pytest.mark.parametrize("path", ["/etc/passwd", "//etc/passwd", "%2fetc%2fpasswd", "\\windows\\win.ini"])
@pytest.mark.parametrize("route", ["static", "assets", "svelte"])
def test_advisory_cve_2026_28414_an_absolute_path_after_static_reads_no_file(live, route, path):
    # Python 3.13 on Windows no longer calls "/windows/win.ini" absolute; Gradio joined it to its own folder.
    answer = requests.get(f"{live.url}/{route}/{path}")
    assert answer.status_code in (403, 404)
    assert "root:" not in answer.text


def test_advisory_cve_2026_28416_the_server_asks_no_other_for_anybody(live):
    # A Space loaded with gr.load() could name hosts to which the proxy route then sent requests.
    config = requests.get(f"{live.url}/config").json()
    assert not [one for one in config["components"] if one["props"].get("proxy_url")]
    for address in (
        "http://127.0.0.1:1/",
        "http://169.254.169.254/latest/",
        "https://x.hf.space/file=/etc/passwd",
    ):
        assert requests.get(f"{live.url}/gradio_api/proxy={address}").status_code == 404
        assert requests.get(f"{live.url}/proxy={address}").status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/proxy=http://example.org/",
        "/gradio_api/component_server",
        "/gradio_api/vibe-code",
        "/gradio_api/process_recording",
        "/gradio_api/run/classify",
        "/gradio_api/api/classify",
        "/gradio_api/file/etc/passwd",
        "/gradio_api/stream/x",
        "/gradio_api/deep_link?session_hash=x",
        "/monitoring",
        "/monitoring/summary",
        "/login",
        "/../../etc/passwd",
        "/static/../../../../../../etc/passwd",
        "/static/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/assets/..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/static/c:/windows/win.ini",
        "/static//etc/passwd",
        "/assets/%5c%5cexample.org%5cshare",
        "/static/" + "x" * 5000,
        # Gradio fails at the end of such a stream.
        "/gradio_api/heartbeat/x%00y",
        "/static/" + "%F0%9F%98%80" * 190,
    ],
)
def test_routes_that_the_page_does_not_need_are_closed(live, path):
    for method in ("GET", "POST"):
        prepared = requests.Request(method, live.url).prepare()
        # Set after prepare(), because requests would normalise the path.
        prepared.url = live.url + path
        answer = requests.Session().send(prepared, allow_redirects=False)
        assert answer.status_code in (400, 403, 404, 405)
        assert "root:" not in answer.text


def test_bodies_are_bounded(live):
    big, sentence = bytes(uploads.MAX_BYTES + 1), "This is too large: a file may have 20 MB."
    one = requests.post(f"{live.url}/classify", data=big)
    assert (one.status_code, one.json()["error"]) == (413, sentence)
    upload = {"files": ("big.png", big)}
    assert requests.post(f"{live.url}/gradio_api/upload", files=upload).status_code == 413
    call = requests.post(f"{live.url}/gradio_api/call/classify", data=b"[" * (firewall.MAX_JSON + 1))
    assert (call.status_code, call.json()["error"]) == (413, sentence)


UPLOAD, FORM = "/gradio_api/upload", "multipart/form-data; boundary=x"
HEAD = b'--x\r\nContent-Disposition: form-data; name="files"; filename="cell.png"\r\n\r\n'


@contextlib.contextmanager
def begun(url: str, route: str = "/classify", *headers: str, length: int = 1000):
    """Open a request whose body the server waits for, but never gets; yields the connection."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        further = "Host: app", f"Content-Length: {length}", "Expect: 100-continue", *headers
        head = f"POST {route} HTTP/1.1", *further
        connection.sendall("\r\n".join((*head, "", "")).encode())
        # The server sends 100 Continue once it reads the body.
        assert connection.recv(100).startswith(b"HTTP/1.1 100")
        yield connection


def test_those_who_send_slowly_keep_nobody_from_an_answer(model_bundle, tmp_path):
    arguments = ("--model", str(model_bundle), "--concurrency", "1", "--queue", "1")
    with app_server.start(*arguments, log=tmp_path / "log") as server, contextlib.ExitStack() as slow:
        for _ in range(10):
            slow.enter_context(begun(server.url))
        assert requests.post(f"{server.url}/classify", data=encoded(cell())).status_code == 200


def test_uploads_that_do_not_come_keep_nobody_from_uploading(model_bundle, tmp_path):
    arguments = ("--model", str(model_bundle), "--room", "1")
    with app_server.start(*arguments, log=tmp_path / "log") as server, contextlib.ExitStack() as slow:
        for _ in range(3):
            announced = begun(server.url, UPLOAD, f"Content-Type: {FORM}", length=500_000)
            slow.enter_context(announced)
        assert server.upload(("cell.png", encoded(cell())))
        # Its length is not known before its end.
        parts = iter([HEAD, encoded(cell()), b"\r\n--x--\r\n"])
        sent = requests.post(f"{server.url}{UPLOAD}", data=parts, headers={"Content-Type": FORM})
        assert sent.status_code == 200


def test_uploads_that_begin_together_take_no_more_than_their_room(tmp_path):
    async def gradio(scope, receive, _):
        (tmp_path / scope["name"]).write_bytes((await receive())["body"])

    route_filter = firewall.RouteFilter(gradio, tmp_path, (), firewall.Limits(room=1))

    async def upload(name, began, may_come):
        async def receive():
            began.set()
            await may_come.wait()
            return {"type": "http.request", "body": bytes(400_000)}

        length = [(b"content-length", b"400000")]
        scope = {"type": "http", "method": "POST", "path": UPLOAD, "headers": length, "name": name}
        await route_filter(scope, receive, None)

    async def one_after_the_other():
        begun = []
        for number in range(5):
            began, may_come = asyncio.Event(), asyncio.Event()
            begun.append((may_come, asyncio.create_task(upload(str(number), began, may_come))))
            await began.wait()
        for may_come, task in begun:
            may_come.set()
            await task

    asyncio.run(one_after_the_other())
    assert 400_000 <= sum(file.stat().st_size for file in tmp_path.iterdir()) <= 2**20


@pytest.mark.parametrize(("route", "header"), [("/classify", "A: b"), (UPLOAD, f"Content-Type: {FORM}")])
def test_who_leaves_while_sending_is_no_fault_of_the_server(live, route, header):
    before = len(live.logged())
    with begun(live.url, route, header):
        pass
    assert requests.post(f"{live.url}/classify", data=encoded(cell())).status_code == 200
    assert "error" not in {line["level"] for line in live.logged()[before:]}


@pytest.mark.parametrize("route", ["/nothing", "/classify"])
def test_a_body_that_is_no_http_is_refused_whether_or_not_it_is_answered_already(live, route):
    address = urlsplit(live.url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        head = f"POST {route} HTTP/1.1", "Host: app", "Transfer-Encoding: chunked"
        connection.sendall("\r\n".join([*head, "", ""]).encode())
        if route == "/nothing":
            assert b"404 Not Found" in connection.recv(2**16)
        connection.sendall(b"no length\r\n")
        rest = b"".join(iter(lambda: connection.recv(2**16), b""))
    assert (b'{"error": "Invalid HTTP request received."}' in rest) == (route == "/classify")
    assert "asyncio" not in {line["logger"] for line in live.logged()}


def test_an_upload_that_is_no_file_is_told_to_be_one(live):
    answer = requests.post(f"{live.url}/gradio_api/upload", files={"files": (None, "no file")})
    assert answer.status_code == 400
    assert answer.json() == {"error": "Send files, in a form, under the name `files`."}
    long = requests.post(
        f"{live.url}{UPLOAD}",
        data=b"--x",
        headers={"Content-Type": f"multipart/form-data; boundary={'x' * 300}"},
    )
    assert (long.status_code, long.json()) == (400, answer.json())


@pytest.mark.parametrize("route", ["queue/data?session_hash=gone", "call/classify/gone"])
def test_a_page_whose_session_is_gone_is_told_so_and_nothing_fails(live, route):
    before = len(live.logged())
    assert "Not Found" in requests.get(f"{live.url}/gradio_api/{route}").text
    assert "error" not in {line["level"] for line in live.logged()[before:]}


SLOW = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import anyio, httpx
from app import cells, firewall, serving, uploads
from app.model import open_model

async def slowly(begun):
    yield b"not all"
    begun.set()
    await anyio.sleep_forever()

async def visit(limits, ask):
    app = serving.make([model], cells.find(None), folder, limits)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
        await ask(client)

async def too_late(client):
    said = await client.post("/classify", content=slowly(anyio.Event()))
    print(said.status_code, said.json()["error"])

async def in_time(client):
    said = await client.post("/classify_batch", content=Path(sys.argv[2]).read_bytes())
    print(said.status_code, len(said.json()["rows"]))

async def too_much(client):
    begun = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: client.post("/classify", content=slowly(begun)))
        await begun.wait()
        said = await client.post("/classify", content=b"too much")
        print(said.status_code, said.json()["error"])
        group.cancel_scope.cancel()
    said = await client.post("/classify", content=b"too much")
    print(said.status_code, said.json()["error"])

with uploads.upload_folder() as folder:
    model = open_model(Path(sys.argv[1]))
    anyio.run(visit, firewall.Limits(body_seconds=0.1), too_late)
    anyio.run(visit, firewall.Limits(body_seconds=0.1), in_time)
    anyio.run(visit, firewall.Limits(bodies=10), too_much)
"""


def test_bodies_have_limits_on_their_time_and_their_total_size(model_bundle, tmp_path):
    # 400 cells take longer to judge than the 0.1 s that a body may take to arrive.
    (tmp_path / "cells.zip").write_bytes(packed(*((f"{n}.png", encoded(cell())) for n in range(400))))
    done = subprocess.run(
        [sys.executable, "-c", SLOW, str(model_bundle), str(tmp_path / "cells.zip")],
        cwd=app_server.ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert [line[:40] for line in done.stdout.splitlines()] == [
        "408 The body did not arrive within 0.1 s",
        "200 400",
        "503 Too much is being sent at once: ask ",
        "422 This file cannot be judged: no PNG, ",
    ]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"x"', b"[" * 100_000, b"\xff\xfe"])
def test_a_body_that_is_no_json_object_is_refused(live, body):
    for route in ("call/classify", "queue/join", "cancel"):
        assert requests.post(f"{live.url}/gradio_api/{route}", data=body).status_code in (400, 422)


@pytest.mark.parametrize(
    "file", [None, 5, "cell.png", [], {}, {"path": None}, {"path": 5}, {"url": "http://example.org"}]
)
def test_a_file_of_any_other_shape_gives_an_error_and_no_traceback(live, file):
    for name, data in (("classify", file), ("classify_batch", [file]), ("classify_batch", file)):
        asked = live.call(name, data, 0.5)
        if asked.status_code == 200:
            kind, _ = live.answer(name, data, 0.5)
            assert kind == "error"
        else:
            assert asked.status_code in (400, 422)
    assert "Traceback" not in live.log.read_text()


def test_a_lone_surrogate_in_a_file_name_is_shown_as_a_question_mark(live):
    path = live.upload(("cell.png", encoded(cell())))[0]
    kind, said = live.answer("classify_batch", [{"path": path, "orig_name": "\ud800.png"}], 0.5)
    assert (kind, said[0]["rows"][0]["file"]) == ("complete", "?.png")


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("call/nothing", {"data": []}),
        ("call/v2/nothing", {}),
        ("call/v2/classify", {"strange": 1}),
        ("call/classify", {}),
        ("call/classify", {"data": []}),
        ("call/classify", {"data": 5}),
        ("call/classify", {"data": [1, 2, 3, 4]}),
        ("call/operating_point", {"data": [99, None, None, None]}),
        ("call/show_row", {"data": [None, 0]}),
        ("queue/join", {}),
        ("queue/join", {"data": [], "session_hash": "abc"}),
        ("queue/join", {"data": [], "fn_index": 9999, "session_hash": "abc"}),
        ("queue/join", {"data": [], "fn_index": -1, "session_hash": "abc"}),
        ("queue/join", {"data": [], "fn_index": "x", "session_hash": "abc"}),
        ("queue/join", {"data": [], "fn_index": [], "session_hash": "abc"}),
        ("queue/join", {"data": [], "fn_index": 0, "session_hash": "abc", "trigger_id": "\ud800"}),
        ("queue/join", {"data": [], "fn_index": 0, "session_hash": "abc", "trigger_id": 9999}),
        ("cancel", {}),
        ("cancel", {"session_hash": "abc", "fn_index": 1, "event_id": "x"}),
        ("reset", {"event_id": "x"}),
    ],
)
def test_a_request_that_makes_no_sense_is_no_fault_of_the_server(live, route, body):
    assert requests.post(f"{live.url}/gradio_api/{route}", json=body).status_code < 500


def test_a_name_cannot_become_markup(model_bundle):
    from app import batches
    from app.inference import Answer
    from app.model import open_model

    evil = '"><img src=x onerror=alert(1)>.png'
    models = [open_model(model_bundle)]
    judged = [batches.JudgedImage(evil, "", (Answer(0.4),))]
    totals, rows = rendering.batch(batches.outcomes(models, judged, verdict.HALF), judged, False)
    assert evil not in totals
    assert [
        kind
        for value, (kind, _) in zip(rows[0], rendering.columns(models).values(), strict=True)
        if evil in str(value)
    ] == ["str"]


def test_a_full_queue_refuses_and_the_app_lives_on(model_bundle, tmp_path):
    arguments = ("--model", str(model_bundle), "--concurrency", "1", "--queue", "1")
    with app_server.start(*arguments, log=tmp_path / "log") as server:
        many = [{"path": server.upload(("cell.png", encoded(cell())))[0]}] * uploads.MAX_CELLS
        # Each batch takes far longer to judge than to send, so the second or third finds the queue full.
        asked = [server.call("classify_batch", many, 0.5).status_code for _ in range(10)]
        assert asked[0] == 200
        assert asked[-1] == 503
        assert requests.get(f"{server.url}/healthz").status_code == 200


def test_only_the_page_may_be_read_by_other_sites(live):
    answer = requests.get(f"{live.url}/config", headers={"Origin": "http://example.org"})
    assert answer.headers.get("access-control-allow-origin") in (None, "")


def test_a_fault_of_the_server_is_found_in_its_log(tmp_path):
    log = tmp_path / "log"
    server = app_server.Server("", subprocess.Popen(["true"]), log)
    server.process.wait()
    fine = [
        {"level": "info", "status": 200},
        {"level": "info", "status": 503},
        {"level": "error", "event": "error", "error": "ValueError at blocks.py:2064"},
    ]
    log.write_text("\n".join(json.dumps(line) for line in fine))
    assert app_server.faults(server) == []
    bad = [{"level": "info", "status": 500}, {"level": "error", "error": "IndexError at zipfile.py:1"}]
    log.write_text("\n".join([*(json.dumps(line) for line in [*fine, *bad]), "Traceback (most recent ..."]))
    assert app_server.faults(server) == [*bad, "Traceback"]
