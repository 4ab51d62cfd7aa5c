"""The weighted figures agree with scikit-learn, and the bootstrap resamples patients."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from malaria.evaluate import metrics


@st.composite
def cells(draw):
    """p with ties, y, patient and how often each patient was drawn."""
    count = draw(st.integers(2, 40))
    p = np.array(draw(st.lists(st.sampled_from(np.linspace(0, 1, 11)), min_size=count, max_size=count)))
    y = np.array(draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)))
    patient = np.array(draw(st.lists(st.integers(0, 4), min_size=count, max_size=count)))
    drawn = np.array([draw(st.lists(st.integers(0, 3), min_size=5, max_size=5))], dtype=float)
    return p, y, patient, drawn


@given(cells())
@settings(deadline=None)
def test_ranking_agrees_with_scikit_learn_on_repeated_cells(case):
    p, y, patient, drawn = case
    rows = np.repeat(np.arange(len(p)), drawn[0][patient].astype(int))
    found = metrics.ranking(p, y, patient, drawn)
    if len(set(y[rows])) == 2:
        assert found["auc"][0] == pytest.approx(sk.roc_auc_score(y[rows], p[rows]))
        assert found["average_precision"][0] == pytest.approx(sk.average_precision_score(y[rows], p[rows]))
    else:
        assert np.isnan(found["auc"][0])


@given(cells())
@settings(deadline=None)
def test_rates_agree_with_scikit_learn_on_repeated_cells(case):
    p, y, patient, drawn = case
    rows = np.repeat(np.arange(len(p)), drawn[0][patient].astype(int))
    called = p >= 0.5
    found = metrics.rates(called, y, patient, drawn)
    if len(set(y[rows])) == 2:
        assert found["mcc"][0] == pytest.approx(sk.matthews_corrcoef(y[rows], called[rows]))
        assert found["f1"][0] == pytest.approx(sk.f1_score(y[rows], called[rows], zero_division=0))
        assert found["sensitivity"][0] == pytest.approx(sk.recall_score(y[rows], called[rows]))
        assert found["specificity"][0] == pytest.approx(sk.recall_score(y[rows], called[rows], pos_label=0))
        assert found["accuracy"][0] == pytest.approx(sk.accuracy_score(y[rows], called[rows]))
        brier = metrics.brier(p, y, patient, drawn)[0]
        assert brier == pytest.approx(sk.brier_score_loss(y[rows], p[rows]))


@given(cells(), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_a_threshold_keeps_the_specificity_it_was_fixed_for(case, wanted):
    p, y, _, _ = case
    threshold = metrics.threshold_at(p, y, wanted)
    if (y == 0).any():
        assert (p[y == 0] < threshold).mean() >= wanted - 1e-9


def test_a_threshold_lies_between_cells_not_on_one():
    p, y = np.array([0.1, 0.2, 0.3, 0.5, 0.9]), np.array([0, 0, 0, 0, 1])
    assert metrics.threshold_at(p, y, 0.75) == pytest.approx(0.4)


def test_paired_differences_cancel_what_patients_share():
    random = np.random.default_rng(1)
    shared = random.normal(0, 1, 1000)
    difference = metrics.paired_difference(shared + 0.1, shared)
    assert difference.low == pytest.approx(0.1)
    assert difference.high == pytest.approx(0.1)


def test_figures_of_other_draws_are_no_pairs():
    with pytest.raises(ValueError, match="no pairs"):
        metrics.paired_difference(np.zeros(3), np.zeros(4))


def test_perfect_probabilities_have_no_calibration_error():
    p, y = np.array([0.0, 0.0, 1.0, 1.0]), np.array([0, 0, 1, 1])
    assert metrics.ece(p, y, np.zeros(4, int), np.ones((1, 1)), 15)[0] == 0


def test_sureness_without_reason_is_calibration_error():
    p, y = np.full(10, 0.9), np.array([1] * 6 + [0] * 4)
    assert metrics.ece(p, y, np.zeros(10, int), np.ones((1, 1)), 15)[0] == pytest.approx(0.3)


def test_the_interval_widens_when_cells_are_of_fewer_patients():
    random = np.random.default_rng(0)
    y = np.tile([0, 1], 200)
    called = (random.random(400) < 0.9) == (y == 1)
    called[y == 1] &= np.repeat(random.random(20) < 0.8, 20)[y == 1]
    widths = []
    for patient in (np.repeat(np.arange(20), 20), np.arange(400)):
        draws = metrics.draw_patients(patient.max() + 1, 500, 1)
        found = metrics.estimate(metrics.rates(called, y, patient, draws)["sensitivity"])
        widths.append(found.high - found.low)
    assert widths[0] > 1.5 * widths[1]


def test_patients_count_alike_however_many_cells_they_have():
    y = np.ones(12, int)
    called = np.array([True] * 10 + [False] * 2)
    patient = np.array([0] * 10 + [1] * 2)
    figures = metrics.by_patient(called, y == 1, patient, 2, least=1)
    assert metrics.macro(figures, np.ones((1, 2)))[0] == 0.5
    assert np.isnan(metrics.by_patient(called, y == 1, patient, 2, least=5)[1])


def test_the_worst_decile_is_the_mean_of_the_worst_tenth():
    figures = np.arange(20) / 20
    assert metrics.worst_decile(figures, np.ones((1, 20)))[0] == pytest.approx(0.025)


def test_ppv_falls_with_parasitaemia():
    assert metrics.ppv(0.95, 0.97, 0.001) == pytest.approx(0.0307, abs=1e-4)
    assert np.isnan(metrics.ppv(0.0, 1.0, 0.01))
    with pytest.raises(ValueError, match=r"1\.2 is no share"):
        metrics.ppv(1.2, 0.9, 0.1)


def test_a_draw_without_a_cell_has_no_figure_and_gives_no_warning():
    p, y, patient = np.array([0.2, 0.9]), np.array([0, 1]), np.array([0, 0])
    draws = np.array([[1.0, 1.0], [0.0, 2.0]])
    for figures in (metrics.ece(p, y, patient, draws, 15), metrics.brier(p, y, patient, draws)):
        assert not np.isnan(figures[0])
        assert np.isnan(figures[1])
