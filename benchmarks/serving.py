"""How many cells a second the app answers, how long each waits, and what the server holds in memory.

Starts the app on loopback, and lets 1, 8 and 32 clients at once ask `/classify` for single cells, each
over one connection that stays open, as fast as the answers come. In the same run a bare call of the bundle
does the same work without a server: decode, resize, network, gate. Clients and server share the cores, so
that a server of its own answers more.

A second app decodes in its own process, as nobody should: by turns with the first it tells what a fork a
request costs, and so does `predict` without the processes that it decodes in.
"""

import argparse
import contextlib
import http.client
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import numpy as np
import psutil

from app import pictures
from malaria import bundle, predict
from malaria.cells import decoding, images
from malaria.command import end_with, how_many
from malaria.errors import UserError

# So many different cells that no cache would hold them.
CELLS = 200


@dataclass(frozen=True)
class Server:
    """A running app: its address without a slash at the end, its process, and where it logs to."""

    url: str
    process: "subprocess.Popen[str]"
    log: Path


@dataclass(frozen=True)
class Load:
    """What so many clients met: `waits` in ms, one an answer; `peak` of the server's memory in MB."""

    clients: int
    seconds: float
    waits: tuple[float, ...]
    errors: int
    peak: float


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--model", default="models/pretrained", help="a bundle folder (default: %(default)s)")
    parser.add_argument("--clients", type=how_many, nargs="+", default=[1, 8, 32], help="at once (1 8 32)")
    parser.add_argument("--seconds", type=float, default=60, help="of each load (default 60)")
    given = parser.parse_args()
    cells = encoded(CELLS)
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        with start("--model", given.model, log=Path(folder) / "log") as server:
            print(f"{os.cpu_count()} cores, Python {platform.python_version()}, {given.model}")
            print(f"ready {time.monotonic() - started:.1f} s after its start, {memory(server):.0f} MB")
            alone = bare(given.model, cells, min(given.seconds, 10))
            print(
                f"bare call of the bundle, one cell at a time: {1 / alone:.0f} a second, {1e3 * alone:.2f} ms"
            )
            print("clients  requests/s  p50 ms  p99 ms  errors  peak MB  of the bare rate")
            loads = []
            for clients in given.clients:
                loads.append(load(server, cells, clients, given.seconds))
                print(as_line(loads[-1], alone), flush=True)
            print(f"memory a second after the last answer: {settled(server):.0f} MB")
            here = (sys.executable, "-m", "benchmarks.serving_here", "--port", "0")
            with start("--model", given.model, log=Path(folder) / "here", command=here) as undivided:
                for clients in given.clients:
                    print(
                        as_cost(f"/classify, {clients} clients", *by_turns(server, undivided, cells, clients))
                    )
        print(as_cost("predict", *predicted(given.model, cells)))
    return 1 if any(one.errors for one in loads) else 0


@contextlib.contextmanager
def start(
    *arguments: str,
    log: Path,
    command: Sequence[str | Path] = (sys.executable, "-m", "app", "--port", "0"),
    **process_options: Any,
) -> Iterator[Server]:
    """Start the app on a free port, and end it with the block; UserError where it does not start."""
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*command, *arguments], stdout=subprocess.PIPE, stderr=errors, text=True, **process_options
        )
    try:
        assert process.stdout is not None
        said = process.stdout.readline().split()
        if not said:
            raise UserError(log.read_text().strip().removeprefix("error: "))
        yield Server(said[1].rstrip("/"), process, log)
    finally:
        process.kill()
        process.communicate()


def encoded(count: int) -> list[bytes]:
    """Drawn cells as PNG files."""
    return [pictures.encoded(pixels) for pixels, _ in pictures.drawn(count, seed=5)]


def bare(model: str, cells: list[bytes], seconds: float) -> float:
    """Seconds a cell takes without a server, decoded and judged one by one."""
    opened = bundle.load(model)
    opened.run([decode_here(cells[0], opened.limits).pixels])
    taken: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        begun = time.perf_counter()
        opened.run([decode_here(cells[len(taken) % len(cells)], opened.limits).pixels])
        taken.append(time.perf_counter() - begun)
    return statistics.fmean(taken)


