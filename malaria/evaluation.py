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

from malaria import calibration, metrics, names, params
from malaria.errors import UserError
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


def as_text(scores: dict[str, Any]) -> str:
    """The main figures of `score`, a line each, for a terminal."""
    lines = [f"{scores['cells']} test cells of {scores['patients']} patients (95 % interval over patients)"]
    for name in ("auc", "accuracy", "sensitivity", "specificity", "macro_sensitivity", "mcc", "ece"):
        value, low, high = (scores[name][key] for key in ("value", "low", "high"))
        interval = "" if low is None else f"  ({low:.4f} to {high:.4f})"
        lines.append(f"{name:18} {'none' if value is None else f'{value:.4f}'}{interval}")
    return "\n".join(lines)


def score(
    cells: pd.DataFrame, fitted: Fitted, settings: params.Evaluate, doubtful: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """Score one set of cells.

    Args:
        cells: columns path, patient, label and p_network, as in tables.PREDICTIONS.
        doubtful: file names whose labels are in doubt; figures without them and with their labels
            flipped are given beside those on the labels as given.

    Returns:
        Plain values for JSON, rounded to six places; a figure is {value, low, high}, where null
        means that these cells cannot give it.
    """
    y = np.where(cells.label == PARASITIZED, 1, 0).astype(np.int64)
    p_network = cells.p_network.to_numpy(np.float64)
    p = calibration.apply(p_network, fitted.temperature)
    owners, patient = metrics.number_patients(cells.patient)
    draws = metrics.draw_patients(len(owners), settings.resamples, settings.seed)
    called = p >= 0.5
    controls = _controls(cells)

    figures = {
        **metrics.ranking(p, y, patient, draws),
        **metrics.rates(called, y, patient, draws),
        "brier_uncalibrated": metrics.brier(p_network, y, patient, draws),
        "brier": metrics.brier(p, y, patient, draws),
        "ece_uncalibrated": metrics.ece(p_network, y, patient, draws, settings.bins),
        "ece": metrics.ece(p, y, patient, draws, settings.bins),
        **_patient_figures(p, y, patient, draws, settings),
    }
    content: dict[str, Any] = {
        "cells": len(cells),
        "parasitized": int(y.sum()),
        "patients": len(owners),
        **{name: _plain(values) for name, values in figures.items()},
    }
    for name, here in (("controls", controls), ("infected_patients", ~controls)):
        of_kind = here & (y == 0)
        content[f"specificity_{name}"] = _plain(
            metrics.rates(called[of_kind], y[of_kind], patient[of_kind], draws)["specificity"]
        )
    for wanted, threshold in fitted.thresholds.items():
        at = metrics.rates(p >= threshold, y, patient, draws)
        content[f"at_{wanted * 100:g}_specificity"] = {
            "threshold": round(threshold, 6),
            "sensitivity": _plain(at["sensitivity"]),
            "specificity": _plain(at["specificity"]),
        }
    if doubtful:
        content["labels"] = _label_versions(cells, p, y, patient, draws, settings, doubtful)
    return content


def _label_versions(
    cells: pd.DataFrame,
    p: metrics.Floats,
    y: metrics.Ints,
    patient: metrics.Ints,
    draws: metrics.Floats,
    settings: params.Evaluate,
    doubtful: frozenset[str],
) -> dict[str, Any]:
    """The main figures on three versions of the labels, side by side."""
    doubted = cells.path.map(lambda path: Path(path).name in doubtful).to_numpy(bool)
    versions = {
        AS_GIVEN: (np.ones(len(y), dtype=bool), y),
        WITHOUT: (~doubted, y),
        FLIPPED: (np.ones(len(y), dtype=bool), np.where(doubted, 1 - y, y)),
    }
    content: dict[str, Any] = {"doubtful_cells": int(doubted.sum())}
    for name, (kept, labels) in versions.items():
        p_kept, y_kept, owner = p[kept], labels[kept], patient[kept]
        rates = metrics.rates(p_kept >= 0.5, y_kept, owner, draws)
        figures = {
            "auc": metrics.ranking(p_kept, y_kept, owner, draws)["auc"],
            **{key: rates[key] for key in ("accuracy", "sensitivity", "specificity")},
            **_patient_figures(p_kept, y_kept, owner, draws, settings),
        }
        content[name] = {"cells": int(kept.sum()), **{key: _plain(value) for key, value in figures.items()}}
    return content


def _patient_figures(
    p: metrics.Floats,
    y: metrics.Ints,
    patient: metrics.Ints,
    draws: metrics.Floats,
    settings: params.Evaluate,
) -> dict[str, metrics.Floats]:
    """Figures in which every patient counts alike, however many cells he has."""
    patients = draws.shape[1]
    sensitivity = metrics.by_patient(p >= 0.5, y == 1, patient, patients, settings.min_cells)
    auc = metrics.auc_by_patient(p, y, patient, patients, settings.min_cells)
    return {
        "macro_sensitivity": metrics.macro(sensitivity, draws),
        "worst_decile_sensitivity": metrics.worst_decile(sensitivity, draws),
        "macro_auc": metrics.macro(auc, draws),
    }


def read_doubtful(file: Path) -> frozenset[str]:
    """The file names in a table of doubtful labels (columns given_label, file); UserError if it is none."""
    try:
        table = pd.read_csv(file, dtype="str", keep_default_na=False)
    except FileNotFoundError:
        raise UserError(
            f"params.yaml: evaluate.doubtful_labels is {file}, but there is no such file."
        ) from None
    except (ValueError, UnicodeDecodeError):
        raise UserError(f"{file} is no CSV table: it needs the columns given_label,file.") from None
    if sorted(table.columns) != ["file", "given_label"]:
        raise UserError(f"{file} has the columns {', '.join(table.columns)}, but needs given_label,file.")
    return frozenset(table.file)


def _controls(cells: pd.DataFrame) -> Any:
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
