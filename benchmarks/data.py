"""Time fetch, audit, split and pack on a set of the real size, beside what the work itself takes.

Generates an archive of images with the NIH/NLM set's counts, names and sizes, gives it from a local
server, and runs the stages on it. Beside audit stands a bare loop that decodes the same files with
Pillow, beside pack one that decodes and resizes them, each in as many processes as there are cores.
Compared runs alternate, and a ratio is the median over alternations: other programs may use the cores.
Where they do, the ratio of processor time tells more than that of the clock.
"""

import argparse
import contextlib
import ctypes
import functools
import hashlib
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
import threading
import time
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
from malaria.fetch import download, nih, nlm
from malaria.paths import PARAMS, RAW
from tests.support.servers import serving

ROOT = Path(__file__).resolve().parents[1]
DRAWN = 400  # different pictures; the other files repeat them with another byte at their end
LIMITS = images.Limits(min_side=1, max_pixels=4_000_000)
LOOPS = ("decode", "decode and resize", "decode and Pillow's resize")


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
        "--rounds", type=how_many, default=5, help="alternations of the compared runs (default 5)"
    )
    parser.add_argument("--no-large", action="store_true", help="leave out memory on four times the cells")
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
        show_memory(work, census, large=not given.no_large)
    return 0


def prepare(work: Path, census: nih.Census) -> None:
    """A folder that the stages run in, with the cells fetched from a local server."""
    for name in ("malaria", "stages", "benchmarks", "tests", "dvc.yaml", PARAMS):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, work / name)
    (work / "data/folder").mkdir(parents=True)
    shutil.copy(ROOT / "data/split.csv", work / "data/split.csv")
    draw = pictures()
    archive = work / "cell_images.zip"
    fake_archive.write_archive(archive, census, draw)
    sizes = [Image.open(io.BytesIO(draw(cell))).size for cell in list(fake_archive.cells(census))[:DRAWN]]
    sides = [max(size) for size in sizes]
    print(
        f"Longer sides {min(sides)} to {max(sides)} px, mean {statistics.mean(sides):.0f}; the archive has "
        f"{archive.stat().st_size / 1e6:,.0f} MB"
    )
    with serving() as server:
        server.files["/cell_images.zip"] = archive.read_bytes()
        archive.unlink()
        for label, name in fake_archive.MAPPING_NAMES.items():
            server.files[f"/{name}"] = fake_archive.mapping(label, census).encode()
        asked = write_params(work, server.base, server.files)
        begun = time.monotonic()
        with files.atomic_folder(work / RAW) as part:
            nlm.fetch(asked, part, work / "cache", census, download.PATIENT)
        seconds = time.monotonic() - begun
    rate = 2 * census.cells / seconds
    print(f"fetch  {rate:8,.0f} images/s ({seconds:.1f} s: download, SHA-256, unpacking, counting)")


def pictures() -> "functools.partial[bytes]":
    """Draws PNG crops of the real sizes; a cell's own name at the end makes no two files equal."""
    random = np.random.Generator(np.random.Philox(1))
    looks = [synthetic.stain(random) for _ in range(20)]
    drawn = []
    for index in range(DRAWN):
        stream = io.BytesIO()
        Image.fromarray(synthetic.draw(random, looks[index % 20], index % 2 == 0)).save(stream, "PNG")
        drawn.append(stream.getvalue())
    return functools.partial(_picture, drawn)


def _picture(drawn: list[bytes], cell: fake_archive.Cell) -> bytes:
    # The number in the name chooses, so that patients have different pictures.
    return drawn[int(cell.name.rpartition("_")[2][:-4]) % len(drawn)] + cell.name.encode()


def write_params(work: Path, base: str, served: dict[str, bytes]) -> params.Data:
    sha256 = {name: hashlib.sha256(content).hexdigest() for name, content in served.items()}
    content = yaml.safe_load((work / PARAMS).read_text(encoding="utf-8"))
    content["data"]["source"] = "nlm"
    content["data"]["nlm"] = {
        "url": base,
        "size": len(served["/cell_images.zip"]),
        "sha256": sha256["/cell_images.zip"],
        "parasitized_sha256": sha256["/patientid_cellmapping_parasitized.csv"],
        "uninfected_sha256": sha256["/patientid_cellmapping_uninfected.csv"],
    }
    (work / PARAMS).write_text(yaml.safe_dump(content), encoding="utf-8")
    return params.load_params(work / PARAMS).data


