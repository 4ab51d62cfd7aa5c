"""ci.drift: it reports changes of the cells' number, labels and look, and nothing for equal data."""

import re
import shutil
import sys

import numpy as np
import pandas as pd
import pytest

from ci import drift
from malaria import paths, tables
from malaria.cells import packed
from malaria.errors import UserError
from tests.conftest import ROOT
from tests.support import revision_folders as made
from tests.support.project import commit, run


@pytest.fixture
def data(tmp_path):
    """Return a function that writes audited and packed cells: grey squares at level 150 + `light`."""

    def _data(name, cells, light=0.0, side=50, width=50):
        folder = tmp_path / name
        pixels = np.zeros((len(cells), side, side, 3), np.uint8)
        random = np.random.default_rng(0)
        inside = np.s_[:, side // 5 : -side // 5, side // 5 : -side // 5]
        pixels[inside] = (random.normal(150 + light, 5, pixels[inside].shape)).clip(0, 255).astype(np.uint8)
        tables.write(cells.assign(width=width), folder / paths.CELLS, tables.CELLS)
        (folder / paths.PACKED).mkdir(parents=True)
        np.save(folder / paths.PACKED / packed.ARRAY, pixels)
        own = dict.fromkeys(packed.COLOURS, int(150 + light))
        tables.write(cells.assign(**own), folder / paths.PACKED / packed.INDEX, tables.INDEX)
        return folder

    return _data


def test_the_same_cells_have_not_drifted(data):
    found = drift.compare(data("a", made.cells(120, 30)), data("b", made.cells(120, 30)))
    assert (found.classes == 0).all(axis=None)
    assert list(found.classes.index) == ["Parasitized", "Uninfected"]
    assert (found.quantities.distance == 0).all()
    assert "No quantity has drifted." in drift.markdown(found, "HEAD", 0.1)


def test_another_light_is_drift_of_brightness_and_no_gain_of_cells(data):
    found = drift.compare(data("a", made.cells(120, 30)), data("b", made.cells(120, 30), light=20))
    stain = found.quantities.loc["stain, log optical density"]
    assert stain.distance == 1
    assert stain.now < stain.before
    assert found.quantities.distance["longer side, px"] == 0
    assert "stain, log optical density" in drift.markdown(found, "HEAD", 0.1)


def test_a_distance_at_the_limit_has_not_drifted():
    none = pd.DataFrame(0, index=["Parasitized", "Uninfected"], columns=["gained", "lost"])
    looks = pd.DataFrame(
        {"before": 1.0, "now": [1.0, 2.125, 1.0], "distance": [0.1, 0.1006, 0.05]},
        index=["size", "light", "red"],
    )
    found = drift.Drift((10, 10), (0.5, 0.5), none, looks)
    text = drift.markdown(found, "HEAD", 0.1)
    assert "Drifted: light." in text
    assert text.count("**drifted**") == 1
    assert re.search(r"\| light +\| +1\.00 +\| +2\.12 +\| +0\.101 +\| \*\*drifted\*\* +\|", text)


def test_larger_crops_are_drift_of_size(data):
    found = drift.compare(data("a", made.cells(120, 30)), data("b", made.cells(120, 30), width=80))
    assert found.quantities.loc["longer side, px"].to_list() == [50, 80, 1]


def test_cells_that_came_and_went_and_the_share_of_parasitised_ones_are_counted(data):
    found = drift.compare(data("a", made.cells(120, 30)), data("b", made.cells(90, 30, first=60)))
    assert found.cells == (120, 90)
    assert found.classes.lost.to_dict() == {"Parasitized": 30, "Uninfected": 30}
    assert found.classes.gained.to_dict() == {"Parasitized": 0, "Uninfected": 30}
    assert found.share == pytest.approx((1 / 2, 1 / 3))
    said = drift.markdown(found, "HEAD", 0.1)
    assert "parasitised 50.0% before, 33.3% now" in said
    assert re.search(r"\| Uninfected +\| +30 \| +30 \|", said)


def test_cells_packed_at_another_size_cannot_be_compared(data):
    with pytest.raises(UserError, match=r"compare two of the same pack\.size"):
        drift.compare(data("a", made.cells(60)), data("b", made.cells(60), side=40))


def test_a_base_that_no_store_has_is_said_and_stops_no_retraining(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("params.yaml", "dvc.yaml", "dvc.lock"):
        shutil.copy(ROOT / name, tmp_path / name)
    run("git", "init", "-q", ".", cwd=tmp_path)
    run(sys.executable, "-m", "dvc", "init", "-q", cwd=tmp_path)
    commit(tmp_path, "locked, and never run here")
    monkeypatch.setattr("sys.argv", ["drift", "--base", "HEAD"])
    drift.main()
    said = (tmp_path / "reports/ci/drift.md").read_text()
    assert "Not compared: `dvc get --quiet" in said
    assert said in capsys.readouterr().out


def test_a_base_that_git_does_not_know_is_an_error(monkeypatch):
    monkeypatch.setattr("sys.argv", ["drift", "--base", "no-such-branch"])
    with pytest.raises(UserError, match="git knows no revision no-such-branch"):
        drift.main()
