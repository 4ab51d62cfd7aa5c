"""Time a bundle's answers on one core, against Keras on the same network and cells.

It compares three ways to judge the same cells: the bundle (resize, network, check, calibration);
`keras.Model.predict`; and `model(x)` compiled by tf.function. The last two have no check. Each runs in its
own process, bound to one core. The figures are the time from the start of the process to the first answer,
resident memory, and the median time for single cells and for cells of a batch. The ways alternate, and a
ratio is the median over rounds.
"""

import os
import statistics
import time
import timeit
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks import by_turns
from malaria import bundle
from malaria.cells.images import Pixels, resize
from malaria.command import new_parser, positive, run_and_exit
from malaria.errors import UserError

BUNDLE = "bundle"
WAYS = (BUNDLE, "predict", "model(x)")
# Cells of a batch; single cells and batches in each round.
_BATCH, _CALLS, _BATCHES = 256, 300, 10


def main() -> None:
    parser = new_parser("benchmarks.inference", __doc__)
    parser.add_argument("--model", type=Path, help="a bundle folder (default: the pretrained one)")
    parser.add_argument("--rounds", type=positive, default=5, help="alternations of the three ways (5)")
    parser.add_argument("--core", type=int, default=0, help="to which all are bound, if the system can (0)")
    arguments = parser.parse_args()
    folder = arguments.model or bundle.default_folder()
    record = bundle.read_record(folder)
    description = f"{record.precision}, {record.input_size} px, check: {'gate' in record.hashes}"
    print(f"{folder}: {description}; one of {by_turns.machine()}")
    if hasattr(os, "sched_setaffinity"):
        # Processes that start from here on inherit it, before any library in them counts the cores.
        os.sched_setaffinity(0, {arguments.core})
    cells = draw_cells(record.input_size)
    common = (folder.resolve(), cells, _CALLS, _BATCHES)
    ways = {way: partial(by_turns.run_in_process, measure, way, *common) for way in WAYS}
    runs = by_turns.measure(ways, arguments.rounds)
    ratios = by_turns.ratios(runs, BUNDLE).drop(BUNDLE)
    print(f"{by_turns.medians(runs).T.round(3)}\n\nMultiples of the bundle's figures:\n{ratios.T.round(1)}")


def draw_cells(size: int) -> Pixels:
    """Synthetic cells, uint8 (256, size, size, 3)."""
    # Imported here, because the measured processes do not need the app.
    from app import pictures

    cells = [resize(pixels, size) for pixels, _ in pictures.cells(32, seed=1)]
    return np.stack(cells * (_BATCH // 32))


def measure(way: str, folder: Path, cells: Pixels, calls: int, batches: int) -> dict[str, float]:
    """Measure one way in this process, which has just started; smaller figures are better."""
    process = psutil.Process()
    judge = bundle.load(folder, threads=1).run if way == BUNDLE else _keras(folder, way)
    judge(cells[:1])
    figures = {"first answer, s": time.time() - process.create_time()}
    figures["one cell, ms"] = _milliseconds(partial(judge, cells[:1]), calls)
    figures["memory, MiB"] = process.memory_info().rss / 2**20
    figures["a cell of a batch, ms"] = _milliseconds(partial(judge, cells), batches) / len(cells)
    return figures


def _keras(folder: Path, way: str) -> Callable[[Pixels], Any]:
    """Keras on a network like the bundle's, with random weights, which do not change the time."""
    from malaria.train import network
    from malaria.train.backend import tf

    model = network.build(bundle.read_record(folder).input_size)
    check_same(folder, model)
    if way == "predict":
        return lambda cells: model.predict(cells.astype(np.float32), batch_size=_BATCH, verbose=0)
    compiled = tf.function(lambda cells: model(cells, training=False))
    return lambda cells: compiled(cells.astype(np.float32)).numpy()


def check_same(folder: Path, model: Any) -> None:
    """UserError unless the bundle has kernels of the sizes in the network of malaria/train/network.py."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(folder / bundle.NETWORK))
    tensors = Counter(int(np.prod(tensor["shape"])) for tensor in interpreter.get_tensor_details())
    kernels = Counter(int(np.prod(weight.shape)) for weight in model.weights if len(weight.shape) > 1)
    if kernels - tensors:
        raise UserError(f"{folder} is of another network than this code makes: export it again.")


def _milliseconds(call: Callable[[], Any], calls: int) -> float:
    """The median time of a call, in ms."""
    return 1000 * statistics.median(timeit.repeat(call, number=1, repeat=calls))


if __name__ == "__main__":
    run_and_exit(main)
