"""Time `predict --engine dask` beside the plain path, and compare their bytes.

Draws cells of the NIH/NLM set's number and sizes, and judges one of them and all of them by turns: without
an engine, with one worker and with two. Ends with status 1 where an engine's bytes are not the plain path's;
tests/predict kills workers and drivers. Where other programs use the cores, processor time tells more than
the clock.
"""

import argparse
import os
import platform
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import data, fake_archive
from malaria.command import end_with, how_many
from malaria.fetch import nih

DASK = ("--engine", "dask", "--workers")
WAYS: dict[str, tuple[str, ...]] = {"plain path": (), "1 worker": (*DASK, "1"), "2 workers": (*DASK, "2")}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batch", description=__doc__)
    parser.add_argument("--cells", type=how_many, default=27_558, help="in all (default: the real 27558)")
    parser.add_argument("--rounds", type=how_many, default=3, help="alternations of the compared runs (3)")
    given = parser.parse_args()
    print(f"{given.cells:,} cells, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as work:
        folders = [prepare(Path(work, name), cells) for name, cells in (("one", 1), ("all", given.cells))]
        rounds = [
            [[run(folder, name, options) for folder in folders] for name, options in WAYS.items()]
            for _ in range(given.rounds)
        ]
        expected, *others = (Path(work, f"all {name}.csv").read_bytes() for name in WAYS)
    print(f"{'medians':12}{'one cell':>11}{'all cells':>11}{'processor':>11}{'ms a cell':>11}{'MiB':>6}")
    for name, (one, many) in zip(WAYS, np.median(rounds, axis=0), strict=True):
        each = 1000 * (many[1] - one[1]) / max(1, given.cells - 1)
        print(f"{name:12}{one[0]:9.1f} s{many[0]:9.1f} s{many[1]:9.1f} s{each:11.3f}{many[2]:6.0f}")
    same = all(other == expected for other in others) and expected.count(b"\n") == given.cells + 1
    print("The engine's bytes are the plain path's." if same else "OTHER BYTES")
    return 0 if same else 1


def prepare(folder: Path, cells: int) -> Path:
    """A folder of drawn cells."""
    folder.mkdir()
    draw = data.drawing()
    census = nih.Census(-(-cells // 2), 150, 50)
    for cell in list(fake_archive.cells(census))[:cells]:
        (folder / f"{cell.label}-{cell.name}").write_bytes(draw(cell))
    return folder


def run(folder: Path, name: str, options: tuple[str, ...]) -> list[float]:
    """s on the clock, s of processor time of all processes, and MiB of the largest one."""
    out = folder.with_name(f"{folder.name} {name}.csv")
    command = [sys.executable, "-m", "malaria", "predict", str(folder), "--out", str(out), *options]
    return list(data.run(command, data.ROOT).values())


if __name__ == "__main__":
    end_with(main)
