"""Time fetch, audit, split and pack on a set of the real size, beside what the work itself takes.

Generates an archive of images with the NIH/NLM set's counts, names and sizes, puts it where the download
would be, and runs the stages on it. Beside audit stands a bare loop that decodes the same files with
Pillow, beside pack one that decodes and resizes them, each in as many processes as there are cores.
Compared runs alternate, and a ratio is the median over alternations: other programs may use the cores.
Where they do, the ratio of processor time tells more than that of the clock.
"""

import argparse
import contextlib
import ctypes
import io
import multiprocessing
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import yaml
from PIL import Image

from benchmarks import fake_archive
from malaria import files, params
from malaria.cells import images, synthetic
from malaria.command import end_with, how_many
from malaria.fetch import nih, nlm
from malaria.paths import PARAMS, RAW

ROOT = Path(__file__).resolve().parents[1]
DRAWN = 400  # different pictures; the other files repeat them with another byte at their end
LOOPS = ("decode", "decode and resize")


@dataclass(frozen=True)
class Run:
    """`seconds` on the clock, `processor` seconds of the process and all below it, and their `peak` of
    memory, in MiB, 0 if not watched.
    """

    seconds: float
    processor: float
    peak: float


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=__doc__)
    parser.add_argument("--cells", type=how_many, default=27_558, help="in all (default: the real 27558)")
    parser.add_argument(
        "--rounds", type=how_many, default=5, help="of the compared runs, by turns (default 5)"
    )
    parser.add_argument("--no-dvc", action="store_true", help="leave out the no-op `dvc repro`")
    parser.add_argument("--loop", choices=LOOPS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.loop:
        bare_loop(given.loop)
        return 0
    adopt_orphans()
    census = nih.WHOLE if given.cells == 27_558 else nih.Census(given.cells // 2, 150, 50)
    print(f"{2 * census.cells:,} images, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        prepare(work, census)
        time_stages(work, 2 * census.cells, given.rounds)
        if not given.no_dvc:
            time_noop(work)
        show_memory(work)
    return 0


def prepare(work: Path, census: nih.Census) -> None:
    """A folder that the stages run in, with the cells fetched from what is downloaded already."""
    for name in ("malaria", "stages", "benchmarks", "data/folder"):
        shutil.copytree(ROOT / name, work / name)
    for name in ("dvc.yaml", "data/split.csv"):
        shutil.copy(ROOT / name, work / name)
    published = fake_archive.published(census, pictures())
    content = yaml.safe_load((ROOT / PARAMS).read_text(encoding="utf-8"))
    content["data"] |= {"source": "nlm", "nlm": fake_archive.nlm_section("http://localhost", published)}
    (work / PARAMS).write_text(yaml.safe_dump(content), encoding="utf-8")
    asked = params.load_params(work / PARAMS).data
    kept = nlm.cache_of(asked.nlm, work / "cache")
    kept.mkdir(parents=True)
    for name, downloaded in published.items():
        (kept / name).write_bytes(downloaded)
    begun = time.monotonic()
    with files.atomic_folder(work / RAW) as part:
        nlm.fetch(asked, part, work / "cache", census)
    seconds = time.monotonic() - begun
    rate = 2 * census.cells / seconds
    print(f"fetch  {rate:8,.0f} images/s ({seconds:.1f} s: SHA-256, unpacking, counting)")


def pictures() -> Callable[[fake_archive.Cell], bytes]:
    """Draws PNG crops of the real sizes; a cell's own name at the end makes no two files equal."""
    random = np.random.Generator(np.random.Philox(1))
    looks = [synthetic.stain(random) for _ in range(20)]
    drawn = []
    for index in range(DRAWN):
        stream = io.BytesIO()
        Image.fromarray(synthetic.draw(random, looks[index % 20], index % 2 == 0)).save(stream, "PNG")
        drawn.append(stream.getvalue())

    def draw(cell: fake_archive.Cell) -> bytes:
        # The number in the name chooses, so that patients have different pictures.
        return drawn[int(cell.name.rpartition("_")[2][:-4]) % len(drawn)] + cell.name.encode()

    return draw


def time_stages(work: Path, cells: int, rounds: int) -> None:
    """Print images/s of audit, split and pack, and of the bare loops, run by turns."""
    loops = {name: [sys.executable, "-m", "benchmarks.data", "--loop", name] for name in LOOPS}
    commands = loops | {name: stage(name) for name in ("audit", "split", "pack")}
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name in ("decode", "audit", "split", "decode and resize", "pack"):
            runs[name].append(last := run(commands[name], work))
            print(
                f"       {name:27}{last.seconds:6.1f} s, {last.processor:6.1f} s of processor time",
                flush=True,
            )
    for name, found in runs.items():
        rate = cells / statistics.median(run.seconds for run in found)
        print(f"{'loop ' if name in loops else 'stage'}  {name:27}{rate:8,.0f} images/s, median of {rounds}")
    for name, loop in (("audit", "decode"), ("pack", "decode and resize")):
        pairs = list(zip(runs[loop], runs[name], strict=True))
        clock = medians([bare.seconds / ours.seconds for bare, ours in pairs])
        processor = medians([bare.processor / ours.processor for bare, ours in pairs])
        print(f"{name} reaches {clock} of the loop `{loop}`, by processor time {processor}")


def stage(name: str) -> list[str]:
    return [sys.executable, "-m", f"stages.{name}"]


def medians(shares: list[float]) -> str:
    return f"{statistics.median(shares):.0%} ({', '.join(f'{share:.0%}' for share in shares)})"


def time_noop(work: Path) -> None:
    """Print how long `dvc repro` takes with nothing to do, beside commands of DVC alone."""
    dvc = [sys.executable, "-m", "dvc"]
    targets = ["pack", "split"]
    run([*dvc, "init", "--no-scm", "-q"], work)
    # What the stages have made is what DVC would have them make.
    run([*dvc, "commit", "-f", "-q", *targets, "--with-deps"], work)
    for command in (["version"], ["status", *targets], ["repro", *targets]):
        seconds = statistics.median(run([*dvc, *command], work).seconds for _ in range(3))
        print(f"nothing to do: dvc {command[0]} {seconds:.1f} s (median of 3)")


def show_memory(work: Path) -> None:
    """Print peak memory, of a stage and all its workers together."""
    for name in ("audit", "pack"):
        peak = run(stage(name), work, watch=True).peak
        print(f"memory: {name}: {peak:.0f} MiB, workers included")


def run(command: list[str], work: Path, *, watch: bool = False) -> Run:
    before, begun = processor_time(), time.monotonic()
    peak = 0.0
    with tempfile.TemporaryFile() as told:
        process = psutil.Popen(command, cwd=work, stdout=told, stderr=subprocess.STDOUT)
        while watch and process.poll() is None:
            peak = max(peak, memory(process))
            time.sleep(0.05)
        status = process.wait()
        seconds = time.monotonic() - begun
        if status:
            told.seek(0)
            raise SystemExit(
                f"{' '.join(command)} ended with status {status}: {told.read().decode().strip()}"
            )
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    return Run(seconds, processor_time() - before, peak)


def memory(process: psutil.Process) -> float:
    """MiB of a process and all below it; shared pages count for each, so this is no less than true."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = (process, *process.children(recursive=True))
        return float(sum(one.memory_info().rss for one in family)) / 2**20
    return 0.0


def adopt_orphans() -> None:
    """Become the parent of workers whose own parent ended first, or their time would be lost (Linux)."""
    if sys.platform == "linux":
        set_child_subreaper = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)
        ctypes.CDLL(None).prctl(set_child_subreaper, 1)


def processor_time() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def bare_loop(name: str) -> None:
    """Read all cells below data/raw, in as many processes as there are cores, and keep nothing."""
    paths = sorted(str(path) for path in RAW.glob("*/*.png"))
    with multiprocessing.Pool() as pool:
        for _ in pool.imap_unordered(_WORK[name], paths, chunksize=50):
            pass


def _decode(path: str) -> images.Pixels:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _only_decode(path: str) -> None:
    _decode(path)


def _decode_and_resize(path: str) -> None:
    images.resize(_decode(path), 50)


_WORK = dict(zip(LOOPS, (_only_decode, _decode_and_resize), strict=True))


if __name__ == "__main__":
    end_with(main)
