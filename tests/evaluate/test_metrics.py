"""The weighted figures agree with scikit-learn, and the bootstrap resamples patients."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from malaria.evaluate import metrics


def sample(p, y, patient=None, resamples=None) -> metrics.Sample:
    """Cells of one patient, each as often as it is, unless it is said otherwise."""
    patient = np.zeros(len(p), int) if patient is None else patient
    resamples = np.ones((1, patient.max() + 1)) if resamples is None else resamples
    return metrics.Sample(np.asarray(p, float), np.asarray(y), patient, np.asarray(resamples))


@st.composite
def samples(draw):
    """p with ties, y, patients and how often each of them was drawn."""
    count = draw(st.integers(2, 40))
    p, y, patient = (
        np.array(draw(st.lists(values, min_size=count, max_size=count)))
        for values in (st.sampled_from(np.linspace(0, 1, 11)), st.integers(0, 1), st.integers(0, 4))
    )
    drawn = np.array([draw(st.lists(st.integers(0, 3), min_size=5, max_size=5))], dtype=float)
    return sample(p, y, patient, drawn)


@given(samples())
@settings(deadline=None)
def test_figures_agree_with_scikit_learn_on_repeated_cells(cells):
    rows = np.repeat(np.arange(len(cells.p)), cells.resamples[0][cells.patient].astype(int))
    p, y, called = cells.p[rows], cells.y[rows], cells.p[rows] >= 0.5
    found = metrics.ranking(cells) | metrics.rates(cells) | {"brier": metrics.brier(cells)}
    if len(set(y)) < 2:
        assert np.isnan([found[name][0] for name in ("auc", "average_precision", "mcc")]).all()
        return
    expected = {
        "auc": sk.roc_auc_score(y, p),
        "average_precision": sk.average_precision_score(y, p),
        "mcc": sk.matthews_corrcoef(y, called),
        "f1": sk.f1_score(y, called, zero_division=0),
        "sensitivity": sk.recall_score(y, called),
        "specificity": sk.recall_score(y, called, pos_label=0),
        "accuracy": sk.accuracy_score(y, called),
        "brier": sk.brier_score_loss(y, p),
    }
    assert {name: values[0] for name, values in found.items()} == pytest.approx(expected)


@given(samples(), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_a_threshold_keeps_the_specificity_it_was_fixed_for(cells, wanted):
    p, y = cells.p, cells.y
    threshold = metrics.threshold_at(p, y, wanted)
    if (y == 0).any():
        assert (p[y == 0] < threshold).mean() >= wanted - 1e-9


def test_a_threshold_lies_between_cells_not_on_one():
    p, y = np.array([0.1, 0.2, 0.3, 0.5, 0.9]), np.array([0, 0, 0, 0, 1])
    assert metrics.threshold_at(p, y, 0.75) == pytest.approx(0.4)


def test_perfect_probabilities_have_no_calibration_error():
    p, y = np.array([0.0, 0.0, 1.0, 1.0]), np.array([0, 0, 1, 1])
    assert metrics.ece(sample(p, y), 15)[0] == 0


def test_sureness_without_reason_is_calibration_error():
    p, y = np.full(10, 0.9), np.array([1] * 6 + [0] * 4)
    assert metrics.ece(sample(p, y), 15)[0] == pytest.approx(0.3)


def test_the_interval_widens_when_cells_are_of_fewer_patients():
    random = np.random.default_rng(0)
    y = np.tile([0, 1], 200)
    called = (random.random(400) < 0.9) == (y == 1)
    called[y == 1] &= np.repeat(random.random(20) < 0.8, 20)[y == 1]
    widths = []
    for patient in (np.repeat(np.arange(20), 20), np.arange(400)):
        cells = sample(called, y, patient, metrics.resample(patient.max() + 1, 500, 1))
        found = metrics.estimate(metrics.rates(cells)["sensitivity"])
        widths.append(found.high - found.low)
    assert widths[0] > 1.5 * widths[1]


def test_patients_count_alike_however_many_cells_they_have():
    y = np.ones(12, int)
    called = np.array([True] * 10 + [False] * 2)
    patient = np.array([0] * 10 + [1] * 2)
    cells = sample(called, y, patient)
    assert metrics.macro(metrics.hits_by_patient(cells, 1, least=1), cells.resamples)[0] == 0.5
    assert np.isnan(metrics.hits_by_patient(cells, 1, least=5)[1])


def test_the_worst_decile_is_the_mean_of_the_worst_tenth():
    figures = np.arange(20) / 20
    assert metrics.worst_decile(figures, np.ones((1, 20)))[0] == pytest.approx(0.025)


def test_ppv_falls_with_parasitaemia():
    assert metrics.ppv(0.95, 0.97, 0.001) == pytest.approx(0.0307, abs=1e-4)
    assert np.isnan(metrics.ppv(0.0, 1.0, 0.01))
    with pytest.raises(ValueError, match=r"1\.2 is no share"):
        metrics.ppv(1.2, 0.9, 0.1)


def test_a_resample_without_a_cell_has_no_figure_and_gives_no_warning():
    cells = sample([0.2, 0.9], [0, 1], np.array([0, 0]), [[1.0, 1.0], [0.0, 2.0]])
    for figures in (metrics.ece(cells, 15), metrics.brier(cells)):
        assert not np.isnan(figures[0])
        assert np.isnan(figures[1])


@pytest.mark.parametrize(
    ("figure", "words"),
    [
        ((0.95, 0.9, 0.97), "0.9500 (0.9000 to 0.9700)"),
        ((0.95, None, None), "0.9500"),
        ((0.95, np.nan, np.nan), "0.9500"),
        ((None, None, None), "none"),
        ((np.nan, np.nan, np.nan), "none"),
    ],
)
def test_a_figure_is_told_with_what_is_known_of_its_interval(figure, words):
    assert metrics.interval(*figure) == words
