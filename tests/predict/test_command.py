"""`python -m malaria predict`: where its rows go, and what it says where they cannot."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from malaria.__main__ import main
from malaria.command import end_with
from tests.support.project import ROOT


def predict(*arguments: str, most_bytes: int = resource.RLIM_INFINITY) -> subprocess.CompletedProcess[bytes]:
    """Run the command, in a process that may write files of `most_bytes` at most."""
    program = (
        f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({most_bytes}, {most_bytes}))\n"
        "from malaria.command import end_with; from malaria.__main__ import main; end_with(main)"
    )
    command = [sys.executable, "-c", program, "predict", *arguments]
    # As in most locales; in the plain one Python lets any name through.
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False, env=environment)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with a hundred files that are no images: a row each."""
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


def test_a_disk_that_is_full_is_told_in_a_sentence(folder, tmp_path, model_bundle):
    out = tmp_path / "out.csv"
    done = predict(str(folder), "--model", str(model_bundle), "--out", str(out), most_bytes=4096)
    assert done.stderr.decode() == (
        f"error: {out} cannot be written (File too large): free some disk, or name another --out.\n"
    )
    assert (done.returncode, sorted(tmp_path.iterdir())) == (1, [folder])


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
    # Whoever looks for cells first says that there are none.
    monkeypatch.setattr(sys, "argv", ["malaria", "predict", "not-there", *options])
    with pytest.raises(SystemExit, match="1"):
        end_with(main)
    assert sentence in capsys.readouterr().err
