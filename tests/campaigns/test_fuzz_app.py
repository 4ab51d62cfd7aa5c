"""Send the app thousands of broken uploads, and check that it keeps working: `make fuzz-app`.

Starts the app, takes files that it accepts (each format and kind of image, and zips of them), breaks them at
random (bytes anywhere, TIFF tags, PNG chunks, JPEG segments), and sends each in one of a visitor's ways.
Fails if an answer has status 5xx, an answer does not come, the log has a traceback, memory grows, the process
ends, or a sound cell gets another answer than before. Every upload follows from the seed and its own number.
The environment variables UPLOADS, UPLOADS_SEED and UPLOADS_FIRST set the number of uploads, the seed, and the
first number: with these you can repeat one fault.
"""

import io
import os
import random
import re
import statistics
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial

import psutil
import pytest
import requests
from PIL import Image

from app import pictures
from tests.support import app_server

pytestmark = pytest.mark.long

UPLOADS = int(os.environ.get("UPLOADS", "100"))
SEED = int(os.environ.get("UPLOADS_SEED", "2"))
FIRST = int(os.environ.get("UPLOADS_FIRST", "0"))

# Fewer than the app's queue takes, so that no request is refused.
AT_ONCE = 4

# Memory may grow by this factor after a tenth of the uploads, which warms up allocators and caches.
_MAX_GROWTH = 1.15

# How a PNG's chunk, a JPEG's segment and a TIFF's tag begin.
_FIELDS = {
    b"\x89PNG": rb".{4}(IHDR|PLTE|tRNS|IDAT|IEND)",
    b"\xff\xd8": rb"\xff[\xc0-\xfe]",
    b"II*\0": rb".\x01[\x01-\x0c]\x00.{8}",
}
_ODD_BYTES = (0, 1, 0x7F, 0x80, 0xFE, 0xFF)
_NAMES = (
    "cell.png", "../../cell.png", "a" * 300 + ".png", "cell.svg", "cell.png.zip", "c\u00e9ll\u202e.png",
    ".png", "\"'<b>.bmp", "con", "%00.png",
)  # fmt: skip

# Endpoints of Gradio, and the arguments of each after the file or files.
_EXTRA_ARGUMENTS = {"classify": (0.5,), "classify_batch": (0.5,), "show_cells": (0, False)}


def test_an_upload_follows_from_its_seed_and_number():
    assert upload(1, 5) == upload(1, 5)
    assert len({upload(1, number)[2] for number in range(50)}) > 45
    assert {upload(1, number)[0] for number in range(50)} == {"plain", *_EXTRA_ARGUMENTS}


