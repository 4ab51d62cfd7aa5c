"""Measure what decoding in separate processes costs: `/classify` and `predict`, with and without it, in turn.

The app forks a decoding process for each request; `predict` keeps one for each thread. Without them, both
decode in the process that judges, as no release does. Prints the share of its speed that each keeps.
"""

import runpy
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import batch, by_turns, serving
from malaria.cells import decoding, sandbox
from malaria.command import new_parser, positive, run_and_exit


class Inside:
    """A `sandbox.Decoder` that decodes in this process."""

    def __init__(self, limits: decoding.Limits, *_: object, **__: object) -> None:
        self._limits = limits

    def read(self, content: bytes, _gone: Callable[[], bool] | None = None) -> sandbox.Crop:
        decoded = decoding.decode(content, self._limits)
        return sandbox.Crop(np.asarray(decoded.image), decoded.notes, decoded.pages, decoded.bits)

    def close(self) -> None:
        pass


def main() -> None:
    parser = new_parser("benchmarks.forking", __doc__)
    parser.add_argument("--cells", type=positive, default=8000, help="cells for predict (default 8000)")
    parser.add_argument("--seconds", type=float, default=15, help="of each load on /classify (default 15)")
    parser.add_argument("--rounds", type=positive, default=3, help="alternations of the two ways (3)")
    arguments = parser.parse_args()
    cells = serving.png_cells(serving.CELLS)
    with tempfile.TemporaryDirectory() as work:
        folders = batch.prepare(Path(work, "one"), 1), batch.prepare(Path(work, "many"), arguments.cells)
        ways = {way: partial(speeds, way, cells, arguments.seconds, *folders) for way in ("inside", "forked")}
        shares = by_turns.ratios(by_turns.measure(ways, arguments.rounds), "inside")
    for name, share in shares.loc["forked"].items():
        print(f"{name}: {share:.0%} of the speed without forking (median)")


def run_inside(module: str) -> None:
    """Run `python -m module` in this process, with its arguments, and decode here."""
    sandbox.Decoder = Inside  # type: ignore[misc,assignment]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def command_for(way: str, module: str) -> list[str]:
    inside = ["-c", f"from benchmarks import forking; forking.run_inside({module!r})"]
    return [sys.executable, *(inside if way == "inside" else ["-m", module])]


def speeds(way: str, cells: list[bytes], seconds: float, single: Path, many: Path) -> dict[str, float]:
    """Answers/s of the app to 1 client and to 8; cells/s of `predict`, without its start-up time."""
    rates = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        serving.start("--port", "0", log=Path(folder, "log"), command=command_for(way, "app")) as server,
    ):
        serving.load(server, cells, 8, 2)
        for name, clients in (("/classify, 1 client", 1), ("/classify, 8 clients", 8)):
            rates[name] = serving.load(server, cells, clients, seconds)["answers/s"]
    predict = [*command_for(way, "malaria"), "predict", "--out", str(single.with_name("out.csv"))]
    startup, total = (by_turns.command([*predict, str(folder)])["s"] for folder in (single, many))
    return rates | {"predict": (sum(1 for _ in many.iterdir()) - 1) / (total - startup)}


if __name__ == "__main__":
    run_and_exit(main)
