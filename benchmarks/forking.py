"""What decoding in processes of their own costs: `/classify` and `predict` with it and without, by turns.

The app forks a process for each request, `predict` keeps one a thread. Without, both decode where they
judge, as no release does. Prints the share of its speed that each keeps.
"""

import argparse
import runpy
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import batch, data, serving
from malaria.cells import decoding, sandbox
from malaria.command import end_with, how_many

WORK = ("/classify, 1 client", "/classify, 8 clients", "predict")


class Inside:
    """A `sandbox.Decoder` that decodes in this process."""

    def __init__(self, limits: decoding.Limits, *_: object, **__: object) -> None:
        self._limits = limits

    def read(self, content: bytes, _gone: Callable[[], bool] | None = None) -> sandbox.Crop:
        found = decoding.decode(content, self._limits)
        return sandbox.Crop(np.asarray(found.image), found.notes, found.pages, found.bits)

    def close(self) -> None:
        pass


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forking", description=__doc__)
    parser.add_argument("--cells", type=how_many, default=8000, help="that predict judges (default 8000)")
    parser.add_argument("--seconds", type=float, default=15, help="of each load on /classify (default 15)")
    parser.add_argument("--rounds", type=how_many, default=3, help="alternations of the two ways (3)")
    parser.add_argument("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.command:
        return run_module(*given.command)
    cells = serving.encoded(serving.CELLS)
    shares = []
    with tempfile.TemporaryDirectory() as work:
        folders = [batch.prepare(Path(work, str(count)), count) for count in (1, given.cells)]
        for _ in range(given.rounds):
            inside, forked = (
                (*answers(way, cells, given.seconds), judged(way, *folders)) for way in ("inside", "forked")
            )
            shares.append([of / without for of, without in zip(forked, inside, strict=True)])
            for name, without, of in zip(WORK, inside, forked, strict=True):
                print(f"{name}: {without:6.1f} a second without, {of:6.1f} with", flush=True)
    for name, found in zip(WORK, zip(*shares, strict=True), strict=True):
        print(f"{name}: {100 * statistics.median(found):.0f} % of the speed without (median)")
    return 0


def run_module(way: str, module: str, *arguments: str) -> int:
    """Run `python -m module arguments` in this process, with the decoder of this way."""
    if way == "inside":
        sandbox.Decoder = Inside  # type: ignore[misc,assignment]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    return 0


def launched(way: str, module: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.forking", way, module]


def answers(way: str, cells: list[bytes], seconds: float) -> tuple[float, float]:
    """Answers a second of the app to one client, and to eight."""
    with (
        tempfile.TemporaryDirectory() as folder,
        serving.start("--port", "0", log=Path(folder, "log"), command=launched(way, "app")) as server,
    ):
        serving.load(server, cells, 8, 2)
        one, eight = (serving.load(server, cells, clients, seconds) for clients in (1, 8))
    return (len(one.waits) - one.errors) / one.seconds, (len(eight.waits) - eight.errors) / eight.seconds


def judged(way: str, one: Path, many: Path) -> float:
    """Cells a second of `predict`, without its start."""
    out = str(one.with_name("out.csv"))
    cells = sum(1 for _ in many.iterdir())
    alone, all_of_them = (
        data.run([*launched(way, "malaria"), "predict", str(folder), "--out", out], data.ROOT)["seconds"]
        for folder in (one, many)
    )
    return (cells - 1) / (all_of_them - alone)


if __name__ == "__main__":
    end_with(main)
