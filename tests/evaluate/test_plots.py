"""The data of the plots, checked against counts by hand on eight cells."""

import numpy as np
import pandas as pd
import pytest

from malaria.evaluate import evaluation, plots
from malaria.params import load_params
from tests.conftest import ROOT

SETTINGS = load_params(ROOT / "params.yaml").evaluate


@pytest.fixture
def cells() -> pd.DataFrame:
    """Four cells of each class, of three patients."""
    rows = [
        ("P1", "Parasitized", 0.9), ("P1", "Parasitized", 0.5), ("P1", "Parasitized", 0.4),
        ("P2", "Parasitized", 0.8), ("P2", "Uninfected", 0.55), ("C3", "Uninfected", 0.1),
        ("C3", "Uninfected", 0.2), ("C3", "Uninfected", 0.3),
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["patient", "label", "p_parasitized"])


def frames(cells: pd.DataFrame, least: int, thresholds: dict | None = None) -> dict[str, pd.DataFrame]:
    """The plots' data with two bins, for patients of at least `least` parasitised cells."""
    settings = SETTINGS.model_copy(update={"bins": 2, "min_cells": least})
    return plots.frames(cells, evaluation.Fitted(1.0, thresholds or {}), settings)


def test_a_perfect_model_lies_on_the_diagonal_of_the_reliability_diagram(cells):
    found = frames(cells, 1)["reliability"]
    # From 0.1 to 0.5, two of five cells are parasitised; above 0.5, two of three.
    assert found.mean_probability.tolist() == [0.3, 0.75]
    assert found.share_parasitized.tolist() == [0.4, 0.666667]
    assert found.perfect.tolist() == [0.3, 0.75]


def test_cells_are_called_as_the_app_calls_them(cells):
    found = frames(cells, 1)["confusion"]
    assert found.actual.tolist() == cells.label.tolist()
    assert (
        found.predicted.tolist()
        == ["Parasitized"] * 2 + ["Uninfected"] + ["Parasitized"] * 2 + ["Uninfected"] * 3
    )


def test_each_class_has_its_own_bars(cells):
    found = frames(cells, 1)["scores"].set_index("p_parasitized")
    assert found.parasitized_cells[found.parasitized_cells > 0].to_dict() == {
        0.425: 1, 0.525: 1, 0.825: 1, 0.925: 1
    }  # fmt: skip
    assert found.uninfected_cells.sum() == 4
    assert found.uninfected_cells[0.125] == 1


@pytest.mark.parametrize(("least", "expected"), [(1, {"P1": 2 / 3, "P2": 1}), (2, {"P1": 2 / 3}), (4, {})])
def test_a_patient_is_drawn_with_so_many_parasitised_cells(cells, least, expected):
    found = frames(cells, least)["patients"]
    assert found.set_index("patient").sensitivity.to_dict() == pytest.approx(expected, abs=1e-6)


def test_a_patients_interval_is_wilsons(cells):
    found = frames(cells, 2)["patients"]
    # Two hits of three, by Wilson's formula.
    assert found[["low", "high"]].to_numpy().tolist() == [pytest.approx([0.207660, 0.938510], abs=1e-5)]


def test_operating_points_are_those_of_their_thresholds(cells):
    found = frames(cells, 1, {0.75: 0.55, 0.95: 0.9})["operating_points"]
    assert found.specificity.tolist() == [0.75, 0.95]
    # At 0.55 two of four parasitised cells and one healthy cell are called; at 0.9 one and none.
    assert found.sensitivity.tolist() == [0.5, 0.25]
    assert found.one_minus_specificity.tolist() == [0.25, 0]


def test_plots_are_written_as_light_tables(tmp_path):
    random = np.random.default_rng(0)
    many = pd.DataFrame({"patient": "P1", "label": random.choice(["Parasitized", "Uninfected"], 3000)})
    cells = many.assign(p_parasitized=random.random(3000))
    plots.write(cells, tmp_path, evaluation.Fitted(1.0, {0.95: 0.7}), SETTINGS)
    written = {file.stem: pd.read_csv(file) for file in tmp_path.glob("*.csv")}
    assert set(written) == {
        "roc", "operating_points", "precision_recall", "confusion", "reliability", "scores", "patients"
    }  # fmt: skip
    for name in ("roc", "precision_recall"):
        assert 300 < len(written[name]) <= 400
    assert written["roc"].iloc[[0, -1]].to_numpy().tolist() == [[0, 0], [1, 1]]
    assert written["scores"][["parasitized_cells", "uninfected_cells"]].to_numpy().sum() == 3000
