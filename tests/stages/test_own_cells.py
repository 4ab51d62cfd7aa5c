"""Own cells: git ignores pictures of patients, and DVC finds what `dvc add` has stored."""

import shutil
import sys
from pathlib import Path

import pytest
from dvc.repo import Repo

from tests.support.project import ROOT, change, commit, git, run


@pytest.fixture
def own(repository) -> Path:
    """`repository` with a copy of its sample in data/mycells, as a user's own cells."""
    shutil.copytree(repository / "data/raw", repository / "data/mycells")
    return repository


PICTURES = ("data/folder/Parasitized/a.png", "data/mycells/Parasitized/a.png", "data/cells.zip")
KEPT = ("data/folder/README.md", "data/mycells.dvc", "data/mysplit.csv")


def test_git_takes_no_picture_below_data_and_dvc_finds_what_stands_for_them(tmp_path):
    shutil.copy(ROOT / ".gitignore", tmp_path)
    git("init", "-q", cwd=tmp_path)
    for name in (*PICTURES, *KEPT):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    git("add", "-A", cwd=tmp_path)
    assert set(git("ls-files", cwd=tmp_path).splitlines()) == {".gitignore", *KEPT}
    # DVC reads .gitignore in its own way, in which a folder ends with a slash.
    run("dvc", "init", "-q", cwd=tmp_path)
    with Repo(tmp_path) as repo:
        assert [repo.scm.is_ignored(f"{tmp_path}/{name}") for name in ("data/", "data/folder/")] == [
            False
        ] * 2


@pytest.mark.long
def test_cells_that_dvc_has_are_there_in_an_experiment_elsewhere(own):
    run("dvc", "add", "-q", "data/mycells", cwd=own)
    change(own, {"data.source": "folder", "data.folder": "data/mycells"})
    commit(own, "own cells")
    assert git("ls-files", "data/mycells*", cwd=own) == "data/mycells.dvc"
    done = run("dvc", "exp", "run", "--temp", "-n", "elsewhere", "fetch", cwd=own)
    assert "Ran experiment(s): elsewhere" in done.stdout


def test_a_stage_in_another_python_says_to_activate_the_environment():
    done = run(sys.executable, "-S", "-m", "stages.fetch", cwd=ROOT, ok=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "is not this project's Python: activate the environment first" in done.stderr
