"""Time fetch, audit, split and pack on a set of the real size, against bare loops over the same files.

Generates an archive of images with the NIH/NLM set's counts, names and sizes, puts it where the download
would be, and runs the stages on it. Audit is compared with a bare loop that decodes the same files with
Pillow, pack with one that decodes and resizes them, each in as many processes as there are cores. Compared
runs alternate, and a ratio is the median over rounds.
"""

import multiprocessing
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from benchmarks import by_turns, fake_archive
from benchmarks.by_turns import ROOT
from malaria import files, params
from malaria.cells import images
from malaria.command import new_parser, positive, run_and_exit
from malaria.fetch import nih, nlm
from malaria.paths import PARAMS, RAW

PICTURES = 400  # different pictures; each file repeats one of them, with the file's name appended
# What a bare loop does to a cell, and the side in px that it resizes to (0: it does not resize).
LOOPS = {"decode": 0, "decode and resize": 50}


def main() -> None:
    parser = new_parser("benchmarks.data", __doc__)
    parser.add_argument("--cells", type=positive, default=2 * nih.WHOLE.cells, help="how many (%(default)s)")
    parser.add_argument("--rounds", type=positive, default=5, help="alternations of the compared runs (5)")
    arguments = parser.parse_args()
    census = replace(nih.WHOLE, cells=arguments.cells // 2)
    print(f"{2 * census.cells:,} images, {by_turns.machine()}")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        prepare(work, census)
        time_stages(work, 2 * census.cells, arguments.rounds)


def prepare(work: Path, census: nih.Census) -> None:
    """Make a folder to run the stages in, and time the fetch of cells that are already downloaded."""
    for name in ("malaria", "stages", "benchmarks", "data/folder"):
        shutil.copytree(ROOT / name, work / name)
    for name in ("dvc.yaml", "data/split.csv"):
        shutil.copy(ROOT / name, work / name)
    published = fake_archive.published(census, picture_maker())
    parameters = yaml.safe_load((ROOT / PARAMS).read_text(encoding="utf-8"))
    parameters["data"] |= {"source": "nlm", "nlm": fake_archive.nlm_section("http://localhost", published)}
    (work / PARAMS).write_text(yaml.safe_dump(parameters), encoding="utf-8")
    settings = params.load_params(work / PARAMS).data
    cache = nlm.cache_folder(settings.nlm, work / "cache")
    cache.mkdir(parents=True)
    for name, content in published.items():
        (cache / name).write_bytes(content)
    started = time.monotonic()
    with files.atomic_folder(work / RAW) as part:
        nlm.fetch(settings, part, work / "cache", census)
    seconds = time.monotonic() - started
    rate = 2 * census.cells / seconds
    print(f"fetch  {rate:8,.0f} images/s ({seconds:.1f} s: SHA-256, unpacking, counting)")


def picture_maker() -> fake_archive.Draw:
    """Make a function that draws PNG crops of the real sizes; the appended name makes every file unique."""
    # Imported here, because the processes of the bare loops do not need the app.
    from app import pictures

    encoded = [pictures.png(pixels) for pixels, _ in pictures.cells(PICTURES, seed=1)]

    def draw(cell: fake_archive.Cell) -> bytes:
        # The number in the name chooses the picture, so that patients have different pictures.
        return encoded[int(cell.name.rpartition("_")[2][:-4]) % len(encoded)] + cell.name.encode()

    return draw


def time_stages(work: Path, cells: int, rounds: int) -> None:
    """Print images/s of audit, split and pack, and of the bare loops, run in turn."""
    code = "from benchmarks import data; data.bare_loop({})"
    commands = {name: ["-m", f"stages.{name}"] for name in ("audit", "split", "pack")}
    commands |= {name: ["-c", code.format(size)] for name, size in LOOPS.items()}
    command = partial(by_turns.command, work=work)
    ways = {name: partial(command, [sys.executable, *arguments]) for name, arguments in commands.items()}
    runs = by_turns.measure(ways, rounds)
    medians = by_turns.medians(runs)
    print(medians.assign(images_per_second=cells / medians.s).round(1))
    for name, loop in zip(("audit", "pack"), LOOPS, strict=True):
        ratio = by_turns.ratios(runs, name).loc[loop]
        processor = f"by processor time {ratio['processor s']:.0%}"
        print(f"{name} reaches {ratio.s:.0%} of the loop `{loop}`, {processor}")


def bare_loop(size: int) -> None:
    """Read all cells below data/raw, in as many processes as there are cores, and keep nothing."""
    with multiprocessing.Pool() as pool:
        for _ in pool.imap_unordered(partial(_read, size), sorted(RAW.glob("*/*.png")), chunksize=50):
            pass


def _read(size: int, path: Path) -> None:
    """Decode a cell, and resize it unless `size` is 0."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    if size:
        images.resize(pixels, size)


if __name__ == "__main__":
    run_and_exit(main)
