"""Measure what a lower precision costs: compare exported networks with the trained ones, out of fold.

Exports each fold's trained network of a cross-validation at every precision, and compares its answers with
those of the trained network, on the fold's test cells: decisions at 0.5, AUC, and AUC without the labels that
`evaluate.doubtful_labels` lists.
"""

from collections.abc import Iterator
from typing import Any, get_args

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from experiments import experiment
from malaria import labels, params, paths, tables
from malaria.cells import doubtful_labels, packed
from malaria.command import new_parser, run_and_exit
from malaria.evaluate.metrics import Bools, Floats, Ints

PRECISIONS = get_args(params.Export.model_fields["precision"].annotation)


def main() -> None:
    parser = new_parser("experiments.precision", __doc__)
    parser.add_argument("--name", default="crossval", help="name of the cross-validation (crossval)")
    arguments = parser.parse_args()
    cells = packed.load(paths.PACKED)
    costs: list[dict[str, Any]] = []
    for fold, revision in experiment.revisions(arguments.name).items():
        costs += _fold_costs(revision, cells)
        print(f"fold {fold} is done", flush=True)
    table = pd.DataFrame(costs)
    print(table.round(5).to_string(index=False))
    print(f"\nAll folds:\n{over_folds(table).round(5).to_string()}")


def cost(p: Floats, p_trained: Floats, y: Ints, sure: Bools) -> dict[str, float]:
    """Compare the probabilities of an exported network with those of the trained one.

    Args:
        p, p_trained: float64 (n,), of the exported and of the trained network.
        y: int64 (n,), 1 for parasitised.
        sure: bool (n,), False for cells with a doubtful label.

    Returns:
        Number of cells, of `decisions` that differ, change of AUC for all and for sure cells, and the largest
        difference in P.
    """
    return {
        "cells": len(y),
        "decisions": int(((p >= 0.5) != (p_trained >= 0.5)).sum()),
        "auc": roc_auc_score(y, p) - roc_auc_score(y, p_trained),
        "auc_sure": roc_auc_score(y[sure], p[sure]) - roc_auc_score(y[sure], p_trained[sure]),
        "largest_in_p": float(np.abs(p - p_trained).max()),
    }


def over_folds(costs: pd.DataFrame) -> pd.DataFrame:
    """All folds, by precision: the sum of cells and decisions, else the value that is furthest from 0."""
    groups = costs.drop(columns="fold").groupby("precision", sort=False)

    def furthest(column: "pd.Series[float]") -> float:
        return float(max(column, key=abs))

    return groups.agg(furthest).assign(cells=groups.cells.sum(), decisions=groups.decisions.sum())


def _fold_costs(revision: str, cells: packed.Packed) -> Iterator[dict[str, Any]]:
    """`cost` of each precision, with the size of the network's file in bytes."""
    # TensorFlow takes seconds to import; --help should not wait for it.
    from malaria.bundle import build
    from malaria.train import network

    settings = params.load_params()
    test, prepared = experiment.side(revision, tables.TEST, cells)
    _, train = experiment.side(revision, tables.TRAIN, cells)
    y = labels.values(test.label)
    doubtful = doubtful_labels.of_evaluation(settings.evaluate)
    sure = ~doubtful_labels.is_doubtful(test, doubtful)
    with experiment.copy_of(revision, paths.MODEL) as file:
        model = network.load(file)
        p_trained = network.predict(model, np.stack([cell.pixels for cell in prepared]))
        for precision in PRECISIONS:
            changed = settings.model_copy(update={"export": params.Export(precision=precision)})
            # Nothing is written, so any file does for the record's hash of the split.
            exported = build.export(model, train, changed, paths.PARAMS)
            p = exported.model.run_prepared(prepared).p_network
            row = {"fold": revision, "precision": precision, "bytes": len(exported.network)}
            yield row | cost(p, p_trained, y, sure)


if __name__ == "__main__":
    run_and_exit(main)
