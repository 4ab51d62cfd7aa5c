"""`python -m malaria predict`: where its rows go, its exit status, and its errors."""

import dataclasses
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app import pictures
from malaria import bundle
from malaria.__main__ import main
from malaria.bundle import ood
from malaria.command import run_and_exit
from tests.support.project import ROOT


def predict(*arguments: str, most_bytes: int = resource.RLIM_INFINITY) -> subprocess.CompletedProcess[bytes]:
    """Run the command, in a process that may write files of `most_bytes` at most."""
    program = (
        f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({most_bytes}, {most_bytes}))\n"
        "from malaria.command import run_and_exit; from malaria.__main__ import main; run_and_exit(main)"
    )
    command = [sys.executable, "-c", program, "predict", *arguments]
    # As in most locales; in the C locale Python would print any file name.
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False, env=environment)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with 100 files that are no images; each gives a row."""
    (tmp_path / "in").mkdir()
    for number in range(100):
        (tmp_path / f"in/{number}.png").write_text("no image")
    return tmp_path / "in"


def test_a_file_name_that_is_no_utf8_comes_through_and_nothing_judged_is_a_failure(tmp_path, model_bundle):
    (tmp_path / os.fsdecode(b"latin-\xfc.png")).touch()
    done = predict(str(tmp_path), "--model", str(model_bundle))
    assert done.returncode == 1
    assert b"None of 1 images was judged" in done.stderr
    assert b"/latin-\xfc.png,,,unreadable,empty file\n" in done.stdout


def test_the_output_is_no_image_of_the_folder_that_is_judged(gated_bundle, tmp_path):
    Image.fromarray(next(pixels for pixels, _ in pictures.cells(1, seed=3))).save(tmp_path / "cell.png")
    out = tmp_path / "predictions.csv"
    for _ in range(2):
        done = predict(str(tmp_path), "--model", str(gated_bundle), "--out", str(out))
        assert (done.returncode, len(out.read_text().splitlines())) == (0, 2)


def test_rows_on_stdout_are_utf8_whatever_the_locale(tmp_path, model_bundle):
    (tmp_path / "zäh.png").touch()
    code = "from malaria.command import run_and_exit; from malaria.__main__ import main; run_and_exit(main)"
    command = [sys.executable, "-c", code, "predict", str(tmp_path), "--model", str(model_bundle)]
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, env=ascii_only)
    assert "zäh.png,,,unreadable,empty file".encode() in done.stdout


@pytest.mark.parametrize(
    ("limit", "foreign", "by_engine"), [(0.0, True, False), (np.inf, False, False), (0.0, True, True)]
)
def test_a_batch_of_a_foreign_stain_is_said_before_the_counts(
    gated_bundle, tmp_path, scheduler, limit, foreign, by_engine
):
    model, cells = tmp_path / "model", tmp_path / "cells"
    shutil.copytree(gated_bundle, model)
    gate = model / bundle.PARTS["gate"]
    check = dataclasses.replace(
        ood.from_bytes(gate.read_bytes()),
        patients_centre=np.zeros(13, np.float32),
        patients_whitening=np.eye(13, dtype=np.float32),
        patients_limit=np.array([limit], np.float32),
    )
    gate.write_bytes(ood.to_bytes(check))
    record = json.loads((model / bundle.RECORD).read_text())
    record["hashes"]["gate"] = hashlib.sha256(gate.read_bytes()).hexdigest()
    (model / bundle.RECORD).write_text(json.dumps(record))
    (model / bundle.MANIFEST).unlink()
    bundle.write_manifest(model)
    cells.mkdir()
    for number, (pixels, _) in enumerate(pictures.cells(60, seed=5)):
        Image.fromarray(pixels).save(cells / f"{number}.png")
    # A shard has 20 cells, while the check needs 50.
    spread = (
        "--engine",
        "dask",
        "--scheduler",
        scheduler,
        "--shard",
        "20",
        "--out",
        str(tmp_path / "out.csv"),
    )
    said = predict(str(cells), "--model", str(model), *(spread if by_engine else ())).stderr.decode()
    assert (ood.FOREIGN in said) is foreign
    assert "images judged" in said.partition(ood.FOREIGN)[2 if foreign else 0]


def test_a_disk_that_is_full_is_told_in_a_sentence(folder, tmp_path, model_bundle):
    out = tmp_path / "out.csv"
    done = predict(str(folder), "--model", str(model_bundle), "--out", str(out), most_bytes=4096)
    assert done.stderr.decode() == (
        f"error: {out} cannot be written (File too large): free some disk, or name another --out.\n"
    )
    assert (done.returncode, sorted(tmp_path.iterdir())) == (1, [folder])


@pytest.mark.parametrize(("share", "status"), [("0.58", 0), ("0.57", 1)])
def test_so_many_unreadable_images_as_are_allowed_are_no_failure(model_bundle, tmp_path, pngs, share, status):
    for number in range(50):
        (tmp_path / f"{number}.png").write_bytes(pngs[number % 12] if number >= 29 else b"no image")
    done = predict(str(tmp_path), "--model", str(model_bundle), "--max-unreadable", share)
    assert done.returncode == status, done.stderr


@pytest.mark.parametrize("engine", ["none", "dask"])
@pytest.mark.parametrize(
    ("out", "sentence"),
    [
        ("results", "--out is results, a folder: name a file in it."),
        ("note.txt/out.csv", "error: note.txt/out.csv cannot be written ("),
    ],
)
def test_an_out_that_cannot_be_written_is_refused_before_anything_is_judged(
    model_bundle, tmp_path, monkeypatch, capsys, engine, out, sentence
):
    monkeypatch.chdir(tmp_path)
    Path("results").mkdir()
    Path("note.txt").touch()
    options = ["--model", str(model_bundle), "--engine", engine, "--out", out]
    # If the command looked for cells first, its error would be that there are none.
    monkeypatch.setattr(sys, "argv", ["malaria", "predict", "not-there", *options])
    with pytest.raises(SystemExit, match="1"):
        run_and_exit(main)
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("out", ["-", "cell.png", "cells.zip"])
def test_an_out_that_is_no_table_is_refused_and_left_alone(tmp_path, monkeypatch, capsys, out):
    monkeypatch.chdir(tmp_path)
    Path("cell.png").write_bytes(b"a cell")
    monkeypatch.setattr(sys, "argv", ["malaria", "predict", "other.png", "--out", out])
    with pytest.raises(SystemExit, match="2"):
        run_and_exit(main)
    assert f"{out} is no table" in capsys.readouterr().err
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("cell.png", b"a cell")]


def test_an_out_that_is_a_link_stays_one_and_leads_to_the_rows(tmp_path, model_bundle, folder):
    (tmp_path / "rows.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to("rows.csv")
    predict(str(folder), "--model", str(model_bundle), "--out", str(tmp_path / "link.csv"))
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "rows.csv").read_text().count("unreadable") == 100


def test_where_there_is_no_image_it_is_said_which_folder_has_none(tmp_path, model_bundle):
    done = predict(str(tmp_path), "--model", str(model_bundle))
    assert done.returncode == 1
    assert f"There is no image in {tmp_path}: name" in done.stderr.decode()
