"""Evaluate a model: fit temperature and operating points on val, and score any labelled cells.

The pipeline, the model card and `python -m malaria evaluate` all score with this module.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from malaria import labels, params
from malaria.cells import doubtful_labels, names, patients
from malaria.evaluate import calibration, metrics

AS_GIVEN, WITHOUT, FLIPPED = "as_given", "without_doubtful", "doubtful_flipped"


@dataclass(frozen=True)
class Fitted:
    """What is fitted on val and then stays fixed.

    `temperature`, and for each specificity the threshold: the calibrated probability from which a cell counts
    as parasitised.
    """

    temperature: float
    thresholds: Mapping[float, float]


def fit(val: pd.DataFrame, settings: params.Evaluate) -> Fitted:
    """Fit on val: rows with the columns label and p_network, as in tables.PREDICTIONS."""
    y, p_network = labels.values(val.label), val.p_network.to_numpy(np.float64)
    temperature = calibration.fit_temperature(p_network, y)
    p = calibration.apply(p_network, temperature)
    thresholds = {value: metrics.threshold_at(p, y, value) for value in settings.specificities}
    return Fitted(temperature, thresholds)


def score(
    cells: pd.DataFrame,
    fitted: Fitted,
    settings: params.Evaluate,
    doubtful: doubtful_labels.Pairs = frozenset(),
) -> dict[str, Any]:
    """Score one set of cells.

    Args:
        cells: columns path, patient, label and p_network, as in tables.PREDICTIONS.
        doubtful: the doubtful labels, as `doubtful_labels.read` gives them; all figures are then also given
            without these cells, and with their labels flipped.

    Returns:
        Plain values for JSON, rounded to six places; a figure is {value, low, high}, where null means that
        these cells cannot give it. `patients` counts the known ones. `cells_without_patient`, if there are
        any, counts the cells of unknown patients: each is its own patient, in the intervals only. `labels`,
        if there are doubtful ones, has the same figures for each version of the labels.
    """
    sample = metrics.sample(cells, cells.p_network, settings)
    # From the labels as given: verdicts on single cells do not change which patients are controls.
    controls, known = _controls(cells), patients.is_known(cells.patient).to_numpy()
    in_doubt = doubtful_labels.is_doubtful(cells, doubtful) if doubtful else None
    figures = {
        name: _figures(version, controls[mask], known[mask], fitted, settings)
        for name, (version, mask) in versions(sample, in_doubt).items()
    }
    if in_doubt is None:
        return figures[AS_GIVEN]
    return {**figures[AS_GIVEN], "labels": {"doubtful_cells": int(in_doubt.sum()), **figures}}


def versions(
    sample: metrics.Sample, in_doubt: metrics.Bools | None
) -> dict[str, tuple[metrics.Sample, metrics.Bools]]:
    """The cells with their labels as given, without those `in_doubt` (bool (n,)), and with these flipped.

    Returns:
        By version the cells, and which of `sample` they are, bool (n,); only the labels as given if
        `in_doubt` is None.
    """
    all_cells = np.ones(len(sample.y), dtype=bool)
    by_version = {AS_GIVEN: (sample, all_cells)}
    if in_doubt is not None:
        by_version[WITHOUT] = sample.only(~in_doubt), ~in_doubt
        by_version[FLIPPED] = replace(sample, y=sample.y ^ in_doubt), all_cells
    return by_version


def rejections(cells: pd.DataFrame) -> dict[str, Any]:
    """How many cells a bundle rejects, for JSON: in all, of the parasitised ones, and by reason.

    Args:
        cells: columns label and rejected (the reason, or an empty text).
    """
    rejected = cells[cells.rejected != ""]
    return {
        "of": len(cells),
        "cells": len(rejected),
        "parasitized": int((rejected.label == labels.PARASITIZED).sum()),
        "reasons": {str(reason): int(count) for reason, count in rejected.rejected.value_counts().items()},
    }


def _figures(
    uncalibrated: metrics.Sample,
    controls: metrics.Bools,
    known: metrics.Bools,
    fitted: Fitted,
    settings: params.Evaluate,
) -> dict[str, Any]:
    """All figures as plain values, of cells with the network's probabilities.

    Figures by patient and by kind of patient use only cells whose patient is `known`.
    """
    sample = replace(uncalibrated, p=calibration.apply(uncalibrated.p, fitted.temperature))
    figures = {
        **metrics.ranking(sample),
        **metrics.rates(sample),
        "brier_uncalibrated": metrics.brier(uncalibrated),
        "brier": metrics.brier(sample),
        "ece_uncalibrated": metrics.ece(uncalibrated, settings.bins),
        "ece": metrics.ece(sample, settings.bins),
        **patient_figures(sample.only(known), settings.min_cells),
        "specificity_controls": metrics.rates(sample.only(known & controls))["specificity"],
        "specificity_infected_patients": metrics.rates(sample.only(known & ~controls))["specificity"],
    }
    scores: dict[str, Any] = {
        "cells": len(sample.y),
        "parasitized": int(sample.y.sum()),
        "patients": len(np.unique(sample.patient[known])),
        **({} if known.all() else {"cells_without_patient": int((~known).sum())}),
        **{name: as_json(values) for name, values in figures.items()},
    }
    for specificity, threshold in fitted.thresholds.items():
        rates = metrics.rates(sample, threshold)
        scores[f"at_{specificity * 100:g}_specificity"] = {
            "threshold": round(threshold, 6),
            **{name: as_json(rates[name]) for name in ("sensitivity", "specificity")},
        }
    return scores


def patient_figures(sample: metrics.Sample, min_cells: int) -> dict[str, metrics.Floats]:
    """Figures at 0.5 in which every patient counts the same, however many cells they have.

    A patient counts with at least `min_cells` cells of the class; for AUC, of each class.

    Returns:
        By name, each float64 (1 + resamples,).
    """
    sensitivity, specificity = (metrics.hits_by_patient(sample, kind, min_cells) for kind in (1, 0))
    return {
        "macro_sensitivity": metrics.macro(sensitivity, sample.resamples),
        "worst_decile_sensitivity": metrics.worst_decile(sensitivity, sample.resamples),
        "macro_specificity": metrics.macro(specificity, sample.resamples),
        "macro_auc": metrics.macro(metrics.auc_by_patient(sample, min_cells), sample.resamples),
    }


def _controls(cells: pd.DataFrame) -> metrics.Bools:
    """Which cells are of controls, bool (n,).

    The file name tells, if it follows the NIH scheme; else a patient without any parasitised cell counts as a
    control.
    """
    infected = set(cells.patient[cells.label == labels.PARASITIZED])
    controls = [
        not name.infected if (name := names.parse(Path(path).name)) else patient not in infected
        for path, patient in zip(cells.path, cells.patient, strict=True)
    ]
    return np.array(controls, dtype=bool)


def as_json(figures: metrics.Floats) -> dict[str, float | None]:
    """A figure with its interval, for JSON: rounded to six places, None if it is nan."""
    estimate = asdict(metrics.estimate(figures))
    return {name: None if math.isnan(value) else round(value, 6) + 0.0 for name, value in estimate.items()}


# Figures that `as_text` shows: name, and in words.
FIGURES = {
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


def as_text(scores: dict[str, Any], versions: Mapping[str, dict[str, Any]] | None = None) -> str:
    """The main figures of `score` for a terminal, a row each.

    There is a column for each of the `versions` of the cells, or else of the labels.
    """
    columns = versions or {"": scores}
    if "labels" in scores and not versions:
        columns = {name.replace("_", " "): scores["labels"][name] for name in (AS_GIVEN, WITHOUT, FLIPPED)}
    rows = [["", *columns]] if len(columns) > 1 else []
    rows += [
        [words, *(metrics.interval(**column[name]) for column in columns.values())]
        for name, words in FIGURES.items()
    ]
    units = "patients" if scores["patients"] else "cells"
    title = f"{cells_in_words(scores)} (95 % intervals over {units})"
    lines = [f"{name:34}" + "".join(f"{value:28}" for value in values) for name, *values in rows]
    return "\n".join([title, *map(str.rstrip, lines)])


def cells_in_words(scores: dict[str, Any], kind: str = "cells") -> str:
    """How many cells `score` counted, and of how many patients."""
    unknown = scores.get("cells_without_patient", 0)
    if not scores["patients"]:
        return f"{scores['cells']:,} {kind}, patients not known"
    rest = f", {unknown:,} of them of patients not known" if unknown else ""
    return f"{scores['cells']:,} {kind} of {scores['patients']:,} patients{rest}"


def summary(val: dict[str, Any], test: dict[str, Any]) -> dict[str, Any]:
    """The main figures on test, without intervals, and the AUC on val: few enough for a column each.

    `val` and `test` are as `score` gives them.
    """
    main = {name: test[name]["value"] for name in FIGURES}
    return {**main, "val_auc": val["auc"]["value"], "test_cells": test["cells"]}
