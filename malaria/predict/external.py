"""Evaluate a bundle on the cells of other laboratories, each set separately."""

import functools
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from malaria import params, processes
from malaria.bundle import Bundle, ood
from malaria.cells import audit, prepare
from malaria.cells.prepared import Prepared
from malaria.evaluate import evaluation, metrics
from malaria.fetch import laboratories


def judge(bundle: Bundle, path: Path, settings: params.Params) -> dict[str, Any]:
    """`figures` of one set, and `left_out`, a phrase for each kind of thing that was left out.

    Args:
        path: a folder or archive of one laboratory's cells, or a folder of its annotated fields, as
            `laboratories.place` takes it.
    """
    with tempfile.TemporaryDirectory() as temporary:
        raw = Path(temporary)
        cells, left_out = laboratories.place(path, raw / "set", settings)
        prepared = [cell for cell, _ in read(bundle, raw, cells)]
    return figures(bundle, cells, prepared, settings) | {"left_out": list(left_out)}


def read(bundle: Bundle, raw: Path, cells: pd.DataFrame) -> list[tuple[Prepared, tuple[str, ...]]]:
    """Read the accepted `cells` of an audit as the bundle's input, with notes on how each was read.

    Args:
        raw: the folder that the paths in `cells` start from.
    """
    record = bundle.record
    # 16-bit files are scaled by the number of bits that the whole set uses.
    limits = replace(bundle.limits, bits=audit.bits_in_use(cells))
    work = functools.partial(prepare.read, raw, limits, record.input_size, record.colour)
    return list(processes.map_in_order(work, list(cells.path), "reading"))


def figures(
    bundle: Bundle, cells: pd.DataFrame, prepared: list[Prepared], settings: params.Params
) -> dict[str, Any]:
    """Evaluate `bundle` on labelled cells, as plain values for JSON.

    Args:
        cells: label and patient, or field of view, of each of the `prepared` cells.

    Returns:
        cells, parasitized and fields: how many cells, parasitised cells and fields of view (or patients, if
        they are known) there are; known: how many of the cells the bundle has learned from; foreign: as in
        `Bundle.foreign`. Then figures, {value, low, high} with the 95 % interval by bootstrap over fields:
        turned_away_parasitized and turned_away_uninfected, the share of each class that is rejected;
        sensitivity and false_positives, healthy cells called parasitised per 1,000, at 0.5; auc;
        false_positives_at_95, the same per 1,000 at a sensitivity of 0.95. All figures but the first two use
        the network's answer for every cell, rejected or not. A value is null if the set cannot give it.
    """
    predictions = bundle.run_prepared(prepared)
    sample = metrics.sample(cells, predictions.p_parasitized, settings.evaluate)
    rejected = np.array([reason is not None for reason in predictions.rejected])
    looks = ood.Looks()
    looks.add(predictions.look[~rejected])
    known = bundle.known(cell.pixels for cell in prepared)
    return {
        "cells": len(cells),
        "parasitized": int(sample.y.sum()),
        "fields": sample.patients,
        "known": None if known is None else int(known.sum()),
        "foreign": bundle.foreign(looks),
        **{name: evaluation.as_json(values) for name, values in _resampled_figures(sample, rejected).items()},
    }


def as_text(scores: dict[str, dict[str, Any]]) -> str:
    """`judge` of each set, for a terminal."""
    lines = []
    for name, result in scores.items():
        learned = f", {result['known']:,} of them learned from" if result["known"] else ""
        stain = ", of a foreign stain" if result["foreign"] else ""
        size = "{cells:,} cells, {parasitized:,} parasitised, of {fields:,} fields".format(**result)
        lines.append(f"{name}: {size}{learned}{stain}")
        lines += [f"  {label:52}{metrics.interval(**result[key], form=form)}" for key, label, form in _LINES]
        lines += [f"  left out: {entry}" for entry in result.get("left_out", ())]
    return "\n".join(lines)


_LINES = (
    ("turned_away_parasitized", "turned away, share of the parasitised cells", ".3f"),
    ("turned_away_uninfected", "turned away, share of the healthy cells", ".3f"),
    ("sensitivity", "sensitivity at 0.5", ".3f"),
    ("false_positives", "false positives per 1,000 healthy cells at 0.5", ".0f"),
    ("auc", "AUC", ".3f"),
    ("false_positives_at_95", "false positives per 1,000 at a sensitivity of 0.95", ".0f"),
)


def _resampled_figures(sample: metrics.Sample, rejected: metrics.Bools) -> dict[str, metrics.Floats]:
    rates = metrics.rates(sample)
    # Swapping the classes turns specificity at a sensitivity into sensitivity at a specificity.
    swapped = metrics.Sample(1 - sample.p, 1 - sample.y, sample.patient, sample.resamples)
    return {
        "turned_away_parasitized": _rejected_share(sample, rejected, sample.y == 1),
        "turned_away_uninfected": _rejected_share(sample, rejected, sample.y == 0),
        "sensitivity": rates["sensitivity"],
        "false_positives": 1000 * (1 - rates["specificity"]),
        "auc": metrics.ranking(sample)["auc"],
        "false_positives_at_95": 1000 * (1 - metrics.sensitivity_at(swapped, 0.95)),
    }


def _rejected_share(sample: metrics.Sample, rejected: metrics.Bools, chosen: metrics.Bools) -> metrics.Floats:
    """The share of the `chosen` cells that are rejected, float64 (1 + resamples,)."""
    cells = sample.only(chosen)
    with np.errstate(invalid="ignore"):
        return cells.cells(rejected[chosen]) / cells.cells()
