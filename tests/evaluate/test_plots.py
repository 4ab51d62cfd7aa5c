"""The plots' data, held against what a person counts in eight cells."""

import numpy as np
import pandas as pd
import pytest

from malaria.evaluate import plots


@pytest.fixture
def cells() -> pd.DataFrame:
    """Four cells of each class, of three patients."""
    rows = [
        ("P1", "Parasitized", 0.9), ("P1", "Parasitized", 0.5), ("P1", "Parasitized", 0.4),
        ("P2", "Parasitized", 0.8), ("P2", "Uninfected", 0.55), ("C3", "Uninfected", 0.1),
        ("C3", "Uninfected", 0.2), ("C3", "Uninfected", 0.3),
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["patient", "label", "p_parasitized"])


def test_a_perfect_model_lies_on_the_diagonal_of_the_reliability_diagram(cells):
    found = plots.frames(cells, 2, 1, {0.95: 0.7})["reliability"]
    # From 0.1 to 0.5 two of five are parasitised, above it two of three.
    assert found.mean_probability.tolist() == [0.3, 0.75]
    assert found.share_parasitized.tolist() == [0.4, 0.666667]
    assert found.perfect.tolist() == [0.3, 0.75]


def test_cells_are_called_as_the_app_calls_them(cells):
    found = plots.frames(cells, 2, 1, {0.95: 0.7})["confusion"]
    assert found.actual.tolist() == cells.label.tolist()
    assert (
        found.predicted.tolist()
        == ["Parasitized"] * 2 + ["Uninfected"] + ["Parasitized"] * 2 + ["Uninfected"] * 3
    )


def test_each_class_has_its_own_bars(cells):
    found = plots.frames(cells, 2, 1, {0.95: 0.7})["scores"].set_index("p_parasitized")
    assert found.parasitized_cells[found.parasitized_cells > 0].to_dict() == {
        0.425: 1, 0.525: 1, 0.825: 1, 0.925: 1
    }  # fmt: skip
    assert found.uninfected_cells.sum() == 4
    assert found.uninfected_cells[0.125] == 1


@pytest.mark.parametrize(("least", "expected"), [(1, {"P1": 2 / 3, "P2": 1}), (2, {"P1": 2 / 3}), (4, {})])
def test_a_patient_is_drawn_with_so_many_parasitised_cells(cells, least, expected):
    found = plots.frames(cells, 2, least, {0.95: 0.7})["patients"]
    assert found.set_index("patient").sensitivity.to_dict() == pytest.approx(expected, abs=1e-6)


def test_plots_are_written_as_light_tables(tmp_path):
    random = np.random.default_rng(0)
    many = pd.DataFrame({"patient": "P1", "label": random.choice(["Parasitized", "Uninfected"], 3000)})
    plots.write(many.assign(p_parasitized=random.random(3000)), tmp_path, 15, 5, {0.95: 0.7})
    frames = {file.stem: pd.read_csv(file) for file in tmp_path.glob("*.csv")}
    assert set(frames) == {
        *("roc", "operating_points", "precision_recall", "confusion"),
        *("reliability", "scores", "patients"),
    }
    for name in ("roc", "precision_recall"):
        assert 300 < len(frames[name]) <= 400
    assert frames["roc"].iloc[[0, -1]].to_numpy().tolist() == [[0, 0], [1, 1]]
    assert frames["scores"][["parasitized_cells", "uninfected_cells"]].to_numpy().sum() == 3000


def test_operating_points_lie_on_the_curve_and_intervals_round_each_patient():
    random = np.random.default_rng(0)
    labels = random.choice(["Parasitized", "Uninfected"], 3000)
    p = np.clip(random.normal(np.where(labels == "Parasitized", 0.7, 0.4), 0.2), 0, 1)
    patients = random.choice(["P1", "P2", "P3"], 3000)
    many = pd.DataFrame({"patient": patients, "label": labels, "p_parasitized": p})
    drawn = plots.frames(many, 15, 5, {0.95: 0.7})
    (point,) = drawn["operating_points"].itertuples()
    curve = drawn["roc"]
    found = np.interp(point.one_minus_specificity, curve.one_minus_specificity, curve.sensitivity)
    assert point.sensitivity == pytest.approx(found, abs=0.02)
    assert (drawn["patients"].low <= drawn["patients"].sensitivity).all()
    assert (drawn["patients"].sensitivity <= drawn["patients"].high).all()
