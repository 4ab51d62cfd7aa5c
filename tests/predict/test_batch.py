"""Predictions in shards on Dask: the same bytes as without it, even if a worker or the driver is killed."""

import functools
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import psutil
import pytest
from PIL import Image

from malaria import bundle
from malaria.__main__ import main
from malaria.cells import images
from malaria.command import run_and_exit
from malaria.errors import UserError
from malaria.predict import batch, inputs
from malaria.running import locked
from tests.support import bundles, dask_cluster
from tests.support.bundles import plain
from tests.support.project import ROOT

# Dask may close its sockets late.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture
def cells(tmp_path, pngs) -> Path:
    """A folder of cells, other files, and zips: nested, damaged, empty, and with a name twice."""
    folder = tmp_path / "cells"
    for number, png in enumerate(pngs):
        path = folder / f"slide{number % 3}" / f"cell {number}, ü.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png)
    (folder / "slide0.png").write_bytes(pngs[0])
    (folder / "note.txt").write_text("no image")
    (folder / "Thumbs.db").write_text("litter")
    (folder / "empty.png").touch()
    with zipfile.ZipFile(folder / "inner.zip", "w") as pack:
        pack.writestr("b.png", pngs[1])
        pack.writestr("a.png", pngs[2])
    with zipfile.ZipFile(folder / "outer.zip", "w") as pack:
        for number, png in enumerate(pngs):
            pack.writestr(f"deep/{number}.png", png)
        pack.writestr("deep/", b"")
        pack.write(folder / "inner.zip", "deep/inner.zip")
        with pytest.warns(UserWarning, match="Duplicate name"):
            pack.writestr("deep/3.png", pngs[0])
    (folder / "damaged.zip").write_bytes((folder / "inner.zip").read_bytes()[20:])
    with zipfile.ZipFile(folder / "nothing.zip", "w"):
        pass
    return folder


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_shards_give_the_plain_paths_bytes(scheduler, gated_bundle, cells, tmp_path, size):
    Image.new("RGB", (60, 60), "green").save(cells / "leaf.png")
    paths = [str(cells), str(cells / "outer.zip"), str(cells)]
    out = tmp_path / "new/out.csv"
    done = batch.run(gated_bundle, paths, str(out), workers=1, scheduler=scheduler, size=size)
    assert out.read_bytes() == plain(gated_bundle, paths)
    assert all(f",{status}," in out.read_text() for status in ("ok", "unreadable", "rejected"))
    counted = sum(done.counts[status] for status in ("ok", "unreadable", "rejected"))
    assert counted == len(list(inputs.find(paths)))
    assert done.resumed == 0
    assert [path.name for path in out.parent.iterdir()] == ["out.csv"]


def test_what_the_network_says_does_not_depend_on_the_cells_beside(pretrained):
    cells = [pixels for pixels, _ in bundles.drawn_cells()] * 9
    together = pretrained.run(cells).p_network
    assert together.tolist() == [float(pretrained.run([cell]).p_network[0]) for cell in cells]


@pytest.fixture(scope="module")
def pretrained() -> bundle.Bundle:
    return bundle.load(ROOT / "models/pretrained")


def test_nothing_to_judge_is_a_header(model_bundle, tmp_path, scheduler):
    (tmp_path / "none").mkdir()
    paths, out = [str(tmp_path / "none")], tmp_path / "out.csv"
    done = batch.run(model_bundle, paths, str(out), workers=2, scheduler=scheduler)
    assert (done.counts, done.partitions) == ({}, 0)
    assert out.read_bytes() == plain(model_bundle, paths)


@dataclass(frozen=True)
class Run:
    """A running `python -m malaria predict --engine dask` with one worker.

    One of its paths is the named pipe `pipe`: a worker that reads it waits until its content is written.
    """

    pipe: Path
    out: Path
    driver: subprocess.Popen[str]

    def wait_for_worker(self) -> BinaryIO:
        """Wait until a worker reads the pipe; return the pipe, open for writing its content."""
        return self.pipe.open("wb")

    def workers(self) -> list[psutil.Process]:
        children = psutil.Process(self.driver.pid).children()
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


