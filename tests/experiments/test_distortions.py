"""experiments.distortions: what each distortion of cells costs, against the same cells undistorted."""

import re
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from experiments import distortions
from malaria import paths, tables
from malaria.errors import UserError
from tests.support import bundles
from tests.support.project import ROOT


@pytest.fixture
def cells(tmp_path):
    for number, (cell, infected) in enumerate(bundles.drawn_cells()):
        folder = tmp_path / "cells" / ("Parasitized" if infected else "Uninfected")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(cell).save(folder / f"{number}.png")
    return tmp_path / "cells"


def test_each_distortion_has_its_shares_turned_away_and_its_loss(cells, gated_bundle, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["distortions", str(cells), "--model", str(gated_bundle)])
    distortions.main()
    said = capsys.readouterr().out
    rows = dict(re.findall(r"^(\S.*?)  +((?:-?[\d.]+ *){4})$", said, re.MULTILINE))
    assert set(rows) == set(distortions.DISTORTIONS)
    plain = [float(value) for value in rows["none"].split()]
    assert plain == [0, 0, plain[2], 0]
    none_left = [float(value) for value in rows["12 bits read as 16"].split()]
    assert none_left[:2] == [1, 1]
    assert none_left[3] == pytest.approx(100 * (plain[2] - none_left[2]), abs=0.1)


def test_cells_that_no_fold_has_judged_are_refused(cells, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / paths.PARAMS, tmp_path)
    table = pd.DataFrame({"path": ["Parasitized/another.png"], "fold": [0]})
    judged = table.assign(split="test", label="Parasitized", patient="P1", p_network=0.5, p_parasitized=0.5)
    (tmp_path / paths.CROSSVAL).mkdir(parents=True)
    tables.write(judged, paths.CROSSVAL / "crossval.csv", tables.OUT_OF_FOLD)
    monkeypatch.setattr("sys.argv", ["distortions", str(cells), "--name", "crossval"])
    with pytest.raises(UserError, match="12 of 12 cells are not among those of crossval"):
        distortions.main()


def test_distortions_do_what_they_are_called():
    cell = Image.fromarray(bundles.drawn_cells()[0][0])
    made = {name: distort(cell) for name, distort in distortions.DISTORTIONS.items()}
    assert made["on a canvas of 200 px"].width >= 199
    assert made["crop of 32 px"].size == (32, 32)
    assert made["squeezed to 60 x 120 px"].size == (60, 120)
    assert np.ptp(np.asarray(made["without colour"]), axis=2).max() == 0
    assert np.asarray(made["on white"])[0, 0].tolist() == [255, 255, 255]
    wide = made["black margin of 20%"].size
    assert wide == tuple(side + 2 * round(0.2 * max(cell.size)) for side in cell.size)
