"""Predictions in shards: the plain path's bytes, exactly one row a cell, whatever is killed on the way."""

import csv
import io
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import psutil
import pytest
from PIL import Image

from malaria import bundle, predict
from malaria.__main__ import main
from malaria.cells import images
from malaria.command import end_with
from malaria.errors import UserError
from malaria.predict import batch, inputs
from malaria.running import locked
from tests.support import bundles

ROOT = Path(__file__).parents[2]

# Dask closes its sockets when it finds the time.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """The address of a Dask cluster of two workers."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def cells(tmp_path, pngs) -> Path:
    """A folder of all that may come: cells, no cells, zips in zips, damaged and empty ones, equal names."""
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


def plain(model: Path, paths: list[str]) -> bytes:
    """The CSV that no engine has touched."""
    out = io.StringIO()
    predict.write(predict.predict(bundle.load(model), inputs.find(paths)), out)
    return out.getvalue().encode()


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_shards_give_the_plain_paths_bytes(scheduler, gated_bundle, cells, tmp_path, size):
    Image.new("RGB", (60, 60), "green").save(cells / "leaf.png")
    paths = [str(cells), str(cells / "outer.zip"), str(cells)]
    out = tmp_path / "new/out.csv"
    done = batch.run(gated_bundle, paths, out, workers=1, scheduler=scheduler, size=size)
    assert out.read_bytes() == plain(gated_bundle, paths)
    assert all(f",{status}," in out.read_text() for status in ("ok", "unreadable", "rejected"))
    assert done.rows == len(list(inputs.find(paths)))
    assert done.resumed == 0
    assert [path.name for path in out.parent.iterdir()] == ["out.csv"]


def test_what_the_network_says_does_not_depend_on_the_cells_beside(pretrained):
    cells = [pixels for pixels, _ in bundles.drawn_cells()] * 9
    together = pretrained.run(cells).p_network
    assert together.tolist() == [float(pretrained.run([cell]).p_network[0]) for cell in cells]


@pytest.fixture(scope="module")
def pretrained() -> bundle.Bundle:
    return bundle.load(ROOT / "models/pretrained")


def test_nothing_to_judge_is_a_header_and_needs_no_workers(model_bundle, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    (tmp_path / "none").mkdir()
    done = batch.run(model_bundle, [str(tmp_path / "none")], tmp_path / "out.csv", workers=2)
    assert done == batch.Done(rows=0, shards=0, resumed=0)
    assert (tmp_path / "out.csv").read_bytes() == plain(model_bundle, [str(tmp_path / "none")])


@dataclass(frozen=True)
class Run:
    """`python -m malaria predict --engine dask` on `paths`, the last of which is a pipe: whoever reads it
    waits until its content is written. `expected` is what the plain path writes of the same.
    """

    paths: list[str]
    pipe: Path
    content: bytes
    out: Path
    expected: bytes
    driver: subprocess.Popen[str]

    def wait_for_worker(self) -> BinaryIO:
        """Returns once a worker reads the pipe; its content can be written to what is returned."""
        return self.pipe.open("wb")

    def workers(self) -> list[psutil.Process]:
        children = psutil.Process(self.driver.pid).children()
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]

    def mend(self) -> None:
        """Make the pipe a file."""
        self.pipe.unlink()
        self.pipe.write_bytes(self.content)


