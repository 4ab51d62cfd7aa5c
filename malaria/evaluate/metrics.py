"""Metrics of a classifier's probabilities, with intervals by a bootstrap of patients.

Every figure is a function of cells that are weighted by how often their patient was drawn: all weights 1 give
the figure itself, a bootstrap of patients gives its 95 % interval. Cells of one patient are not independent,
so a bootstrap of cells would make the intervals too narrow.

A figure is float64 (1 + resamples,): first the value on the cells as they are, then one on each resample; nan
if the cells cannot give it (AUC of one class, say). The tests compare the figures with scikit-learn's. They
are computed here because calling scikit-learn for each resample takes minutes, and because SciPy's bootstrap
cannot judge two models, or several figures, under the same resamples of patients.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from malaria import labels, params

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

# The percentiles of the resamples at the ends of a 95 % interval.
_PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True)
class Sample:
    """Cells, a model's probabilities for them, and the bootstrap of their patients.

    p: float64 (n,), P(parasitised); y: int64 (n,), 1 where parasitised; patient: int64 (n,), the number of
    the cell's patient, from 0; resamples: float64 (1 + resamples, patients), how often each patient was
    drawn: the first row is the data as they are.
    """

    p: Floats
    y: Ints
    patient: Ints
    resamples: Floats

    @property
    def patients(self) -> int:
        return int(self.resamples.shape[1])

    def only(self, mask: Bools) -> "Sample":
        """The cells in `mask`, bool (n,), under the same resamples."""
        return replace(self, p=self.p[mask], y=self.y[mask], patient=self.patient[mask])

    def cells(self, weights: Floats | Ints | Bools | None = None) -> Floats:
        """How many cells each resample has, or the sum of their `weights` (n,): float64 (1 + resamples,)."""
        return self.resamples @ np.bincount(self.patient, weights, self.patients)


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval; the ends are nan if there is no spread to estimate."""

    value: float
    low: float
    high: float


def sample(cells: pd.DataFrame, p: npt.ArrayLike, settings: params.Evaluate) -> Sample:
    """`cells`, columns patient and label, with a model's `p` (n,) and the bootstrap of `settings`."""
    names, patient = np.unique(cells.patient.to_numpy(str), return_inverse=True)
    resamples = resample(len(names), settings.resamples, settings.seed)
    return Sample(np.asarray(p, np.float64), labels.values(cells.label), patient.astype(np.int64), resamples)


def resample(patients: int, resamples: int, seed: int) -> Floats:
    """The bootstrap: float64 (1 + resamples, patients); the first row is the data as they are."""
    random = np.random.Generator(np.random.Philox(seed))
    counts = random.multinomial(patients, np.full(patients, 1 / patients), size=resamples)
    return np.vstack([np.ones(patients), counts])


def estimate(figures: Floats) -> Estimate:
    """Percentile interval (Efron and Tibshirani 1993) of a figure under its resamples."""
    value, spread = float(figures[0]), figures[1:][~np.isnan(figures[1:])]
    if np.isnan(value) or not len(spread) or np.ptp(spread) == 0:
        return Estimate(value, np.nan, np.nan)
    low, high = np.percentile(spread, _PERCENTILES)
    return Estimate(value, float(low), float(high))


def interval(
    value: float | None, low: float | None, high: float | None, form: str = ".4f", unknown: str = "none"
) -> str:
    """A figure and its interval for people: `0.9570 (0.9441 to 0.9662)`, `0.9570` or `none`.

    Args:
        value, low, high: None or nan if they are not known.
        form: of each number; `+.4f` gives differences their sign.
        unknown: the text if there is no figure.
    """
    if value is None or np.isnan(value):
        return unknown
    if low is None or high is None or np.isnan(low):
        return f"{value:{form}}"
    return f"{value:{form}} ({low:{form}} to {high:{form}})"


