"""What is measured of a classifier's probabilities, and how sure the measure is.

Every figure is a function of cells that are weighted by how often their patient was drawn: all
weights 1 give the figure itself, a bootstrap of patients gives its 95 % interval. Cells of one
patient are no independent evidence; resampling cells would make the intervals too narrow.

Arrays: `p` float64 (n,), P(parasitised); `y` int64 (n,), 1 where parasitised; `called` bool (n,),
called parasitised; `patient` int64 (n,), the number of the cell's patient, from 0; `draws` float64
(resamples, patients), how often each patient was drawn. A figure that the cells cannot give (AUC of
one class, say) is nan. The figures themselves are scikit-learn's where it has them (`point`); the
resamples are computed here, since asking scikit-learn a thousand times takes minutes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn import metrics as sk

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

# The bootstrap's percentiles at the ends of a 95 % interval.
_ENDS = (2.5, 97.5)


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval; the ends are nan where there is no spread to estimate."""

    value: float
    low: float
    high: float


def number_patients(names: npt.ArrayLike) -> tuple[npt.NDArray[Any], Ints]:
    """The patients' names, sorted, and the number of each cell's patient."""
    known, patient = np.unique(np.asarray(names, dtype=str), return_inverse=True)
    return known, patient.astype(np.int64)


def draw_patients(patients: int, resamples: int, seed: int) -> Floats:
    """The bootstrap: float64 (1 + resamples, patients); the first row is the data as they are."""
    random = np.random.Generator(np.random.Philox(seed))
    drawn = random.multinomial(patients, np.full(patients, 1 / patients), size=resamples)
    return np.vstack([np.ones(patients), drawn])


def estimate(figures: Floats) -> Estimate:
    """Percentile interval (Efron and Tibshirani 1993) of a figure under `draw_patients`' rows."""
    value, spread = float(figures[0]), figures[1:][~np.isnan(figures[1:])]
    if np.isnan(value) or not len(spread) or np.ptp(spread) == 0:
        return Estimate(value, np.nan, np.nan)
    low, high = np.percentile(spread, _ENDS)
    return Estimate(value, float(low), float(high))


def paired_difference(one: Floats, other: Floats) -> Estimate:
    """`one` minus `other`: two models' figures under the same draws of the same patients.

    An interval that excludes zero says that patients like these would tell the two apart.

    Raises:
        ValueError: the two were not computed under the same number of draws.
    """
    if one.shape != other.shape:
        raise ValueError(f"{len(one)} and {len(other)} resamples are no pairs: use the same draws for both")
    return estimate(one - other)


def point(p: Floats, y: Ints, called: Bools) -> dict[str, float]:
    """The figures of the cells as they are that scikit-learn has and these cells can give."""
    found: dict[str, float] = {}
    if len(y):
        found |= {"accuracy": sk.accuracy_score(y, called), "brier": sk.brier_score_loss(y, p, labels=[0, 1])}
    if (y == 1).any():
        found |= {"sensitivity": sk.recall_score(y, called), "f1": sk.f1_score(y, called)}
    if (y == 0).any():
        found["specificity"] = sk.recall_score(y, called, pos_label=0)
    if len(np.unique(y)) == 2:
        found |= {
            "auc": sk.roc_auc_score(y, p),
            "average_precision": sk.average_precision_score(y, p),
            "mcc": sk.matthews_corrcoef(y, called),
        }
    return found


def rates(called: Bools, y: Ints, patient: Ints, draws: Floats) -> dict[str, Floats]:
    """Sensitivity, specificity, accuracy, F1 and Matthews' correlation, each (resamples,)."""
    kind = 2 * y + called  # 0 TN, 1 FP, 2 FN, 3 TP
    counts = np.bincount(4 * patient + kind, minlength=4 * draws.shape[1]).reshape(-1, 4)
    tn, fp, fn, tp = (draws @ counts).T
    with np.errstate(invalid="ignore", divide="ignore"):
        root = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
        both = (tp + fn > 0) & (tn + fp > 0)
        return {
            "accuracy": (tp + tn) / (tp + tn + fp + fn),
            "sensitivity": tp / (tp + fn),
            "specificity": tn / (tn + fp),
            "f1": np.where(tp + fn > 0, 2 * tp / (2 * tp + fp + fn), np.nan),
            # As scikit-learn has it: 0 where all cells are called alike.
            "mcc": np.where(both, np.where(root > 0, (tp * tn - fp * fn) / root, 0.0), np.nan),
        }


def ranking(p: Floats, y: Ints, patient: Ints, draws: Floats) -> dict[str, Floats]:
    """Area under the ROC curve and average precision, each (resamples,); nan without both classes."""
    auc, precision = np.full(len(draws), np.nan), np.full(len(draws), np.nan)
    for row, tp, fp in _curves(p, y, patient, draws):
        gained, false = np.diff(tp, prepend=0.0), np.diff(fp, prepend=0.0)
        # Before the first drawn cell nothing is called, and nothing gained.
        precision[row] = (gained * tp / np.maximum(tp + fp, 1)).sum() / tp[-1]
        auc[row] = (false * (tp - gained / 2)).sum() / (tp[-1] * fp[-1])
    return {"auc": auc, "average_precision": precision}