@contextmanager
def running(model: Path, paths: list[str], pipe: Path, shard: int = 1) -> Iterator[Run]:
    out = pipe.with_name("out.csv")
    os.mkfifo(pipe)
    options = ["--model", str(model), "--out", str(out), "--engine", "dask", "--workers", "1"]
    with subprocess.Popen(
        [sys.executable, "-m", "malaria", "predict", *paths, *options, "--shard", str(shard)],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as driver:
        try:
            yield Run(pipe, out, driver)
        finally:
            driver.kill()


def test_a_worker_killed_amid_a_shard_costs_no_row_and_doubles_none(model_bundle, cells, pngs, tmp_path):
    pipe = tmp_path / "pipe.png"
    pipe.write_bytes(pngs[0])
    paths = [str(cells), str(pipe)]
    expected = plain(model_bundle, paths)
    pipe.unlink()
    with running(model_bundle, paths, pipe) as run:
        with run.wait_for_worker():
            (worker,) = run.workers()
            worker.kill()
            worker.wait()
        with run.wait_for_worker() as second:
            assert run.workers() != [worker]
            second.write(pngs[0])
        _, errors = run.driver.communicate()
    assert (run.driver.returncode, "distributed" in errors) == (0, False)
    assert run.out.read_bytes() == expected


def test_what_vanishes_after_it_was_listed_is_a_row(model_bundle, pngs, tmp_path):
    cell, archive = (tmp_path / name for name in ("cell.png", "more.zip"))
    cell.write_bytes(pngs[0])
    with zipfile.ZipFile(archive, "w") as pack:
        for number, png in enumerate(pngs):
            pack.writestr(f"{number}.png", png)
    one, pack = inputs.listed([str(cell), str(archive)])
    cell.unlink()
    archive.unlink()
    content = {file.name: file.read_bytes() for file in model_bundle.iterdir()}
    partition = batch.Partition("", (one, replace(pack, images=range(10, 12))))
    rows = batch.judge(partition, batch.Job(batch.__version__, content, Path(), 0.5)).rows
    assert [(row.path, row.status) for row in rows] == [(str(path), "unreadable") for path in (cell, archive)]
    assert rows[-1].reason.endswith(", entries 11 to 12")


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="a path that leads elsewhere in each process")
def test_a_worker_without_the_share_never_calls_its_cells_unreadable(
    model_bundle, pngs, tmp_path, monkeypatch
):
    """The worker's folder `cells` is empty, as on a machine where the share is not mounted."""
    for name in ("here/cells", "there/cells"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "here/cells/1.png").write_bytes(pngs[0])
    monkeypatch.chdir(tmp_path / "here")
    run = functools.partial(batch.run, model_bundle, ["/proc/self/cwd/cells"], "out.csv", workers=1)
    blind = r"process \d+ on .* cannot read /proc/self/cwd/cells/1\.png, which can be read here"
    with dask_cluster.started(tmp_path / "there") as address:
        with pytest.raises(UserError, match=blind):
            run(scheduler=address)
        assert not Path("out.csv").exists()
        # Once the share is mounted, the same command succeeds.
        shutil.copy("cells/1.png", tmp_path / "there/cells")
        assert run(scheduler=address).counts["ok"] == 1


@dataclass(frozen=True)
class Killed:
    """A run whose driver was killed: its folder `parts` has the files of `finished` shards, and no output."""

    model: Path
    paths: list[str]
    parts: Path
    finished: int
    expected: bytes

    def resume(self, out: Path, scheduler: str, **changed: Any) -> batch.Summary:
        options = {"folder": self.model, "workers": 1, "size": 1, **changed}
        return batch.run(paths=self.paths, out=str(out), scheduler=scheduler, **options)


@pytest.fixture(scope="module")
def killed(model_bundle, pngs, tmp_path_factory) -> Killed:
    folder = tmp_path_factory.mktemp("killed")
    (folder / "cells").mkdir()
    for number, png in enumerate(pngs):
        (folder / f"cells/{number}.png").write_bytes(png)
    pipe = folder / "pipe.png"
    paths = [str(folder / "cells"), str(pipe)]
    with running(model_bundle, paths, pipe) as run:
        with run.wait_for_worker():
            workers = run.workers()
            run.driver.kill()
            _, alive = psutil.wait_procs(workers, timeout=60)
            assert alive == []
        run.driver.wait()
        assert not run.out.exists()
    pipe.unlink()
    pipe.write_bytes(pngs[0])
    parts = folder / "out.csv.malaria-parts"
    # The kill may cut the last file short: the end of its name is the hash of its content.
    whole = [
        part
        for part in parts.glob("*.json")
        if part.stem.endswith(hashlib.sha256(part.read_bytes()).hexdigest()[:16])
    ]
    return Killed(model_bundle, paths, parts, len(whole), plain(model_bundle, paths))


@pytest.fixture
def left(killed, tmp_path) -> Path:
    """The path of a new output; beside it lies a copy of the parts that the killed driver left."""
    shutil.copytree(killed.parts, tmp_path / "out.csv.malaria-parts")
    return tmp_path / "out.csv"


def test_a_killed_driver_is_resumed_from_its_finished_shards(killed, left, scheduler):
    done = killed.resume(left, scheduler)
    # A worker has at most three shards at a time.
    assert done.resumed == killed.finished >= done.partitions - 3
    assert left.read_bytes() == killed.expected
    assert [path.name for path in left.parent.iterdir()] == ["out.csv"]