def time_stages(work: Path, cells: int, rounds: int) -> None:
    """Print images/s of audit, split and pack, and of the bare loops, run by turns."""
    stages = {name: [sys.executable, "-m", f"stages.{name}"] for name in ("audit", "split", "pack")}
    loops = {name: [sys.executable, "-m", "benchmarks.data", "--loop", name] for name in LOOPS}
    runs: dict[str, list[Run]] = {name: [] for name in (*loops, *stages)}
    for _ in range(rounds):
        for name in ("decode", "audit", "split", "decode and resize", "pack", "decode and Pillow's resize"):
            runs[name].append(last := run({**stages, **loops}[name], work))
            print(
                f"       {name:27}{last.seconds:6.1f} s, {last.processor:6.1f} s of processor time",
                flush=True,
            )
    for name, found in runs.items():
        rate = cells / statistics.median(run.seconds for run in found)
        kind = "stage" if name in stages else "loop "
        print(f"{kind}  {name:27}{rate:8,.0f} images/s, median of {rounds}")
    for stage, loop in (("audit", "decode"), ("pack", "decode and resize"), ("pack", LOOPS[2])):
        pairs = list(zip(runs[stage], runs[loop], strict=True))
        clock = [bare.seconds / ours.seconds for ours, bare in pairs]
        processor = [bare.processor / ours.processor for ours, bare in pairs]
        print(
            f"{stage} reaches {statistics.median(clock):.0%} of the loop `{loop}` "
            f"({', '.join(f'{share:.0%}' for share in clock)}), by processor time "
            f"{statistics.median(processor):.0%} ({', '.join(f'{share:.0%}' for share in processor)})"
        )


def time_noop(work: Path) -> None:
    """Print how long `dvc repro` takes with nothing to do, beside commands of DVC alone."""
    dvc = [sys.executable, "-m", "dvc"]
    targets = ["pack", "split"]
    run([*dvc, "init", "--no-scm", "-q"], work)
    # What the stages have made is what DVC would have them make.
    run([*dvc, "commit", "-f", "-q", *targets, "--with-deps"], work)
    commands = {
        "dvc version": ["version"],
        "dvc status": ["status", *targets],
        "dvc repro": ["repro", *targets],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(3):
        for name, arguments in commands.items():
            seconds[name].append(run([*dvc, *arguments], work).seconds)
    told = ", ".join(f"{name} {statistics.median(times):.1f} s" for name, times in seconds.items())
    print(f"nothing to do: {told} (medians of 3)")


def show_memory(work: Path, census: nih.Census, *, large: bool) -> None:
    """Print peak memory, of a process and all its workers together, at one and four times the cells."""
    bare = run([sys.executable, "-c", "import time; time.sleep(0.5)"], work, watch=True).peak
    doubled = work / "doubled.zip"
    fake_archive.write_archive(doubled, census, pictures(), twice=True)
    program = (
        "from pathlib import Path; from malaria.fetch import nih; "
        f"nih.unpack(Path('doubled.zip'), Path('unpacked'), nih.{census!r})"
    )
    unpacking = run([sys.executable, "-c", program], work, watch=True).peak
    doubled.unlink()
    shutil.rmtree(work / "unpacked")
    print(f"memory: unpacking Kaggle's doubled archive takes {unpacking - bare:.0f} MiB over an interpreter")
    for factor in (1, 4) if large else (1,):
        if factor > 1:
            multiply(work / RAW, factor)
        for stage in ("audit", "pack"):
            command = [sys.executable, "-m", f"stages.{stage}"]
            peak = run(command, work, watch=True).peak
            print(f"memory: {stage} at {factor}x: {peak:.0f} MiB, workers included")


def multiply(raw: Path, factor: int) -> None:
    """Give each cell brothers of the same picture; another byte at the end makes another file."""
    for path in list(raw.glob("*/*.png")):
        for copy in range(1, factor):
            name = path.name.replace("_cell_", f"_cell_{copy}000000")
            path.with_name(name).write_bytes(path.read_bytes() + bytes([copy]))


def run(command: list[str], work: Path, *, watch: bool = False) -> Run:
    before = processor_time()
    begun = time.monotonic()
    with subprocess.Popen(
        command, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        peak = _Peak(process.pid) if watch else None
        said = process.communicate()[0]
        seconds = time.monotonic() - begun
        highest = peak.end() if peak else 0.0
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}: {said.strip()}")
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    return Run(seconds, processor_time() - before, highest)


def adopt_orphans() -> None:
    """Become the parent of workers whose own parent ended first, or their time would be lost (Linux)."""
    if sys.platform == "linux":
        set_child_subreaper = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)
        ctypes.CDLL(None).prctl(set_child_subreaper, 1)


def processor_time() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class _Peak:
    """Watches a process and all below it; shared pages count once a process, so this is no less than true."""

    def __init__(self, pid: int) -> None:
        self.process = psutil.Process(pid)
        self.highest = 0
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()

    def _watch(self) -> None:
        while not self.ended.wait(0.05):
            total = 0
            try:
                for process in (self.process, *self.process.children(recursive=True)):
                    total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
            self.highest = max(self.highest, total)

    def end(self) -> float:
        self.ended.set()
        self.thread.join()
        return self.highest / 2**20


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


def _decode_and_resize_by_pillow(path: str) -> None:
    with Image.open(path) as image:
        np.asarray(image.convert("RGB").resize((50, 50), Image.Resampling.BILINEAR))


_WORK = dict(zip(LOOPS, (_only_decode, _decode_and_resize, _decode_and_resize_by_pillow), strict=True))


if __name__ == "__main__":
    end_with(main)
