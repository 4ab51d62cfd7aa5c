"""Write the data of the plots of `dvc plots show`: one small CSV per plot, drawn by DVC's templates."""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve
from sklearn.metrics import precision_recall_curve, roc_curve

from malaria import labels, params
from malaria.evaluate.evaluation import Fitted

# A curve looks the same with this many points, and the page stays light.
_POINTS = 400
_SCORES = 20  # bins of the histogram of probabilities


def write(cells: pd.DataFrame, folder: Path, fitted: Fitted, settings: params.Evaluate) -> None:
    """Write the plots' data for one set of cells into `folder`; arguments as in `frames`."""
    for name, frame in frames(cells, fitted, settings).items():
        frame.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")


def frames(cells: pd.DataFrame, fitted: Fitted, settings: params.Evaluate) -> dict[str, pd.DataFrame]:
    """The data of each plot, by its name, rounded to six places.

    Args:
        cells: columns patient, label and p_parasitized, as in tables.PREDICTIONS; both classes.
        fitted: its thresholds are the operating points.
        settings: its bins of the reliability diagram, and how many parasitised cells a patient needs.
    """
    y, p = labels.values(cells.label), cells.p_parasitized.to_numpy(np.float64)
    fpr, tpr, _ = roc_curve(y, p)
    precision, recall, _ = precision_recall_curve(y, p)
    share, mean = calibration_curve(y, p, n_bins=settings.bins)
    edges = np.linspace(0, 1, _SCORES + 1)
    plots = {
        "roc": _thin(pd.DataFrame({"one_minus_specificity": fpr, "sensitivity": tpr})),
        "operating_points": pd.DataFrame(
            {
                "specificity": specificity,
                "one_minus_specificity": np.mean(p[y == 0] >= threshold),
                "sensitivity": np.mean(p[y == 1] >= threshold),
            }
            for specificity, threshold in fitted.thresholds.items()
        ),
        "precision_recall": _thin(pd.DataFrame({"sensitivity": recall, "precision": precision})),
        "confusion": pd.DataFrame(
            {"actual": cells.label, "predicted": [labels.category(value) for value in p]}
        ),
        "reliability": pd.DataFrame({"mean_probability": mean, "share_parasitized": share, "perfect": mean}),
        "scores": pd.DataFrame(
            {
                "p_parasitized": (edges[:-1] + edges[1:]) / 2,
                "parasitized_cells": np.histogram(p[y == 1], edges)[0],
                "uninfected_cells": np.histogram(p[y == 0], edges)[0],
            }
        ),
        "patients": _patients(cells, settings.min_cells),
    }
    return {name: frame.round(6) for name, frame in plots.items()}


def _patients(cells: pd.DataFrame, min_cells: int) -> pd.DataFrame:
    """Each patient's sensitivity at 0.5 with its 95 % interval (Wilson)."""
    parasitized = cells[cells.label == labels.PARASITIZED]
    hits = (parasitized.p_parasitized >= 0.5).groupby(parasitized.patient)
    table = hits.agg(size="size", sum="sum", sensitivity="mean").reset_index()
    table = table[table["size"] >= min_cells].reset_index(drop=True)
    tests = [binomtest(k, n) for k, n in zip(table["sum"], table["size"], strict=True)]
    intervals = [test.proportion_ci(method="wilson") for test in tests]
    return table[["patient", "sensitivity"]].join(pd.DataFrame(intervals, columns=["low", "high"]))


def _thin(curve: pd.DataFrame) -> pd.DataFrame:
    """At most `_POINTS` rows of `curve`, including both ends."""
    if len(curve) <= _POINTS:
        return curve
    return curve.iloc[np.unique(np.linspace(0, len(curve) - 1, _POINTS).astype(int))]
