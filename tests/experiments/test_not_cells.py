"""Pictures that are no cell: their variety, reproducibility from a seed, and the report on them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from experiments import ood
from malaria import bundle
from malaria.bundle import not_cells
from tests.support import bundles

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pictures():
    return all_kinds(3)


def all_kinds(count: int) -> dict[str, list[np.ndarray]]:
    which = ([pixels for pixels, _ in bundles.drawn_cells()], count, 1)
    return not_cells.all_kinds(*which) | ood.photographs(*which)


def test_pictures_that_are_no_cell_are_varied_and_of_a_crops_kind(pictures):
    assert len(pictures) >= 20
    every = [picture for of_kind in pictures.values() for picture in of_kind]
    assert all(picture.dtype == np.uint8 and picture.shape[2:] == (3,) for picture in every)
    assert min(min(picture.shape[:2]) for picture in every) >= 16
    assert len({picture.tobytes() for picture in every}) == len(every)


def test_the_photographs_that_packages_ship_are_among_them():
    assert {"scikit-image", "scikit-learn"} <= set(ood.shipped())
    assert "chelsea.png" in {file.name for file in ood.shipped()["scikit-image"]}


def test_the_same_seed_gives_the_same_pictures_and_more_of_them_change_none(pictures):
    again = all_kinds(1)
    assert list(again) == list(pictures)
    for kind, of_kind in again.items():
        for picture, before in zip(of_kind, pictures[kind], strict=False):
            assert picture.tobytes() == before.tobytes(), kind


def test_a_gate_turns_away_nearly_all_of_them(pictures, gated_bundle):
    model = bundle.load(gated_bundle, threads=1)
    turned = {
        kind: np.mean([reason is not None for reason in model.run(of_kind).rejected])
        for kind, of_kind in pictures.items()
    }
    assert np.mean(list(turned.values())) > 0.9, turned


def test_the_report_counts_by_kind_and_counts_cells_beside(gated_bundle, tmp_path):
    for number, (cell, _) in enumerate(bundles.drawn_cells()):
        (tmp_path / "cells").mkdir(exist_ok=True)
        Image.fromarray(cell).save(tmp_path / "cells" / f"{number}.png")
    command = [sys.executable, "-m", "experiments.ood", "--model", str(gated_bundle), "--count", "1"]
    done = subprocess.run(
        [*command, "--cells", "cells", "--out", "ood.csv"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "ood.csv")
    cells = table[table.cells].set_index("kind")
    assert (cells.pictures["cells"], cells.rejected["cells"]) == (12, 0)
    others = table[~table.cells].set_index("kind")
    assert others.rejected["blank"] == 1
    assert f"{others.rejected.sum()} of {others.pictures.sum()} pictures turned away" in done.stdout