def test_a_shards_file_that_was_changed_is_made_again(killed, left, scheduler):
    spoiled = min(left.with_name("out.csv.malaria-parts").glob("0*.json"))
    spoiled.write_bytes(spoiled.read_bytes().replace(b"0.", b"1."))
    done = killed.resume(left, scheduler)
    assert (done.resumed, left.read_bytes()) == (killed.finished - 1, killed.expected)


def test_a_cell_that_was_changed_is_judged_again(killed, left, scheduler):
    cell = Path(killed.paths[0]) / "3.png"
    before = cell.stat()
    os.utime(cell, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    try:
        assert killed.resume(left, scheduler).resumed == killed.finished - 1
    finally:
        os.utime(cell, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert left.read_bytes() == killed.expected


def test_another_model_takes_over_nothing(killed, left, scheduler, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(killed.model, other)
    record = other / bundle.RECORD
    record.write_text(record.read_text().replace('"temperature": 1.0', '"temperature": 2.0'))
    assert killed.resume(left, scheduler, folder=other).resumed == 0
    assert left.read_bytes() == plain(other, killed.paths) != killed.expected


def test_another_threshold_takes_over_nothing(killed, left, scheduler):
    done = killed.resume(left, scheduler, threshold=1.0)
    assert (done.resumed, done.counts["Parasitized"]) == (0, 0)


def test_two_runs_never_share_a_folder(model_bundle, cells, tmp_path, scheduler):
    parts = tmp_path / "out.csv.malaria-parts"
    with locked(parts / "lock", "works here"), pytest.raises(UserError, match="is at work in"):
        batch.run(model_bundle, [str(cells)], str(tmp_path / "out.csv"), workers=1, scheduler=scheduler)


def test_an_output_among_the_inputs_is_refused(model_bundle, cells):
    with pytest.raises(UserError, match="cells, whose files are judged: name another"):
        batch.run(model_bundle, [str(cells)], str(cells / "out.csv"), workers=1)


def test_a_worker_of_another_version_judges_nothing(model_bundle):
    content = {file.name: file.read_bytes() for file in model_bundle.iterdir()}
    with pytest.raises(UserError, match="not 0: install the same"):
        batch.judge(batch.Partition("", ()), batch.Job("0", content, Path(), 0.5))


def test_any_file_name_comes_through(model_bundle, pngs, tmp_path, scheduler):
    (tmp_path / "in").mkdir()
    names = [os.fsencode(name) for name in ("line\nbreak.png", "line\rbreak.png", "=1+1.png")]
    for name in [*names, b"latin-\xfc.png"]:
        (tmp_path / "in" / os.fsdecode(name)).write_bytes(pngs[0])
    paths, out = [str(tmp_path / "in")], tmp_path / "out.csv"
    batch.run(model_bundle, paths, str(out), workers=1, scheduler=scheduler, size=1)
    assert out.read_bytes() == plain(model_bundle, paths)
    assert all(name in out.read_bytes() for name in [*names, b"latin-\xfc.png"])


def test_a_file_too_large_for_a_crop_is_not_read(tmp_path):
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(2**36)
    (item,) = inputs.find([str(tmp_path)])
    with pytest.raises(images.Unreadable, match="larger than 67,108,864 bytes"):
        item.read()


def test_the_plain_path_needs_neither_engine_nor_s3_client(cells, model_bundle):
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['dask', 'distributed', 's3fs', 'botocore']))\n"
        "from malaria.__main__ import main; sys.exit(main())"
    )
    arguments = ["predict", str(cells), "--model", str(model_bundle)]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, plain(model_bundle, [str(cells)]))


@pytest.mark.parametrize(
    ("arguments", "missing", "sentence"),
    [
        (
            ["cells", "--engine", "dask", "--out", "o.csv"],
            "distributed",
            "`dask` needs distributed: pip install",
        ),
        (["s3://bucket/cells"], "s3fs", "`s3://` needs s3fs: pip install 'malaria-cells[engine]'."),
        (["cells", "--engine", "dask"], "", "--engine needs --out FILE.csv"),
        (["cells", "--scheduler", "tcp://x:1"], "", "--scheduler needs --engine dask."),
    ],
)
def test_what_is_missing_is_told_in_a_sentence(
    model_bundle, tmp_path, monkeypatch, capsys, arguments, missing, sentence
):
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells/a.png").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setattr(sys, "argv", ["malaria", "predict", "--model", str(model_bundle), *arguments])
    with pytest.raises(SystemExit, match="1"):
        run_and_exit(main)
    assert sentence in capsys.readouterr().err