def rates(sample: Sample, threshold: float = 0.5) -> dict[str, Floats]:
    """Sensitivity, specificity, accuracy, F1 and Matthews' correlation of `p >= threshold`, by name."""
    called = sample.p >= threshold
    outcome = 2 * sample.y + called  # 0 TN, 1 FP, 2 FN, 3 TP
    tn, fp, fn, tp = (sample.cells(outcome == number) for number in range(4))
    with np.errstate(invalid="ignore", divide="ignore"):
        root = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
        both_classes = (tp + fn > 0) & (tn + fp > 0)
        return {
            "accuracy": (tp + tn) / (tp + tn + fp + fn),
            "sensitivity": tp / (tp + fn),
            "specificity": tn / (tn + fp),
            "f1": np.where(tp + fn > 0, 2 * tp / (2 * tp + fp + fn), np.nan),
            # As in scikit-learn: 0 if all cells are called alike.
            "mcc": np.where(both_classes, np.where(root > 0, (tp * tn - fp * fn) / root, 0.0), np.nan),
        }


def ranking(sample: Sample) -> dict[str, Floats]:
    """Area under the ROC curve and average precision; nan without both classes."""
    auc, precision = np.full((2, len(sample.resamples)), np.nan)
    for row, tp, fp in _curves(sample):
        new_tp, new_fp = np.diff(tp, prepend=0.0), np.diff(fp, prepend=0.0)
        # Above the first drawn cell no cell is called parasitised: avoid 0 / 0.
        precision[row] = (new_tp * tp / np.maximum(tp + fp, 1)).sum() / tp[-1]
        auc[row] = (new_fp * (tp - new_tp / 2)).sum() / (tp[-1] * fp[-1])
    return {"auc": auc, "average_precision": precision}


def sensitivity_at(sample: Sample, specificity: float) -> Floats:
    """The largest sensitivity at a specificity of at least `specificity`; nan without both classes.

    Each resample has its own threshold, because this measures how p ranks the cells.
    """
    sensitivity = np.full(len(sample.resamples), np.nan)
    for row, tp, fp in _curves(sample):
        # In floats 0.03 of 100 cells are 3.0000000000000027 or 2.9999999999999996, so allow for rounding.
        allowed = fp <= (1 - specificity) * fp[-1] + 1e-9
        sensitivity[row] = tp[allowed].max(initial=0.0) / tp[-1]
    return sensitivity


def brier(sample: Sample) -> Floats:
    """Mean squared difference of probability and label; nan if no cell is drawn."""
    with np.errstate(invalid="ignore"):
        return sample.cells((sample.p - sample.y) ** 2) / sample.cells()


def ece(sample: Sample, bins: int) -> Floats:
    """Expected calibration error (Naeini et al. 2015); nan if no cell is drawn.

    `|share parasitised - mean p|` in bins of p of equal width, weighted by cells.
    """
    bin_of = np.minimum((sample.p * bins).astype(np.int64), bins - 1)
    gaps = [sample.cells((sample.y - sample.p) * (bin_of == number)) for number in range(bins)]
    with np.errstate(invalid="ignore"):
        error: Floats = np.abs(gaps).sum(axis=0) / sample.cells()
    return error


def hits_by_patient(sample: Sample, kind: int, min_cells: int) -> Floats:
    """Share of each patient's cells of class `kind`, 0 or 1, that are called so at 0.5: float64 (patients,).

    nan for a patient with fewer than `min_cells` such cells.
    """
    in_class = sample.y == kind
    hit = in_class & ((sample.p >= 0.5) == kind)
    cells, hits = (np.bincount(sample.patient, weights, sample.patients) for weights in (in_class, hit))
    return np.where(cells >= min_cells, hits / np.maximum(cells, 1), np.nan)