@contextmanager
def running(model: Path, cells: Path, folder: Path) -> Iterator[Run]:
    """A run with one worker and a cell a shard, whose plan is made."""
    pipe, out = folder / "pipe.png", folder / "out.csv"
    content = (cells / "slide0.png").read_bytes()
    pipe.write_bytes(content)
    paths = [str(cells), str(pipe)]
    expected = plain(model, paths)
    pipe.unlink()
    os.mkfifo(pipe)
    arguments = [
        "--model",
        str(model),
        "--out",
        str(out),
        "--engine",
        "dask",
        "--workers",
        "1",
        "--shard",
        "1",
    ]
    driver = subprocess.Popen(
        [sys.executable, "-m", "malaria", "predict", *paths, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    with driver:
        try:
            # The driver opens it too, to see what it is, and may still have it open; a worker opens another.
            pipe.open("wb").close()
            pipe.unlink()
            os.mkfifo(pipe)
            yield Run(paths, pipe, content, out, expected, driver)
        finally:
            driver.kill()


def test_a_worker_killed_amid_a_shard_costs_no_row_and_doubles_none(model_bundle, cells, tmp_path):
    with running(model_bundle, cells, tmp_path) as run:
        with run.wait_for_worker():
            (worker,) = run.workers()
            worker.kill()
            worker.wait()
        with run.wait_for_worker() as second:
            assert run.workers() != [worker]
            second.write(run.content)
        said, errors = run.driver.communicate()
    assert (run.driver.returncode, "distributed" in errors) == (0, False)
    assert run.out.read_bytes() == run.expected
    assert f"{len(run.expected.splitlines()) - 1} rows" in said


@dataclass(frozen=True)
class Killed:
    """What a killed driver leaves: `finished` of the shards' files, beside an output that is not there."""

    model: Path
    paths: list[str]
    parts: Path
    finished: int
    expected: bytes

    def resume(self, out: Path, scheduler: str, model: Path | None = None) -> batch.Done:
        return batch.run(model or self.model, self.paths, out, workers=1, scheduler=scheduler, size=1)


@pytest.fixture(scope="module")
def killed(model_bundle, pngs, tmp_path_factory) -> Killed:
    folder = tmp_path_factory.mktemp("killed")
    cells = folder / "cells"
    cells.mkdir()
    for number, png in enumerate(pngs):
        (cells / f"{number}.png").write_bytes(png)
    (cells / "slide0.png").write_bytes(pngs[0])
    with running(model_bundle, cells, folder) as run:
        with run.wait_for_worker():
            workers = run.workers()
            run.driver.kill()
            _, alive = psutil.wait_procs(workers, timeout=60)
            assert alive == []
        run.driver.wait()
        assert not run.out.exists()
    run.mend()
    parts = folder / "out.csv.parts"
    return Killed(model_bundle, run.paths, parts, len(list(parts.glob("*.csv"))), run.expected)


@pytest.fixture
def left(killed, tmp_path) -> Path:
    """An output's path, with a copy beside it of what the killed driver left."""
    shutil.copytree(killed.parts, tmp_path / "out.csv.parts")
    return tmp_path / "out.csv"


def test_a_killed_driver_is_resumed_from_its_finished_shards(killed, left, scheduler):
    done = killed.resume(left, scheduler)
    # Three shards are given to a worker at a time.
    assert done.resumed == killed.finished >= done.shards - 3
    assert left.read_bytes() == killed.expected
    assert not left.with_name("out.csv.parts").exists()


def test_a_shards_file_that_was_changed_is_made_again(killed, left, scheduler):
    spoiled = min(left.with_name("out.csv.parts").glob("0*.csv"))
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
    assert killed.resume(left, scheduler, other).resumed == 0
    assert left.read_bytes() == plain(other, killed.paths) != killed.expected


def test_a_folder_with_other_things_keeps_them(killed, left, scheduler):
    note = left.with_name("out.csv.parts") / "note.txt"
    note.write_text("mine")
    killed.resume(left, scheduler)
    assert [path.name for path in note.parent.iterdir()] == ["note.txt"]


def test_two_runs_never_share_a_folder(model_bundle, cells, tmp_path, scheduler):
    held = locked(tmp_path / "out.csv.parts" / batch._LOCK, "holds it")
    with held, pytest.raises(UserError, match=rf"Process {os.getpid()} is at work in .*out\.csv\.parts"):
        batch.run(model_bundle, [str(cells)], tmp_path / "out.csv", workers=1, scheduler=scheduler)


@pytest.mark.parametrize(
    ("out", "size", "sentence"),
    [
        ("cells/out.csv", 9, "cells, whose files are judged: name another"),
        ("out.csv", 0, "--shard is 0, but"),
    ],
)
def test_an_impossible_run_is_refused_in_a_sentence(model_bundle, cells, tmp_path, out, size, sentence):
    with pytest.raises(UserError, match=sentence):
        batch.run(model_bundle, [str(cells)], tmp_path / out, workers=1, size=size)


def job(model: Path, **changed: object) -> batch.Job:
    content = {file.name: file.read_bytes() for file in model.iterdir()}
    return replace(batch.Job(batch.__version__, content, Path.cwd(), (), 1), **changed)


def shard(*sources: inputs.Source) -> batch.Shard:
    return batch.Shard(0, "", tuple(batch.Piece(source, 0, source.entries or 1) for source in sources))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [({"roots": ("/not/here",)}, "A worker does not see /not/here"), ({"version": "0"}, "but 0 asks")],
)
def test_a_worker_that_could_not_give_the_right_rows_gives_none(model_bundle, changed, sentence):
    with pytest.raises(UserError, match=sentence):
        batch.judge(shard(), job(model_bundle, **changed))


def test_what_vanishes_after_it_was_listed_is_a_row(model_bundle, cells):
    paths = [str(cells / "slide1/cell 1, ü.png"), str(cells / "outer.zip"), str(cells / "slide0.png")]
    sources = list(inputs.listed(paths))
    Path(paths[0]).unlink()
    Path(paths[1]).unlink()
    pieces = (
        *shard(sources[0]).pieces,
        batch.Piece(sources[1], 0, 9),
        batch.Piece(sources[1], 9, sources[1].entries),
        *shard(sources[2]).pieces,
    )
    judged = batch.judge(batch.Shard(0, "", pieces), job(model_bundle))
    rows = list(csv.reader(io.StringIO(judged.csv.decode())))
    assert [row[0] for row in rows] == [paths[0], paths[1], paths[1], paths[2]]
    assert [row[3] for row in rows] == ["unreadable"] * 3 + ["ok"]
    assert [row[4].rpartition(", ")[2] for row in rows[1:3]] == ["entries 1 to 9", "entries 10 to 15"]


@pytest.mark.parametrize("name", ["line\nbreak.png", "line\rbreak.png", os.fsdecode(b"latin-\xfc.png")])
def test_any_file_name_comes_through(model_bundle, pngs, tmp_path, scheduler, name):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(pngs[0])
    out, whole = tmp_path / "out.csv", tmp_path / "whole.csv"
    done = batch.run(model_bundle, [str(tmp_path / "in")], out, workers=1, scheduler=scheduler)
    command = [sys.executable, "-m", "malaria", "predict", str(tmp_path / "in"), "--out", str(whole)]
    subprocess.run([*command, "--model", str(model_bundle)], check=True, cwd=ROOT, capture_output=True)
    assert done.rows == 1
    assert out.read_bytes() == whole.read_bytes()
    assert os.fsencode(name) in out.read_bytes()


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
        (["s3://bucket/cells"], "s3fs", "`s3://` needs s3fs: pip install '.[engine]'."),
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
        end_with(main)
    assert sentence in capsys.readouterr().err