def test_the_app_answers_broken_uploads_and_lives_on(tmp_path):
    numbers, step = range(FIRST, FIRST + UPLOADS), max(1, UPLOADS // 20)
    answers, faults, memory = Counter[str](), list[str](), list[float]()
    with (
        app_server.start("--model", "models/pretrained", log=tmp_path / "log") as server,
        ThreadPoolExecutor(AT_ONCE) as pool,
    ):
        process, sound_verdict = psutil.Process(server.process.pid), verdict(server)
        for batch in (numbers[start : start + step] for start in range(0, UPLOADS, step)):
            memory.append(process.memory_info().rss / 1e6)
            old_faults = app_server.faults(server)
            for number, (answer, fault) in zip(batch, pool.map(partial(send, server), batch), strict=True):
                answers[answer] += 1
                faults += [f"upload {number}: {fault}"] if fault else []
            if verdict(server) != sound_verdict:
                faults.append(f"uploads {batch}: a sound cell is judged otherwise after them")
            new_faults = [fault for fault in app_server.faults(server) if fault not in old_faults]
            faults += [f"uploads {batch}, in the log: {fault}" for fault in new_faults]
            print(f"{batch.stop - FIRST} of {UPLOADS}, faults: {len(faults)}", *faults, sep="\n", flush=True)
        memory.append(process.memory_info().rss / 1e6)
        assert server.process.poll() is None
        assert faults == []
    print(*(f"{count:6} {answer}" for answer, count in sorted(answers.items())), sep="\n")
    print("memory of the server, MB, at each twentieth: " + " ".join(f"{size:.0f}" for size in memory))
    if UPLOADS >= 2000:
        assert statistics.median(memory[-3:]) <= _MAX_GROWTH * statistics.median(memory[2:5])
    if UPLOADS >= 100:
        # Although they are broken, some uploads must reach each endpoint.
        reached = {"classify: 200 error", "classify_batch: 200 complete", "show_cells: 200 complete"}
        assert reached <= answers.keys()


def verdict(server: app_server.Server) -> dict[str, object]:
    """The app's answer for a sound cell."""
    answer = requests.post(f"{server.url}/classify", data=samples()["cell.png"], timeout=60)
    answer.raise_for_status()
    return answer.json()


def upload(seed: int, number: int) -> tuple[str, str, bytes]:
    """A way to send it, a file name and broken content; the same for the same seed and number."""
    rng = random.Random(f"{seed}-{number}")
    name = rng.choice(sorted(samples()))
    content = samples()[name]
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        content = _broken(rng, content)
    return rng.choice(("plain", *_EXTRA_ARGUMENTS)), rng.choice((name, *_NAMES)), content


def send(server: app_server.Server, number: int) -> tuple[str, str]:
    """The way and kind of answer to one upload, and what is wrong with it, if anything."""
    way, name, content = upload(SEED, number)
    try:
        status, event = _ask(server, way, name, content)
    except requests.RequestException as error:
        return f"{way}: no answer", f"{way} got no answer ({type(error).__name__})"
    return f"{way}: {status} {event}".strip(), f"{way} answered {status}" if status >= 500 else ""


def _ask(server: app_server.Server, way: str, name: str, content: bytes) -> tuple[int, str]:
    if way == "plain":
        return requests.post(f"{server.url}/classify", data=content, timeout=60).status_code, ""
    sent = requests.post(f"{server.url}/gradio_api/upload", files=[("files", (name, content))], timeout=60)
    if sent.status_code != 200:
        return sent.status_code, "to the upload"
    file = {"path": sent.json()[0], "orig_name": name, "meta": {"_type": "gradio.FileData"}}
    call = server.call(way, file if way == "classify" else [file], *_EXTRA_ARGUMENTS[way])
    if call.status_code != 200:
        return call.status_code, "to the call"
    stream = requests.get(f"{server.url}/gradio_api/call/{way}/{call.json()['event_id']}", timeout=60)
    return stream.status_code, stream.text.strip().splitlines()[-2].removeprefix("event: ")


@cache
def samples() -> dict[str, bytes]:
    """Files that the app accepts, by name: each format and kind of image, and zips of them."""
    cell = Image.fromarray(pictures.cells(1, seed=11)[0][0])
    grey16 = Image.fromarray((pictures.cells(1, seed=12)[0][0].astype("uint16") * 257)[:, :, 0])
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {
        "cell.png": _encoded(cell, "PNG"),
        "palette.png": _encoded(cell.convert("P"), "PNG"),
        "grey.png": _encoded(cell.convert("L"), "PNG"),
        "deep.png": _encoded(grey16, "PNG"),
        "clear.png": _encoded(cell.convert("RGBA"), "PNG"),
        "cell.jpg": _encoded(cell, "JPEG", exif=exif),
        "print.jpg": _encoded(cell.convert("CMYK"), "JPEG"),
        "waves.jpg": _encoded(cell, "JPEG", progressive=True),
        "cell.bmp": _encoded(cell, "BMP"),
        "cell.tif": _encoded(cell, "TIFF"),
        "lzw.tif": _encoded(cell, "TIFF", compression="tiff_lzw"),
        "pages.tif": _encoded(cell, "TIFF", save_all=True, append_images=[cell.rotate(90)]),
        "tiled.tif": _encoded(cell, "TIFF", tile=(16, 16)),
        "photo.tif": _encoded(cell, "TIFF", compression="jpeg"),
    }
    for name, compression in (("cells.zip", zipfile.ZIP_DEFLATED), ("stored.zip", zipfile.ZIP_STORED)):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", compression) as archive:
            for member in ("cell.png", "cell.jpg", "cell.bmp"):
                archive.writestr(zipfile.ZipInfo(f"cells/{member}"), files[member], compression)
        files[name] = out.getvalue()
    return files


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def _broken(rng: random.Random, content: bytes) -> bytes:
    """Replace or remove some bytes, and at times remove everything after them.

    The bytes lie anywhere, in the head, or in a TIFF tag, PNG chunk or JPEG segment. Odd bytes, random bytes,
    copies of themselves or bytes of another file take their place.
    """
    head = rng.randrange(min(len(content), 64) + 1)
    fields = [
        match.start()
        for sign, pattern in _FIELDS.items()
        if content.startswith(sign)
        for match in re.finditer(pattern, content, re.DOTALL)
    ]
    field = rng.choice(fields or [head]) + rng.randrange(12)
    start = rng.choice((rng.randrange(len(content) + 1), head, field))
    end = start + rng.randrange(rng.choice((2, 8, 64, 4096)))
    odd_byte, donor = bytes([rng.choice(_ODD_BYTES)]), samples()[rng.choice(sorted(samples()))]
    replacements = (
        odd_byte * rng.choice((1, 2, 4, end - start)),
        rng.randbytes(rng.randrange(64)),
        content[start:end] * rng.choice((0, 2, 8, 100)),
        donor[rng.randrange(len(donor) + 1) :],
    )
    return content[:start] + rng.choice(replacements) + rng.choice((content[end:], content[end:], b""))