def auc_by_patient(sample: Sample, min_cells: int) -> Floats:
    """AUC within each patient, float64 (patients,); nan with fewer than `min_cells` cells of either class."""
    # Imported here, because most programs that use this module do not need scikit-learn, which starts slowly.
    from sklearn.metrics import roc_auc_score

    figures = np.full(sample.patients, np.nan)
    counts = np.bincount(2 * sample.patient + sample.y, minlength=2 * sample.patients).reshape(-1, 2)
    for number in np.flatnonzero(counts.min(axis=1) >= max(min_cells, 1)):
        mask = sample.patient == number
        figures[number] = roc_auc_score(sample.y[mask], sample.p[mask])
    return figures


def macro(by_patient: Floats, resamples: Floats) -> Floats:
    """Mean over patients of a figure by patient; patients without one (nan) do not count."""
    known = ~np.isnan(by_patient)
    with np.errstate(invalid="ignore"):
        mean: Floats = (resamples[:, known] @ by_patient[known]) / resamples[:, known].sum(axis=1)
    return mean


def worst_decile(by_patient: Floats, resamples: Floats) -> Floats:
    """Mean of a figure over the worst tenth of patients (rounded, at least one)."""
    known = np.flatnonzero(~np.isnan(by_patient))
    means = np.full(len(resamples), np.nan)
    for row, counts in enumerate(resamples[:, known].astype(np.int64)):
        values = np.sort(np.repeat(by_patient[known], counts))
        if len(values):
            means[row] = values[: max(1, round(len(values) / 10))].mean()
    return means


def threshold_at(p: Floats, y: Ints, specificity: float) -> float:
    """The threshold with at least `specificity` of the uninfected cells below it, and no more than needed.

    A probability equal to the threshold counts as parasitised, as in labels.category, so cells that tie stay
    below it together. The threshold lies halfway to the next higher probability of any cell (or to 1), so
    that these cells fall on the same side if they are computed elsewhere with other rounding errors. If an
    uninfected cell at 1 must stay below, the threshold is just above 1, and no cell is called parasitised.
    0.5 if no cell is uninfected.
    """
    healthy = np.sort(p[y == 0])
    if not len(healthy):
        return 0.5
    # Without the subtraction, 0.55 of 100 cells (55.00000000000001) would become 56.
    rank = max(int(np.ceil(specificity * len(healthy) - 1e-9)), 1)
    last = float(healthy[rank - 1])
    if last >= 1:
        return float(np.nextafter(last, np.inf))
    following = float(p[p > last].min(initial=1.0))
    halfway = (last + following) / 2
    return halfway if halfway > last else following


def ppv(sensitivity: float, specificity: float, parasitaemia: float) -> float:
    """Probability that a cell called parasitised is parasitised.

    Args:
        sensitivity, specificity: of the operating point, in [0, 1].
        parasitaemia: share of red cells that carry parasites, in [0, 1] (0.001 is 0.1 %).

    Returns:
        Positive predictive value by Bayes' rule; nan when nothing would be called parasitised.

    Raises:
        ValueError: an argument lies outside [0, 1].
    """
    for value in (sensitivity, specificity, parasitaemia):
        if not 0 <= value <= 1:
            raise ValueError(f"{value} is no share: it must be from 0 to 1")
    true = sensitivity * parasitaemia
    called = true + (1 - specificity) * (1 - parasitaemia)
    return true / called if called else np.nan


def _curves(sample: Sample) -> Iterator[tuple[int, Floats, Floats]]:
    """ROC counts of each resample that has cells of both classes.

    Yields:
        The resample's row and, from the highest threshold to the lowest, how many cells are called
        parasitised rightly and wrongly, each (thresholds,).
    """
    order = np.argsort(-sample.p, kind="stable")
    p, y, patient = sample.p[order], sample.y[order], sample.patient[order]
    # Cells of equal p share one threshold: the last of each run stands for it.
    last = np.flatnonzero(np.diff(p, append=-np.inf))
    for row, counts in enumerate(sample.resamples):
        weight = counts[patient]
        tp, fp = (np.cumsum(weight * in_class)[last] for in_class in (y, 1 - y))
        if len(tp) and tp[-1] and fp[-1]:
            yield row, tp, fp
