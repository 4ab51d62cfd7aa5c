"""Time a bundle's answers on one core, beside Keras on the same network and cells.

Five ways to judge the same cells: the bundle (resize, network, gate, calibration) on crops of the
network's size, with and without its gate, and on crops of 130 px; `keras.Model.predict`, and `model(x)`
compiled by tf.function, which have no gate. Each runs in a process of its own, bound to one core. Measured
are the time from the start of the process to the first answer, the latency of single cells and of batches
of 256, and resident memory. Rounds alternate, and a ratio is the median over rounds. Where other programs
use the cores, the ratio of processor time tells more than that of the clock.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from malaria.cells.images import Pixels
from malaria.command import end_with, how_many
from malaria.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
OURS, THEIRS = ("bundle", "bundle, no gate", "bundle, 130 px"), ("predict", "model(x)")
SIDES = OURS + THEIRS
_LARGE, _BATCH = 130, 256
_FIRST = "first answer"


@dataclass(frozen=True)
class Latency:
    """Of one call: median and 99th percentile on the clock, and processor time, all in ms; the clock's
    images a second.
    """

    p50: float
    p99: float
    processor: float
    rate: float


@dataclass(frozen=True)
class Run:
    """What one process found: `start` s to the first answer, `start_processor` s of processor time until
    then, `memory` MiB resident after single cells.
    """

    start: float
    start_processor: float
    memory: float
    single: Latency
    batch: Latency


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inference", description=__doc__)
    parser.add_argument(
        "--model",
        type=Path,
        default=None,
        help="a bundle folder (default: models/pretrained, else models/malaria-cells)",
    )
    parser.add_argument("--rounds", type=how_many, default=5, help="alternations of the five ways (5)")
    parser.add_argument("--calls", type=how_many, default=300, help="with a single cell, in each round (300)")
    parser.add_argument("--batches", type=how_many, default=10, help=f"of {_BATCH} cells, in each round (10)")
    parser.add_argument("--core", type=int, default=0, help="that all are bound to, where the system can (0)")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--cells", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    from malaria import bundle

    folder = given.model or bundle.default_folder()
    if given.side:
        measure(given.side, folder, given.cells, given.calls, given.batches)
        return 0
    record = bundle.read_record(folder)
    print(
        f"{folder}: {record.precision}, {record.input_size} px, gate: {'gate' in record.hashes}; one of "
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    )
    rounds: list[dict[str, Run]] = []
    with tempfile.TemporaryDirectory() as temporary:
        cells = {side: Path(temporary) / f"{number}.npy" for number, side in enumerate(SIDES)}
        for side, file in cells.items():
            np.save(file, draw_cells(_LARGE if side == OURS[2] else record.input_size))
        for number in range(given.rounds):
            rounds.append({side: run(side, folder, cells[side], given) for side in SIDES})
            print(f"round {number + 1} of {given.rounds}", file=sys.stderr)
    print(as_text(rounds))
    return 0


def draw_cells(size: int) -> Pixels:
    """Synthetic cells, uint8 (256, size, size, 3)."""
    from malaria.cells import synthetic
    from malaria.cells.images import resize

    random = np.random.Generator(np.random.Philox(1))
    drawn = [resize(synthetic.draw(random, synthetic.stain(random), at % 2 == 0), size) for at in range(32)]
    return np.stack([drawn[at % len(drawn)] for at in range(_BATCH)])


def run(side: str, folder: Path, cells: Path, given: argparse.Namespace) -> Run:
    """One way, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.inference", "--side", side, "--model", str(folder.resolve())]
    command += ["--cells", str(cells), "--calls", str(given.calls), "--batches", str(given.batches)]

    def bind() -> None:
        # Before anything counts the cores.
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {given.core})

    begun = time.perf_counter()
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=bind
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.readline()
        start = time.perf_counter() - begun
        rest = process.stdout.read()
        said = process.stderr.read()
    if process.returncode or _FIRST not in first:
        raise UserError(f"{side} failed: {(said.strip() or 'no answer').splitlines()[-1]}")
    found = json.loads(rest)
    return Run(
        start,
        float(first.split()[-1]),
        found["memory"],
        *(Latency(**found[of]) for of in ("single", "batch")),
    )