def sensitivity_at(p: Floats, y: Ints, patient: Ints, draws: Floats, specificity: float) -> Floats:
    """The largest sensitivity that leaves at least `specificity`, (resamples,); nan without both classes.

    Each draw has its own threshold: what counts is how p ranks the cells.
    """
    found = np.full(len(draws), np.nan)
    for row, tp, fp in _curves(p, y, patient, draws):
        # In floats 0.03 of 100 cells are 3.0000000000000027 or 2.9999999999999996: not to be left to chance.
        allowed = fp <= (1 - specificity) * fp[-1] + 1e-9
        found[row] = tp[allowed].max(initial=0.0) / tp[-1]
    return found


def brier(p: Floats, y: Ints, patient: Ints, draws: Floats) -> Floats:
    """Mean squared difference of probability and label, (resamples,); nan where no cell is drawn."""
    return _mean((p - y) ** 2, patient, draws)


def ece(p: Floats, y: Ints, patient: Ints, draws: Floats, bins: int) -> Floats:
    """Expected calibration error, (resamples,): over equal bins of p, |share parasitised - mean p|
    weighted by cells (Naeini et al. 2015); nan where no cell is drawn.
    """
    bin_of = np.minimum((p * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(bins * patient + bin_of, weights=y - p, minlength=bins * draws.shape[1])
    cells = draws @ np.bincount(patient, minlength=draws.shape[1])
    with np.errstate(invalid="ignore"):
        error: Floats = np.abs(draws @ gaps.reshape(-1, bins)).sum(axis=1) / cells
    return error


def by_patient(hit: Bools, among: Bools, patient: Ints, patients: int, least: int) -> Floats:
    """Share of `hit` among each patient's cells of `among`, (patients,); nan under `least` cells."""
    cells = np.bincount(patient, weights=among, minlength=patients)
    hits = np.bincount(patient, weights=hit & among, minlength=patients)
    return np.where(cells >= least, hits / np.maximum(cells, 1), np.nan)


def macro(figures: Floats, draws: Floats) -> Floats:
    """Mean over patients of a patient's figure, (resamples,); patients without one do not count."""
    known = ~np.isnan(figures)
    with np.errstate(invalid="ignore"):
        mean: Floats = (draws[:, known] @ figures[known]) / draws[:, known].sum(axis=1)
    return mean


def worst_decile(figures: Floats, draws: Floats) -> Floats:
    """Mean of the worst tenth of patients (rounded, at least one), (resamples,)."""
    known = np.flatnonzero(~np.isnan(figures))
    out = np.full(len(draws), np.nan)
    for row, drawn in enumerate(draws[:, known].astype(np.int64)):
        values = np.sort(np.repeat(figures[known], drawn))
        if len(values):
            out[row] = values[: max(1, round(len(values) / 10))].mean()
    return out


def auc_by_patient(p: Floats, y: Ints, patient: Ints, patients: int, least: int) -> Floats:
    """AUC within each patient, (patients,); nan with under `least` cells of either class."""
    figures = np.full(patients, np.nan)
    fewer = np.bincount(2 * patient + y, minlength=2 * patients).reshape(-1, 2).min(axis=1)
    for number in np.flatnonzero(fewer >= max(least, 1)):
        own = patient == number
        figures[number] = sk.roc_auc_score(y[own], p[own])
    return figures


def threshold_at(p: Floats, y: Ints, specificity: float) -> float:
    """The threshold with at least `specificity` of the uninfected cells under it, and no more than needed.

    The threshold itself counts as parasitised, as in labels.category, so cells that tie stay under it
    together. It lies halfway to the next higher probability of any cell (or to 1): computed elsewhere
    with other rounding errors, these cells still fall on the same side. Where an uninfected cell at 1
    must stay under, it lies just above 1 and calls nothing. 0.5 where no cell is uninfected.
    """
    healthy = np.sort(p[y == 0])
    if not len(healthy):
        return 0.5
    # Without the subtraction 0.55 of 100 cells, 55.00000000000001, would be 56.
    under = max(int(np.ceil(specificity * len(healthy) - 1e-9)), 1)
    last = float(healthy[under - 1])
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


def _curves(p: Floats, y: Ints, patient: Ints, draws: Floats) -> Iterator[tuple[int, Floats, Floats]]:
    """Of each draw with cells of both classes its row and, from the highest threshold to the lowest, how
    many cells are called rightly and falsely, each (thresholds,).
    """
    order = np.argsort(-p, kind="stable")
    # Cells of equal p share one threshold: the last of each run stands for it.
    last = np.flatnonzero(np.append(np.diff(p[order]) != 0, True)) if len(p) else np.zeros(0, np.int64)
    positive, owner = y[order], patient[order]
    for row, drawn in enumerate(draws):
        weight = drawn[owner]
        tp, fp = (np.cumsum(weight * kind)[last] for kind in (positive, 1 - positive))
        if len(tp) and tp[-1] and fp[-1]:
            yield row, tp, fp


def _mean(values: Floats, patient: Ints, draws: Floats) -> Floats:
    sums = np.bincount(patient, weights=values, minlength=draws.shape[1])
    with np.errstate(invalid="ignore"):
        mean: Floats = (draws @ sums) / (draws @ np.bincount(patient, minlength=draws.shape[1]))
    return mean
