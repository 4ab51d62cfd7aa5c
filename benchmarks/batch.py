"""Count the rows of `predict --engine dask`, and time it beside the plain path.

Draws cells of the NIH/NLM set's number and sizes, and judges them without an engine, with one worker and
with two, by turns. Then a worker is killed (SIGKILL) amid the work, and the driver, whose run is resumed.
Each time the rows are counted and the bytes compared; ends with status 1 where a row is missing or doubled.
What the engine costs at the start and by the cell tells from how many cells on it pays. Where other
programs use the cores, processor time tells more than the clock.
"""

import argparse
import csv
import hashlib
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks import data, fake_archive
from malaria import bundle
from malaria.command import end_with, how_many
from malaria.fetch import nih
from malaria.predict import batch

ROOT = Path(__file__).resolve().parents[1]
ENGINES = {
    "plain path": [],
    "1 worker": ["--engine", "dask", "--workers", "1"],
    "2 workers": ["--engine", "dask", "--workers", "2"],
}


@dataclass(frozen=True)
class Run:
    """`seconds` on the clock, `processor` seconds of all processes; peaks of memory in MiB, of the driver
    and of the largest worker.
    """

    seconds: float
    processor: float
    driver: float
    worker: float


@dataclass(frozen=True)
class Work:
    """Cells in a folder, the model that judges them, and where their rows go."""

    folder: Path
    model: Path
    cells: int
    out: Path

    def command(self, *options: str) -> list[str]:
        model = ["--model", str(self.model), "--out", str(self.out)]
        return [sys.executable, "-m", "malaria", "predict", str(self.folder), *model, *options]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batch", description=__doc__)
    parser.add_argument("--cells", type=how_many, default=27_558, help="in all (default: the real 27558)")
    parser.add_argument("--rounds", type=how_many, default=3, help="alternations of the compared runs (3)")
    parser.add_argument("--no-large", action="store_true", help="leave out memory on four times the cells")
    given = parser.parse_args()
    data.adopt_orphans()
    print(f"{given.cells:,} cells, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder:
        whole = prepare(Path(folder), "whole", given.cells)
        one = prepare(Path(folder), "one", 1)
        right, wrong = time_engines(whole, one, given.rounds)
        wrong += sum(not check(whole, name, right) for name in kills(whole))
        if not given.no_large:
            show_memory(Path(folder), given.cells)
    return 1 if wrong else 0


def prepare(work: Path, name: str, cells: int) -> Work:
    """A folder of `cells` drawn cells, in two class folders."""
    folder = work / name
    draw = data.pictures()
    census = nih.Census(-(-cells // 2), 150, 50)
    for cell in list(fake_archive.cells(census))[:cells]:
        path = folder / cell.label / cell.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(draw(cell))
    return Work(folder, bundle.default_folder().resolve(), cells, work / f"{name}.csv")


def time_engines(whole: Work, one: Work, rounds: int) -> tuple[str, int]:
    """Print seconds of each way, at one cell and at all; returns the hash of the plain path's rows, and
    how many runs had others.
    """
    runs: dict[tuple[str, str], list[Run]] = {}
    right, wrong = "", 0
    for _ in range(rounds):
        for name, options in ENGINES.items():
            for size, work in (("one cell", one), ("all cells", whole)):
                last = run(work.command(*options))
                runs.setdefault((name, size), []).append(last)
                print(
                    f"       {name:11}{size:10}{last.seconds:8.1f} s, {last.processor:6.1f} s of processor "
                    f"time, driver {last.driver:.0f} MiB, largest worker {last.worker:.0f} MiB",
                    flush=True,
                )
            right = right or sha256(whole.out)
            wrong += not check(whole, name, right)
    for kind in ("seconds", "processor"):
        print(f"\n{'medians of ' + kind:24}{'start':>9}{'all':>9}{'ms a cell':>11}")
        line = {}
        for name in ENGINES:
            start, end = (
                statistics.median(getattr(run, kind) for run in runs[name, size])
                for size in ("one cell", "all cells")
            )
            line[name] = start, (end - start) / (whole.cells - 1)
            print(f"{name:24}{start:9.1f}{end:9.1f}{1000 * line[name][1]:11.3f}")
        for name in list(ENGINES)[1:]:
            print(f"{name}: {pays(line['plain path'], line[name])}")
    return right, wrong


def pays(plain: tuple[float, float], engine: tuple[float, float]) -> str:
    """From how many cells on the engine is faster, each of the two a start and a cell's share."""
    if engine[1] >= plain[1]:
        return f"never pays here: a cell takes {engine[1] / plain[1]:.2f} times the plain path's"
    return f"pays from {(engine[0] - plain[0]) / (plain[1] - engine[1]):,.0f} cells on"


def kills(work: Work) -> Iterator[str]:
    """Run `work` to its end with something killed on the way, once for each way; yields what was."""
    shards = -(-work.cells // batch.SHARD)
    with started(work) as driver:
        wait_for_parts(work, driver, max(1, shards // 4))
        victim = workers(driver)[0]
        victim.kill()
        driver.wait()
    yield "a killed worker"
    with started(work) as driver:
        wait_for_parts(work, driver, max(1, shards // 2))
        victims = workers(driver)
        driver.kill()
        driver.wait()
    _, alive = psutil.wait_procs(victims, timeout=30)
    print(
        f"       the driver killed: {parts(work)} of {shards} shards kept, {len(alive)} workers still there"
    )
    with started(work) as driver:
        said, _ = driver.communicate()
    print(f"       resumed: {said.strip().splitlines()[-1].rpartition(': ')[0].partition(': ')[2]}")
    yield "a killed driver"


def check(work: Work, name: str, right: str) -> bool:
    """Print how many rows there are, and whether they are the right ones; True where they are."""
    with work.out.open(encoding="utf-8", newline="") as table:
        paths = [row["path"] for row in csv.DictReader(table)]
    same = sha256(work.out) == right
    print(
        f"rows   {name:16} {len(paths):,} rows, {len(set(paths)):,} of different cells, "
        f"{'the same bytes' if same else 'OTHER BYTES'}",
        flush=True,
    )
    work.out.unlink()
    return same and len(paths) == len(set(paths)) == work.cells


def show_memory(work: Path, cells: int) -> None:
    """Print peaks at four times the cells, to lay beside those above."""
    brothers = prepare(work, "four", 4 * cells)
    last = run(brothers.command(*ENGINES["2 workers"]))
    print(
        f"memory at {4 * cells:,} cells: driver {last.driver:.0f} MiB, largest worker {last.worker:.0f} MiB"
    )
    shutil.rmtree(brothers.folder)


def run(command: list[str]) -> Run:
    peaks = [0.0, 0.0]
    ended = threading.Event()

    def watch(process: psutil.Process) -> None:
        while not ended.wait(0.05):
            try:
                peaks[0] = max(peaks[0], process.memory_info().rss / 2**20)
                found = [worker.memory_info().rss / 2**20 for worker in _workers(process)]
            except psutil.Error:
                continue
            peaks[1] = max([peaks[1], *found])

    before = data.processor_time()
    begun = time.monotonic()
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        watcher = threading.Thread(target=watch, args=(psutil.Process(process.pid),))
        watcher.start()
        said = process.communicate()[0]
        seconds = time.monotonic() - begun
        ended.set()
        watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}: {said.strip()}")
    return Run(seconds, data.processor_time() - before, *peaks)


@contextmanager
def started(work: Work) -> Iterator[subprocess.Popen[str]]:
    command = work.command(*ENGINES["2 workers"])
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as driver:
        yield driver


def wait_for_parts(work: Work, driver: subprocess.Popen[str], count: int) -> None:
    while parts(work) < count:
        if driver.poll() is not None:
            raise SystemExit("The run ended before anything could be killed: take more --cells.")
        time.sleep(0.01)


def parts(work: Work) -> int:
    """Shards whose rows are kept."""
    return sum(1 for _ in work.out.with_name(f"{work.out.name}.parts").glob("[0-9]*.csv"))


def workers(driver: subprocess.Popen[str]) -> list[psutil.Process]:
    return _workers(psutil.Process(driver.pid))


def _workers(driver: psutil.Process) -> list[psutil.Process]:
    return [child for child in driver.children() if "spawn_main" in " ".join(child.cmdline())]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    end_with(main)
