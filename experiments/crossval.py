"""Cross-validate the recipe of params.yaml by patient, through DVC experiments, one a fold.

Each fold is an experiment `NAME-<fold>`; a fold that nothing has changed for comes from DVC's run
cache. Prints every fold as it ends, mean and standard deviation, and the figures of all out-of-fold cells
pooled, and writes these cells' predictions.
"""

import argparse
import csv
import functools
import io
import json
from collections.abc import Sequence
from pathlib import Path

import dvc.api
import numpy as np
import pandas as pd

from experiments import folds as experiment
from experiments.spread import add_options, spread
from malaria import doubts, evaluation, tables
from malaria.command import end_with
from malaria.errors import UserError
from malaria.params import Params, load_params
from malaria.paths import CROSSVAL, METRICS, PREDICTIONS

FIGURES = ("auc", "accuracy", "sensitivity", "specificity", "macro_sensitivity")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.crossval", description=__doc__)
    parser.add_argument("--folds", type=int, default=5, help="how many, where split.file names none (5)")
    parser.add_argument("--name", default="crossval", help="of the experiments, and of the file (crossval)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a parameter, as dvc exp run -S has it",
    )
    add_options(parser)
    arguments = parser.parse_args()
    settings = load_params()
    folds, sets = _folds_of_file(settings), [*_outside(settings), *arguments.set]
    if folds is None:
        if arguments.folds < 3:
            raise UserError(f"--folds is {arguments.folds}, but must be at least 3.")
        folds = list(range(arguments.folds))
        sets.append(f"split.folds={arguments.folds}")
    oof, rows = {}, {}
    print(f"{'fold':>6} " + " ".join(f"{name:>18}" for name in FIGURES))
    run = functools.partial(_run, arguments.name, sets)
    for fold, revision in spread(run, folds, arguments.engine, arguments.workers):
        test = json.loads(dvc.api.read(str(METRICS), rev=revision))[tables.TEST]
        rows[fold] = [test[name]["value"] for name in FIGURES]
        print(f"{fold:>6} " + " ".join(f"{value:18.4f}" for value in rows[fold]), flush=True)
        predictions = pd.read_csv(io.StringIO(dvc.api.read(str(PREDICTIONS), rev=revision)))
        oof[fold] = predictions[predictions.split == tables.TEST].assign(fold=fold)
    figures = np.array([rows[fold] for fold in folds], dtype=np.float64)
    for name, values in (("mean", figures.mean(axis=0)), ("sd", figures.std(axis=0, ddof=1))):
        print(f"{name:>6} " + " ".join(f"{value:18.4f}" for value in values))
    pooled = pd.concat([oof[fold] for fold in folds]).sort_values("path", ignore_index=True)
    out = CROSSVAL / f"{arguments.name}.csv"
    tables.write(pooled, out, tables.OUT_OF_FOLD)
    # Each fold's probabilities carry that fold's temperature already.
    scored = pooled.assign(p_network=pooled.p_parasitized)
    doubted = doubts.read(Path(settings.evaluate.doubtful_labels), "evaluate.doubtful_labels")
    scores = evaluation.score(scored, evaluation.Fitted(1.0, {}), settings.evaluate, doubted)
    print("\npooled, out of fold:\n" + evaluation.as_text(scores))
    print(f"\nEvery cell's prediction: {out}")
    return 0


def _outside(settings: Params) -> list[str]:
    """Paths that lead out of the repository, made absolute: an experiment runs in another folder."""
    given = {
        "data.folder": settings.data.folder,
        "split.file": settings.split.file,
        "train.labels_file": settings.train.labels_file,
        "evaluate.doubtful_labels": settings.evaluate.doubtful_labels,
    }
    here = Path.cwd()
    return [
        f"{key}={found}"
        for key, path in given.items()
        if not (found := Path(path).resolve()).is_relative_to(here)
    ]


def _folds_of_file(settings: Params) -> list[int] | None:
    """The folds that split.file names; None where it names none."""
    with Path(settings.split.file).open(encoding="utf-8", newline="") as table:
        found = {int(row["fold"]) for row in csv.DictReader(table) if (row.get("fold") or "").isdigit()}
    return sorted(found) or None


def _run(prefix: str, sets: Sequence[str], fold: int) -> str:
    """Run one fold; returns the experiment's name."""
    name = f"{prefix}-{fold}"
    experiment.run(name, [f"split.fold={fold}", *sets])
    return name


if __name__ == "__main__":
    end_with(main)