def measure(side: str, folder: Path, file: Path, calls: int, batches: int) -> None:
    """What the process of one way does: answers, tells when the first is out, and prints the rest as JSON."""
    cells = np.load(file)
    ask = _keras(folder, side) if side in THEIRS else of_bundle(folder, gated=side != OURS[1])
    ask(cells[:1])
    print(_FIRST, time.process_time(), flush=True)
    for _ in range(10):
        ask(cells[:1])
    single = _latency(ask, [cells[at % len(cells)][None] for at in range(calls)])
    memory = _resident()
    ask(cells)
    batch = _latency(ask, [cells] * batches)
    print(json.dumps({"memory": memory, "single": asdict(single), "batch": asdict(batch)}))


def as_text(rounds: list[dict[str, Run]]) -> str:
    """The medians over rounds, and how many times as fast the bundle is."""
    lines = [
        f"{'':16}{'first answer':>20}{'memory':>10}{'one cell: p50, p99, cpu':>30}{f'batch of {_BATCH}':>26}",
        f"{'':16}{'s (cpu s)':>20}{'MiB':>10}{'ms':>30}{'cells/s (cpu ms a cell)':>26}",
    ]
    for side in SIDES:
        runs = [of[side] for of in rounds]

        def middle(of: Callable[[Run], float], runs: list[Run] = runs) -> float:
            return statistics.median(of(run) for run in runs)

        start = f"{middle(lambda run: run.start):.2f} ({middle(lambda run: run.start_processor):.2f})"
        one = (
            f"{middle(lambda run: run.single.p50):.2f}, {middle(lambda run: run.single.p99):.2f}, "
            f"{middle(lambda run: run.single.processor):.2f}"
        )
        many = (
            f"{middle(lambda run: run.batch.rate):,.0f} "
            f"({middle(lambda run: run.batch.processor / _BATCH):.3f})"
        )
        lines.append(f"{side:16}{start:>20}{middle(lambda run: run.memory):>10,.0f}{one:>30}{many:>26}")
    lines.append("the bundle is so many times as fast, clock (processor), on crops of the network's size:")
    for side in THEIRS:
        lines.append(
            f"{side:16}{_ratio(rounds, side, lambda run: run.start, lambda run: run.start_processor):>20}"
            f"{_ratio(rounds, side, lambda run: run.memory):>10}"
            f"{_ratio(rounds, side, lambda run: run.single.p50, lambda run: run.single.processor):>30}"
            f"{_ratio(rounds, side, lambda run: 1 / run.batch.rate, lambda run: run.batch.processor):>26}"
        )
    return "\n".join(lines)


def _ratio(rounds: list[dict[str, Run]], side: str, *of: Callable[[Run], float]) -> str:
    """By how much the bundle takes less than `side`, each a median over rounds; the second in brackets."""
    first, *second = (
        statistics.median(which(each[side]) / which(each[OURS[0]]) for each in rounds) for which in of
    )
    return f"{first:.1f}" + "".join(f" ({value:.1f})" for value in second)


def of_bundle(folder: Path, *, gated: bool) -> Callable[[Pixels], Any]:
    from malaria import bundle

    loaded = bundle.load(folder, threads=1)
    return (loaded if gated else replace(loaded, fitted_ood=None)).run


def _keras(folder: Path, side: str) -> Callable[[Pixels], Any]:
    """Keras on a network like the bundle's. Its weights are drawn: they change no time."""
    from malaria import bundle
    from malaria.train import network

    model = network.build(bundle.read_record(folder).input_size)
    check_same(folder, model)
    if side == "predict":
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


def _latency(ask: Callable[[Pixels], Any], asked: list[Pixels]) -> Latency:
    took: list[float] = []
    processor = time.process_time()
    for cells in asked:
        begun = time.perf_counter()
        ask(cells)
        took.append(time.perf_counter() - begun)
    processor = time.process_time() - processor
    ms: npt.NDArray[np.float64] = 1000 * np.array(took)
    return Latency(
        float(np.quantile(ms, 0.5)),
        float(np.quantile(ms, 0.99)),
        1000 * processor / len(asked),
        sum(map(len, asked)) / sum(took),
    )


def _resident() -> float:
    import psutil

    return float(psutil.Process().memory_info().rss) / 2**20


if __name__ == "__main__":
    end_with(main)
