"""The weighted figures agree with scikit-learn, and the bootstrap resamples patients."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from malaria.evaluate import metrics


def sample(p, y, patient=None, resamples=None) -> metrics.Sample:
    """A sample of cells; by default they are of one patient, who is drawn once."""
    patient = np.zeros(len(p), int) if patient is None else patient
    resamples = np.ones((1, patient.max() + 1)) if resamples is None else resamples
    return metrics.Sample(np.asarray(p, float), np.asarray(y), patient, np.asarray(resamples))


@st.composite
def samples(draw):
    """Samples with ties in p, up to five patients, and how often each patient was drawn."""
    count = draw(st.integers(2, 40))
    p, y, patient = (
        np.array(draw(st.lists(values, min_size=count, max_size=count)))
        for values in (st.sampled_from(np.linspace(0, 1, 11)), st.integers(0, 1), st.integers(0, 4))
    )
    drawn = np.array([draw(st.lists(st.integers(0, 3), min_size=5, max_size=5))], dtype=float)
    return sample(p, y, patient, drawn)


def test_a_threshold_lies_between_cells_not_on_one():
    p, y = np.array([0.1, 0.2, 0.3, 0.5, 0.9]), np.array([0, 0, 0, 0, 1])
    assert metrics.threshold_at(p, y, 0.75) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("p", "y", "specificity", "threshold"),
    [
        ([0.1, 0.2, 0.3], [0, 0, 0], 0.5, 0.25),  # two of three cells under it, not one
        (np.arange(100) / 100, [0] * 100, 0.55, 0.545),  # 0.55 * 100 is 55.00000000000001: 55 cells
        ([0.2, 0.6], [0, 1], 0.01, 0.4),  # at least one cell under it
        ([0.1, 0.4], [0, 0], 1.0, 0.7),  # half-way to 1
        ([0.3, 0.9], [1, 1], 0.9, 0.5),  # no healthy cell
    ],
)
def test_a_threshold_is_set_by_the_healthy_cells_under_it(p, y, specificity, threshold):
    assert metrics.threshold_at(np.array(p), np.array(y), specificity) == pytest.approx(threshold)


def test_where_a_healthy_cell_at_one_must_stay_under_nothing_is_called():
    threshold = metrics.threshold_at(np.array([1.0, 1.0, 0.3]), np.array([0, 1, 1]), 0.9)
    assert 1 < threshold < 1 + 1e-9


def test_a_threshold_between_neighbouring_numbers_is_the_higher_one():
    above = np.nextafter(0.5, 1)
    assert metrics.threshold_at(np.array([0.5, above]), np.array([0, 1]), 1.0) == above


def test_cells_are_called_from_the_threshold_on():
    found = metrics.rates(sample([0.4, 0.5, 0.5, 0.3], [1, 1, 0, 0]))
    expected = {"accuracy": 0.5, "sensitivity": 0.5, "specificity": 0.5, "f1": 0.5, "mcc": 0.0}
    assert {name: values[0] for name, values in found.items()} == expected


def test_cells_that_tie_are_ranked_alike():
    found = metrics.ranking(sample([0.5, 0.5, 0.2], [1, 0, 0]))
    assert (found["auc"][0], found["average_precision"][0]) == (0.75, 0.5)


@pytest.mark.parametrize(("specificity", "sensitivity"), [(0.75, 0.5), (0.6, 0.5), (0.76, 0.25), (0, 1.0)])
def test_sensitivity_is_read_off_at_the_specificity_of_all_healthy_cells(specificity, sensitivity):
    cells = sample([0.1, 0.2, 0.3, 0.4, 0.05, 0.25, 0.35, 0.5], [0] * 4 + [1] * 4)
    assert metrics.sensitivity_at(cells, specificity)[0] == sensitivity


def test_where_no_threshold_is_specific_enough_nothing_is_found():
    assert metrics.sensitivity_at(sample([0.5, 0.5, 0.5], [0, 1, 1]), 0.9)[0] == 0


@pytest.mark.parametrize("p", [0.2, 0.9])
def test_one_class_alone_has_no_figure_that_needs_both(p):
    cells = sample([p], [0])
    found = metrics.rates(cells) | metrics.ranking(cells) | {"at": metrics.sensitivity_at(cells, 0.9)}
    unknown = {name for name, values in found.items() if np.isnan(values[0])}
    assert unknown == {"sensitivity", "f1", "mcc", "auc", "average_precision", "at"}


def test_one_healthy_cell_is_enough_for_a_correlation():
    # One true positive, one false negative, one true negative: 1 / sqrt(1 * 2 * 1 * 2).
    assert metrics.rates(sample([0.9, 0.2, 0.1], [1, 1, 0]))["mcc"][0] == pytest.approx(0.5)
    assert metrics.rates(sample([0.9, 0.1], [1, 0]))["mcc"][0] == 1


def test_squared_errors_are_averaged():
    assert metrics.brier(sample([0.2, 0.9], [0, 0]))[0] == pytest.approx((0.04 + 0.81) / 2)


def test_an_interval_has_the_percentiles_that_leave_out_a_fortieth_at_each_end():
    found = metrics.estimate(np.array([500.0, *range(1001), np.nan]))
    assert (found.value, found.low, found.high) == (500, 25, 975)


@pytest.mark.parametrize("figures", [[0.5, 0.5, 0.5], [0.5], [0.5, np.nan], [np.nan, 0.1, 0.2]])
def test_without_a_spread_or_a_figure_there_is_no_interval(figures):
    found = metrics.estimate(np.array(figures))
    assert np.isnan([found.low, found.high]).all()
    assert found.value == pytest.approx(figures[0], nan_ok=True)


def test_the_bootstrap_draws_as_many_patients_as_there_are():
    drawn = metrics.resample(7, 50, 1)
    assert drawn.shape == (51, 7)
    assert (drawn[0] == 1).all()
    assert (drawn.sum(axis=1) == 7).all()
    assert len(np.unique(drawn[1:], axis=0)) > 40
    assert (drawn == metrics.resample(7, 50, 1)).all()
    assert (drawn != metrics.resample(7, 50, 2)).any()


def test_perfect_probabilities_have_no_calibration_error():
    p, y = np.array([0.0, 0.0, 1.0, 1.0]), np.array([0, 0, 1, 1])
    assert metrics.ece(sample(p, y), 15)[0] == 0


def test_sureness_without_reason_is_calibration_error():
    p, y = np.full(10, 0.9), np.array([1] * 6 + [0] * 4)
    assert metrics.ece(sample(p, y), 15)[0] == pytest.approx(0.3)


def test_errors_of_calibration_do_not_cancel_out_between_bins():
    # The bin under 0.5 expects 0.6 parasites too few, the other 0.6 too many: 1.2 of four cells.
    found = metrics.ece(sample([0.2, 0.2, 0.8, 0.8], [0, 1, 1, 0]), 2)
    assert found[0] == pytest.approx(0.3)
    assert metrics.ece(sample([1.0, 1.0], [0, 1]), 2)[0] == 0.5


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
    assert metrics.macro(metrics.hits_by_patient(cells, 1, min_cells=1), cells.resamples)[0] == 0.5
    assert np.isnan(metrics.hits_by_patient(cells, 1, min_cells=3)[1])
    assert metrics.hits_by_patient(cells, 1, min_cells=2)[1] == 0
    assert np.isnan(metrics.hits_by_patient(cells, 0, min_cells=0)).sum() == 0


def test_a_patients_cells_are_called_from_one_half_on():
    cells = sample([0.5, 0.4, 0.5, 0.4, 0.9], [1, 1, 0, 0, 1], np.array([0, 0, 1, 1, 2]))
    assert metrics.hits_by_patient(cells, 1, min_cells=1)[[0, 2]].tolist() == [0.5, 1.0]
    assert metrics.hits_by_patient(cells, 0, min_cells=1)[1] == 0.5


def test_a_patient_whose_cells_are_all_left_out_has_no_figure():
    cells = sample([0.9, 0.1, 0.4, 0.9], [1, 0, 1, 0], np.array([0, 0, 1, 1])).only(np.arange(4) < 2)
    for figures in (
        metrics.hits_by_patient(cells, 1, min_cells=1),
        metrics.auc_by_patient(cells, min_cells=1),
    ):
        assert figures.tolist() == pytest.approx([1, np.nan], nan_ok=True)


def test_a_patients_auc_needs_so_many_cells_of_the_rarer_class():
    p = [0.1, 0.6, 0.4, 0.9, 0.1, 0.2, 0.3, 0.9, 0.8]
    cells = sample(p, [0, 0, 1, 1, 0, 0, 0, 1, 1], np.array([0] * 4 + [1] * 4 + [2]))
    found = metrics.auc_by_patient(cells, min_cells=2)
    assert found[0] == 0.75  # 0.4 is above 0.1 only, 0.9 above both
    assert np.isnan(found[1:]).all()
    assert metrics.auc_by_patient(cells, min_cells=0)[:2].tolist() == [0.75, 1.0]
    assert np.isnan(metrics.auc_by_patient(cells, min_cells=0)[2])
    assert metrics.macro(found, np.array([[1.0, 1, 1], [0, 1, 1]])).tolist() == pytest.approx(
        [0.75, np.nan], nan_ok=True
    )


def test_the_worst_decile_is_the_mean_of_the_worst_tenth():
    figures = np.arange(20)[::-1] / 20
    assert metrics.worst_decile(figures, np.ones((1, 20)))[0] == pytest.approx(0.025)
    # The worst 2 of 16; the worst of 5; both draws of the worst of 10; nan without a figure.
    for of_patients, drawn, worst in (
        (range(16), np.ones(16), 0.5),
        ([0.5, 0.1, 0.9, 0.7, 0.8], np.ones(5), 0.1),
        (range(10), [2] * 10, 0),
        ([np.nan], [1], np.nan),
    ):
        found = metrics.worst_decile(np.array(of_patients, float), np.array([drawn], float))
        assert found[0] == pytest.approx(worst, nan_ok=True)


def test_ppv_falls_with_parasitaemia():
    assert metrics.ppv(0.95, 0.97, 0.001) == pytest.approx(0.0307, abs=1e-4)
    # Of 100 cells, 45 are true positives and 10 are false positives.
    assert metrics.ppv(0.9, 0.8, 0.5) == pytest.approx(45 / 55)
    assert np.isnan(metrics.ppv(0.0, 1.0, 0.01))
    assert metrics.ppv(1.0, 0.0, 1.0) == 1
    for shares in ((1.2, 0.9, 0.1), (0.9, -0.1, 0.1), (0.9, 0.9, 1.01)):
        with pytest.raises(ValueError, match="is no share: it must be from 0 to 1"):
            metrics.ppv(*shares)


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
