"""What is written is whole or absent, at whatever moment the writer is killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from malaria import files

ROOT = Path(__file__).parents[1]
GONE = 999_999_999  # no system gives a process such a number


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


def test_the_next_write_removes_what_killed_ones_left_and_nothing_else(tmp_path):
    gone = [f".table.{GONE}.part.csv", f".table.{GONE}.part.raw.keras"]
    kept = [
        f".table.{os.getppid()}.part.csv",
        f".other.{GONE}.part.csv",
        ".table.mine.part.csv",
        "table.part",
    ]
    for name in (*gone, *kept):
        (tmp_path / name).touch()
    files.write_text(tmp_path / "table.csv", "new")
    assert {path.name for path in tmp_path.iterdir()} == {"table.csv", *kept}


def test_the_next_write_of_a_folder_removes_what_killed_ones_left(tmp_path):
    (tmp_path / f".cells.x1.{GONE}.part/deep").mkdir(parents=True)
    (tmp_path / f".cells.x2.{os.getppid()}.part").mkdir()
    with files.atomic_folder(tmp_path / "cells"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"cells", f".cells.x2.{os.getppid()}.part"}


# The writer goes over and over the same folder, each time with other content, and is killed.
WRITER = """
import itertools, sys
from pathlib import Path
from malaria import files
for number in itertools.count():
    with files.atomic_folder(Path(sys.argv[1]) / "cells") as part:
        for place in range(200):
            (part / str(place)).write_text(str(number))
    files.write_text(Path(sys.argv[1]) / "table.csv", str(number) * 100_000)
    print(number, flush=True)
"""


@pytest.mark.parametrize("rounds", [1, 2, 4])
def test_a_killed_writer_leaves_whole_files_and_folders_only(tmp_path, rounds):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    ) as writer:
        for _ in range(rounds):
            number = writer.stdout.readline().strip()
        writer.kill()
    texts = [path.read_text() for path in (tmp_path / "cells").glob("*")]
    assert len(texts) in (0, 200)
    assert len(set(texts)) <= 1
    content = (tmp_path / "table.csv").read_text()
    once = content[: len(content) // 100_000]
    assert content == once * 100_000
    assert int(once) >= int(number)
    with files.atomic_folder(tmp_path / "cells"):
        pass
    files.write_text(tmp_path / "table.csv", "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"cells", "table.csv"}
