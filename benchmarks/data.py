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
import functools
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from benchmarks import fake_archive
from malaria import files, params
from malaria.cells import images
from malaria.command import end_with, how_many
from malaria.errors import UserError
from malaria.fetch import nih, nlm
from malaria.paths import PARAMS, RAW

ROOT = Path(__file__).resolve().parents[1]
DRAWN = 400  # different pictures; the other files repeat them with another byte at their end
# What a bare loop does to a cell, and the side in px that it resizes to.
LOOPS = {"decode": 0, "decode and resize": 50}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=__doc__)
    parser.add_argument("--cells", type=how_many, default=27_558, help="in all (default: the real 27558)")
    parser.add_argument(
        "--rounds", type=how_many, default=5, help="of the compared runs, by turns (default 5)"
    )
    given = parser.parse_args()
    adopt_orphans()
    census = nih.WHOLE if given.cells == 27_558 else nih.Census(given.cells // 2, 150, 50)
    print(f"{2 * census.cells:,} images, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        prepare(work, census)
        time_stages(work, 2 * census.cells, given.rounds)
    return 0


def prepare(work: Path, census: nih.Census) -> None:
    """A folder that the stages run in, with the cells fetched from what is downloaded already."""
    for name in ("malaria", "stages", "benchmarks", "data/folder"):
        shutil.copytree(ROOT / name, work / name)
    for name in ("dvc.yaml", "data/split.csv"):
        shutil.copy(ROOT / name, work / name)
    published = fake_archive.published(census, drawing())
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


def drawing() -> Callable[[fake_archive.Cell], bytes]:
    """Draws PNG crops of the real sizes; a cell's own name at the end makes no two files equal."""
    # The bare loops, which run elsewhere, do without the app.
    from app import pictures

    drawn = [pictures.encoded(pixels) for pixels, _ in pictures.drawn(DRAWN, seed=1)]

    def draw(cell: fake_archive.Cell) -> bytes:
        # The number in the name chooses, so that patients have different pictures.
        return drawn[int(cell.name.rpartition("_")[2][:-4]) % len(drawn)] + cell.name.encode()

    return draw


def time_stages(work: Path, cells: int, rounds: int) -> None:
    """Print images/s of audit, split and pack, and of the bare loops, run by turns."""
    stages = {name: [sys.executable, "-m", f"stages.{name}"] for name in ("audit", "split", "pack")}
    loop = "from benchmarks import data; data.bare_loop({})"
    loops = {name: [sys.executable, "-c", loop.format(size)] for name, size in LOOPS.items()}
    rows = []
    for number in range(rounds):
        for name, command in {**stages, **loops}.items():
            rows.append({"round": number, "name": name, **(taken := run(command, work))})
            print(f"{name}: {taken['seconds']:.1f} s, {taken['processor']:.1f} s processor time", flush=True)
    runs = pd.DataFrame(rows).set_index(["round", "name"])
    medians = runs.groupby("name", sort=False).median()
    shown = medians.drop(columns="memory").assign(images_per_second=cells / medians.seconds)
    print(shown.round(1))
    for name, loop in zip(("audit", "pack"), LOOPS, strict=True):
        shares = runs.xs(loop, level="name") / runs.xs(name, level="name")
        clock, processor = (
            f"{of.median():.0%} ({', '.join(map('{:.0%}'.format, of))})"
            for of in (shares.seconds, shares.processor)
        )
        print(f"{name} reaches {clock} of the loop `{loop}`, by processor time {processor}")


def run(command: list[str], work: Path) -> dict[str, float]:
    """Of a command and all below it: s on the clock, s of processor time, MiB of the largest process."""
    begun = time.monotonic()
    with subprocess.Popen(
        command, cwd=work, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        said = process.stderr.read().strip()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds, ended = time.monotonic() - begun, [used]
    if process.returncode:
        raise UserError(f"{' '.join(command)} ended with status {process.returncode}: {said}")
    with contextlib.suppress(ChildProcessError):
        while True:
            ended.append(os.wait3(0)[2])
    processor = sum(one.ru_utime + one.ru_stime for one in ended)
    return {
        "seconds": seconds,
        "processor": processor,
        "memory": max(one.ru_maxrss for one in ended) / 1024,
    }


def adopt_orphans() -> None:
    """Become the parent of workers whose own parent ended first, or their time would be lost (Linux)."""
    if sys.platform == "linux":
        set_child_subreaper = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)
        ctypes.CDLL(None).prctl(set_child_subreaper, 1)


def bare_loop(size: int) -> None:
    """Read all cells below data/raw, in as many processes as there are cores, and keep nothing."""
    with multiprocessing.Pool() as pool:
        work = functools.partial(_read, size)
        for _ in pool.imap_unordered(work, sorted(RAW.glob("*/*.png")), chunksize=50):
            pass


def _read(size: int, path: Path) -> None:
    """Decode a cell, and resize it unless `size` is 0."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    if size:
        images.resize(pixels, size)


if __name__ == "__main__":
    end_with(main)