def load(server: Server, cells: list[bytes], clients: int, seconds: float) -> Load:
    """Let so many clients ask for so long."""
    waits: list[list[float]] = [[] for _ in range(clients)]
    errors = [0] * clients
    end = time.monotonic() + seconds

    def ask(number: int) -> None:
        address = urlsplit(server.url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
        while time.monotonic() < end:
            begun = time.perf_counter()
            try:
                cell = cells[(number + len(waits[number])) % len(cells)]
                connection.request("POST", "/classify", body=cell)
                answer = connection.getresponse()
                said = json.loads(answer.read())
                errors[number] += answer.status != 200 or said["status"] not in ("ok", "rejected")
            except (OSError, http.client.HTTPException, ValueError):
                errors[number] += 1
                connection.close()
            waits[number].append(1e3 * (time.perf_counter() - begun))
        connection.close()

    asking = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    begun = time.monotonic()
    for thread in asking:
        thread.start()
    peak = memory(server)
    for thread in asking:
        while thread.is_alive():
            thread.join(0.2)
            peak = max(peak, memory(server))
    taken = time.monotonic() - begun
    return Load(clients, taken, tuple(wait for one in waits for wait in one), sum(errors), peak)


def by_turns(
    server: Server, here: Server, cells: list[bytes], clients: int, rounds: int = 5, seconds: float = 3
) -> tuple[list[float], list[float]]:
    """Answers a second of the app, and of the one that decodes in its own process, in so many rounds."""
    rates = [
        [
            len(one.waits) / one.seconds
            for one in (load(each, cells, clients, seconds) for each in (server, here))
        ]
        for _ in range(rounds)
    ]
    ours, theirs = zip(*rates, strict=True)
    return list(ours), list(theirs)


def predicted(model: str, cells: list[bytes], rounds: int = 5) -> tuple[list[float], list[float]]:
    """Cells a second of `predict`, and of the same where images are decoded in this process."""
    opened = bundle.load(model)
    items = [predict.Item(str(number), lambda cell=cell: cell) for number, cell in enumerate(cells * 5)]  # type: ignore[misc]
    apart, rates = images.read, ([], [])  # type: ignore[var-annotated]
    for _ in range(rounds):
        for read, found in zip((apart, decode_here), rates, strict=True):
            images.read = read
            begun = time.perf_counter()
            assert all(row.reason != predict.UNREADABLE for row in predict.predict(opened, items))
            found.append(len(items) / (time.perf_counter() - begun))
    images.read = apart
    return rates


def decode_here(source: Path | BinaryIO | bytes, limits: images.Limits, name: str = "") -> images.Crop:  # noqa: ARG001
    """As `images.read`, in this process."""
    encoded = source if isinstance(source, bytes) else images.content(source, limits)
    return images.Crop(np.asarray(decoding.decode(encoded, limits).image))


def as_cost(what: str, ours: list[float], theirs: list[float]) -> str:
    """A line on what decoding in another process costs."""
    ratio = statistics.median(one / other for one, other in zip(ours, theirs, strict=True))
    return f"{what}: {ratio:.2f} of the rate of decoding in the same process, median of {len(ours)} rounds"


def memory(server: Server) -> float:
    """What the server holds in memory, MB."""
    return float(psutil.Process(server.process.pid).memory_info().rss) / 1e6


def settled(server: Server) -> float:
    time.sleep(1)
    return memory(server)


def as_line(one: Load, alone: float) -> str:
    """A row of the table that `main` prints; `alone`: seconds of a bare call."""
    rate = len(one.waits) / one.seconds
    middle, slowest = np.percentile(one.waits, [50, 99])
    return (
        f"{one.clients:7}  {rate:10.1f}  {middle:6.1f}  {slowest:6.1f}  {one.errors:6}  {one.peak:7.0f}  "
        f"{100 * rate * alone:13.0f} %"
    )


if __name__ == "__main__":
    end_with(main)
