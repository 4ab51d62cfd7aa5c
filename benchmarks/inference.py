"""Time a bundle's answers on one core, beside Keras on the same network and cells.

Three ways to judge the same cells: the bundle (resize, network, check, calibration); `keras.Model.predict`,
and `model(x)` compiled by tf.function, which have no check. Each runs in a process of its own, bound to one
core. Measured are the time from the start of the process to the first answer, resident memory, and the time
that single cells and cells of a batch take. Rounds alternate, and a ratio is the median over rounds. Where
other programs use the cores, the ratio of processor time tells more than that of the clock.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from malaria.cells.images import Pixels
from malaria.command import end_with, how_many
from malaria.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
WAYS = ("bundle", "predict", "model(x)")
_BATCH = 256
_FIRST = "first answer"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inference", description=__doc__)
    parser.add_argument("--model", type=Path, help="a bundle folder (default: the one that comes along)")
    parser.add_argument("--rounds", type=how_many, default=5, help="alternations of the three ways (5)")
    parser.add_argument("--calls", type=how_many, default=300, help="with a single cell, in each round (300)")
    parser.add_argument("--batches", type=how_many, default=10, help=f"of {_BATCH} cells, in each round (10)")
    parser.add_argument("--core", type=int, default=0, help="that all are bound to, where the system can (0)")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--cells", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    from malaria import bundle

    folder = given.model or bundle.default_folder()
    if given.way:
        measure(given.way, folder, given.cells, given.calls, given.batches)
        return 0
    record = bundle.read_record(folder)
    print(
        f"{folder}: {record.precision}, {record.input_size} px, check: {'gate' in record.hashes}; one of "
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    )
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        cells = Path(temporary, "cells.npy")
        np.save(cells, draw_cells(record.input_size))
        for number in range(1, given.rounds + 1):
            rows += [{"round": number, "way": way, **run(way, folder, cells, given)} for way in WAYS]
            print(f"round {number} of {given.rounds}", file=sys.stderr)
    medians, ratios = compared(pd.DataFrame(rows))
    print(f"{medians.T.round(3)}\n\nHow much less the bundle takes:\n{ratios.T.round(1)}")
    return 0


def draw_cells(size: int) -> Pixels:
    """Synthetic cells, uint8 (256, size, size, 3)."""
    from app import pictures
    from malaria.cells.images import resize

    drawn = [resize(pixels, size) for pixels, _ in pictures.drawn(32, seed=1)]
    return np.stack([drawn[at % len(drawn)] for at in range(_BATCH)])


def run(way: str, folder: Path, cells: Path, given: argparse.Namespace) -> dict[str, float]:
    """One way, in a process of its own: its figures by their names, all of which are better if less."""
    command = [sys.executable, "-m", "benchmarks.inference", "--way", way, "--model", str(folder.resolve())]
    command += ["--cells", str(cells), "--calls", str(given.calls), "--batches", str(given.batches)]

    def bind() -> None:
        # Before anything counts the cores.
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {given.core})

    begun = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, preexec_fn=bind) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        start = time.perf_counter() - begun
        rest = process.stdout.read()
    if process.returncode or _FIRST not in first:
        raise UserError(f"{way} failed (status {process.returncode}): see what it says above.")
    return {f"{_FIRST}, s": start, **json.loads(rest)}


def measure(way: str, folder: Path, file: Path, calls: int, batches: int) -> None:
    """What the process of one way does: answers, tells when the first is out, and prints the rest as JSON."""
    import psutil

    cells = np.load(file)
    ask = _bundle(folder) if way == WAYS[0] else _keras(folder, way)
    ask(cells[:1])
    print(_FIRST, flush=True)
    found = {f"{_FIRST}, cpu s": time.process_time()}
    for _ in range(10):
        ask(cells[:1])
    found |= _times("one cell", ask, [cells[at % len(cells)][None] for at in range(calls)])
    found["memory, MiB"] = psutil.Process().memory_info().rss / 2**20
    ask(cells)
    found |= _times("a cell of a batch", ask, [cells] * batches)
    print(json.dumps(found))


def compared(runs: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The medians over rounds of each way, and of how often each takes what the bundle takes."""
    figures = runs.set_index(["round", "way"])
    shares = figures.div(figures.xs(WAYS[0], level="way"), level="round")
    medians, ratios = (of.groupby("way", sort=False).median() for of in (figures, shares))
    return medians, ratios.drop(WAYS[0])


def _bundle(folder: Path) -> Callable[[Pixels], Any]:
    from malaria import bundle

    return bundle.load(folder, threads=1).run


def _keras(folder: Path, way: str) -> Callable[[Pixels], Any]:
    """Keras on a network like the bundle's. Its weights are drawn: they change no time."""
    from malaria import bundle
    from malaria.train import network

    model = network.build(bundle.read_record(folder).input_size)
    check_same(folder, model)
    if way == "predict":
        return lambda cells: model.predict(cells.astype(np.float32), batch_size=_BATCH, verbose=0)
    import tensorflow as tf

    compiled = tf.function(lambda cells: model(cells, training=False))
    return lambda cells: compiled(cells.astype(np.float32)).numpy()


def check_same(folder: Path, model: Any) -> None:
    """UserError unless the bundle has all kernels that the network of malaria/train/network.py has."""
    from ai_edge_litert.interpreter import Interpreter

    from malaria import bundle

    interpreter = Interpreter(model_path=str(folder / bundle.NETWORK))
    found = Counter(int(np.prod(tensor["shape"])) for tensor in interpreter.get_tensor_details())
    needed = Counter(int(np.prod(weight.shape)) for weight in model.weights if len(weight.shape) > 1)
    if needed - found:
        raise UserError(
            f"{folder} is of another network than this code makes: export it again, or name another."
        )


def _times(name: str, ask: Callable[[Pixels], Any], asked: list[Pixels]) -> dict[str, float]:
    """Of each cell, in ms: median and 99th percentile over the calls, and processor time."""
    took = []
    processor = time.process_time()
    for cells in asked:
        begun = time.perf_counter()
        ask(cells)
        took.append(1000 * (time.perf_counter() - begun) / len(cells))
    spent = 1000 * (time.process_time() - processor) / sum(map(len, asked))
    p50, p99 = np.quantile(took, [0.5, 0.99]).tolist()
    return {f"{name}, ms (p50)": p50, f"{name}, ms (p99)": p99, f"{name}, cpu ms": spent}


if __name__ == "__main__":
    end_with(main)
