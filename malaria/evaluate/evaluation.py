"""How good a model is: fit temperature and operating points on val, score any labelled cells.

The pipeline, the model card and `python -m malaria evaluate` all score through here.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from malaria import params
from malaria.cells import doubtful_labels, names
from malaria.evaluate import calibration, metrics
from malaria.labels import PARASITIZED

AS_GIVEN, WITHOUT, FLIPPED = "as_given", "without_doubtful", "doubtful_flipped"


@dataclass(frozen=True)
class Fitted:
    """What is fixed on val and never again: `temperature`, and for each wanted specificity the
    calibrated probability from which a cell counts as parasitised.
    """

    temperature: float
    thresholds: Mapping[float, float]


def fit(p_network: metrics.Floats, y: metrics.Ints, settings: params.Evaluate) -> Fitted:
    """Fit on val: `p_network` float64 (n,), `y` int64 (n,)."""
    temperature = calibration.fit_temperature(p_network, y)
    p = calibration.apply(p_network, temperature)
    return Fitted(
        temperature, {wanted: metrics.threshold_at(p, y, wanted) for wanted in settings.specificities}
    )


def fit_on(val: pd.DataFrame, settings: params.Evaluate) -> Fitted:
    """`fit` on rows with the columns label and p_network, as in tables.PREDICTIONS."""
    y = np.where(val.label == PARASITIZED, 1, 0).astype(np.int64)
    return fit(val.p_network.to_numpy(np.float64), y, settings)


# What `as_text` shows: the figure's name, and in words.
MAIN = {
    "auc": "AUC",
    "accuracy": "accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "mcc": "MCC",
    "ece": "ECE",
    "macro_sensitivity": "sensitivity, mean of patients",
    "worst_decile_sensitivity": "sensitivity, worst tenth of them",
    "specificity_controls": "specificity, controls",
    "specificity_infected_patients": "specificity, infected patients",
}


def as_text(scores: dict[str, Any]) -> str:
    """The main figures of `score` for a terminal: a row each, a column a version of the labels."""
    columns = {"": scores}
    if "labels" in scores:
        columns = {name.replace("_", " "): scores["labels"][name] for name in (AS_GIVEN, WITHOUT, FLIPPED)}
    rows = [["", *columns]] if len(columns) > 1 else []
    rows += [
        [words, *(interval(column[name]) for column in columns.values())] for name, words in MAIN.items()
    ]
    return "\n".join(
        [
            f"{scores['cells']:,} cells of {scores['patients']:,} patients (95 % intervals over patients)",
            *("".join([f"{first:34}", *(f"{cell:28}" for cell in cells)]).rstrip() for first, *cells in rows),
        ]
    )


def summary(val: dict[str, Any], test: dict[str, Any]) -> dict[str, Any]:
    """The main figures, of test and without intervals, and the AUC on val: few enough for a column each.

    `val` and `test` are as `score` gives them.
    """
    main = {name: test[name]["value"] for name in MAIN}
    return {**main, "val_auc": val["auc"]["value"], "test_cells": test["cells"]}


def score(
    cells: pd.DataFrame,
    fitted: Fitted,
    settings: params.Evaluate,
    doubtful: frozenset[tuple[str, str]] = frozenset(),
) -> dict[str, Any]:
    """Score one set of cells.

    Args:
        cells: columns path, patient, label and p_network, as in tables.PREDICTIONS.
        doubtful: (label, file) of the labels in doubt, as `doubts.read` gives them; all figures without
            them and with them flipped are then given too, beside those on the labels as given.

    Returns:
        Plain values for JSON, rounded to six places; a figure is {value, low, high}, where null
        means that these cells cannot give it. Under `labels`, if any are doubtful, the same figures
        for each version of the labels.
    """
    y = np.where(cells.label == PARASITIZED, 1, 0).astype(np.int64)
    everything = np.ones(len(y), dtype=bool)
    owners, patient = metrics.number_patients(cells.patient)
    draws = metrics.draw_patients(len(owners), settings.resamples, settings.seed)
    given = _figures(cells, y, patient, draws, everything, fitted, settings)
    if not doubtful:
        return given
    doubted = doubtful_labels.among(cells, doubtful)
    return {
        **given,
        "labels": {
            "doubtful_cells": int(doubted.sum()),
            AS_GIVEN: given,
            WITHOUT: _figures(cells, y, patient, draws, ~doubted, fitted, settings),
            FLIPPED: _figures(cells, y ^ doubted, patient, draws, everything, fitted, settings),
        },
    }


def rejections(cells: pd.DataFrame) -> dict[str, Any]:
    """How many cells a bundle's gate turns away, for JSON: in all, of each class, and by reason.

    Args:
        cells: columns label and rejected, the reason or an empty text.
    """
    turned = cells[cells.rejected != ""]
    return {
        "of": len(cells),
        "cells": len(turned),
        "parasitized": int((turned.label == PARASITIZED).sum()),
        "reasons": {str(reason): int(count) for reason, count in turned.rejected.value_counts().items()},
    }


def _figures(
    cells: pd.DataFrame,
    y: metrics.Ints,
    patient: metrics.Ints,
    draws: metrics.Floats,
    kept: metrics.Bools,
    fitted: Fitted,
    settings: params.Evaluate,
) -> dict[str, Any]:
    """All figures of the cells that are `kept`, whose labels count as `y`, as plain values."""
    # By the labels as given: who is a control does not hang on the verdicts on single cells.
    controls = _controls(cells)[kept]
    p_network = cells.p_network.to_numpy(np.float64)[kept]
    y, patient = y[kept], patient[kept]
    p = calibration.apply(p_network, fitted.temperature)
    called = p >= 0.5

    figures = {
        **metrics.ranking(p, y, patient, draws),
        **metrics.rates(called, y, patient, draws),
        "brier_uncalibrated": metrics.brier(p_network, y, patient, draws),
        "brier": metrics.brier(p, y, patient, draws),
        "ece_uncalibrated": metrics.ece(p_network, y, patient, draws, settings.bins),
        "ece": metrics.ece(p, y, patient, draws, settings.bins),
        **patient_figures(p, y, patient, draws, settings),
    }
    for name, value in metrics.point(p, y, called).items():
        figures[name][0] = value
    for name, here in (("controls", controls), ("infected_patients", ~controls)):
        of_kind = metrics.rates(called[here], y[here], patient[here], draws)
        figures[f"specificity_{name}"] = of_kind["specificity"]
    content: dict[str, Any] = {
        "cells": len(y),
        "parasitized": int(y.sum()),
        "patients": len(np.unique(patient)),
        **{name: _plain(values) for name, values in figures.items()},
    }
    for wanted, threshold in fitted.thresholds.items():
        at = metrics.rates(p >= threshold, y, patient, draws)
        content[f"at_{wanted * 100:g}_specificity"] = {
            "threshold": round(threshold, 6),
            "sensitivity": _plain(at["sensitivity"]),
            "specificity": _plain(at["specificity"]),
        }
    return content


def patient_figures(
    p: metrics.Floats,
    y: metrics.Ints,
    patient: metrics.Ints,
    draws: metrics.Floats,
    settings: params.Evaluate,
) -> dict[str, metrics.Floats]:
    """Figures in which every patient counts alike, however many cells they have.

    A patient counts with at least settings.min_cells cells of the class, for AUC of either class.

    Args:
        p: float64 (n,), decided at 0.5; y: int64 (n,); patient: int64 (n,), as `metrics.number_patients`
            has them; draws: as `metrics.draw_patients` gives them.

    Returns:
        By name, each float64 (1 + resamples,).
    """
    patients, least = draws.shape[1], settings.min_cells
    sensitivity = metrics.by_patient(p >= 0.5, y == 1, patient, patients, least)
    specificity = metrics.by_patient(p < 0.5, y == 0, patient, patients, least)
    return {
        "macro_sensitivity": metrics.macro(sensitivity, draws),
        "worst_decile_sensitivity": metrics.worst_decile(sensitivity, draws),
        "macro_specificity": metrics.macro(specificity, draws),
        "macro_auc": metrics.macro(metrics.auc_by_patient(p, y, patient, patients, least), draws),
    }


def _controls(cells: pd.DataFrame) -> metrics.Bools:
    """Which cells are of uninfected controls, bool (n,).

    The file name tells where it follows the NIH scheme; else a patient without any parasitised cell
    counts as a control.
    """
    infected = set(cells.patient[cells.label == PARASITIZED])
    return np.array(
        [
            not name.infected if (name := names.parse(Path(path).name)) else patient not in infected
            for path, patient in zip(cells.path, cells.patient, strict=True)
        ],
        dtype=bool,
    )


def _plain(figures: metrics.Floats) -> dict[str, float | None]:
    estimate = metrics.estimate(figures)
    return {
        name: None if math.isnan(value) else round(value, 6)
        for name, value in (("value", estimate.value), ("low", estimate.low), ("high", estimate.high))
    }


def interval(figure: dict[str, float | None]) -> str:
    """`0.9570 (0.9441 to 0.9662)`, `0.9570` or `none`."""
    if figure["value"] is None:
        return "none"
    if figure["low"] is None:
        return f"{figure['value']:.4f}"
    return f"{figure['value']:.4f} ({figure['low']:.4f} to {figure['high']:.4f})"
