"""Send the app thousands of broken uploads, and show that it lives on: `make fuzz-app`.

Starts the app, takes files that it accepts (each format and kind of image, and zips of them), breaks them
at random (bytes anywhere, TIFF tags, PNG chunks, JPEG segments), and sends each by one of the ways that a
visitor has. Ends with status 1 where an answer is a server's fault (5xx), an answer fails to come, the log
has a traceback, memory grows, the process ends, or a sound cell gets another answer than before. Every
upload follows from the seed and its own number.
"""

import argparse
import io
import itertools
import random
import re
import statistics
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil
import requests
from PIL import Image

from app import pictures
from malaria.command import end_with, how_many
from tests.support import app_server

# Fewer than its queue takes, so that no request is refused for want of room.
AT_ONCE = 4

# A tenth of the uploads warms up allocators and caches; from then on this much may come and go.
_MOST_GROWTH = 1.15

# How a PNG's chunk, a JPEG's segment and a TIFF's tag begin.
_FIELDS = {
    b"\x89PNG": rb".{4}(IHDR|PLTE|tRNS|IDAT|IEND)",
    b"\xff\xd8": rb"\xff[\xc0-\xfe]",
    b"II*\0": rb".\x01[\x01-\x0c]\x00.{8}",
}
_ODD_BYTES = (0, 1, 0x7F, 0x80, 0xFE, 0xFF)
_NAMES = (
    "cell.png",
    "../../cell.png",
    "a" * 300 + ".png",
    "cell.svg",
    "cell.png.zip",
    "c\u00e9ll\u202e.png",
    ".png",
    "\"'<b>.bmp",
    "con",
    "%00.png",
)


