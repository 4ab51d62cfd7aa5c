"""Scores on labelled cells: temperature, thresholds, three versions of the labels, JSON without nan."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit

from malaria.cells import doubtful_labels
from malaria.errors import UserError
from malaria.evaluate import calibration, evaluation
from malaria.params import load_params

SETTINGS = load_params(Path(__file__).parents[2] / "params.yaml").evaluate.model_copy(
    update={"resamples": 100}
)


@pytest.fixture
def cells() -> pd.DataFrame:
    """400 cells of 12 patients, 9 of them infected, with overconfident probabilities."""
    random = np.random.default_rng(0)
    rows = []
    for number in range(400):
        patient = number % 12
        name = f"C1{patient}P{patient}ThinF" if patient < 9 else f"C{patient}NThinF"
        y = int(patient < 9 and random.random() < 0.6)
        logit = random.normal(3 if y else -3, 3)
        label = "Parasitized" if y else "Uninfected"
        rows.append(
            (
                f"{label}/{name}_IMG_20150918_140000_cell_{number}.png",
                f"P{patient}",
                label,
                1 / (1 + np.exp(-2 * logit)),
            )
        )
    return pd.DataFrame(rows, columns=["path", "patient", "label", "p_network"])


def test_temperature_scaling_recovers_the_temperature_of_too_sure_probabilities():
    random = np.random.default_rng(1)
    p = random.random(20_000)
    y = (random.random(20_000) < p).astype(int)
    sure = calibration.apply(p, 0.5)
    assert calibration.fit_temperature(sure, y) == pytest.approx(2.0, rel=0.05)


def test_the_summary_has_one_number_for_each_of_a_few_figures(cells):
    fitted = evaluation.fit(cells, SETTINGS)
    scores = evaluation.score(cells, fitted, SETTINGS)
    summary = evaluation.summary({"auc": {"value": 0.25}}, scores)
    assert summary["auc"] == scores["auc"]["value"]
    assert summary["val_auc"] == 0.25
    assert summary["test_cells"] == 400
    assert len(summary) <= 12
    assert all(isinstance(value, int | float) for value in summary.values())


def test_temperature_moves_no_cell_across_one_half():
    p = np.array([0.0, 0.4999, 0.5, 0.5001, 1.0])
    assert ((calibration.apply(p, 3.0) >= 0.5) == (p >= 0.5)).all()


def test_a_temperature_divides_log_odds_and_zero_and_one_stay_finite():
    p = np.array([0.01, 0.3, 0.9])
    assert calibration.apply(p, 2.5) == pytest.approx(expit(logit(p) / 2.5))
    # In double precision, also for float32 input, in which 1 - 1e-7 would be 1 - 1.2e-7.
    low, high = calibration.apply(np.array([0.0, 1.0], np.float32), 1.0)
    assert (low, 1 - high) == pytest.approx((1e-7, 1e-7), rel=1e-6)


@pytest.mark.parametrize(("p", "temperature"), [([0.499, 0.501] * 50, 0.05), ([0.999, 0.001] * 50, 20)])
def test_temperatures_end_at_0_05_and_20(p, temperature):
    """Predictions that are always right but unsure, or sure but always wrong, reach the limits."""
    assert calibration.fit_temperature(np.array(p), np.tile([0, 1], 50)) == pytest.approx(temperature, 1e-4)


def test_thresholds_are_of_calibrated_probabilities(cells):
    settings = SETTINGS.model_copy(update={"specificities": (0.9,)})
    fitted = evaluation.fit(cells, settings)
    assert fitted.temperature > 1.5
    healthy = np.sort(logit(cells.p_network[cells.label == "Uninfected"]))
    last = int(np.ceil(0.9 * len(healthy))) - 1
    low, high = expit(healthy[last : last + 2] / fitted.temperature)
    assert low < fitted.thresholds[0.9] <= high


def test_one_class_alone_leaves_probabilities_as_they_are():
    assert calibration.fit_temperature(np.array([0.2, 0.9]), np.array([1, 1])) == 1.0


def test_scores_hold_all_figures_with_intervals_and_survive_json(cells):
    fitted = evaluation.fit(cells, SETTINGS)
    scores = json.loads(json.dumps(evaluation.score(cells, fitted, SETTINGS), allow_nan=False))
    assert scores["auc"]["low"] < scores["auc"]["value"] < scores["auc"]["high"]
    assert scores["ece"]["value"] < scores["ece_uncalibrated"]["value"]
    assert scores["at_95_specificity"]["specificity"]["value"] >= 0.95
    assert "labels" not in scores


def test_controls_are_told_apart_by_name(cells):
    fitted = evaluation.Fitted(1.0, {})
    cells["p_network"] = np.where(cells.patient.isin(["P9", "P10", "P11"]), 0.9, 0.1)
    scores = evaluation.score(cells, fitted, SETTINGS)
    assert scores["specificity_controls"]["value"] == 0
    assert scores["specificity_infected_patients"]["value"] == 1


def test_a_name_tells_a_control_whatever_the_labels_of_the_patients_cells():
    infected, control = (f"C{of}_IMG_20150918_140000_cell" for of in ("1P1ThinF", "2NThinF"))
    found = few(
        [
            (f"{infected}_1.png", "P1", "Uninfected", 0.1),
            (f"{control}_1.png", "C2", "Uninfected", 0.9),
            (f"{control}_2.png", "C2", "Parasitized", 0.9),
        ]
    )
    scores = evaluation.score(found, evaluation.Fitted(1.0, {}), SETTINGS)
    assert scores["specificity_controls"]["value"] == 0
    assert scores["specificity_infected_patients"]["value"] == 1


def test_figures_of_nine_cells_are_those_by_hand():
    p = np.array([0.9, 0.1, 0.2, 0.3, 0.6, 0.1, 0.8, 0.4, 0.7])
    y = np.array([1, 1, 0, 0, 0, 0, 1, 0, 0])
    kinds = ("Uninfected", "Parasitized")
    found = few([(f"{n}.png", "AAAAAABBB"[n], kinds[y[n]], p[n]) for n in range(9)])
    settings = SETTINGS.model_copy(update={"min_cells": 1})
    scores = evaluation.score(found, evaluation.Fitted(2.0, {}), settings)
    by_hand = {
        "brier_uncalibrated": 2.01 / 9,
        "brier": np.mean((expit(logit(p) / 2) - y) ** 2),
        # Right calls: 1 of 2 parasitised and 3 of 4 healthy cells of patient A, 1 of 1 and 1 of 2 of B.
        "macro_sensitivity": (1 / 2 + 1) / 2,
        "worst_decile_sensitivity": 1 / 2,
        "macro_specificity": (3 / 4 + 1 / 2) / 2,
        # Of A's 8 pairs, 4.5 are in order (a tie counts as half); of B's 2 pairs, both.
        "macro_auc": (4.5 / 8 + 1) / 2,
    }
    assert {name: scores[name]["value"] for name in by_hand} == pytest.approx(by_hand, abs=1e-6)


def few(rows: list[tuple[str, str, str, float]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["path", "patient", "label", "p_network"])


def test_without_such_names_a_patient_of_no_parasitised_cell_is_a_control():
    found = few(
        [
            ("a.png", "ill", "Parasitized", 0.9),
            ("b.png", "ill", "Uninfected", 0.1),
            ("c.png", "well", "Uninfected", 0.9),
            ("d.png", "well", "Uninfected", 0.9),
        ]
    )
    scores = evaluation.score(found, evaluation.Fitted(1.0, {}), SETTINGS)
    assert scores["specificity_controls"]["value"] == 0
    assert scores["specificity_infected_patients"]["value"] == 1


def test_an_operating_points_rates_are_those_at_its_threshold():
    found = few(
        [
            ("a.png", "P1", "Parasitized", 0.95),
            ("b.png", "P1", "Parasitized", 0.6),
            ("c.png", "P1", "Uninfected", 0.92),
            ("d.png", "P2", "Uninfected", 0.91),
            ("e.png", "P2", "Uninfected", 0.7),
            ("f.png", "P2", "Uninfected", 0.1),
        ]
    )
    at = evaluation.score(found, evaluation.Fitted(1.0, {0.975: 0.9}), SETTINGS)["at_97.5_specificity"]
    assert (at["threshold"], at["sensitivity"]["value"], at["specificity"]["value"]) == (0.9, 0.5, 0.5)


def test_rejections_are_counted_by_class_and_reason():
    cells = pd.DataFrame(
        {
            "label": ["Parasitized", "Uninfected", "Parasitized", "Parasitized", "Uninfected"],
            "rejected": ["", "odd", "odd", "even", ""],
        }
    )
    assert evaluation.rejections(cells) == {
        "of": 5, "cells": 3, "parasitized": 2, "reasons": {"odd": 2, "even": 1}
    }  # fmt: skip


def test_cells_of_no_known_patient_are_no_patients_and_no_controls(cells):
    unknown = cells.assign(path=[f"{label}/{n}.png" for n, label in enumerate(cells.label)])
    unknown["patient"] = "cell " + unknown.path
    fitted = evaluation.fit(cells, SETTINGS)
    scores = evaluation.score(unknown, fitted, SETTINGS)
    assert (scores["patients"], scores["cells_without_patient"]) == (0, 400)
    assert scores["auc"] != scores["specificity_controls"] == {"value": None, "low": None, "high": None}
    assert evaluation.as_text(scores).startswith("400 cells, patients not known (95 % intervals over cells)")
    some = evaluation.score(pd.concat([cells[:100], unknown[100:]]), fitted, SETTINGS)
    alone = evaluation.score(cells[:100], fitted, SETTINGS)
    assert (some["patients"], some["cells_without_patient"]) == (12, 300)
    for name in ("worst_decile_sensitivity", "macro_sensitivity", "specificity_controls"):
        assert some[name]["value"] == alone[name]["value"]


def test_doubtful_labels_are_left_out_and_flipped_side_by_side(cells):
    wrong = cells.iloc[:20].copy()
    cells["p_network"] = np.where(cells.label == "Parasitized", 0.9, 0.1)
    cells.loc[:19, "p_network"] = 1 - cells.p_network[:20]
    doubtful = frozenset(
        (label, Path(path).name) for label, path in zip(wrong.label, wrong.path, strict=True)
    )
    labels = evaluation.score(cells, evaluation.Fitted(1.0, {}), SETTINGS, doubtful)["labels"]
    assert labels["doubtful_cells"] == 20
    assert labels["as_given"]["accuracy"]["value"] == 0.95
    assert labels["without_doubtful"]["accuracy"]["value"] == 1
    assert labels["without_doubtful"]["cells"] == 380
    assert labels["doubtful_flipped"]["accuracy"]["value"] == 1


@pytest.mark.parametrize("named", [str, lambda path: Path(path).name])
def test_a_label_in_doubt_is_told_by_its_path_or_name(cells, named):
    doubtful = frozenset({(cells.label[3], named(cells.path[3]))})
    assert np.flatnonzero(doubtful_labels.is_doubtful(cells, doubtful)).tolist() == [3]


def test_a_doubtful_label_that_was_corrected_since_counts_again(cells):
    then = "Parasitized" if cells.label[0] == "Uninfected" else "Uninfected"
    for name in (cells.path[0], Path(cells.path[0]).name):
        corrected = frozenset({(then, name)})
        labels = evaluation.score(cells, evaluation.Fitted(1.0, {}), SETTINGS, corrected)["labels"]
        assert labels["doubtful_cells"] == 0


def test_the_text_has_a_column_for_each_version_of_the_labels(cells):
    doubtful = frozenset({(cells.label[0], cells.path[0])})
    text = evaluation.as_text(evaluation.score(cells, evaluation.Fitted(1.0, {}), SETTINGS, doubtful))
    assert text.splitlines()[1].split() == ["as", "given", "without", "doubtful", "doubtful", "flipped"]


def test_a_few_perfect_cells_do_not_make_certain():
    """The targets (n + 1) / (n + 2) for n cells of a class (Platt 1999) fit these cells at temperature 2."""
    y, p = np.repeat([0, 1], [2, 6]), np.repeat(expit([-2 * np.log(3), 2 * np.log(7)]), [2, 6])
    assert calibration.fit_temperature(p, y) == pytest.approx(2, rel=1e-5)
    assert calibration.fit_temperature(np.tile(p, 100), np.tile(y, 100)) < 1


def test_cells_of_one_class_give_null_and_no_warning(cells):
    healthy = cells[cells.label == "Uninfected"]
    scores = evaluation.score(healthy, evaluation.Fitted(1.0, {0.97: 0.9}), SETTINGS)
    assert scores["auc"]["value"] is None
    assert scores["sensitivity"]["value"] is None
    assert scores["specificity"]["value"] is not None
    assert "none" in evaluation.as_text(scores)


@pytest.mark.parametrize(("figure", "said"), [(0.12345678, "0.123457"), (-1e-9, "0.0"), (np.nan, "None")])
def test_a_figure_has_six_places_and_zero_no_sign(figure, said):
    assert str(evaluation.as_json(np.array([figure, 0.0, 1.0]))["value"]) == said


def test_the_baselines_published_figures_are_reproduced(shared_cells):
    table = pd.read_csv(shared_cells / "baseline-oof.csv")
    from malaria.cells import names

    table["patient"] = [names.parse(file).patient for file in table.file]
    doubtful = doubtful_labels.read(shared_cells / "expert-suspects.csv", "evaluate.doubtful_labels")
    parasitized = _names_of(shared_cells, "parasitized")
    table["label"] = np.where(table.file.isin(parasitized), "Parasitized", "Uninfected")
    scored = table.assign(path=table.file, p_network=table.p_parasitized)
    scores = evaluation.score(scored, evaluation.Fitted(1.0, {}), SETTINGS, doubtful)
    without = scores["labels"]["without_doubtful"]
    assert scores["accuracy"]["value"] == pytest.approx(0.9570, abs=5e-5)
    assert without["auc"]["value"] == pytest.approx(0.9992, abs=5e-5)
    assert without["macro_sensitivity"]["value"] == pytest.approx(0.9645, abs=5e-5)
    assert without["worst_decile_sensitivity"]["value"] == pytest.approx(0.763, abs=5e-4)


def _names_of(shared_cells: Path, kind: str) -> set[str]:
    """All file names in a mapping file of the NLM, which has them in single quotes."""
    text = (shared_cells / f"patientid_cellmapping_{kind}.csv").read_text()
    return set(text.split("'")[1::2])


def test_a_list_of_doubtful_labels_has_pairs_and_says_nothing_of_no_cells(tmp_path):
    file = tmp_path / "doubtful.csv"
    file.write_text("given_label,file\nUninfected,a.png\nParasitized,b/c.png\n")
    listed = doubtful_labels.read(file, "evaluate.doubtful_labels")
    assert listed == {("Uninfected", "a.png"), ("Parasitized", "b/c.png")}
    of_none = doubtful_labels.is_doubtful(pd.DataFrame({"path": [], "label": []}), listed)
    assert (of_none.dtype, len(of_none)) == (bool, 0)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("file\na\n", "needs given_label,file"),
        (None, r"params\.yaml: evaluate\.doubtful_labels is .*, but there is no such file"),
        ("", "is no CSV table"),
        ("given_label,file\ninfected,a.png\n", "'infected' in given_label, but it must be Uninfected"),
    ],
)
def test_a_doubtful_table_of_another_shape_is_refused(tmp_path, text, sentence):
    file = tmp_path / "doubtful.csv"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=sentence):
        doubtful_labels.read(file, "evaluate.doubtful_labels")
