"""malaria.files: a written file or folder is whole or absent, even if its writer is killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from malaria import files

ROOT = Path(__file__).parents[1]
GONE = 999_999_999  # no running process has this number


def fail_half_way(writing, write):
    with writing as part:
        write(part)
        raise ValueError("half way")


def test_a_failed_write_leaves_the_old_file_alone(tmp_path):
    file = tmp_path / "table.csv"
    files.write_text(file, "old")
    with pytest.raises(ValueError, match="half way"):
        fail_half_way(files.atomic_path(file), lambda part: part.write_text("ne"))
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("table.csv", "old")]


@pytest.mark.parametrize(
    ("path", "litter"),
    [
        ("a.png", False),
        ("./a/../b.png", False),
        (".a.png", True),
        ("a/Thumbs.db", True),
        (".thumbnails/a.png", True),
        ("a/@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg", True),
        ("$RECYCLE.BIN/a.png", True),
        # macOS puts such a file in the place of one that is in iCloud alone.
        ("a/.a.png.icloud", False),
    ],
)
def test_what_is_litter_and_what_stands_for_a_file(path, litter):
    assert files.is_litter(path) == litter


def test_a_pipe_is_written_into_and_stays_one(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    files.write_text(tmp_path / "pipe", "rows")
    assert os.read(reader, 9) == b"rows"
    assert (tmp_path / "pipe").is_fifo()
    os.close(reader)


def test_a_failed_write_leaves_the_old_folder_alone(tmp_path):
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells/old").touch()
    with pytest.raises(ValueError, match="half way"):
        fail_half_way(files.atomic_folder(tmp_path / "cells"), lambda part: (part / "new").touch())
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["cells", "old"]


def test_a_new_folder_takes_the_place_of_the_old_with_all_its_files(tmp_path):
    for name in ("old", "new"):
        with files.atomic_folder(tmp_path / "cells") as part:
            (part / name).touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["cells", "new"]


def test_a_new_folder_can_be_read_by_others(tmp_path):
    with files.atomic_folder(tmp_path / "cells"):
        pass
    assert oct((tmp_path / "cells").stat().st_mode)[-3:] == "755"


def test_the_next_write_removes_what_killed_ones_left_and_nothing_else(tmp_path):
    gone = [f".table.csv.x1.{GONE}.part", f".table.csv.x2.{GONE}.part"]
    kept = [
        f".table.csv.x3.{os.getppid()}.part",
        f".other.csv.x1.{GONE}.part",
        ".table.csv.mine.part",
        "table.csv.part",
    ]
    for name in (*gone, *kept):
        (tmp_path / name / "deep").mkdir(parents=True)
    files.write_text(tmp_path / "table.csv", "new")
    assert {path.name for path in tmp_path.iterdir()} == {"table.csv", *kept}


def test_the_next_write_of_a_folder_removes_what_killed_ones_left(tmp_path):
    (tmp_path / f".cells.x1.{GONE}.part/deep").mkdir(parents=True)
    (tmp_path / f".cells.x2.{os.getppid()}.part").mkdir()
    with files.atomic_folder(tmp_path / "cells"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"cells", f".cells.x2.{os.getppid()}.part"}


# Writes `old`, then `new`. In the second round the writer kills itself just before the nth call that
# renames or removes something.
WRITER = """
import os, signal, sys
from pathlib import Path
from malaria import files
folder, left = Path(sys.argv[1]), [int(sys.argv[2])]
STEPS = ("os.rename", "os.remove", "os.rmdir", "shutil.rmtree")

def step(event, _):
    if armed and event in STEPS:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

armed = False
sys.addaudithook(step)
for name in ("old", "new"):
    with files.atomic_folder(folder / "cells") as part:
        for place in range(5):
            (part / str(place)).write_text(name)
        armed = name == "new"
        files.write_text(folder / "table.csv", name * 3)
"""


@pytest.mark.parametrize("step", range(1, 8))
def test_a_writer_killed_at_any_step_leaves_the_old_the_new_or_nothing(tmp_path, step):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WRITER, str(tmp_path), str(step)]
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    assert [path.read_text() for path in (tmp_path / "cells").glob("*")] in ([], ["old"] * 5, ["new"] * 5)
    assert (tmp_path / "table.csv").read_text() in ("oldoldold", "newnewnew")
    with files.atomic_folder(tmp_path / "cells"):
        files.write_text(tmp_path / "table.csv", "next")
    assert {path.name for path in tmp_path.iterdir()} == {"cells", "table.csv"}
