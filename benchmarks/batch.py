"""Time `predict --engine dask` against the plain path, `predict` without an engine, and compare their bytes.

Draws cells of the NIH/NLM set's number and sizes, and judges one of them and all of them in turn: without an
engine, with one worker and with two. The exit status is 1 if an engine's bytes differ from the plain path's.
tests/predict tests what happens if workers and drivers are killed.
"""

import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks import by_turns, data, fake_archive
from malaria.command import new_parser, positive, run_and_exit
from malaria.fetch import nih

DASK = ("--engine", "dask", "--workers")
WAYS: dict[str, tuple[str, ...]] = {"plain path": (), "1 worker": (*DASK, "1"), "2 workers": (*DASK, "2")}


def main() -> int:
    parser = new_parser("benchmarks.batch", __doc__)
    parser.add_argument("--cells", type=positive, default=2 * nih.WHOLE.cells, help="how many (%(default)s)")
    parser.add_argument("--rounds", type=positive, default=3, help="alternations of the compared runs (3)")
    arguments = parser.parse_args()
    print(f"{arguments.cells:,} cells, {by_turns.machine()}")
    with tempfile.TemporaryDirectory() as work:
        single, many = prepare(Path(work, "one"), 1), prepare(Path(work, "many"), arguments.cells)
        tables = {way: Path(work, f"{way}.csv") for way in WAYS}
        ways = {way: partial(costs, single, many, tables[way], engine) for way, engine in WAYS.items()}
        print(by_turns.medians(by_turns.measure(ways, arguments.rounds)).round(3).to_string())
        plain, *engines = (table.read_bytes() for table in tables.values())
    same = all(engine == plain for engine in engines) and plain.count(b"\n") == arguments.cells + 1
    print("The engine's bytes are the plain path's." if same else "OTHER BYTES")
    return 0 if same else 1


def prepare(folder: Path, cells: int) -> Path:
    """Make a folder with drawn cells."""
    folder.mkdir()
    draw = data.picture_maker()
    census = replace(nih.WHOLE, cells=-(-cells // 2))
    for cell in list(fake_archive.cells(census))[:cells]:
        (folder / f"{cell.label}-{cell.name}").write_bytes(draw(cell))
    return folder


def costs(single: Path, many: Path, out: Path, engine: tuple[str, ...]) -> dict[str, float]:
    """Costs of `predict` for the cell in `single`, for all in `many` (their table is `out`), and per cell."""
    predict = [sys.executable, "-m", "malaria", "predict", *engine, "--out"]
    startup = by_turns.command([*predict, str(out.with_suffix(".one.csv")), str(single)])
    total = by_turns.command([*predict, str(out), str(many)])
    seconds = total["processor s"] - startup["processor s"]
    per_cell = 1000 * seconds / max(1, sum(1 for _ in many.iterdir()) - 1)
    return {"one cell, s": startup["s"], **total, "processor ms a cell": per_cell}


if __name__ == "__main__":
    run_and_exit(main)
