"""Measure how many cells the app answers per second, how long each waits, and the server's memory.

Starts the app on loopback. Then 1, 8 and 32 clients at the same time send single cells to `/classify`, each
over one connection that stays open, as fast as the answers come. In the same run a bare call of the bundle
does the same work without a server, in one process: decode, resize, network, check. Clients and server share
the cores, so that a server on a machine of its own answers more.
"""

import contextlib
import sys
import tempfile
import time
import timeit
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import numpy as np
import pandas as pd
import psutil
import urllib3

from app import pictures
from benchmarks import by_turns
from malaria import bundle
from malaria.cells import decoding
from malaria.command import new_parser, positive, run_and_exit
from malaria.errors import UserError

APP = (sys.executable, "-m", "app", "--port", "0")

# Different cells, too many for any cache.
CELLS = 200


@dataclass(frozen=True)
class Server:
    """A running app: its address without a slash at the end, its process, and its log file."""

    url: str
    process: "Popen[str]"
    log: Path


def main() -> int:
    parser = new_parser("benchmarks.serving", __doc__)
    parser.add_argument("--model", default="models/pretrained", help="a bundle folder (default: %(default)s)")
    parser.add_argument("--clients", type=positive, nargs="+", default=[1, 8, 32], help="at once (1 8 32)")
    parser.add_argument("--seconds", type=float, default=60, help="of each load (default 60)")
    arguments = parser.parse_args()
    cells = png_cells(CELLS)
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        with start("--model", arguments.model, log=Path(folder) / "log") as server:
            print(f"{by_turns.machine()}, {arguments.model}")
            print(f"ready {time.monotonic() - started:.1f} s after its start, {memory(server):.0f} MB")
            seconds = seconds_per_cell(arguments.model, cells)
            print(f"bare call of the bundle: {1 / seconds:.0f} cells a second, {1e3 * seconds:.2f} ms each")
            loads = pd.DataFrame(load(server, cells, n, arguments.seconds) for n in arguments.clients)
            share = (100 * loads["answers/s"] * seconds).map("{:.0f} %".format)
            print(loads.assign(of_the_bare_rate=share).round(1).to_string(index=False))
    return int(loads.errors.any())


@contextlib.contextmanager
def start(*arguments: str, log: Path, command: Sequence[str | Path] = APP, **popen: Any) -> Iterator[Server]:
    """Run the app on a free port until the block ends; UserError if it does not start."""
    with log.open("w") as errors:
        process = Popen([*command, *arguments], stdout=PIPE, stderr=errors, text=True, **popen)
    try:
        assert process.stdout is not None
        greeting = process.stdout.readline().split()
        if not greeting:
            raise UserError(log.read_text().strip().removeprefix("error: "))
        yield Server(greeting[1].rstrip("/"), process, log)
    finally:
        process.kill()
        process.communicate()


def png_cells(count: int) -> list[bytes]:
    """Drawn cells as PNG files."""
    return [pictures.png(pixels) for pixels, _ in pictures.cells(count, seed=5)]


def seconds_per_cell(folder: str, cells: list[bytes]) -> float:
    """Seconds per cell without a server, for cells that are decoded and judged one by one."""
    model = bundle.load(folder)

    def judge() -> None:
        for cell in cells:
            model.run([np.asarray(decoding.decode(cell, model.limits).image)])

    return timeit.timeit(judge, number=20) / (20 * len(cells))


def load(server: Server, cells: list[bytes], clients: int, seconds: float) -> dict[str, float]:
    """Let `clients` ask for `seconds`, each with one cell at a time.

    Returns:
        Answers per second, their p50 and p99 in ms, the number of failed requests, peak memory of the server.
    """
    end = time.monotonic() + seconds

    def ask(first: int) -> list[tuple[float, bool]]:
        """The time of each request in ms, and whether its answer was valid."""
        requests: list[tuple[float, bool]] = []
        while time.monotonic() < end:
            started, valid = time.perf_counter(), False
            with contextlib.suppress(urllib3.exceptions.HTTPError, ValueError):
                cell = cells[(first + len(requests)) % len(cells)]
                answer = pool.request("POST", "/classify", body=cell)
                valid = answer.status == 200 and answer.json()["status"] in ("ok", "rejected")
            requests.append((1e3 * (time.perf_counter() - started), valid))
        return requests

    started = time.monotonic()
    with (
        urllib3.connection_from_url(server.url, maxsize=clients, timeout=60, retries=False) as pool,
        ThreadPoolExecutor(clients) as threads,
    ):
        futures = [threads.submit(ask, number) for number in range(clients)]
        peak = memory(server)
        while wait(futures, 0.2).not_done:
            peak = max(peak, memory(server))
    elapsed = time.monotonic() - started
    waits, valid = zip(*(answer for future in futures for answer in future.result()), strict=True)
    p50, p99 = np.percentile(waits, [50, 99])
    answers = {"answers/s": sum(valid) / elapsed, "p50 ms": p50, "p99 ms": p99, "errors": valid.count(False)}
    return {"clients": clients, **answers, "peak MB": peak}


def memory(server: Server) -> float:
    """The server's resident memory, MB."""
    return float(psutil.Process(server.process.pid).memory_info().rss) / 1e6


if __name__ == "__main__":
    run_and_exit(main)
