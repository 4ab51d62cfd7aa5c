"""The training benchmark takes a finished run again only where it is of the same cells and recipe."""

import shutil

import numpy as np
import pytest

from benchmarks import training
from malaria import tables
from tests.conftest import ROOT
from tests.support import project, revision_folders


def lay(folder, cells, size=32):
    """Packed cells and their split, as `dvc repro pack split` leaves them."""
    (folder / "data/packed").mkdir(parents=True, exist_ok=True)
    np.save(folder / "data/packed/cells.npy", np.zeros((len(cells), size, size, 3), np.uint8))
    tables.write(cells, folder / "data/packed/index.csv", tables.INDEX)
    tables.write(cells, folder / "data/splits.csv", tables.SPLITS)


@pytest.mark.parametrize("what", ["a label", "the split", "the size", "the recipe"])
def test_a_run_is_of_its_cells_their_split_and_the_recipe(tmp_path, monkeypatch, what):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")
    cells = revision_folders.cells(count=60)
    lay(tmp_path, cells)
    before = training.kept_in("ours", 1, 2, 0.9)
    assert training.kept_in("ours", 1, 2, 0.9) == before
    if what == "a label":
        lay(tmp_path, cells.assign(label="Uninfected"))
    elif what == "the split":
        lay(tmp_path, cells.assign(split="train"))
    elif what == "the size":
        lay(tmp_path, cells, size=50)
    else:
        project.change(tmp_path, {"train.learning_rate": 0.001})
    assert training.kept_in("ours", 1, 2, 0.9) != before


def test_a_run_of_other_code_is_run_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")
    lay(tmp_path, revision_folders.cells(count=60))
    before = training.kept_in("ours", 1, 2, 0.9)
    monkeypatch.setattr("malaria.bundle.build.CODE", ("network",))
    assert training.kept_in("ours", 1, 2, 0.9) != before