@dataclass(frozen=True)
class Found:
    """What the uploads came to: answers by way and kind, and each fault in words, with its number."""

    answers: Counter[str]
    faults: tuple[str, ...]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.fuzz_app", description=__doc__)
    parser.add_argument("--uploads", type=how_many, default=2000, help="how many (default 2000)")
    parser.add_argument("--first", type=int, default=0, help="number of the first, to see one fault again")
    parser.add_argument("--seed", type=int, default=1, help="what the uploads follow from (default 1)")
    parser.add_argument("--model", default="models/pretrained", help="a bundle folder")
    given = parser.parse_args()
    numbers = range(given.first, given.first + given.uploads)
    step = max(1, given.uploads // 20)
    answers, faults, memory = Counter[str](), 0, list[float]()
    with (
        tempfile.TemporaryDirectory() as folder,
        app_server.start("--model", given.model, log=Path(folder, "log")) as server,
    ):
        process = psutil.Process(server.process.pid)
        for start in range(0, given.uploads, step):
            memory.append(process.memory_info().rss / 1e6)
            found = send(server, given.seed, numbers[start : start + step])
            answers += found.answers
            faults += len(found.faults)
            # Told before the server is ended, which fails where it logged a fault.
            for fault in found.faults:
                print(f"FAULT {fault}", flush=True)
            print(f"{min(start + step, given.uploads)} of {given.uploads}", file=sys.stderr, flush=True)
        alive = server.process.poll() is None
        memory.append(process.memory_info().rss / 1e6 if alive else 0.0)
        for answer, count in sorted(answers.items()):
            print(f"{count:6} {answer}", flush=True)
    print("memory of the server, MB, at each twentieth: " + " ".join(f"{size:.0f}" for size in memory))
    grown = statistics.median(memory[-3:]) / statistics.median(memory[2:5]) if len(memory) > 8 else 1.0
    print(
        f"{given.uploads} uploads with seed {given.seed}: {faults} faults, the process "
        f"{'lives' if alive else 'HAS ENDED'}, memory at the end is {grown:.2f} of that after the first tenth"
    )
    return 0 if alive and not faults and grown <= _MOST_GROWTH else 1


def send(server: app_server.Server, seed: int, numbers: range) -> Found:
    """Send the uploads of `numbers`, some at a time."""
    sound, logged = judged(server), app_server.faults(server)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        outcomes = list(pool.map(lambda number: _outcome(server, seed, number), numbers))
    faults = [f"upload {number}: {said}" for number, (_, said) in zip(numbers, outcomes, strict=True) if said]
    if judged(server) != sound:
        faults.append(f"uploads {numbers}: a sound cell is judged otherwise after them")
    new = [fault for fault in app_server.faults(server) if fault not in logged]
    faults += [f"uploads {numbers}, in the log: {fault}" for fault in new]
    return Found(Counter(kind for kind, _ in outcomes), tuple(faults))


def judged(server: app_server.Server) -> dict[str, object]:
    """The answer on a sound cell."""
    answer = requests.post(f"{server.url}/classify", data=samples()["cell.png"], timeout=60)
    answer.raise_for_status()
    said: dict[str, object] = answer.json()
    return said


def upload(seed: int, number: int) -> tuple[str, str, bytes]:
    """A way, a file's name and its broken content; the same for the same seed and number."""
    draw = random.Random(f"{seed}-{number}")
    name = draw.choice(sorted(samples()))
    content = samples()[name]
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        content = draw.choice(_BREAKS)(draw, content)
    way = draw.choice(sorted(_WAYS))
    return way, draw.choice((name, *_NAMES)), content


def _outcome(server: app_server.Server, seed: int, number: int) -> tuple[str, str]:
    """The way and kind of answer to one upload, and what is wrong with it, if anything."""
    way, name, content = upload(seed, number)
    try:
        status, said = _WAYS[way](server, name, content)
    except requests.RequestException as error:
        return f"{way}: no answer", f"{way} got no answer ({type(error).__name__})"
    fault = f"{way} answered {status}" if status >= 500 else ""
    return f"{way}: {status} {said}".strip(), fault


def _plain(server: app_server.Server, _: str, content: bytes) -> tuple[int, str]:
    answer = requests.post(f"{server.url}/classify", data=content, timeout=60)
    return answer.status_code, ""


def _asked(endpoint: str, *more: object, many: bool = False) -> Callable[..., tuple[int, str]]:
    """Upload a file, and ask an endpoint of it."""

    def way(server: app_server.Server, name: str, content: bytes) -> tuple[int, str]:
        sent = requests.post(
            f"{server.url}/gradio_api/upload", files=[("files", (name, content))], timeout=60
        )
        if sent.status_code != 200:
            return sent.status_code, "to the upload"
        file = {"path": sent.json()[0], "orig_name": name, "meta": {"_type": "gradio.FileData"}}
        call = server.call(endpoint, [file] if many else file, *more)
        if call.status_code != 200:
            return call.status_code, "to the call"
        event = call.json()["event_id"]
        stream = requests.get(f"{server.url}/gradio_api/call/{endpoint}/{event}", timeout=60)
        return stream.status_code, stream.text.strip().splitlines()[-2].removeprefix("event: ")

    return way


_WAYS: dict[str, Callable[..., tuple[int, str]]] = {
    "plain": _plain,
    "classify": _asked("classify", 0.5),
    "classify_batch": _asked("classify_batch", 0.5, many=True),
    "page, one cell": _asked("show_cell", 0),
    "page, many cells": _asked("show_many", 0, False, many=True),
}


@cache
def samples() -> dict[str, bytes]:
    """Files that the app takes, each format and kind of image, and zips of them."""
    cell = Image.fromarray(pictures.drawn(1, seed=11)[0][0])
    grey16 = Image.fromarray((pictures.drawn(1, seed=12)[0][0].astype("uint16") * 257)[:, :, 0])
    exif = Image.Exif()
    exif[0x0112] = 6
    made = {
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
    for name, how in (("cells.zip", zipfile.ZIP_DEFLATED), ("stored.zip", zipfile.ZIP_STORED)):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", how) as pack:
            for member in ("cell.png", "cell.jpg", "cell.bmp"):
                pack.writestr(f"cells/{member}", made[member])
        made[name] = out.getvalue()
    return made


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def _place(draw: random.Random, content: bytes) -> int:
    """Anywhere, but half of the time where headers are."""
    most = len(content) if draw.random() < 0.5 else min(len(content), 64)
    return draw.randrange(most + 1)


def _bytes(draw: random.Random, content: bytes) -> bytes:
    """Some bytes become others (odd ones, any, themselves again and again, another file's) or go; and at
    times whatever follows.
    """
    at = _place(draw, content)
    end = at + draw.randrange(draw.choice((2, 8, 64, 4096)))
    other = samples()[draw.choice(sorted(samples()))]
    others = (
        b"",
        bytes([draw.choice(_ODD_BYTES)]) * (end - at),
        draw.randbytes(draw.randrange(64)),
        content[at:end] * draw.randrange(2, 9),
        other[_place(draw, other) :],
    )
    return content[:at] + draw.choice(others) + draw.choice((content[end:], content[end:], b""))


def _field(draw: random.Random, content: bytes) -> bytes:
    """Another value in a TIFF's table of tags, a PNG's chunk or a JPEG's segment, or one of these again."""
    places = _fields(content)
    if not places:
        return content
    start, end = draw.choice(places)
    if draw.random() < 0.3:
        return content[:end] + content[start:end] * draw.choice((1, 2, 100)) + content[end:]
    at, odd = draw.randrange(start, max(end, start + 1)), bytes([draw.choice(_ODD_BYTES)])
    return content[:at] + odd * draw.choice((1, 2, 4)) + content[at + draw.choice((1, 2, 4)) :]


def _fields(content: bytes) -> list[tuple[int, int]]:
    """Where tags, chunks or segments begin and end, where a file still has any."""
    starts = [
        found.start()
        for sign, pattern in _FIELDS.items()
        if content.startswith(sign)
        for found in re.finditer(pattern, content, re.DOTALL)
    ]
    return list(itertools.pairwise([*starts, len(content)]))


_BREAKS = (_field, _bytes, _bytes, _bytes)


if __name__ == "__main__":
    end_with(main)
